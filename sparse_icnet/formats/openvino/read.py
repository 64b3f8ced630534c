"""OpenVINO IR, versions 10 and 11 (and 6 and 7 as best effort): `model.xml` with `model.bin` beside it -> Graph.

Weights may be int8 behind Convert > [Subtract] > Multiply, or float behind FakeQuantize.  `operations` says what becomes
of each layer.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError, read_bounded
from sparse_icnet.formats.exchange.attributes import ConstantAttributes
from sparse_icnet.formats.exchange.build import to_graph
from sparse_icnet.formats.exchange.nodes import (
    MAX_ELEMENTS,
    AnyNode,
    Key,
    Model,
    Result,
    UniqueNames,
)
from sparse_icnet.formats.openvino import read_v7
from sparse_icnet.formats.openvino.operations import READERS, TYPES, LayerNode, type_name, unsupported
from sparse_icnet.formats.openvino.xml import Layer, Network, read_network
from sparse_icnet.network.graph import Graph

MAX_BIN_BYTES = 1 << 30
_OPSET = re.compile(r"opset([0-9]{1,3})", re.ASCII)


def load(path: str | os.PathLike[str], output: str | None = None) -> Graph:
    """Read `path` (.xml) and the .bin of the same name beside it, up to `output`, one of its outputs; None: the only one.

    Raises FormatError for a file that is damaged or that the engine cannot run, naming the layer, and for a
    .bin that is missing; OSError if a file cannot be read.
    """
    return to_graph(read(Path(path)), output)


def read(path: Path) -> Model:
    """The layers of the IR as nodes of the table."""
    network = read_network(path)
    if network.version not in (6, 7, 10, 11):
        raise FormatError(f"{path}: expected IR version 6, 7, 10 or 11, found {network.version}")
    constants = _Constants(path)
    if network.version < 10:
        return read_v7.translate(path, network, constants.array)
    return _translate(path, network, constants)


def _translate(path: Path, network: Network, constants: _Constants) -> Model:
    nodes: list[AnyNode] = []
    results: list[Result] = []
    names = UniqueNames()
    for index, layer in enumerate(network.layers):
        opset = _OPSET.fullmatch(layer.version)
        kind = layer.type.lower()
        is_result = opset is not None and kind == "result"
        # A Result has an output in some files and none in others.
        outputs: list[Key] = [(index, port) for port in range(len(layer.outputs) or is_result)]
        node = LayerNode(layer, names(layer.name), int(opset[1]) if opset else 0, outputs, nodes.append)
        if opset is None:
            unsupported(node)
        elif kind in ("const", "constant"):
            _constant(node, constants)
        else:
            READERS.get(kind, unsupported)(node)
        if is_result:
            name, dtype = _output(layer, network)
            results.append(Result(name, layer.where, outputs[0], dtype))
    return Model(str(path), tuple(nodes), tuple(results))


def _output(layer: Layer, network: Network) -> tuple[str, str]:
    """What a Result returns: the tensor by its first name, or the layer that it comes from; and its type."""
    if not layer.inputs:
        return layer.name, ""
    source, number = layer.inputs[0]
    port = network.layers[source].outputs[number]
    return port.names[0] if port.names else network.layers[source].name, type_name(port.precision)


def _constant(node: LayerNode, constants: _Constants) -> None:
    data = node.data
    port = node.layer.outputs[0] if node.layer.outputs else None
    element_type = data.text("element_type", port.precision if port else None).lower()
    shape = data.integers("shape", port.dims if port else None)
    dtype = np.dtype(TYPES[element_type]) if element_type in TYPES else None
    value = constants.array(node.where, data.integer("offset"), data.integer("size"), dtype, shape)
    node.gives("constant", {}, ConstantAttributes(value, element_type))


class _Constants:
    """The .bin, read when the first constant asks for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.xml = path.with_suffix(".bin"), path
        self.data: bytes | None = None

    def array(
        self, where: str, offset: int, size: int, dtype: np.dtype[Any] | None, shape: tuple[int, ...]
    ) -> NDArray[Any] | None:
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
