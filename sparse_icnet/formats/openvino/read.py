"""OpenVINO IR, versions 10 and 11 (and 7 as best effort): `model.xml` with `model.bin` beside it -> Graph.

Weights may be int8 behind Convert > [Subtract] > Multiply, or float behind FakeQuantize.  Operation and
attribute names follow the operation specifications of OpenVINO; `exchange.nodes` lists what they become.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError, read_bounded
from sparse_icnet.formats.exchange.build import to_graph
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS, ForeignModel, Node, UniqueNames
from sparse_icnet.formats.openvino import read_v7
from sparse_icnet.formats.openvino.xml import Attributes, Layer, Network, read_network
from sparse_icnet.network.graph import Graph

MAX_BIN_BYTES = 1 << 30
TYPES = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "i8": np.int8,
    "u8": np.uint8,
    "i16": np.int16,
    "u16": np.uint16,
    "i32": np.int32,
    "u32": np.uint32,
    "i64": np.int64,
    "u64": np.uint64,
    "boolean": np.bool_,
    # of ports, and of IR version 7
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
}
_OPSET = re.compile(r"opset([0-9]{1,3})", re.ASCII)


def load(path: str | os.PathLike[str]) -> Graph:
    """Read `path` (.xml) and the .bin of the same name beside it.

    Raises FormatError for a file that is damaged or that the engine cannot run, naming the layer, and
    OSError if a file cannot be read.
    """
    return to_graph(read(Path(path)))


def read(path: Path) -> ForeignModel:
    """The layers of the IR as foreign nodes."""
    network = read_network(path)
    if network.version not in (6, 7, 10, 11):
        raise FormatError(f"{path}: expected IR version 7, 10 or 11, found {network.version}")
    constants = _Constants(path)
    if network.version < 10:
        return read_v7.translate(path, network, constants.array)
    result = _result(path, network)
    names = UniqueNames()
    nodes = tuple(_node(layer, names(layer.name), constants) for layer in network.layers)
    return ForeignModel(str(path), nodes, result)


def _result(path: Path, network: Network) -> int:
    results = [index for index, layer in enumerate(network.layers) if layer.type.lower() == "result"]
    if len(results) != 1:
        found = [network.layers[index].name for index in results][:8]
        raise FormatError(f"{path}: expected one Result (network output), found {len(results)} {found}")
    return results[0]


class _Constants:
    """The .bin, read when the first constant asks for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.xml = path.with_suffix(".bin"), path
        self.data: bytes | None = None

    def array(
        self, where: str, offset: int, size: int, dtype: np.dtype | None, shape: tuple[int, ...]
    ) -> NDArray | None:
        """`size` bytes at `offset` as `shape` of `dtype`; None for a type that is not supported."""
        if self.data is None:
            try:
                self.data = read_bounded(self.path, MAX_BIN_BYTES)
            except FileNotFoundError:
                raise FormatError(
                    f"{self.path}: expected the weights of {self.xml.name} beside it, found no such file"
                ) from None
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise FormatError(
                f"{where}: expected its {size} bytes at offset {offset} inside {self.path.name}, which has "
                f"{len(self.data)} bytes"
            )
        if dtype is None:
            return None
        count = math.prod(shape)
        if min(shape, default=1) < 0 or count > MAX_ELEMENTS or count * dtype.itemsize != size:
            raise FormatError(f"{where}: expected {dtype} of shape {shape}, found {size} bytes")
        return np.frombuffer(self.data, dtype, count, offset).reshape(shape)


def _node(layer: Layer, name: str, constants: _Constants) -> Node:
    opset = _OPSET.fullmatch(layer.version)
    declared = tuple(port.dims for port in layer.outputs)
    kind = layer.type.lower()
    if opset is None:
        return _unsupported(layer, name, f"{layer.type} of {layer.version!r}")
    if kind in ("const", "constant"):
        data = layer.data
        port = layer.outputs[0] if layer.outputs else None
        element_type = data.text("element_type", port.precision if port else None).lower()
        shape = data.integers("shape", port.dims if port else None)
        dtype = np.dtype(TYPES[element_type]) if element_type in TYPES else None
        value = constants.array(layer.where, data.integer("offset"), data.integer("size"), dtype, shape)
        return Node("constant", name, layer.where, (), {"type": element_type}, value, declared)
    translate = _TRANSLATORS.get(kind)
    if translate is None:
        return _unsupported(layer, name, layer.type)
    kind, attributes, order = translate(layer.data, len(layer.inputs), int(opset[1]))
    if kind == "parameter" and not layer.data.values.get("shape") and layer.outputs:
        attributes["shape"] = layer.outputs[0].dims
    inputs = tuple(
        layer.inputs[position] if position is not None and position < len(layer.inputs) else None
        for position in order
    )
    if len(layer.inputs) > len(order):
        raise FormatError(
            f"{layer.where}: expected at most {len(order)} inputs of {layer.type}, found {len(layer.inputs)}"
        )
    return Node(kind, name, layer.where, inputs, attributes, None, declared)


