"""OpenVINO IR of versions 6 and 7 (2019), best effort: `Input`, no `Result`, constants in <blobs>.

Current OpenVINO no longer reads these files, so they are translated from the specification of their time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import attributes as a
from sparse_icnet.formats.exchange.nodes import AnyNode, Key, Model, Result, UniqueNames
from sparse_icnet.formats.exchange.operations import MANY
from sparse_icnet.formats.openvino.operations import LayerNode, window
from sparse_icnet.formats.openvino.xml import Attributes, Element, Network

PRECISIONS: dict[str, type[np.generic]] = {
    "FP32": np.float32,
    "FP16": np.float16,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
}
ELTWISE = {
    "sum": "add",
    "add": "add",
    "mul": "multiply",
    "prod": "multiply",
    "sub": "subtract",
    "div": "divide",
}

ReadArray = Callable[[str, int, int, "np.dtype[Any] | None", tuple[int, ...]], "NDArray[Any] | None"]


def translate(path: Path, network: Network, read_array: ReadArray) -> Model:
    """The layers as nodes of the table; the layers that no other reads, except constants, are the results."""
    nodes: list[AnyNode] = []
    names = UniqueNames()
    reader = _Reader(path, network, read_array)
    for index, layer in enumerate(network.layers):
        outputs: list[Key] = [(index, port) for port in range(len(layer.outputs) or 1)]
        reader.read(LayerNode(layer, names(layer.name), 0, outputs, nodes.append))
    layers = network.layers
    read = {source[0] for layer in layers for source in layer.inputs}
    ends = [i for i, layer in enumerate(layers) if i not in read and layer.type.lower() != "const"]
    results = tuple(Result(layers[index].name, layers[index].where, (index, 0)) for index in ends)
    return Model(str(path), tuple(nodes), results)


class _Reader:
    def __init__(self, path: Path, network: Network, read_array: ReadArray) -> None:
        self.path, self.network, self.read_array = path, network, read_array

    def blob(self, node: LayerNode, key: str, shape: tuple[int, ...] | None) -> NDArray[Any] | None:
        """The blob `key` of a layer; `shape` None: whatever its size gives."""
        blob = node.layer.blobs.get(key)
        if blob is None:
            return None
        precision = blob.values.get("precision") or node.layer.precision or "FP32"
        if precision.upper() not in PRECISIONS:
            raise FormatError(
                f"{node.where}: expected a precision of {sorted(PRECISIONS)}, found {precision[:40]!r}"
            )
        dtype: np.dtype[Any] = np.dtype(PRECISIONS[precision.upper()])
        size = blob.integer("size")
        shape = (max(size, 0) // dtype.itemsize,) if shape is None else shape
        return self.read_array(node.where, blob.integer("offset"), size, dtype, shape)

    def read(self, node: LayerNode) -> None:
        kind, data = node.type.lower(), node.data
        shape = node.layer.outputs[0].dims if node.layer.outputs else ()
        if kind == "input":
            self.input(node, shape)
            return
        if kind == "const":
            value = self.blob(node, "custom", shape)
            if value is None:
                raise FormatError(f"{node.where}: expected a blob 'custom', found {list(node.layer.blobs)}")
            node.gives("constant", {}, a.ConstantAttributes(value))
            return
        if not node.inputs:
            raise FormatError(f"{node.where}: expected inputs, found none")
        match kind:
            case "add" | "subtract" | "multiply" | "divide":
                node.gives(kind, node.named("a", "b"))
            case "relu":
                if data.number("negative_slope", 0.0) != 0:
                    raise FormatError(f"{node.where}: expected a ReLU without negative slope")
                node.gives(kind, node.named("x"))
            case "squeeze" | "unsqueeze":
                node.gives(kind, node.named("x", "axes"), a.AxesAttributes())
            case "shapeof":
                node.gives(kind, node.named("x"), a.ShapeOfAttributes())
            case "fakequantize" | "quantize":
                inputs = node.named("x", "input_low", "input_high", "output_low", "output_high")
                node.gives("fakequantize", inputs, a.FakeQuantizeAttributes(data.whole("levels")))
            case "convolution":
                self.convolution(node)
            case "scaleshift":
                self.scale_shift(node)
            case "power":
                if data.number("power", 1.0) != 1:
                    raise FormatError(f"{node.where}: expected power 1, found {data.number('power')}")
                scale, shift = (
                    np.float32(data.number(key, d)) for key, d in (("scale", 1.0), ("shift", 0.0))
                )
                scaled(node, node.inputs[0], np.asarray(scale), np.asarray(shift))
            case "eltwise":
                eltwise(node)
            case "pooling":
                pooling(node)
            case "resample":
                resample(node, shape)
            case "softmax":
                node.gives(kind, node.named("x"), a.SoftmaxAttributes(data.integer("axis", 1)))
            case "clamp":
                attributes = a.ClipAttributes(data.number("min"), data.number("max"))
                node.gives("clip", node.named("x"), attributes)
            case "argmax":
                if data.integer("top_k", 1) != 1 or data.integer("out_max_val", 0) != 0:
                    raise FormatError(f"{node.where}: expected ArgMax of the first index alone")
                node.gives(kind, node.named("x"), a.ArgmaxAttributes(data.integer("axis")))
            case "permute":
                node.gives("transpose", node.named("x"), a.TransposeAttributes(data.integers("order")))
            case "reshape":
                if len(node.inputs) == 1:
                    node.inputs.append(node.constant(np.asarray(shape, np.int64)))
                node.gives(kind, node.named("x", "shape"), a.ReshapeAttributes())
            case "concat":
                node.gives(kind, node.named(*MANY), a.AxisAttributes(data.integer("axis", 1)))
            case _:
                node.gives("unsupported", node.named(*MANY), a.UnsupportedAttributes(node.type))

    def input(self, node: LayerNode, shape: tuple[int, ...]) -> None:
        if self.network.preprocess is None:
            node.gives("parameter", {}, a.ParameterAttributes(shape))
            return
        means, scales = _preprocessing(self.network.preprocess, f"{self.path}: <pre-process>")
        columns = (1, len(means), 1, 1)
        pixels = node.inner("parameter", {}, a.ParameterAttributes(shape))
        scaled(node, pixels, (1 / scales).reshape(columns), (-means / scales).reshape(columns))

    def scale_shift(self, node: LayerNode) -> None:
        weights, biases = self.blob(node, "weights", None), self.blob(node, "biases", None)
        if weights is None:
            raise FormatError(f"{node.where}: expected a blob 'weights', found {list(node.layer.blobs)}")
        shift = None if biases is None else biases.reshape(1, -1, 1, 1)
        scaled(node, node.inputs[0], weights.reshape(1, -1, 1, 1), shift)

    def convolution(self, node: LayerNode) -> None:
        data = node.data
        if len(node.inputs) == 1:
            kernel, outputs, group = data.integers("kernel"), data.integer("output"), data.integer("group", 1)
            dims = node.layer.ports[0].dims
            channels = dims[1] if len(dims) == 4 else 0
            weights = self.blob(node, "weights", (outputs, channels // max(group, 1), *kernel))
            if weights is None:
                raise FormatError(f"{node.where}: expected weights as an input or a blob, found neither")
            node.inputs.append(node.constant(weights))
        if len(node.inputs) == 2:
            biases = self.blob(node, "biases", None)
            if biases is not None:
                node.inputs.append(node.constant(biases))
        attributes = a.ConvolutionAttributes(**window(data), group=data.integer("group", 1))
        node.gives("convolution", node.named("x", "weight", "bias"), attributes)


def scaled(node: LayerNode, source: Key | None, scale: NDArray[Any], shift: NDArray[Any] | None) -> None:
    """source * scale + shift."""
    factors = {"a": source, "b": node.constant(scale)}
    if shift is None:
        node.gives("multiply", factors)
    else:
        node.gives("add", {"a": node.inner("multiply", factors), "b": node.constant(shift)})


def eltwise(node: LayerNode) -> None:
    """Two or more inputs, added, multiplied and so on from the left."""
    operation = node.data.text("operation", "sum").lower()
    coefficients = node.data.values.get("coeff", "")
    if operation not in ELTWISE or any(
        part.strip() not in ("", "1", "1.0") for part in coefficients.split(",")
    ):
        raise FormatError(
            f"{node.where}: expected Eltwise sum or mul without coefficients, found {operation!r}"
        )
    if len(node.inputs) < 2:
        raise FormatError(f"{node.where}: expected 2 inputs of Eltwise, found {len(node.inputs)}")
    source, *others, last = node.inputs
    for other in others:
        source = node.inner(ELTWISE[operation], {"a": source, "b": other})
    node.gives(ELTWISE[operation], {"a": source, "b": last})


def pooling(node: LayerNode) -> None:
    """Pooling by `pool-method`, max or avg."""
    method = node.data.text("pool-method", "max").lower()
    if method not in ("max", "avg"):
        raise FormatError(f"{node.where}: pool-method must be max or avg, found {method!r}")
    rounding = node.data.text("rounding_type", node.data.text("rounding-type", "floor")).lower()
    attributes = a.PoolAttributes(**window(node.data), kernel=node.data.integers("kernel"), rounding=rounding)
    node.gives(f"{method}pool", {"x": node.inputs[0]}, attributes)


def resample(node: LayerNode, shape: tuple[int, ...]) -> None:
    """Nearest resize to the output `shape` that the file states."""
    method = node.data.text("type", "caffe.ResampleParameter.NEAREST")
    if method != "caffe.ResampleParameter.NEAREST" or node.data.boolean("antialias", False):
        raise FormatError(f"{node.where}: expected Resample of type NEAREST, found {method[:60]!r}")
    if len(shape) != 4:
        raise FormatError(f"{node.where}: expected an output of 4 dimensions, found {shape}")
    sizes = node.constant(np.asarray(shape[2:], np.int64))
    attributes = a.InterpolateAttributes("nearest", "asymmetric", "floor", (2, 3))
    node.gives("interpolate", {"x": node.inputs[0], "sizes": sizes}, attributes)


def _preprocessing(element: Element, where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale per channel of <pre-process>: network input = (x - mean) / scale."""
    means, scales = {}, {}
    for channel in element.all("channel"):
        index = Attributes(channel.attributes, where).integer("id")
        mean, scale = channel.find("mean"), channel.find("scale")
        means[index] = Attributes(mean.attributes, where).number("value", 0.0) if mean else 0.0
        scales[index] = Attributes(scale.attributes, where).number("value", 1.0) if scale else 1.0
    count = len(means)
    if not 1 <= count <= 64 or sorted(means) != list(range(count)) or 0 in scales.values():
        raise FormatError(f"{where}: expected a mean for each channel and scales other than 0")
    if not all(math.isfinite(number) for number in (*means.values(), *scales.values())):
        raise FormatError(f"{where}: expected finite means and scales")
    order = range(count)
    return np.asarray([means[i] for i in order], np.float32), np.asarray(
        [scales[i] for i in order], np.float32
    )
