"""Graph -> OpenVINO IR, version 11: `model.xml` and `model.bin`.  Needs nothing but NumPy.

What each operation becomes (opset in brackets); the layer carries the name of the operation:

    Quantize      FakeQuantize [1] with input range = output range = scale * (low - z .. high - z)
    Convolution   int8 Const > Convert > Multiply by the scale of each output channel, Convolution [1],
                  Add of the bias; or float32 Const behind FakeQuantize, the form of 2019
    Affine        Multiply, Add          Relu     ReLU [1]         Softmax  SoftMax [8]
    MaxPool       MaxPool [1]            Add      Add [1]          Argmax   TopK [11], Convert to u8
    AveragePool   AdaptiveAvgPool [8]    Resize   Interpolate [4]: nearest, asymmetric, floor, sizes
    Bilinear      Interpolate [4]: linear_onnx, half_pixel or align_corners, sizes

OpenVINO's low-precision passes turn both weight forms into the same int8 convolutions.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.files import replacing
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Shape,
    Softmax,
)

WeightForm = Literal["int8", "fake_quantize"]

_PRECISION = {"f32": "FP32", "i8": "I8", "i32": "I32", "i64": "I64", "u8": "U8"}
_ELEMENT_TYPE = {"float32": "f32", "int8": "i8", "int64": "i64"}
_ALIGNMENT = 64  # of each constant in the .bin


def save(
    graph: Graph,
    xml_path: str | os.PathLike[str],
    *,
    weights: WeightForm = "int8",
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> None:
    """Write `graph` to `xml_path` (which must end in .xml) and its constants to the .bin beside it.

    weights   "int8": the integers themselves behind Convert and Multiply, scales exact;
              "fake_quantize": float32 values behind a FakeQuantize, whose scales a reader gets back exactly
              or one bit off
    inputs    tensors that become parameters instead of being computed, in the order of the parameters;
              the network input by default.  A quantized one enters as real values through its quantizer.
    outputs   tensors to return, in order; the network output by default.  A tensor may be input and output:
              then the value computed goes out, the value given is what the consumers read.
    """
    path = Path(xml_path)
    if path.suffix != ".xml":
        raise ValueError(f"{path}: an OpenVINO model must be written to a name ending in .xml")
    xml, constants = serialize(graph, path.stem, weights=weights, inputs=inputs, outputs=outputs)
    # The .bin goes first: whoever sees the new .xml finds the constants that belong to it.
    for target, content in ((path.with_suffix(".bin"), constants), (path, xml)):
        with replacing(target) as temporary:
            temporary.write_bytes(content)


def serialize(
    graph: Graph,
    name: str = "icnet",
    *,
    weights: WeightForm = "int8",
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> tuple[bytes, bytes]:
    """The two files that `save` writes, as bytes: (xml, bin)."""
    if weights not in ("int8", "fake_quantize"):
        raise ValueError(f"weights must be 'int8' or 'fake_quantize', found {weights!r}")
    given = (graph.input.name,) if inputs is None else tuple(inputs)
    wanted = (graph.output,) if outputs is None else tuple(outputs)
    return _Writer(graph, weights, given).document(name, wanted)


def activation_range(quantizer: Quantizer) -> tuple[np.float32, np.float32]:
    """float32 (low, high) of the output range of `quantizer`, such that a reader gets its scale back exactly.

    A reader computes scale = f32((high - low) / (levels - 1)) and zero point = rint(-low / scale).  The
    rounded ends scale * (low - z) and scale * (high - z) may give a neighbouring float32, so their neighbours
    are tried too, nearest first.  An end at zero does not move; one scale in 250 then has no other end that
    fits, and this end leaves zero by less than a ten-thousandth of a code, as
    the nearer end of very uneven ranges does.  The zero point does not change.
    """
    low, high = _ends(quantizer)
    for low_steps, high_steps in _NEAREST_STEPS:
        candidate = _stepped(low, low_steps), _stepped(high, high_steps)
        if _gives_scale(quantizer, *candidate):
            return candidate
    span = float(np.float32(quantizer.scale)) * (quantizer.levels - 1)
    if abs(low) < abs(high):  # the end nearer to zero moves: its float32 are denser
        return np.float32(float(high) - span), high
    return low, np.float32(float(low) + span)


def _ends(quantizer: Quantizer) -> tuple[np.float32, np.float32]:
    below, above = quantizer.low - quantizer.zero_point, quantizer.high - quantizer.zero_point
    return np.float32(quantizer.scale * below), np.float32(quantizer.scale * above)


def _gives_scale(quantizer: Quantizer, low: np.float32, high: np.float32) -> bool:
    return np.float32((float(high) - float(low)) / (quantizer.levels - 1)) == quantizer.scale


_NEAREST_STEPS = sorted(
    itertools.product(range(-2, 3), repeat=2), key=lambda pair: abs(pair[0]) + abs(pair[1])
)


def _stepped(value: np.float32, steps: int) -> np.float32:
    """`value` moved by `steps` float32 neighbours; zero stays zero."""
    if value == 0:
        return value
    return (np.array(value, np.float32).view(np.int32) + np.int32(steps)).view(np.float32)[()]


Value = tuple[int, int]  # (layer, output port)


class _Writer:
    """Collects layers, edges and constants; `document` asks for outputs, tensors are added on first use."""

    def __init__(self, graph: Graph, weights: WeightForm, inputs: tuple[str, ...]) -> None:
        self.graph, self.weights = graph, weights
        self.layers: list[ElementTree.Element] = []
        self.edges: list[tuple[Value, tuple[int, int]]] = []
        self.constants = bytearray()
        self.shapes: dict[Value, tuple[tuple[int, ...], str]] = {}
        self.known_constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self.values: dict[str, Value] = {}  # tensor name -> the value its consumers read
        self.given = frozenset(inputs)
        for tensor in inputs:
            self.values[tensor] = self.parameter(tensor)

    # Layers

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

    def constant(self, name: str, array: NDArray) -> Value:
        content = array.tobytes()
        element = _ELEMENT_TYPE[array.dtype.name]
        key = (element, array.shape, content)
        if key not in self.known_constants:
            self.constants += bytes(-len(self.constants) % _ALIGNMENT)
            data = {
                "element_type": element,
                "shape": _numbers(array.shape),
                "offset": str(len(self.constants)),
                "size": str(len(content)),
            }
            self.constants += content
            self.known_constants[key] = self.layer("Const", name, (), array.shape, data, element=element)
        return self.known_constants[key]

    def parameter(self, tensor: str) -> Value:
        shape = (1, *self.graph.shape(tensor))
        data = {"shape": _numbers(shape), "element_type": "f32"}
        quantizer = self.graph.quantizer(tensor)
        name = tensor if quantizer is None else f"{tensor}/given"
        value = self.layer("Parameter", name, (), shape, data, tensor=name)
        if quantizer is None:
            return value
        return self.fake_quantize(f"{tensor}/given/codes", value, self.graph.shape(tensor), quantizer)

    # Operations

    def value(self, tensor: str) -> Value:
        if tensor not in self.values:
            self.values[tensor] = self.operation(self.graph[tensor])
        return self.values[tensor]

    def operation(self, op: Op) -> Value:
        chain = [op]  # iterative: a graph may be deeper than Python's stack
        while chain:
            missing = [source for source in chain[-1].inputs if source not in self.values]
            if missing:
                chain.append(self.graph[missing[0]])
            elif len(chain) > 1:
                done = chain.pop()
                self.values[done.name] = self.converted(done)
            else:
                break
        return self.converted(op)

    def converted(self, op: Op) -> Value:
        sources = [self.values[source] for source in op.inputs]
        channels, *size = self.graph.shape(op.name)
        shape = (1, channels, *size)
        match op:
            case Input(name=name):
                raise ValueError(f"the network input {name!r} is needed, but not among the inputs given")
            case Affine(name=name, scale=scale, shift=shift):
                column = (1, channels, 1, 1)
                factor = self.constant(f"{name}/scale", scale.reshape(column))
                offset = self.constant(f"{name}/shift", shift.reshape(column))
                product = self.binary("Multiply", f"{name}/product", sources[0], factor, shape)
                return self.binary("Add", name, product, offset, shape)
            case Quantize(name=name, quantizer=quantizer):
                return self.fake_quantize(name, sources[0], self.graph.shape(name), quantizer)
            case Convolution():
                return self.convolution(op, sources[0], shape)
            case Add(name=name):
                return self.binary("Add", name, *sources, shape)
            case Relu(name=name):
                return self.layer("ReLU", name, sources, shape, tensor=name)
            case MaxPool(name=name, kernel=kernel, stride=stride, padding=padding):
                data = _window(stride, padding) | {"kernel": _numbers(kernel)}
                data |= {"rounding_type": "floor", "auto_pad": "explicit"}
                return self.layer("MaxPool", name, sources, shape, data, tensor=name)
            case AveragePool():
                return self.average_pool(op, sources[0], shape)
            case Resize() | Bilinear():
                return self.resize(op, sources[0], shape)
            case Softmax(name=name):
                return self.layer("SoftMax", name, sources, shape, {"axis": "1"}, opset=8, tensor=name)
            case Argmax():
                return self.argmax(op, sources[0], shape)
        raise TypeError(f"operation {op.name!r} ({type(op).__name__}) cannot be written as OpenVINO IR")

    def binary(self, kind: str, name: str, left: Value, right: Value, shape: tuple[int, ...]) -> Value:
        return self.layer(kind, name, (left, right), shape, {"auto_broadcast": "numpy"}, tensor=name)

    def fake_quantize(self, name: str, source: Value, shape: Shape, quantizer: Quantizer) -> Value:
        low, high = (np.float32(end).reshape(1, 1, 1, 1) for end in activation_range(quantizer))
        ends = self.constant(f"{name}/low", low), self.constant(f"{name}/high", high)
        data = {"levels": str(quantizer.levels), "auto_broadcast": "numpy"}
        return self.layer("FakeQuantize", name, (source, *ends, *ends), (1, *shape), data, tensor=name)

    def convolution(self, op: Convolution, source: Value, shape: tuple[int, ...]) -> Value:
        weight = self.int8_weight(op) if self.weights == "int8" else self.fake_quantized_weight(op)
        data = _window(op.stride, op.padding) | {"dilations": _numbers(op.dilation), "auto_pad": "explicit"}
        value = self.layer("Convolution", op.name, (source, weight), shape, data)
        bias = self.constant(f"{op.name}/bias/values", op.bias.reshape(1, -1, 1, 1))
        data = {"auto_broadcast": "numpy"}
        return self.layer("Add", f"{op.name}/bias", (value, bias), shape, data, tensor=op.name)

    def int8_weight(self, op: Convolution) -> Value:
        codes = self.constant(f"{op.name}/weight/codes", op.weight)
        real = self.layer(
            "Convert", f"{op.name}/weight/convert", (codes,), op.weight.shape, {"destination_type": "f32"}
        )
        scale = self.constant(f"{op.name}/weight/scale", op.weight_scale.reshape(-1, 1, 1, 1))
        return self.binary("Multiply", f"{op.name}/weight", real, scale, op.weight.shape)

    def fake_quantized_weight(self, op: Convolution) -> Value:
        """Codes come from the input range, |scale| * (lowest .. 127); a negative scale reverses the other."""
        scale = op.weight_scale.reshape(-1, 1, 1, 1)
        lowest = -128 if (op.weight == -128).any() else -127
        real = self.constant(f"{op.name}/weight/values", op.weight.astype(np.float32) * np.abs(scale))
        ends = [np.float32(code) * np.abs(scale) for code in (lowest, 127)]
        ranges = [*ends, *(end * np.sign(scale) for end in ends)]
        sources = (real, *(self.constant(f"{op.name}/weight/range{i}", end) for i, end in enumerate(ranges)))
        data = {"levels": str(128 - lowest), "auto_broadcast": "numpy"}
        return self.layer("FakeQuantize", f"{op.name}/weight", sources, op.weight.shape, data)

    def average_pool(self, op: AveragePool, source: Value, shape: tuple[int, ...]) -> Value:
        """Not AvgPool: OpenVINO rounds its means of 8-bit codes to codes before the next layer reads them."""
        bins = self.constant(f"{op.name}/bins", np.array(op.bins, np.int64))
        return self.layer("AdaptiveAvgPool", op.name, (source, bins), shape, opset=8, tensor=op.name)

    def resize(self, op: Resize | Bilinear, source: Value, shape: tuple[int, ...]) -> Value:
        _, height, width = self.graph.shape(op.input)
        scales = np.array([op.size[0] / height, op.size[1] / width], np.float32)
        sources = (
            source,
            self.constant(f"{op.name}/size", np.array(op.size, np.int64)),
            self.constant(f"{op.name}/scales", scales),
            self.constant(f"{op.name}/axes", np.array([2, 3], np.int64)),
        )
        mode, coordinates = "nearest", "asymmetric"
        if isinstance(op, Bilinear):
            mode, coordinates = "linear_onnx", "align_corners" if op.align_corners else "half_pixel"
        data = {
            "mode": mode,
            "shape_calculation_mode": "sizes",
            "coordinate_transformation_mode": coordinates,
            "nearest_mode": "floor",
            "antialias": "false",
            "pads_begin": "0, 0, 0, 0",
            "pads_end": "0, 0, 0, 0",
            "cube_coeff": "-0.75",
        }
        element = self.shapes[source][1]  # a class map is u8
        return self.layer(
            "Interpolate", op.name, sources, shape, data, opset=4, element=element, tensor=op.name
        )

    def argmax(self, op: Argmax, source: Value, shape: tuple[int, ...]) -> Value:
        one = self.constant(f"{op.name}/k", np.array(1, np.int64))
        data = {"axis": "1", "mode": "max", "sort": "value", "index_element_type": "i32", "stable": "true"}
        number = len(self.layers)
        self.layer("TopK", op.name, (source, one), shape, data, opset=11, outputs=2)
        indices = self.layers[number].find("output/port[2]")
        assert indices is not None
        indices.set("precision", _PRECISION["i32"])
        self.shapes[(number, 3)] = (shape, "i32")
        data = {"destination_type": "u8"}
        return self.layer(
            "Convert", f"{op.name}/u8", ((number, 3),), shape, data, element="u8", tensor=op.name
        )

    # The document

    def document(self, name: str, outputs: tuple[str, ...]) -> tuple[bytes, bytes]:
        for tensor in outputs:
            # An output that is also an input is computed afresh: its consumers read the parameter.
            value = self.operation(self.graph[tensor]) if tensor in self.given else self.value(tensor)
            self.layer("Result", f"{tensor}/result", (value,), None)
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
    port = ElementTree.SubElement(parent, "port", id=str(number), precision=_PRECISION[element])
    if tensor is not None:
        port.set("names", tensor.replace(",", "\\,"))  # a comma separates names
    for length in shape:
        ElementTree.SubElement(port, "dim").text = str(length)


def _window(stride: tuple[int, int], padding: tuple[int, int, int, int]) -> dict[str, str]:
    top, left, bottom, right = padding
    return {
        "strides": _numbers(stride),
        "pads_begin": _numbers((top, left)),
        "pads_end": _numbers((bottom, right)),
    }


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
