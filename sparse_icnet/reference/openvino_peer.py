"""Graphs run by OpenVINO: for `verify` with float32 where it does not use int8, for benchmarks at its fastest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.openvino import write as openvino_write
from sparse_icnet.network.faces import Faces
from sparse_icnet.network.graph import Graph, Normalization, Size

Model = Graph | str | os.PathLike[str]


class OpenVinoModel:
    """A compiled model on OpenVINO's CPU plugin; one inference at a time.

    model      Graph, or path of an .xml (or whatever else OpenVINO reads)
    threads    of one inference; None: OpenVINO chooses
    int8       False: every FakeQuantize and convolution runs in floating point, the float reference
    precision  of what is not int8: "f32", or None for OpenVINO's own choice, which is bfloat16 on CPUs that
               have it (faster, and not comparable to the last digit)
    inputs, outputs  tensors to give and to return, as in `openvino_write.save`; for a Graph only

    Raises ImportError that names the extra to install where openvino is missing.
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        int8: bool = True,
        *,
        precision: str | None = "f32",
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.version: str = import_openvino().__version__
        self.inputs, self.outputs = _tensors(model, inputs, outputs)
        self._compiled = _compile(
            _read(model, inputs, outputs), settings(threads=threads, int8=int8, precision=precision)
        )
        self._request = self._compiled.create_infer_request()

    def __call__(self, blob: NDArray[Any]) -> NDArray[Any]:
        """1x3xHxW float32 -> the first output, 1xCxHxW float32 (uint8 for a class map), or as the model declares them."""
        return self._infer([blob])[0]

    def run(self, values: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        """Real values (C, H, W) of every tensor in `inputs` -> those of every tensor in `outputs`."""
        results = self._infer([np.ascontiguousarray(values[name], np.float32)[None] for name in self.inputs])
        return {name: result[0] for name, result in zip(self.outputs, results, strict=True)}

    def _infer(self, blobs: list[NDArray[Any]]) -> list[NDArray[Any]]:
        self._request.infer(blobs)
        return [np.array(tensor.data) for tensor in self._request.output_tensors]

    def executed(self) -> list[tuple[str, str, str]]:
        """(layer type, implementation, names of the layers fused into it) of every node as executed.

        An implementation reads like "brgconv_avx512_I8": I8 where inputs and weights are 8-bit integers.
        """
        nodes = []
        for node in self._compiled.get_runtime_model().get_ops():
            info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
            nodes.append(
                (info["layerType"], info.get("primitiveType", ""), info.get("originalLayersNames", ""))
            )
        return nodes


def settings(threads: int | None = None, int8: bool = True, precision: str | None = None) -> dict[str, Any]:
    """Properties of the CPU plugin for one inference at a time: the latency hint, which takes one stream."""
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    if precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = precision
    if not int8:
        properties["LP_TRANSFORMS_MODE"] = "NO"
    return properties


def image_to_classes(
    model: Model,
    threads: int | None = None,
    size: Size | None = None,
    *,
    normalization: Normalization | None = None,
    precision: str | None = None,
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """The fastest way from image to class map in OpenVINO: all of it in one compiled model.

    size           (height, width) of the images; None: that of the network
    normalization  of an image; None: the graph's own, the model card's for a file

    PrePostProcessor turns uint8 NHWC into the blob (resized bilinear as Pillow does it, where sizes differ).
    The softmax goes, since argmax does not need it, and TopK gives the classes, resized back by nearest
    neighbour.
    Returns a function uint8 (H, W, 3) RGB -> uint8 (H, W); its result is overwritten by the next call.
    """
    openvino = import_openvino()
    if isinstance(model, Graph):
        model = replace(model, faces=Faces())
    if normalization is None:
        normalization = model.normalization if isinstance(model, Graph) else Normalization()
    network = _with_classes(openvino, _read(model), size)
    height, width = network.input(0).shape[2:]
    processor = openvino.preprocess.PrePostProcessor(network)
    tensor = processor.input().tensor()
    tensor.set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    tensor.set_shape([1, *(size or (height, width)), 3])
    processor.input().model().set_layout(openvino.Layout("NCHW"))
    steps = processor.input().preprocess()
    if size is not None and tuple(size) != (height, width):
        steps.resize(openvino.preprocess.ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
    steps.convert_element_type(openvino.Type.f32)
    steps.mean([normalization.divisor * mean for mean in normalization.mean])
    steps.scale([normalization.divisor * deviation for deviation in normalization.std])
    compiled = _compile(processor.build(), settings(threads=threads, precision=precision))
    request = compiled.create_infer_request()

    def classes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        request.infer([image[None]], share_inputs=True)
        map: NDArray[np.uint8] = request.get_output_tensor().data[0, 0]
        return map

    return classes


def blob_to_probabilities(
    model: Model, threads: int | None = None, *, precision: str | None = None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The fastest way from blob to probabilities: no copies.  The next call overwrites the result."""
    request = _compile(_read(model), settings(threads=threads, precision=precision)).create_infer_request()

    def probabilities(blob: NDArray[np.float32]) -> NDArray[np.float32]:
        request.infer([blob], share_inputs=True)
        result: NDArray[np.float32] = request.get_output_tensor().data
        return result

    return probabilities


def import_openvino() -> Any:
    """The package openvino, or an ImportError that says how to get it."""
    try:
        import openvino
        import openvino.preprocess
    except ImportError as error:
        raise ImportError(
            "running OpenVINO needs the package openvino: pip install 'sparse-icnet[reference]'"
        ) from error
    return openvino


def _tensors(
    model: Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(model, Graph):
        return tuple(inputs or (model.input.name,)), tuple(outputs or (model.output,))
    if inputs or outputs:
        raise ValueError("inputs and outputs can be chosen for a Graph, not for a file")
    return ("input",), ("output",)


def _read(model: Model, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Any:
    core = import_openvino().Core()
    if not isinstance(model, Graph):
        return core.read_model(os.fspath(model))
    xml, constants = openvino_write.serialize(model, inputs=inputs, outputs=outputs)
    return core.read_model(xml, constants)


def _compile(network: Any, properties: Mapping[str, Any]) -> Any:
    return import_openvino().Core().compile_model(network, "CPU", dict(properties))


def _with_classes(openvino: Any, network: Any, size: Size | None) -> Any:
    """`network` returning the class map, uint8 (1, 1, *size), in place of probabilities."""
    opset = openvino.opset13
    result = network.output(0).get_node().input_value(0)
    if result.get_element_type() == openvino.Type.u8:
        classes = result
    else:
        if result.get_node().get_type_name().lower() == "softmax":
            result = result.get_node().input_value(0)
        indices = opset.topk(result, np.int64(1), axis=1, mode="max", sort="none", index_element_type="i32")
        classes = opset.convert(indices.output(1), "u8").output(0)
    if size is not None and tuple(size) != tuple(classes.get_shape())[2:]:
        classes = opset.interpolate(
            classes,
            np.array(size, np.int64),
            "nearest",
            "sizes",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            axes=np.array([2, 3], np.int64),
        ).output(0)
    return openvino.Model([opset.result(classes)], network.get_parameters(), "classes")
