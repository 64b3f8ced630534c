"""ONNX -> Graph: QuantizeLinear/DequantizeLinear, or NNCF's FakeQuantize of the domain org.openvinotoolkit.

Needs the package onnx (extra `onnx`).  `operations` says what becomes of each operation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sparse_icnet.formats.errors import FormatError, parsing, read_bounded
from sparse_icnet.formats.exchange.attributes import Attributes, ConstantAttributes, ParameterAttributes
from sparse_icnet.formats.exchange.build import to_graph
from sparse_icnet.formats.exchange.nodes import (
    MAX_ELEMENTS,
    MAX_INPUTS,
    MAX_NODES,
    MAX_RANK,
    AnyNode,
    Key,
    Model,
    Node,
    Result,
    UniqueNames,
    checked_name,
)
from sparse_icnet.formats.onnx import qoperators  # noqa: F401  (enters its operations)
from sparse_icnet.formats.onnx.operations import READERS, OnnxNode, unsupported
from sparse_icnet.formats.onnx.tensors import TYPES, Beside, tensor_value
from sparse_icnet.network.graph import Graph

MAX_BYTES = 1 << 30
OPSETS = range(9, 64)


def load(path: str | os.PathLike[str], output: str | None = None) -> Graph:
    """Read `path` (.onnx) up to `output`, a name of one of its outputs; None: the only one.

    Raises FormatError for a file that is damaged or that the engine cannot run, naming the node,
    ModuleNotFoundError without the package onnx, OSError if the file cannot be read.
    """
    return to_graph(read(Path(path)), output)


def read(path: Path) -> Model:
    """The nodes of the ONNX graph as nodes of the table."""
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
        self.beside = Beside(path)
        self.nodes: list[AnyNode] = []
        self.defined: set[str] = set()  # tensor names
        self.names = UniqueNames()

    def run(self) -> Model:
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
            value = tensor_value(tensor, where, self.beside)
            elements += value.size
            if elements > MAX_ELEMENTS:
                raise FormatError(f"{where}: expected at most {MAX_ELEMENTS} elements in all, found more")
            self._source_node("constant", tensor.name, where, ConstantAttributes(value))
        for entry in graph.input:
            if entry.name not in self.defined:
                self._parameter(entry)
        # Nodes may stand in any order: all outputs are known before the first input is looked up.
        prepared = [self._prepared(position, node) for position, node in enumerate(graph.node)]
        for proto, name, where in prepared:
            self._translate(proto, name, where)
        results = tuple(self._result(position, output) for position, output in enumerate(graph.output))
        return Model(str(self.path), tuple(self.nodes), results)

    def _source_node(self, operation: str, tensor: str, where: str, attributes: Attributes) -> None:
        name = self.names(checked_name(tensor, where))
        self._define(tensor, where)
        self.nodes.append(Node(operation, name, where, (tensor,), attributes))

    def _define(self, tensor: str, where: str) -> None:
        if not tensor or tensor in self.defined:
            raise FormatError(f"{where}: expected tensor names that are unique, found {tensor[:80]!r} again")
        self.defined.add(tensor)

    def _parameter(self, entry: Any) -> None:
        where = f"{self.path}: input {entry.name[:80]!r}"
        shape = _declared_shape(entry)
        if shape is None:
            raise FormatError(f"{where}: expected an input of known shape")
        self._source_node("parameter", entry.name, where, ParameterAttributes(shape, _declared_type(entry)))

    def _prepared(self, position: int, node: Any) -> tuple[Any, str, str]:
        name = node.name or (node.output[0] if node.output else node.op_type)
        checked_name(name, f"{self.path}: node {position}")
        where = f"{self.path}: node {position} {name!r}"
        checked_name(node.op_type, f"{where}: type")
        if len(node.input) > MAX_INPUTS or not 1 <= len(node.output) <= MAX_INPUTS:
            raise FormatError(f"{where}: expected at most {MAX_INPUTS} inputs and 1..{MAX_INPUTS} outputs")
        for output in node.output:
            if output:
                self._define(output, where)
        return node, self.names(name), where

    def _translate(self, proto: Any, name: str, where: str) -> None:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        if domain not in {known for known, _ in READERS}:
            raise FormatError(
                f"{where}: expected operations of ONNX or {', '.join(sorted({d for d, _ in READERS} - {''}))}, "
                f"found {proto.op_type[:60]!r} of {domain[:60]!r}"
            )
        inputs = [self._source(tensor, where) for tensor in proto.input]
        outputs: list[Key] = [tensor or (name, "absent", port) for port, tensor in enumerate(proto.output)]
        node = OnnxNode(proto, name, where, self.opset, self.beside, inputs, outputs, self.nodes.append)
        READERS.get((domain, proto.op_type), unsupported)(node)

    def _source(self, tensor: str, where: str) -> Key | None:
        if not tensor:
            return None
        if tensor not in self.defined:
            raise FormatError(f"{where}: reads tensor {tensor[:80]!r}, which nothing defines")
        return tensor

    def _result(self, position: int, output: Any) -> Result:
        where = f"{self.path}: output {output.name[:80]!r}"
        source = self._source(output.name, where)
        if source is None:
            raise FormatError(f"{where}: expected a name")
        key = ("result", position)
        declared = (_declared_shape(output),)
        inputs = {"x": source}
        self.nodes.append(
            Node("identity", self.names("result"), where, (key,), Attributes(), inputs, declared)
        )
        return Result(output.name, where, key, _declared_type(output))


def _opset(path: Path, model: Any) -> int:
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(versions) != 1 or not versions <= set(OPSETS):
        raise FormatError(
            f"{path}: expected an ONNX model of opset {OPSETS[0]} or later, found opsets {sorted(versions)}"
        )
    return int(versions.pop())


def _declared_type(entry: Any) -> str:
    """Type of a graph input or output; "" if the file does not state it."""
    number = entry.type.tensor_type.elem_type if entry.type.HasField("tensor_type") else 0
    return "" if number == 0 else TYPES[number][0] if number in TYPES else f"data type {number}"


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
