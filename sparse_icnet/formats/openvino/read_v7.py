"""OpenVINO IR of version 7 (2019), best effort: `Input`, no `Result`, constants in <blobs>.

Current OpenVINO no longer reads these files, so they are translated from the specification of their time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.nodes import ForeignModel, Node, Source, UniqueNames
from sparse_icnet.formats.openvino.xml import Attributes, Element, Layer, Network

PRECISIONS = {
    "FP32": np.float32,
    "FP16": np.float16,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
}
SAME = {  # types that need no attributes
    "relu": "relu",
    "add": "add",
    "subtract": "subtract",
    "multiply": "multiply",
    "divide": "divide",
}
ELTWISE = {
    "sum": "add",
    "add": "add",
    "mul": "multiply",
    "prod": "multiply",
    "sub": "subtract",
    "div": "divide",
}
SHAPES = {"squeeze": "squeeze", "unsqueeze": "unsqueeze", "shapeof": "shapeof"}

ReadArray = Callable[[str, int, int, "np.dtype | None", tuple[int, ...]], "NDArray | None"]


def translate(path: Path, network: Network, read_array: ReadArray) -> ForeignModel:
    """The layers as foreign nodes; the one output that nothing reads is the result."""
    return _Translator(path, network, read_array).run()


class _Translator:
    def __init__(self, path: Path, network: Network, read_array: ReadArray) -> None:
        self.path, self.network, self.read_array = path, network, read_array
        self.nodes: list[Node] = []
        self.names = UniqueNames()
        self.outputs: dict[int, int] = {}  # layer index -> node index

    def run(self) -> ForeignModel:
        layers = self.network.layers
        # A layer may become several nodes.  Edges may point forward, so a node names the layers it reads (by
        # negative numbers) until every layer has the node of its output.
        for index, layer in enumerate(layers):
            self.outputs[index] = self._layer(layer)
        nodes = tuple(
            replace(node, inputs=tuple(self._resolved(source) for source in node.inputs))
            for node in self.nodes
        )
        read = {source[0] for layer in layers for source in layer.inputs}
        ends = [i for i, layer in enumerate(layers) if i not in read and layer.type.lower() != "const"]
        if len(ends) != 1:
            raise FormatError(f"{self.path}: expected one output, found {[layers[i].name for i in ends][:8]}")
        return ForeignModel(str(self.path), nodes, self.outputs[ends[0]])

    def _resolved(self, source: Source | None) -> Source | None:
        if source is None or source[0] >= 0:
            return source
        return (self.outputs[-1 - source[0]], source[1])

    @staticmethod
    def _of_layer(source: Source) -> Source:
        """A source that names a layer (by a negative number) in place of a node."""
        return (-1 - source[0], source[1])

    def _add(
        self,
        kind: str,
        layer: Layer,
        inputs: tuple[Source | None, ...],
        attributes: dict[str, Any] | None = None,
        value: NDArray | None = None,
    ) -> int:
        """Append a node of the layer's output shape; its index."""
        declared = tuple(port.dims for port in layer.outputs)
        self.nodes.append(
            Node(kind, self.names(layer.name), layer.where, inputs, attributes or {}, value, declared)
        )
        return len(self.nodes) - 1

    def _constant(self, layer: Layer, value: NDArray) -> Source:
        self.nodes.append(Node("constant", self.names(f"{layer.name}/constant"), layer.where, (), {}, value))
        return (len(self.nodes) - 1, 0)

    def _blob(self, layer: Layer, key: str, shape: tuple[int, ...] | None) -> NDArray | None:
        """The blob `key` of a layer; `shape` None: whatever its size gives."""
        blob = layer.blobs.get(key)
        if blob is None:
            return None
        precision = blob.values.get("precision") or layer.precision or "FP32"
        if precision.upper() not in PRECISIONS:
            raise FormatError(
                f"{layer.where}: expected a precision of {sorted(PRECISIONS)}, found {precision[:40]!r}"
            )
        dtype = np.dtype(PRECISIONS[precision.upper()])
        size = blob.integer("size")
        shape = (max(size, 0) // dtype.itemsize,) if shape is None else shape
        return self.read_array(layer.where, blob.integer("offset"), size, dtype, shape)

    def _layer(self, layer: Layer) -> int:
        kind = layer.type.lower()
        inputs = tuple(self._of_layer(source) for source in layer.inputs)
        data = layer.data
        if kind == "input":
            return self._input(layer)
        if kind == "const":
            value = self._blob(layer, "custom", layer.outputs[0].dims if layer.outputs else ())
            if value is None:
                raise FormatError(f"{layer.where}: expected a blob 'custom', found {list(layer.blobs)}")
            return self._add("constant", layer, (), value=value)
        if not inputs:
            raise FormatError(f"{layer.where}: expected inputs, found none")
        if kind in SAME:
            if kind == "relu" and data.number("negative_slope", 0.0) != 0:
                raise FormatError(f"{layer.where}: expected a ReLU without negative slope")
            return self._add(SAME[kind], layer, inputs)
        if kind in SHAPES:
            return self._add(SHAPES[kind], layer, inputs)
        match kind:
            case "fakequantize" | "quantize":
                return self._add("fakequantize", layer, inputs, {"levels": data.whole("levels")})
            case "convolution":
                return self._convolution(layer, inputs)
            case "scaleshift":
                return self._scale_shift(layer, inputs)
            case "power":
                if data.number("power", 1.0) != 1:
                    raise FormatError(f"{layer.where}: expected power 1, found {data.number('power')}")
                scale, shift = (
                    np.float32(data.number(key, d)) for key, d in (("scale", 1.0), ("shift", 0.0))
                )
                return self._scaled(layer, inputs[0], np.asarray(scale), np.asarray(shift))
            case "eltwise":
                return self._eltwise(layer, inputs)
            case "pooling":
                return self._pooling(layer, inputs)
            case "resample":
                return self._resample(layer, inputs)
            case "softmax":
                return self._add("softmax", layer, inputs, {"axis": data.integer("axis", 1)})
            case "clamp":
                return self._add(
                    "clip", layer, inputs, {"low": data.number("min"), "high": data.number("max")}
                )
            case "argmax":
                if data.integer("top_k", 1) != 1 or data.integer("out_max_val", 0) != 0:
                    raise FormatError(f"{layer.where}: expected ArgMax of the first index alone")
                return self._add("argmax", layer, inputs, {"axis": data.integer("axis"), "keep_dims": True})
            case "permute":
                return self._add("transpose", layer, inputs, {"order": data.integers("order")})
            case "reshape" if len(inputs) == 1:
                shape = np.asarray(layer.outputs[0].dims if layer.outputs else (), np.int64)
                return self._add("reshape", layer, (inputs[0], self._constant(layer, shape)))
            case "reshape":
                return self._add("reshape", layer, inputs)
            case "concat":
                return self._add("concat", layer, inputs, {"axis": data.integer("axis", 1)})
        return self._add("unsupported", layer, inputs, {"type": layer.type})

    def _input(self, layer: Layer) -> int:
        shape = layer.outputs[0].dims if layer.outputs else ()
        node = self._add("parameter", layer, (), {"shape": shape})
        preprocess = self.network.preprocess
        if preprocess is None:
            return node
        means, scales = _preprocessing(preprocess, f"{self.path}: <pre-process>")
        columns = (1, len(means), 1, 1)
        return self._scaled(
            layer, (node, 0), (1 / scales).reshape(columns), (-means / scales).reshape(columns)
        )

    def _scaled(self, layer: Layer, source: Source, scale: NDArray, shift: NDArray | None) -> int:
        """source * scale + shift."""
        node = self._add("multiply", layer, (source, self._constant(layer, scale)))
        if shift is not None:
            node = self._add("add", layer, ((node, 0), self._constant(layer, shift)))
        return node

    def _scale_shift(self, layer: Layer, inputs: tuple[Source, ...]) -> int:
        weights, biases = self._blob(layer, "weights", None), self._blob(layer, "biases", None)
        if weights is None:
            raise FormatError(f"{layer.where}: expected a blob 'weights', found {list(layer.blobs)}")
        shift = None if biases is None else biases.reshape(1, -1, 1, 1)
        return self._scaled(layer, inputs[0], weights.reshape(1, -1, 1, 1), shift)

    def _convolution(self, layer: Layer, inputs: tuple[Source, ...]) -> int:
        data, x, rest = layer.data, inputs[0], list(inputs[1:])
        if not rest:
            kernel, outputs, group = data.integers("kernel"), data.integer("output"), data.integer("group", 1)
            channels = layer.ports[0].dims[1] if len(layer.ports[0].dims) == 4 else 0
            weights = self._blob(layer, "weights", (outputs, channels // max(group, 1), *kernel))
            if weights is None:
                raise FormatError(f"{layer.where}: expected weights as an input or a blob, found neither")
            rest.append(self._constant(layer, weights))
        if len(rest) == 1:
            biases = self._blob(layer, "biases", None)
            if biases is not None:
                rest.append(self._constant(layer, biases))
        attributes = {**_window(data), "group": data.integer("group", 1)}
        return self._add("convolution", layer, (x, *rest[:2]), attributes)

    def _eltwise(self, layer: Layer, inputs: tuple[Source, ...]) -> int:
        operation = layer.data.text("operation", "sum").lower()
        coefficients = layer.data.values.get("coeff", "")
        if operation not in ELTWISE or any(
            part.strip() not in ("", "1", "1.0") for part in coefficients.split(",")
        ):
            raise FormatError(
                f"{layer.where}: expected Eltwise sum or mul without coefficients, found {operation!r}"
            )
        if len(inputs) < 2:
            raise FormatError(f"{layer.where}: expected 2 inputs of Eltwise, found {len(inputs)}")
        source, node = inputs[0], -1
        for other in inputs[1:]:
            node = self._add(ELTWISE[operation], layer, (source, other))
            source = (node, 0)
        return node

    def _pooling(self, layer: Layer, inputs: tuple[Source, ...]) -> int:
        data = layer.data
        method = data.text("pool-method", "max").lower()
        if method not in ("max", "avg"):
            raise FormatError(f"{layer.where}: pool-method must be max or avg, found {method!r}")
        attributes = {
            **_window(data),
            "kernel": data.integers("kernel"),
            "rounding": data.text("rounding_type", data.text("rounding-type", "floor")).lower(),
        }
        return self._add(f"{method}pool", layer, inputs[:1], attributes)

    def _resample(self, layer: Layer, inputs: tuple[Source, ...]) -> int:
        method = layer.data.text("type", "caffe.ResampleParameter.NEAREST")
        if method != "caffe.ResampleParameter.NEAREST" or layer.data.boolean("antialias", False):
            raise FormatError(f"{layer.where}: expected Resample of type NEAREST, found {method[:60]!r}")
        dims = layer.outputs[0].dims if layer.outputs else ()
        if len(dims) != 4:
            raise FormatError(f"{layer.where}: expected an output of 4 dimensions, found {dims}")
        attributes = {
            "mode": "nearest",
            "coordinate": "asymmetric",
            "nearest": "floor",
            "axes": (2, 3),
        }
        sizes = self._constant(layer, np.asarray(dims[2:], np.int64))
        return self._add("interpolate", layer, (inputs[0], sizes, None, None), attributes)


def _window(data: Attributes) -> dict[str, object]:
    return {
        "strides": data.integers("strides", (1, 1)),
        "dilations": data.integers("dilations", (1, 1)),
        "pads_begin": data.integers("pads_begin", (0, 0)),
        "pads_end": data.integers("pads_end", (0, 0)),
        "auto_pad": data.text("auto_pad", "explicit").lower() or "explicit",
    }


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
