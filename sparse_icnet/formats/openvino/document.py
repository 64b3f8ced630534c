"""An OpenVINO IR under construction: layers, edges between their ports, constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from numpy.typing import NDArray

ELEMENT_TYPES = {
    **{"float16": "f16", "float32": "f32", "float64": "f64"},
    **{"int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64"},
    **{"uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64"},
}
PRECISION = {element: element.upper().replace("F", "FP") for element in ELEMENT_TYPES.values()}  # of ports
_ALIGNMENT = 64  # of each constant in the .bin

Value = tuple[int, int]  # (layer, output port)


class Document:
    """Collects layers, edges and constants; `files` gives them as the two files of a model."""

    def __init__(self) -> None:
        self.layers: list[ElementTree.Element] = []
        self.edges: list[tuple[Value, tuple[int, int]]] = []
        self.constants = bytearray()
        self.shapes: dict[Value, tuple[tuple[int, ...], str]] = {}
        self.known_constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    def layer(
        self,
        kind: str,
        name: str,
        sources: Sequence[Value],
        shape: tuple[int, ...] | None,
        data: dict[str, str] | None = None,
        opset: int = 1,
        element: str = "f32",
        outputs: int = 1,
        tensor: str | None = None,
    ) -> Value:
        """Append a layer; returns its last output (its only one, but for TopK)."""
        number = len(self.layers)
        layer = ElementTree.Element("layer", id=str(number), name=name, type=kind, version=f"opset{opset}")
        if data:
            ElementTree.SubElement(layer, "data", data)
        if sources:
            ports = ElementTree.SubElement(layer, "input")
            for port, source in enumerate(sources):
                source_shape, source_element = self.shapes[source]
                _port(ports, port, source_shape, source_element)
                self.edges.append((source, (number, port)))
        value = (number, len(sources))
        if shape is not None:
            ports = ElementTree.SubElement(layer, "output")
            for _ in range(outputs):
                value = (number, len(sources) + len(ports))
                _port(ports, value[1], shape, element, tensor)
                self.shapes[value] = (shape, element)
        self.layers.append(layer)
        return value

    def constant(self, name: str, array: NDArray[Any]) -> Value:
        """The value of a Const layer; equal arrays share one, whatever their names."""
        content = array.tobytes()
        element = ELEMENT_TYPES[array.dtype.name]
        key = (element, array.shape, content)
        if key not in self.known_constants:
            self.constants += bytes(-len(self.constants) % _ALIGNMENT)
            data = {
                "element_type": element,
                "shape": numbers(array.shape),
                "offset": str(len(self.constants)),
                "size": str(len(content)),
            }
            self.constants += content
            self.known_constants[key] = self.layer("Const", name, (), array.shape, data, element=element)
        return self.known_constants[key]

    def files(self, name: str) -> tuple[bytes, bytes]:
        """(xml, bin)."""
        net = ElementTree.Element("net", name=name, version="11")
        ElementTree.SubElement(net, "layers").extend(self.layers)
        edges = ElementTree.SubElement(net, "edges")
        for (from_layer, from_port), (to_layer, to_port) in self.edges:
            ends = {
                "from-layer": from_layer,
                "from-port": from_port,
                "to-layer": to_layer,
                "to-port": to_port,
            }
            ElementTree.SubElement(edges, "edge", {key: str(number) for key, number in ends.items()})
        ElementTree.SubElement(net, "rt_info")
        ElementTree.indent(net)
        xml = ElementTree.tostring(net, encoding="utf-8", xml_declaration=True)
        return xml + b"\n", bytes(self.constants)


def _port(
    parent: ElementTree.Element, number: int, shape: Sequence[int], element: str, tensor: str | None = None
) -> None:
    port = ElementTree.SubElement(parent, "port", id=str(number), precision=PRECISION[element])
    if tensor is not None:
        port.set("names", tensor.replace(",", "\\,"))  # a comma separates names
    for length in shape:
        ElementTree.SubElement(port, "dim").text = str(length)


def numbers(values: Sequence[int]) -> str:
    """As attributes state them: "1, 2"."""
    return ", ".join(map(str, values))