def _unsupported(layer: Layer, name: str, found: str) -> Node:
    declared = tuple(port.dims for port in layer.outputs)
    return Node("unsupported", name, layer.where, layer.inputs, {"type": found}, None, declared)


# Each translator: (data attributes, number of inputs, opset) -> (kind, attributes, which input goes where).
Translation = tuple[str, dict[str, Any], tuple[int | None, ...]]


def _plain(kind: str, inputs: int) -> Callable[[Attributes, int, int], Translation]:
    def translate(data: Attributes, count: int, opset: int) -> Translation:
        return kind, {}, tuple(range(inputs))

    return translate


def _elementwise(kind: str) -> Callable[[Attributes, int, int], Translation]:
    def translate(data: Attributes, count: int, opset: int) -> Translation:
        if data.text("auto_broadcast", "numpy").lower() not in ("numpy", "none"):
            raise FormatError(
                f"{data.where}: auto_broadcast must be numpy, found {data.text('auto_broadcast')!r}"
            )
        return kind, {}, (0, 1)

    return translate


def _parameter(data: Attributes, count: int, opset: int) -> Translation:
    text = data.text("shape", "")
    if "?" in text or ".." in text:  # a dynamic batch may stay, other free sizes are refused by the importer
        parts = [part.strip() for part in text.split(",")][:9]
        data = Attributes(
            {"shape": ",".join("-1" if "?" in p or ".." in p else p for p in parts)}, data.where
        )
    return "parameter", {"shape": data.integers("shape", ())}, ()


def _convert(data: Attributes, count: int, opset: int) -> Translation:
    name = data.text("destination_type").lower()
    dtype = np.dtype(TYPES[name]) if name in TYPES and name != "boolean" else None
    return "convert", {"dtype": dtype, "type": name}, (0,)


def _fake_quantize(data: Attributes, count: int, opset: int) -> Translation:
    return "fakequantize", {"levels": data.whole("levels")}, (0, 1, 2, 3, 4)


def window_attributes(data: Attributes) -> dict[str, Any]:
    """strides, dilations, padding of Convolution and pooling."""
    return {
        "strides": data.integers("strides", (1, 1)),
        "dilations": data.integers("dilations", (1, 1)),
        "pads_begin": data.integers("pads_begin", (0, 0)),
        "pads_end": data.integers("pads_end", (0, 0)),
        "auto_pad": data.text("auto_pad", "explicit").lower() or "explicit",
    }


def _convolution(data: Attributes, count: int, opset: int) -> Translation:
    return "convolution", {**window_attributes(data), "group": 1}, (0, 1)


def _pool(kind: str) -> Callable[[Attributes, int, int], Translation]:
    def translate(data: Attributes, count: int, opset: int) -> Translation:
        attributes = window_attributes(data)
        attributes |= {
            "kernel": data.integers("kernel"),
            "rounding": data.text("rounding_type", "floor").lower(),
        }
        return kind, attributes, (0,)

    return translate


def _batch_norm(data: Attributes, count: int, opset: int) -> Translation:
    key = "epsilon" if "epsilon" in data.values else "eps"
    order = (0, 1, 2, 3, 4) if opset >= 5 else (2, 0, 1, 3, 4)  # version 1: gamma, beta, data, mean, variance
    return "batchnorm", {"epsilon": data.number(key)}, order


def _relu_alias(data: Attributes, count: int, opset: int) -> Translation:
    return "clip", {"low": data.number("min"), "high": data.number("max")}, (0,)


def _reduce_mean(data: Attributes, count: int, opset: int) -> Translation:
    return "reducemean", {"keep_dims": data.boolean("keep_dims", False)}, (0, 1)


