"""The XML of an OpenVINO IR: layers, ports and edges, bounded and checked, nothing interpreted.

Nothing in the file is trusted: any DOCTYPE is refused (so no entity expands), sizes, depth and counts have
bounds, numbers are ASCII digits, every edge joins ports that exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.parsers import expat

from sparse_icnet.formats.errors import FormatError, parsing, read_bounded
from sparse_icnet.formats.exchange.nodes import MAX_INPUTS, MAX_NODES, MAX_RANK, checked_name

MAX_XML_BYTES = 32 << 20
MAX_DEPTH = 32
MAX_ELEMENTS = 1_000_000  # XML elements
MAX_ATTRIBUTE = 1 << 16  # characters
IGNORED = frozenset({"rt_info", "meta_data", "quantization_parameters", "cli_parameters", "statistics"})

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_WHOLE = re.compile(r"([0-9]{1,18})(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)


@dataclass(slots=True)
class Element:
    """One XML element; `text` is kept of <dim> alone."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, path: str) -> list[Element]:
        """Children at `tag` or `tag/tag`."""
        found = [self]
        for tag in path.split("/"):
            found = [child for element in found for child in element.children if child.tag == tag]
        return found


@dataclass(frozen=True, slots=True)
class Attributes:
    """Text attributes of a layer, read as what they should be; errors name the layer."""

    values: Mapping[str, str]
    where: str

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise FormatError(f"{self.where}: attribute {key!r} is missing")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        if key not in self.values and default is not None:
            return default
        return _integer(self.text(key), key, self.where)

    def whole(self, key: str) -> int:
        """A whole number that may be written as a float: 256 or 256.0; a larger or odd one stays an error."""
        match = _WHOLE.fullmatch(self.text(key).strip())
        if not match:
            raise FormatError(
                f"{self.where}: attribute {key!r} must be a whole number, found {self.text(key)[:40]!r}"
            )
        return int(match[1])

    def number(self, key: str, default: float | None = None) -> float:
        if key not in self.values and default is not None:
            return default
        value = self.text(key).strip()
        if not _NUMBER.fullmatch(value):
            raise FormatError(f"{self.where}: attribute {key!r} must be a number, found {value[:40]!r}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, str(default)).strip().lower()
        if value not in ("true", "false", "1", "0"):
            raise FormatError(f"{self.where}: attribute {key!r} must be true or false, found {value[:40]!r}")
        return value in ("true", "1")

    def integers(self, key: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """ "2, 2", "2,2" or "2,2,"; a missing attribute gives `default`."""
        if key not in self.values and default is not None:
            return tuple(default)
        parts = self.text(key).strip().rstrip(",").split(",") if self.text(key).strip() else []
        if len(parts) > MAX_RANK:
            raise FormatError(
                f"{self.where}: attribute {key!r} must have at most {MAX_RANK} numbers, found {len(parts)}"
            )
        return tuple(_integer(part, key, self.where) for part in parts)


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a layer: its number, type as the file states it, shape, and names of the tensor."""

    id: int
    precision: str
    dims: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as written.  `inputs`: for each input port in order, (layer index, output index) it reads."""

    id: int
    name: str
    type: str
    version: str
    precision: str
    where: str
    data: Attributes
    ports: tuple[Port, ...]
    outputs: tuple[Port, ...]
    blobs: Mapping[str, Attributes]
    inputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Network:
    """The IR version, the layers in the order of the file, and <pre-process> of version 7."""

    version: int
    layers: tuple[Layer, ...]
    preprocess: Element | None


def read_network(path: Path) -> Network:
    """Layers and edges of `path`; FormatError naming the layer, OSError if the file cannot be read."""
    root = _parse(read_bounded(path, MAX_XML_BYTES), path)
    if root.tag != "net":
        raise FormatError(f"{path}: expected an OpenVINO IR (<net>), found <{root.tag[:40]}>")
    version = Attributes(root.attributes, str(path)).integer("version")
    layers_element, edges_element = root.find("layers"), root.find("edges")
    if layers_element is None or edges_element is None:
        raise FormatError(
            f"{path}: expected <layers> and <edges>, found {[child.tag[:40] for child in root.children][:8]}"
        )
    elements = layers_element.all("layer")
    if not 1 <= len(elements) <= MAX_NODES:
        raise FormatError(f"{path}: expected 1..{MAX_NODES} layers, found {len(elements)}")
    layers: list[Layer] = []
    index: dict[int, int] = {}
    for element in elements:
        layer = _layer(element, path)
        if layer.id in index:
            raise FormatError(f"{layer.where}: expected a layer id that is unique, found {layer.id} twice")
        index[layer.id] = len(layers)
        layers.append(layer)
    sources = _edges(edges_element, layers, index, path)
    connected = tuple(_connected(layer, sources) for layer in layers)
    return Network(version, connected, root.find("pre-process"))


def _integer(text: str, key: str, where: str) -> int:
    text = text.strip()
    if not _INTEGER.fullmatch(text):
        raise FormatError(f"{where}: {key!r} must be a whole number, found {text[:40]!r}")
    return int(text)


def _layer(element: Element, path: Path) -> Layer:
    attributes = Attributes(element.attributes, str(path))
    number = attributes.integer("id")
    name = checked_name(attributes.text("name"), f"{path}: layer {number}")
    where = f"{path}: layer {number} {name!r}"
    data = element.find("data")
    blobs = {
        blob.tag: Attributes(blob.attributes, where)
        for blobs in element.all("blobs")
        for blob in blobs.children
    }
    inputs, outputs = (
        tuple(_port(port, where) for port in element.all(f"{side}/port")) for side in ("input", "output")
    )
    if len(inputs) + len(outputs) > MAX_INPUTS:
        raise FormatError(f"{where}: expected at most {MAX_INPUTS} ports, found {len(inputs) + len(outputs)}")
    ids = [port.id for port in (*inputs, *outputs)]
    if len(set(ids)) != len(ids):
        raise FormatError(f"{where}: expected port ids that are unique, found {ids}")
    return Layer(
        number,
        name,
        checked_name(attributes.text("type"), where),
        checked_name(element.attributes.get("version", ""), where),
        element.attributes.get("precision", ""),
        where,
        Attributes(data.attributes if data else {}, where),
        inputs,
        outputs,
        blobs,
        (),
    )


def _port(element: Element, where: str) -> Port:
    dims = tuple(_integer("".join(dim.text), "dim", where) for dim in element.all("dim"))
    if len(dims) > MAX_RANK:
        raise FormatError(f"{where}: expected at most {MAX_RANK} dimensions, found {len(dims)}")
    number = Attributes(element.attributes, where).integer("id")
    # A comma separates names; one inside a name has a backslash before it.
    parts = re.split(r"(?<!\\),", element.attributes.get("names", ""))
    names = tuple(checked_name(part.replace("\\,", ","), where) for part in parts if part)
    return Port(number, element.attributes.get("precision", ""), dims, names)


def _edges(
    element: Element, layers: Sequence[Layer], index: Mapping[int, int], path: Path
) -> dict[tuple[int, int], tuple[int, int]]:
    """(layer id, input port id) -> (layer index, output index)."""
    sources: dict[tuple[int, int], tuple[int, int]] = {}
    for edge in element.all("edge"):
        attributes = Attributes(edge.attributes, f"{path}: edge")
        start, start_port, end, end_port = (
            attributes.integer(key) for key in ("from-layer", "from-port", "to-layer", "to-port")
        )
        for number in (start, end):
            if number not in index:
                raise FormatError(
                    f"{path}: edge {start} -> {end}: expected layers of the file, found no layer {number}"
                )
        ports = [port.id for port in layers[index[start]].outputs]
        if start_port not in ports:
            raise FormatError(
                f"{layers[index[start]].where}: an edge leaves port {start_port}, expected one of {ports}"
            )
        target = layers[index[end]]
        if end_port not in [port.id for port in target.ports]:
            raise FormatError(
                f"{target.where}: an edge enters port {end_port}, which is no input of the layer"
            )
        if (end, end_port) in sources:
            raise FormatError(f"{target.where}: expected one edge into port {end_port}, found a second")
        sources[end, end_port] = (index[start], ports.index(start_port))
    return sources


def _connected(layer: Layer, sources: Mapping[tuple[int, int], tuple[int, int]]) -> Layer:
    inputs = []
    for port in layer.ports:
        source = sources.get((layer.id, port.id))
        if source is None:
            raise FormatError(f"{layer.where}: expected an edge into port {port.id}, found none")
        inputs.append(source)
    return replace(layer, inputs=tuple(inputs))


def _parse(data: bytes, path: Path) -> Element:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    root = Element("", {})
    stack = [root]
    count = ignored = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count, ignored
        if ignored or tag in IGNORED:
            ignored += 1
            if ignored > MAX_DEPTH:
                raise FormatError(f"{path}: expected XML of depth at most {MAX_DEPTH}")
            return
        count += 1
        if count > MAX_ELEMENTS or len(stack) > MAX_DEPTH:
            raise FormatError(
                f"{path}: expected at most {MAX_ELEMENTS} XML elements of depth {MAX_DEPTH}, found more"
            )
        if any(len(value) > MAX_ATTRIBUTE for value in attributes.values()):
            raise FormatError(
                f"{path}: expected XML attributes of at most {MAX_ATTRIBUTE} characters, found more"
            )
        element = Element(tag, attributes)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        nonlocal ignored
        if ignored:
            ignored -= 1
        else:
            stack.pop()

    def text(characters: str) -> None:
        if not ignored and stack[-1].tag == "dim":
            stack[-1].text.append(characters[:64])

    def doctype(*_: object) -> None:
        raise FormatError(f"{path}: expected no DOCTYPE in an OpenVINO IR, found one")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    with parsing(path, "well-formed XML"):
        parser.Parse(data, True)
    return root.children[0]
