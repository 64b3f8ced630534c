"""Graph -> OpenVINO IR, version 11: `model.xml` and `model.bin`.  Needs nothing but NumPy.

What each operation becomes (opset in brackets); the layer carries the name of the operation:

    Quantize      FakeQuantize [1] with input range = output range = scale * (low - z .. high - z)
    Convolution   int8 Const > Convert > Multiply by the scale of each output channel, Convolution [1],
                  Add of the bias; or float32 Const behind FakeQuantize, the form of 2019
    FloatConvolution  Convolution with a float32 Const, Add of the bias
    Affine        Multiply, Add          Relu     ReLU [1]         Softmax  SoftMax [8]
    MaxPool       MaxPool [1]            Add      Add [1]          Argmax   TopK [11], Convert to u8
    AveragePool   AdaptiveAvgPool [8]    Resize   Interpolate [4]: nearest, asymmetric, floor, sizes
    Bilinear      Interpolate [4]: linear_onnx, half_pixel or align_corners, sizes

OpenVINO's low-precision passes turn both weight forms into the same int8 convolutions.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sparse_icnet.files import replacing
from sparse_icnet.formats.openvino.document import PRECISION, Document, Value, numbers
from sparse_icnet.formats.openvino.faces import give_output, read_input
from sparse_icnet.formats.openvino.ranges import activation_range
from sparse_icnet.network.faces import InputFace, OutputFace
from sparse_icnet.network.graph import (
    Add,
    Affine,
    AnyConvolution,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
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
    assert_never,
)

WeightForm = Literal["int8", "fake_quantize"]


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

    Input and output have the types and axes of `graph.faces`, unless they are named here.

    Raises FileExistsError for a .bin that is there without its .xml, ValueError for another name than .xml, another
    form of weights, and a network input that is needed and not among `inputs`.
    """
    path = Path(xml_path)
    if path.suffix.lower() != ".xml":
        raise ValueError(f"{path}: an OpenVINO model must be written to a name ending in .xml")
    check_free(path)
    xml, constants = serialize(graph, path.stem, weights=weights, inputs=inputs, outputs=outputs)
    # The .bin first: beside a new .xml the constants that belong to it are there already.
    for target, content in ((path.with_suffix(".bin"), constants), (path, xml)):
        with replacing(target) as temporary:
            temporary.write_bytes(content)


def check_free(path: Path) -> None:
    """Raise FileExistsError where the .bin beside `path` has no .xml: writing would replace a file that was not named."""
    constants = path.with_suffix(".bin")
    if os.path.lexists(constants) and not path.exists():
        raise FileExistsError(
            errno.EEXIST,
            f"exists without {path.name}, and would be replaced by the weights of {path.name}; "
            "remove it, or write to another name",
            str(constants),
        )


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
    wanted = (graph.output,) if outputs is None else tuple(outputs)
    face = graph.faces.input
    if inputs is None and face != InputFace():
        writer = _Writer(graph, weights, ())
        writer.read_input(face)
    else:
        writer = _Writer(graph, weights, (graph.input.name,) if inputs is None else tuple(inputs))
    return writer.document(name, wanted, graph.faces.output if outputs is None else OutputFace())


class _Writer(Document):
    """Collects layers, edges and constants; `document` asks for outputs, tensors are added on first use."""

    def __init__(self, graph: Graph, weights: WeightForm, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.graph, self.weights = graph, weights
        self.values: dict[str, Value] = {}  # tensor name -> the value its consumers read
        self.given = frozenset(inputs)
        for tensor in inputs:
            self.values[tensor] = self.parameter(tensor)

    def read_input(self, face: InputFace) -> None:
        name = self.graph.input.name
        self.values[name] = read_input(self, face, self.graph.input.shape, name)

    def parameter(self, tensor: str) -> Value:
        shape = (1, *self.graph.shape(tensor))
        data = {"shape": numbers(shape), "element_type": "f32"}
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
            case Convolution() | FloatConvolution():
                return self.convolution(op, sources[0], shape)
            case Add(name=name):
                return self.binary("Add", name, sources[0], sources[1], shape)
            case Relu(name=name):
                return self.layer("ReLU", name, sources, shape, tensor=name)
            case MaxPool(name=name, kernel=kernel, stride=stride, padding=padding):
                data = _window(stride, padding) | {"kernel": numbers(kernel)}
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
            case _:
                assert_never(op)

    def binary(self, kind: str, name: str, left: Value, right: Value, shape: tuple[int, ...]) -> Value:
        return self.layer(kind, name, (left, right), shape, {"auto_broadcast": "numpy"}, tensor=name)

    def fake_quantize(self, name: str, source: Value, shape: Shape, quantizer: Quantizer) -> Value:
        low, high = (np.float32(end).reshape(1, 1, 1, 1) for end in activation_range(quantizer))
        ends = self.constant(f"{name}/low", low), self.constant(f"{name}/high", high)
        data = {"levels": str(quantizer.levels), "auto_broadcast": "numpy"}
        return self.layer("FakeQuantize", name, (source, *ends, *ends), (1, *shape), data, tensor=name)

    def convolution(self, op: AnyConvolution, source: Value, shape: tuple[int, ...]) -> Value:
        if not isinstance(op, Convolution):
            weight = self.constant(f"{op.name}/weight", op.weight)
        else:
            weight = self.int8_weight(op) if self.weights == "int8" else self.fake_quantized_weight(op)
        data = _window(op.stride, op.padding) | {"dilations": numbers(op.dilation), "auto_pad": "explicit"}
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
        indices.set("precision", PRECISION["i32"])
        self.shapes[(number, 3)] = (shape, "i32")
        data = {"destination_type": "u8"}
        return self.layer(
            "Convert", f"{op.name}/u8", ((number, 3),), shape, data, element="u8", tensor=op.name
        )

    def document(self, name: str, outputs: tuple[str, ...], face: OutputFace) -> tuple[bytes, bytes]:
        for tensor in outputs:
            # An output that is also an input is computed afresh: its consumers read the parameter.
            value = self.operation(self.graph[tensor]) if tensor in self.given else self.value(tensor)
            if face != OutputFace():
                value = give_output(self, face, self.graph.shape(tensor), value)
            self.layer("Result", f"{tensor}/result", (value,), None)
        return self.files(name)


def _window(stride: tuple[int, int], padding: tuple[int, int, int, int]) -> dict[str, str]:
    top, left, bottom, right = padding
    return {
        "strides": numbers(stride),
        "pads_begin": numbers((top, left)),
        "pads_end": numbers((bottom, right)),
    }