def _interpolate(data: Attributes, count: int, opset: int) -> Translation:
    mode = data.text("mode").lower()
    # OpenVINO's own "linear" weighs by triangles as wide as the scale.
    mode = {"linear_onnx": "linear", "linear": "linear of triangles"}.get(mode, mode)
    pads = (*data.integers("pads_begin", ()), *data.integers("pads_end", ()))
    attributes: dict[str, Any] = {"mode": mode, "pads": pads}
    if opset < 4:
        corners = data.boolean("align_corners", True)
        attributes |= {"coordinate": "align_corners" if corners else "asymmetric", "nearest": "simple"}
        attributes["axes"] = data.integers("axes")
        return "interpolate", attributes, (0, 1, None, None)
    attributes["coordinate"] = data.text("coordinate_transformation_mode", "half_pixel").lower()
    attributes["nearest"] = data.text("nearest_mode", "round_prefer_floor").lower()
    attributes["antialias"] = data.boolean("antialias", False)
    calculation = data.text("shape_calculation_mode").lower()
    if calculation not in ("sizes", "scales"):
        raise FormatError(
            f"{data.where}: shape_calculation_mode must be sizes or scales, found {calculation!r}"
        )
    by_size = calculation == "sizes"
    if opset < 11:
        return "interpolate", attributes, (0, 1, None, 3) if by_size else (0, None, 2, 3)
    return "interpolate", attributes, (0, 1, None, 2) if by_size else (0, None, 1, 2)


def _softmax(data: Attributes, count: int, opset: int) -> Translation:
    return "softmax", {"axis": data.integer("axis", 1)}, (0,)


def _topk(data: Attributes, count: int, opset: int) -> Translation:
    attributes = {"axis": data.integer("axis"), "mode": data.text("mode").lower(), "keep_dims": True}
    return "topk", attributes, (0, 1)


def _reshape(data: Attributes, count: int, opset: int) -> Translation:
    return "reshape", {"zero_copies": data.boolean("special_zero", False)}, (0, 1)


def _strided_slice(data: Attributes, count: int, opset: int) -> Translation:
    attributes: dict[str, Any] = {
        key: data.integers(key, ()) for key in ("new_axis_mask", "shrink_axis_mask", "ellipsis_mask")
    }
    # A 1 in OpenVINO's begin_mask and end_mask ignores the number.
    attributes |= {key: data.integers(key, ()) for key in ("begin_mask", "end_mask")}
    return "stridedslice", attributes, (0, 1, 2, 3)


def _slice(data: Attributes, count: int, opset: int) -> Translation:
    return "slice", {}, (0, 1, 2, 4, 3)  # OpenVINO: data, start, stop, step, axes


def _gather(data: Attributes, count: int, opset: int) -> Translation:
    if data.integer("batch_dims", 0) != 0:
        raise FormatError(f"{data.where}: batch_dims must be 0, found {data.integer('batch_dims')}")
    return "gather", {}, (0, 1, 2)


def _concat(data: Attributes, count: int, opset: int) -> Translation:
    return "concat", {"axis": data.integer("axis")}, tuple(range(count))


_TRANSLATORS: dict[str, Callable[[Attributes, int, int], Translation]] = {
    "parameter": _parameter,
    "result": _plain("result", 1),
    "convert": _convert,
    "fakequantize": _fake_quantize,
    "add": _elementwise("add"),
    "subtract": _elementwise("subtract"),
    "multiply": _elementwise("multiply"),
    "divide": _elementwise("divide"),
    "convolution": _convolution,
    "batchnorminference": _batch_norm,
    "relu": _plain("relu", 1),
    "clamp": _relu_alias,
    "maxpool": _pool("maxpool"),
    "avgpool": _pool("avgpool"),
    "adaptiveavgpool": _plain("adaptiveavgpool", 2),
    "reducemean": _reduce_mean,
    "interpolate": _interpolate,
    "softmax": _softmax,
    "topk": _topk,
    "reshape": _reshape,
    "transpose": _plain("transpose", 2),
    "squeeze": _plain("squeeze", 2),
    "unsqueeze": _plain("unsqueeze", 2),
    "stridedslice": _strided_slice,
    "slice": _slice,
    "gather": _gather,
    "concat": _concat,
    "shapeof": _plain("shapeof", 1),
    "floor": _plain("floor", 1),
    "ceiling": _plain("ceil", 1),
}
