"""ONNX -> Graph: QuantizeLinear/DequantizeLinear, or NNCF's FakeQuantize of the domain org.openvinotoolkit.

Needs the package onnx (extra `onnx`).  Operation semantics: onnx.ai, opsets 11 to 23; `exchange.nodes` lists what
they become.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError, parsing, read_bounded
from sparse_icnet.formats.exchange.build import to_graph
from sparse_icnet.formats.exchange.nodes import (
    MAX_ELEMENTS,
    MAX_INPUTS,
    MAX_NODES,
    MAX_RANK,
    ForeignModel,
    Node,
    Source,
    UniqueNames,
    checked_name,
)
from sparse_icnet.network.graph import Graph

MAX_BYTES = 1 << 30
OPSETS = range(9, 64)
OPENVINO_DOMAIN = "org.openvinotoolkit"
# TensorProto.DataType -> NumPy, and the field that holds values that are not raw
TYPES = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
}
EXTERNAL = 1  # TensorProto.DataLocation


def load(path: str | os.PathLike[str]) -> Graph:
    """Read `path` (.onnx).

    Raises FormatError for a file that is damaged or that the engine cannot run, naming the node,
    ModuleNotFoundError without the package onnx, OSError if the file cannot be read.
    """
    return to_graph(read(Path(path)))


def read(path: Path) -> ForeignModel:
    """The nodes of the ONNX graph as foreign nodes."""
    data = read_bounded(path, MAX_BYTES)
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {path} needs the package {error.name}: pip install 'sparse-icnet[onnx]'",
            name=error.name,
        ) from None
    model = onnx.ModelProto()
    with parsing(path, "an ONNX model"):
        model.ParseFromString(data)
    return _Reader(path, model).run()


class _Reader:
    def __init__(self, path: Path, model: Any) -> None:
        self.path, self.graph = path, model.graph
        self.opset = _opset(path, model)
        self.nodes: list[Node] = []
        self.outputs: dict[str, Source] = {}  # tensor name -> where it comes from
        self.names = UniqueNames()

    def run(self) -> ForeignModel:
        graph = self.graph
        if not 1 <= len(graph.node) <= MAX_NODES or len(graph.initializer) > MAX_NODES:
            raise FormatError(
                f"{self.path}: expected 1..{MAX_NODES} nodes and at most as many initializers, found "
                f"{len(graph.node)} and {len(graph.initializer)}"
            )
        if graph.sparse_initializer:
            raise FormatError(f"{self.path}: sparse initializers are not supported")
        elements = 0
        for tensor in graph.initializer:
            where = f"{self.path}: initializer {tensor.name[:80]!r}"
            value = tensor_value(tensor, where)
            elements += value.size
            if elements > MAX_ELEMENTS:
                raise FormatError(f"{where}: expected at most {MAX_ELEMENTS} elements in all, found more")
            self._define(tensor.name, self._constant(tensor.name, where, value), where)
        for entry in graph.input:
            if entry.name not in self.outputs:
                self._parameter(entry)
        prepared = [self._prepare(position, node) for position, node in enumerate(graph.node)]
        for node, index, where in prepared:
            self.nodes[index] = self._node(node, where, self.nodes[index].name)
        result = self._result()
        return ForeignModel(str(self.path), tuple(self.nodes), result)

    def _constant(self, name: str, where: str, value: NDArray) -> Source:
        self.nodes.append(Node("constant", self.names(checked_name(name, where)), where, (), {}, value))
        return (len(self.nodes) - 1, 0)

    def _define(self, tensor: str, source: Source, where: str) -> None:
        if not tensor or tensor in self.outputs:
            raise FormatError(f"{where}: expected tensor names that are unique, found {tensor[:80]!r} again")
        self.outputs[tensor] = source

    def _parameter(self, entry: Any) -> None:
        where = f"{self.path}: input {entry.name[:80]!r}"
        shape = _declared_shape(entry)
        if shape is None:
            raise FormatError(f"{where}: expected an input of known shape")
        name = self.names(checked_name(entry.name, where))
        self.nodes.append(Node("parameter", name, where, (), {"shape": shape}))
        self._define(entry.name, (len(self.nodes) - 1, 0), where)

    def _prepare(self, position: int, node: Any) -> tuple[Any, int, str]:
        """Reserve the place of a node and define its outputs, so that nodes may stand in any order."""
        name = node.name or (node.output[0] if node.output else node.op_type)
        checked_name(name, f"{self.path}: node {position}")
        where = f"{self.path}: node {position} {name!r}"
        if len(node.input) > MAX_INPUTS or not 1 <= len(node.output) <= MAX_INPUTS:
            raise FormatError(f"{where}: expected at most {MAX_INPUTS} inputs and 1..{MAX_INPUTS} outputs")
        index = len(self.nodes)
        self.nodes.append(Node("identity", self.names(name), where))
        for port, output in enumerate(node.output):
            if output:
                self._define(output, (index, port), where)
        return node, index, where

    def _node(self, node: Any, where: str, name: str) -> Node:
        inputs = [self._source(tensor, where) for tensor in node.input]
        attributes = _Attributes(node, where)
        kind, operation = node.op_type, node.op_type
        if node.domain == OPENVINO_DOMAIN and kind == "FakeQuantize":
            translate: Callable | None = _fake_quantize
        elif node.domain in ("", "ai.onnx"):
            translate = _TRANSLATORS.get(kind)
        else:
            raise FormatError(
                f"{where}: expected operations of ONNX or {OPENVINO_DOMAIN}, found {operation[:60]!r} of "
                f"{node.domain[:60]!r}"
            )
        if translate is None:
            return Node("unsupported", name, where, tuple(inputs), {"type": operation[:80]})
        kind, values, order = translate(attributes, len(inputs), self.opset)
        if kind == "constant":
            return Node("constant", name, where, (), {}, values["value"])
        if len(inputs) > len(order):
            raise FormatError(
                f"{where}: expected at most {len(order)} inputs of {operation}, found {len(inputs)}"
            )
        arranged = tuple(
            inputs[place] if place is not None and place < len(inputs) else None for place in order
        )
        if kind == "interpolate":
            # Absent sizes or scales may be written as empty tensors.
            arranged = (arranged[0], *(self._unless_empty(source) for source in arranged[1:]))
        return Node(kind, name, where, arranged, values)

    def _source(self, tensor: str, where: str) -> Source | None:
        if not tensor:
            return None
        if tensor not in self.outputs:
            raise FormatError(f"{where}: reads tensor {tensor[:80]!r}, which nothing defines")
        return self.outputs[tensor]

    def _unless_empty(self, source: Source | None) -> Source | None:
        if source is None:
            return None
        value = self.nodes[source[0]].value
        return None if value is not None and value.size == 0 else source

    def _result(self) -> int:
        if len(self.graph.output) != 1:
            found = [output.name[:80] for output in self.graph.output][:8]
            raise FormatError(
                f"{self.path}: expected one network output, found {len(self.graph.output)} {found}"
            )
        output = self.graph.output[0]
        where = f"{self.path}: output {output.name[:80]!r}"
        source = self._source(output.name, where)
        if source is None:
            raise FormatError(f"{where}: expected a name")
        shape = _declared_shape(output)
        self.nodes.append(Node("result", self.names("result"), where, (source,), {}, None, (shape,)))
        return len(self.nodes) - 1


def _opset(path: Path, model: Any) -> int:
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(versions) != 1 or not versions <= set(OPSETS):
        raise FormatError(
            f"{path}: expected an ONNX model of opset {OPSETS[0]} or later, found opsets {sorted(versions)}"
        )
    return versions.pop()


def _declared_shape(entry: Any) -> tuple[int, ...] | None:
    """Shape of a graph input or output, -1 where it is free; None if the file does not state it."""
    tensor = entry.type.tensor_type
    if (
        not entry.type.HasField("tensor_type")
        or not tensor.HasField("shape")
        or len(tensor.shape.dim) > MAX_RANK
    ):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)


def tensor_value(tensor: Any, where: str) -> NDArray:
    """A TensorProto as an array; sizes are checked before anything is allocated."""
    if tensor.data_location == EXTERNAL or tensor.external_data:
        raise FormatError(f"{where}: expected data inside the file, found external data")
    if tensor.data_type not in TYPES:
        raise FormatError(f"{where}: expected a float or integer type, found data type {tensor.data_type}")
    if tensor.HasField("segment"):
        raise FormatError(f"{where}: segmented tensors are not supported")
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    if len(shape) > MAX_RANK or min(shape, default=1) < 0 or count > MAX_ELEMENTS:
        raise FormatError(
            f"{where}: expected at most {MAX_ELEMENTS} elements in {MAX_RANK} dimensions, found shape "
            f"{list(shape)[:16]}"
        )
    name, key = TYPES[tensor.data_type]
    dtype = np.dtype(name)
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * dtype.itemsize:
            raise FormatError(
                f"{where}: expected {count * dtype.itemsize} bytes for {name} {shape}, found "
                f"{len(tensor.raw_data)}"
            )
        return (
            np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
        )
    values = getattr(tensor, key)
    if len(values) != count:
        raise FormatError(f"{where}: expected {count} values for shape {shape}, found {len(values)}")
    if key in ("float_data", "double_data"):
        return np.asarray(values, dtype).reshape(shape)
    stored = np.dtype(np.uint16) if name == "float16" else dtype
    bounds = (0, 1) if name == "bool" else (np.iinfo(stored).min, np.iinfo(stored).max)
    if count and not bounds[0] <= min(values) <= max(values) <= bounds[1]:
        raise FormatError(f"{where}: expected numbers of {name}, found {min(values)}..{max(values)}")
    array = np.asarray(values, stored)
    return (array.view(np.float16) if name == "float16" else array).reshape(shape)


class _Attributes:
    """Attributes of a node, read as what they should be."""

    def __init__(self, node: Any, where: str) -> None:
        self.values = {attribute.name: attribute for attribute in node.attribute}
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def _get(self, key: str, kind: int, what: str) -> Any:
        attribute = self.values[key]
        if attribute.type != kind:
            raise FormatError(f"{self.where}: attribute {key!r} must be {what}")
        return attribute

    def integer(self, key: str, default: int) -> int:
        return int(self._get(key, 2, "an integer").i) if key in self.values else default

    def number(self, key: str, default: float) -> float:
        return float(self._get(key, 1, "a number").f) if key in self.values else default

    def text(self, key: str, default: str) -> str:
        return self._get(key, 3, "a string").s.decode("utf-8", "replace") if key in self.values else default

    def integers(self, key: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        if key not in self.values:
            return None if default is None else tuple(default)
        numbers = tuple(self._get(key, 7, "a list of integers").ints)
        if len(numbers) > 2 * MAX_RANK:
            raise FormatError(f"{self.where}: attribute {key!r} must have at most {2 * MAX_RANK} numbers")
        return numbers


# Each translator: (attributes, number of inputs, opset) -> (kind, attributes, which input goes where).
Translation = tuple[str, dict[str, Any], tuple[int | None, ...]]


def _plain(kind: str, inputs: int) -> Callable[[_Attributes, int, int], Translation]:
    def translate(node: _Attributes, count: int, opset: int) -> Translation:
        return kind, {}, tuple(range(inputs))

    return translate


def _constant(node: _Attributes, count: int, opset: int) -> Translation:
    if "value" in node:
        value = tensor_value(node._get("value", 4, "a tensor").t, node.where)
    elif "value_float" in node:
        value = np.float32(node.number("value_float", 0.0))
    elif "value_int" in node:
        value = np.int64(node.integer("value_int", 0))
    elif "value_ints" in node:
        value = np.asarray(node.integers("value_ints"), np.int64)
    elif "value_floats" in node:
        value = np.asarray(
            node._get("value_floats", 6, "a list of numbers").floats[:MAX_ELEMENTS], np.float32
        )
    else:
        raise FormatError(f"{node.where}: expected a Constant of numbers, found {sorted(node.values)[:4]}")
    return "constant", {"value": np.asarray(value)}, ()


def _fake_quantize(node: _Attributes, count: int, opset: int) -> Translation:
    return "fakequantize", {"levels": node.integer("levels", 0)}, (0, 1, 2, 3, 4)


def _linear(kind: str) -> Callable[[_Attributes, int, int], Translation]:
    def translate(node: _Attributes, count: int, opset: int) -> Translation:
        if node.integer("block_size", 0) != 0:
            raise FormatError(f"{node.where}: expected scales per tensor or axis, found blocks")
        if node.integer("output_dtype", 0) not in (0, 1, 2, 3):
            raise FormatError(
                f"{node.where}: expected 8-bit codes, found output_dtype {node.integer('output_dtype', 0)}"
            )
        if count < 3 and node.integer("output_dtype", 0) == 3:
            raise FormatError(f"{node.where}: expected a zero point for int8 codes, found none")
        return kind, {"axis": node.integer("axis", 1)}, (0, 1, 2)

    return translate


def _window(node: _Attributes) -> dict[str, Any]:
    pads = node.integers("pads", (0, 0, 0, 0)) or ()
    if len(pads) % 2:
        raise FormatError(f"{node.where}: expected an even number of pads, found {list(pads)}")
    half = len(pads) // 2
    return {
        "strides": node.integers("strides", (1, 1)),
        "dilations": node.integers("dilations", (1, 1)),
        "pads_begin": pads[:half],
        "pads_end": pads[half:],
        "auto_pad": node.text("auto_pad", "NOTSET").lower(),
    }


def _convolution(node: _Attributes, count: int, opset: int) -> Translation:
    return "convolution", {**_window(node), "group": node.integer("group", 1)}, (0, 1, 2)


def _pool(kind: str) -> Callable[[_Attributes, int, int], Translation]:
    def translate(node: _Attributes, count: int, opset: int) -> Translation:
        kernel = node.integers("kernel_shape", ())
        rounding = "ceil_torch" if node.integer("ceil_mode", 0) else "floor"
        return kind, {**_window(node), "kernel": kernel, "rounding": rounding}, (0,)

    return translate


def _batch_norm(node: _Attributes, count: int, opset: int) -> Translation:
    if node.integer("training_mode", 0) != 0:
        raise FormatError(f"{node.where}: expected batch normalization for inference, found training_mode")
    return "batchnorm", {"epsilon": node.number("epsilon", 1e-5)}, (0, 1, 2, 3, 4)


def _clip(node: _Attributes, count: int, opset: int) -> Translation:
    return "clip", {"low": node.number("min", -math.inf), "high": node.number("max", math.inf)}, (0, 1, 2)


def _global_average(node: _Attributes, count: int, opset: int) -> Translation:
    return "reducemean", {"axes": (2, 3), "keep_dims": True}, (0,)


def _reduce_mean(node: _Attributes, count: int, opset: int) -> Translation:
    if node.integer("noop_with_empty_axes", 0) != 0:
        raise FormatError(f"{node.where}: noop_with_empty_axes is not supported")
    return (
        "reducemean",
        {"axes": node.integers("axes"), "keep_dims": bool(node.integer("keepdims", 1))},
        (0, 1),
    )


def _resize(node: _Attributes, count: int, opset: int) -> Translation:
    attributes: dict[str, Any] = {"mode": node.text("mode", "nearest").lower(), "axes": node.integers("axes")}
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise FormatError(f"{node.where}: expected keep_aspect_ratio_policy 'stretch'")
    if opset < 11:
        attributes |= {"coordinate": "asymmetric", "nearest": "floor"}
        return "interpolate", attributes, (0, None, 1)
    attributes["coordinate"] = node.text("coordinate_transformation_mode", "half_pixel").lower()
    attributes["nearest"] = node.text("nearest_mode", "round_prefer_floor").lower()
    attributes["antialias"] = bool(node.integer("antialias", 0))
    return "interpolate", attributes, (0, 3, 2, None)


def _softmax(node: _Attributes, count: int, opset: int) -> Translation:
    return "softmax", {"axis": node.integer("axis", -1 if opset >= 13 else 1), "flattens": opset < 13}, (0,)


def _argmax(node: _Attributes, count: int, opset: int) -> Translation:
    if node.integer("select_last_index", 0) != 0:
        raise FormatError(f"{node.where}: expected ArgMax of the first index, found select_last_index")
    return "argmax", {"axis": node.integer("axis", 0), "keep_dims": bool(node.integer("keepdims", 1))}, (0,)


def _topk(node: _Attributes, count: int, opset: int) -> Translation:
    mode = "max" if node.integer("largest", 1) else "min"
    return "topk", {"axis": node.integer("axis", -1), "mode": mode, "keep_dims": True}, (0, 1)


def _cast(node: _Attributes, count: int, opset: int) -> Translation:
    number = node.integer("to", 0)
    dtype = np.dtype(TYPES[number][0]) if number in TYPES else None
    return "convert", {"dtype": dtype, "type": str(dtype or number)}, (0,)


def _axes(kind: str) -> Callable[[_Attributes, int, int], Translation]:
    def translate(node: _Attributes, count: int, opset: int) -> Translation:
        return kind, {"axes": node.integers("axes")}, (0, 1)

    return translate


def _reshape(node: _Attributes, count: int, opset: int) -> Translation:
    return "reshape", {"zero_copies": node.integer("allowzero", 0) == 0}, (0, 1)


def _transpose(node: _Attributes, count: int, opset: int) -> Translation:
    return "transpose", {"order": node.integers("perm")}, (0,)


def _shape(node: _Attributes, count: int, opset: int) -> Translation:
    return "shapeof", {"start": node.integer("start", 0), "end": node.integer("end", MAX_RANK)}, (0,)


def _slice(node: _Attributes, count: int, opset: int) -> Translation:
    if "starts" in node:
        raise FormatError(f"{node.where}: expected Slice of opset 10 or later, found starts as an attribute")
    return "slice", {}, (0, 1, 2, 3, 4)


def _gather(node: _Attributes, count: int, opset: int) -> Translation:
    return "gather", {"axis": node.integer("axis", 0)}, (0, 1)


def _concat(node: _Attributes, count: int, opset: int) -> Translation:
    return "concat", {"axis": node.integer("axis", 0)}, tuple(range(count))


_TRANSLATORS: dict[str, Callable[[_Attributes, int, int], Translation]] = {
    "Constant": _constant,
    "Identity": _plain("identity", 1),
    "Dropout": _plain("identity", 3),
    "Cast": _cast,
    "QuantizeLinear": _linear("quantizelinear"),
    "DequantizeLinear": _linear("dequantizelinear"),
    "Add": _plain("add", 2),
    "Sub": _plain("subtract", 2),
    "Mul": _plain("multiply", 2),
    "Div": _plain("divide", 2),
    "Conv": _convolution,
    "BatchNormalization": _batch_norm,
    "Relu": _plain("relu", 1),
    "Clip": _clip,
    "MaxPool": _pool("maxpool"),
    "AveragePool": _pool("avgpool"),
    "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce_mean,
    "MatMul": _plain("matmul", 2),
    "Resize": _resize,
    "Upsample": _resize,
    "Softmax": _softmax,
    "ArgMax": _argmax,
    "TopK": _topk,
    "Transpose": _transpose,
    "Squeeze": _axes("squeeze"),
    "Unsqueeze": _axes("unsqueeze"),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Gather": _gather,
    "Concat": _concat,
    "Floor": _plain("floor", 1),
    "Ceil": _plain("ceil", 1),
}
