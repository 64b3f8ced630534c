"""Graphs run by ONNX Runtime: for `verify` and, at its fastest, for benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.onnx import write as onnx_write
from sparse_icnet.network.faces import Faces
from sparse_icnet.network.graph import Convolution, Graph, Op, Quantize, Relu, Size

Model = Graph | str | os.PathLike[str]


class OnnxRuntimeModel:
    """A session on ONNX Runtime's CPU provider.

    model    Graph, or path of an .onnx
    threads  of one inference; None: ONNX Runtime chooses
    int8     False: no QuantizeLinear or DequantizeLinear is fused away, the float reference
    exact    do without products that saturate in 16 bits on x86 CPUs without VNNI: a quarter more time there
    inputs, outputs  tensors to give and to return, as in `onnx_write.serialize`; for a Graph only

    Raises ImportError that names the extra to install where onnxruntime (or, for a Graph, onnx) is missing.
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        int8: bool = True,
        *,
        exact: bool = True,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.version: str = import_onnxruntime().__version__
        if isinstance(model, Graph):
            self.inputs, self.outputs = (
                tuple(inputs or (model.input.name,)),
                tuple(outputs or (model.output,)),
            )
        elif inputs or outputs:
            raise ValueError("inputs and outputs can be chosen for a Graph, not for a file")
        self._session = _session(_serialized(model, inputs, outputs), threads, int8, exact)
        if not isinstance(model, Graph):
            self.inputs = tuple(value.name for value in self._session.get_inputs())
            self.outputs = tuple(value.name for value in self._session.get_outputs())

    def __call__(self, blob: NDArray[Any]) -> NDArray[Any]:
        """1x3xHxW float32 -> the first output, 1xCxHxW float32 (uint8 for a class map), or as the model declares them."""
        first: NDArray[Any] = self._session.run(None, {self._session.get_inputs()[0].name: blob})[0]
        return first

    def run(self, values: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        """Real values (C, H, W) of every tensor in `inputs` -> those of every tensor in `outputs`."""
        blobs = {
            value.name: np.ascontiguousarray(values[name], np.float32)[None]
            for name, value in zip(self.inputs, self._session.get_inputs(), strict=True)
        }
        results = self._session.run(None, blobs)
        return {name: result[0] for name, result in zip(self.outputs, results, strict=True)}


def image_to_classes(
    model: Graph, threads: int | None = None, size: Size | None = None
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """The fastest way from image to class map in ONNX Runtime: all of it in one graph.

    size  (height, width) of the images; None: that of the network

    Transpose, Cast, Mul and Add make the blob (with Resize, bilinear, where sizes differ); ArgMax replaces
    the softmax, and its uint8 map is resized back by nearest neighbour.
    Returns a function uint8 (H, W, 3) RGB -> uint8 (H, W).
    """
    session = _session(with_image_and_classes(model, size), threads)
    (source,) = session.get_inputs()

    def classes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        map: NDArray[np.uint8] = session.run(None, {source.name: image[None]})[0][0, 0]
        return map

    return classes


def blob_to_probabilities(
    model: Model, threads: int | None = None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The fastest way from blob to probabilities: input and output bound once, no copies.

    The shapes of the model must be fixed.  The next call overwrites the result; ValueError for a blob that is not
    C-contiguous float32.
    """
    session = _session(_serialized(model), threads)
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    binding = session.io_binding()
    out = np.empty(target.shape, np.float32)
    binding.bind_output(target.name, "cpu", 0, np.float32, out.shape, out.ctypes.data)

    def probabilities(blob: NDArray[np.float32]) -> NDArray[np.float32]:
        if blob.dtype != np.float32 or not blob.flags.c_contiguous:
            raise ValueError(
                f"the blob must be C-contiguous float32, found {blob.dtype} strides {blob.strides}"
            )
        binding.bind_input(source.name, "cpu", 0, np.float32, blob.shape, blob.ctypes.data)
        session.run_with_iobinding(binding)
        return out

    return probabilities


def with_int32_biases(graph: Graph) -> Graph:
    """`graph` with the biases that ONNX Runtime's integer convolutions use: whole multiples of s_in * s_w.

    That holds where a convolution, or its ReLU, is read by one quantizer alone; elsewhere ONNX Runtime runs
    the convolution in float32 with the bias as it is.
    """
    readers = graph.consumers()
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Convolution) and _fuses(op, readers):
            source = graph.quantizer(op.input)
            assert source is not None
            unit = source.scale * op.weight_scale.astype(np.float64)
            op = replace(op, bias=(np.rint(op.bias / unit) * unit).astype(np.float32))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def _fuses(op: Op, readers: Mapping[str, Sequence[Op]]) -> bool:
    following = readers[op.name]
    if len(following) == 1 and isinstance(following[0], Relu):
        following = readers[following[0].name]
    return len(following) == 1 and isinstance(following[0], Quantize)


def import_onnxruntime() -> Any:
    """The package onnxruntime, or an ImportError that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "running ONNX Runtime needs the package onnxruntime: pip install 'sparse-icnet[reference]'"
        ) from error
    return onnxruntime


def _serialized(
    model: Model, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> bytes | str:
    if isinstance(model, Graph):
        return onnx_write.serialize(model, inputs=inputs, outputs=outputs)
    return os.fspath(model)


def _session(model: bytes | str, threads: int | None, int8: bool = True, exact: bool = False) -> Any:
    """One inference at a time, every graph optimization but one; waiting threads spin, as is the default.

    DoubleQDQPairsRemover replaces two quantizers in a row by one with other ranges: another network.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not int8:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["DoubleQDQPairsRemover"],
    )


def with_image_and_classes(graph: Graph, size: Size | None) -> bytes:
    """The ONNX file of `image_to_classes`: uint8 (1, H, W, 3) -> uint8 (1, 1, H, W)."""
    onnx = onnx_write.import_onnx()
    helper, types = onnx.helper, onnx.TensorProto
    graph = replace(graph, faces=Faces())
    model = onnx.load_from_string(onnx_write.serialize(graph))
    network = model.graph
    channels, height, width = graph.input.shape
    nodes: list[Any] = []

    def constant(name: str, array: NDArray[Any]) -> str:
        network.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def resize(source: str, target: str, shape: tuple[int, ...], mode: str, **attributes: str) -> Any:
        sizes = constant(f"{target}/sizes", np.array(shape, np.int64))
        return helper.make_node("Resize", [source, "", "", sizes], [target], mode=mode, **attributes)

    n = graph.normalization
    deviation = np.array(n.std).reshape(1, -1, 1, 1)
    factor = constant("pixels/factor", (1 / (n.divisor * deviation)).astype(np.float32))
    offset = constant(
        "pixels/offset", (-np.array(n.mean).reshape(deviation.shape) / deviation).astype(np.float32)
    )
    nodes.append(helper.make_node("Transpose", ["pixels"], ["pixels/planes"], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Cast", ["pixels/planes"], ["pixels/real"], to=types.FLOAT))
    planes = "pixels/real"
    if size is not None and tuple(size) != (height, width):
        shape = (1, channels, height, width)
        nodes.append(
            resize(planes, "pixels/fit", shape, "linear", coordinate_transformation_mode="half_pixel")
        )
        planes = "pixels/fit"
    nodes.append(helper.make_node("Mul", [planes, factor], ["pixels/scaled"]))
    nodes.append(helper.make_node("Add", ["pixels/scaled", offset], [graph.input.name]))

    *body, last = network.node
    result = network.output[0].name
    if last.op_type == "Softmax":
        result = last.input[0]
    elif last.op_type != "Cast":
        body.append(last)
    tail = []
    if last.op_type == "Cast":
        tail.append(last)
    else:
        tail.append(helper.make_node("ArgMax", [result], ["classes/index"], axis=1, keepdims=1))
        tail.append(helper.make_node("Cast", ["classes/index"], ["classes/map"], to=types.UINT8))
    classes = tail[-1].output[0]
    final = tuple(size or (height, width))
    if final != graph.shape(graph.output)[1:]:
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        tail.append(resize(classes, "classes", (1, 1, *final), "nearest", **modes))
        classes = "classes"
    for field, values in (
        ("node", [*nodes, *body, *tail]),
        ("input", [helper.make_tensor_value_info("pixels", types.UINT8, (1, *final, channels))]),
        ("output", [helper.make_tensor_value_info(classes, types.UINT8, (1, 1, *final))]),
    ):
        network.ClearField(field)
        getattr(network, field).extend(values)
    serialized: bytes = model.SerializeToString()
    return serialized
