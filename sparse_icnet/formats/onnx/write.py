"""Graph -> ONNX, opset 17, quantized by QuantizeLinear and DequantizeLinear (QDQ).  Needs the package onnx.

What each operation becomes; the name of an operation is that of its node and of its value:

    Quantize      [Clip], QuantizeLinear, DequantizeLinear with one scale and zero point
    Convolution   int8 weights > DequantizeLinear per output channel (axis 0), Conv with a float32 bias
    FloatConvolution  Conv with float32 weights and bias
    AveragePool   AveragePool, or two MatMul where the windows do not tile the map
    Resize        Resize: nearest, asymmetric, floor, sizes
    Bilinear      Resize: linear, half_pixel or align_corners, sizes
    Affine        Mul, Add               Argmax   ArgMax, Cast to uint8
    Add, Relu, MaxPool, Softmax   the same

The bias stays float32, so that the file holds the model exactly.  ONNX Runtime rounds it to int32 itself
where it fuses DequantizeLinear, Conv and QuantizeLinear into one integer convolution.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.files import replacing
from sparse_icnet.formats.exchange.geometry import mean_matrix
from sparse_icnet.formats.onnx.faces import give_output, read_input
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
    Softmax,
    assert_never,
)

OPSET = 17
IR_VERSION = 8


def save(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> None:
    """Write `graph` to `path` (which must end in .onnx); `inputs` and `outputs` as in `serialize`.

    Raises ValueError for another name, and what `serialize` raises.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"{path}: an ONNX model must be written to a name ending in .onnx")
    content = serialize(graph, path.stem, inputs=inputs, outputs=outputs)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def serialize(
    graph: Graph,
    name: str = "icnet",
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> bytes:
    """The ONNX file of `graph` as bytes.

    inputs    tensors that become inputs instead of being computed; the network input by default.  The input
              of a quantized tensor is called "<name>/given", takes real values and passes its quantizer.
    outputs   tensors to return, float32 (uint8 for Argmax); the network output by default.  A tensor may be
              input and output: then the value computed goes out, the value given is what the consumers read.

    Input and output have the types and axes of `graph.faces`, unless they are named here.

    Raises ImportError without the package onnx, FormatError for an input face that ONNX cannot hold, ValueError
    where the network input is needed and not among `inputs`.
    """
    wanted = (graph.output,) if outputs is None else tuple(outputs)
    if inputs is None and graph.faces.input != InputFace():
        writer = _Writer(graph, ())
        writer.read_input(graph.faces.input)
    else:
        writer = _Writer(graph, (graph.input.name,) if inputs is None else tuple(inputs))
    face = graph.faces.output if outputs is None else OutputFace()
    return bytes(writer.model(name, wanted, face).SerializeToString())


def import_onnx() -> Any:
    """The package onnx, or an ImportError that says how to get it."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("writing ONNX needs the package onnx: pip install 'sparse-icnet[onnx]'") from error
    return onnx


def _holds_classes(graph: Graph, tensor: str) -> bool:
    op = graph[tensor]
    while isinstance(op, Resize):
        op = graph[op.input]
    return isinstance(op, Argmax)


def quantized_type(quantizer: Quantizer) -> type[np.uint8] | type[np.int8]:
    """The 8-bit type of the codes: int8 for codes within -128..127 of which some are negative, else uint8.

    Codes that fit neither are shifted so that the lowest is 0 (see `_shift`), which changes no real value.
    """
    return np.int8 if -128 <= quantizer.low < 0 and quantizer.high <= 127 else np.uint8


def _shift(quantizer: Quantizer) -> int:
    fits = quantizer.low >= 0 and quantizer.high <= 255
    return 0 if fits or quantized_type(quantizer) is np.int8 else -quantizer.low


class _Writer:
    """Collects nodes and initializers; a tensor is added on first use."""

    def __init__(self, graph: Graph, inputs: tuple[str, ...]) -> None:
        self.graph = graph
        self.onnx = import_onnx()
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.values: dict[str, str] = {}  # tensor name -> name of the ONNX value its consumers read
        self.given = frozenset(inputs)
        for tensor in inputs:
            self.values[tensor] = self.parameter(tensor)

    def read_input(self, face: InputFace) -> None:
        name = self.graph.input.name
        info, value = read_input(self, face, self.graph.input.shape, name)
        self.inputs.append(info)
        self.values[name] = value

    def node(
        self, kind: str, sources: Sequence[str], output: str, name: str | None = None, **attributes: Any
    ) -> str:
        """Append a node, called `name` or like its output; returns the output."""
        node = self.onnx.helper.make_node(kind, list(sources), [output], name=name or output, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def parameter(self, tensor: str) -> str:
        quantizer = self.graph.quantizer(tensor)
        name = tensor if quantizer is None else f"{tensor}/given"
        shape = (1, *self.graph.shape(tensor))
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape))
        return name if quantizer is None else self.quantize(f"{name}/codes", name, quantizer)

    def value(self, tensor: str) -> str:
        chain = [] if tensor in self.values else [self.graph[tensor]]  # iterative: a graph may be deep
        while chain:
            missing = [source for source in chain[-1].inputs if source not in self.values]
            if missing:
                chain.append(self.graph[missing[0]])
            else:
                op = chain.pop()
                self.values[op.name] = self.converted(op, op.name)
        return self.values[tensor]

    def converted(self, op: Op, name: str) -> str:
        """Append the nodes of `op` whose inputs are there; `name` is given to the last value."""
        sources = [self.value(source) for source in op.inputs]
        match op:
            case Input():
                raise ValueError(f"the network input {name!r} is needed, but not among the inputs given")
            case Affine(scale=scale, shift=shift):
                factor = self.constant(f"{name}/scale", scale.reshape(1, -1, 1, 1))
                offset = self.constant(f"{name}/shift", shift.reshape(1, -1, 1, 1))
                product = self.node("Mul", (sources[0], factor), f"{name}/product")
                return self.node("Add", (product, offset), name)
            case Quantize(quantizer=quantizer):
                return self.quantize(name, sources[0], quantizer)
            case Convolution() | FloatConvolution():
                return self.convolution(op, name, sources[0])
            case Add():
                return self.node("Add", sources, name)
            case Relu():
                return self.node("Relu", sources, name)
            case MaxPool(kernel=kernel, stride=stride, padding=padding):
                return self.node(
                    "MaxPool", sources, name, kernel_shape=kernel, strides=stride, pads=padding, ceil_mode=0
                )
            case AveragePool():
                return self.average_pool(op, name, sources[0])
            case Resize(size=size):
                shape = np.array((1, self.graph.shape(name)[0], *size), np.int64)
                sizes = self.constant(f"{name}/sizes", shape)
                return self.node(
                    "Resize",
                    (sources[0], "", "", sizes),
                    name,
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            case Bilinear(size=size, align_corners=align_corners):
                shape = np.array((1, self.graph.shape(name)[0], *size), np.int64)
                sizes = self.constant(f"{name}/sizes", shape)
                mode = "align_corners" if align_corners else "half_pixel"
                attributes = {"mode": "linear", "coordinate_transformation_mode": mode}
                return self.node("Resize", (sources[0], "", "", sizes), name, **attributes)
            case Softmax():
                return self.node("Softmax", sources, name, axis=1)
            case Argmax():
                index = self.node("ArgMax", sources, f"{name}/index", axis=1, keepdims=1)
                return self.node("Cast", (index,), name, to=self.onnx.TensorProto.UINT8)
            case _:
                assert_never(op)

    def quantize(self, name: str, source: str, quantizer: Quantizer) -> str:
        """QuantizeLinear clips to all 256 codes of its type; a narrower range is clipped before."""
        dtype, shift = quantized_type(quantizer), _shift(quantizer)
        bounds = np.iinfo(dtype)
        if (quantizer.low + shift, quantizer.high + shift) != (bounds.min, bounds.max):
            ends = (quantizer.low - quantizer.zero_point, quantizer.high - quantizer.zero_point)
            low, high = (
                self.constant(f"{name}/{label}", np.array(quantizer.scale * end, np.float32))
                for label, end in zip(("low", "high"), ends, strict=True)
            )
            source = self.node("Clip", (source, low, high), f"{name}/clipped")
        scale = self.constant(f"{name}/scale", np.array(quantizer.scale, np.float32))
        zero_point = self.constant(f"{name}/zero_point", np.array(quantizer.zero_point + shift, dtype))
        codes = self.node("QuantizeLinear", (source, scale, zero_point), f"{name}/quantized", name)
        return self.node("DequantizeLinear", (codes, scale, zero_point), name, f"{name}/real")

    def average_pool(self, op: AveragePool, name: str, source: str) -> str:
        """AveragePool where the windows tile the map; else two products with the matrices of its means,
        since ONNX has no adaptive pooling."""
        _, height, width = self.graph.shape(op.input)
        if not (height % op.bins[0] or width % op.bins[1]):
            kernel = (height // op.bins[0], width // op.bins[1])
            return self.node("AveragePool", (source,), name, kernel_shape=kernel, strides=kernel)
        rows = self.constant(f"{name}/rows", mean_matrix(height, op.bins[0]))
        columns = self.constant(f"{name}/columns", mean_matrix(width, op.bins[1]).T.copy())
        means = self.node("MatMul", (source, columns), f"{name}/means")
        return self.node("MatMul", (rows, means), name)

    def convolution(self, op: AnyConvolution, name: str, source: str) -> str:
        weight = (
            self.int8_weight(op, name)
            if isinstance(op, Convolution)
            else self.constant(f"{name}/weight", op.weight)
        )
        bias = self.constant(f"{name}/bias", op.bias)
        return self.node(
            "Conv",
            (source, weight, bias),
            name,
            kernel_shape=op.weight.shape[2:],
            strides=op.stride,
            dilations=op.dilation,
            pads=op.padding,
        )

    def int8_weight(self, op: Convolution, name: str) -> str:
        codes = self.constant(f"{name}/weight/codes", op.weight)
        scale = self.constant(f"{name}/weight/scale", op.weight_scale)
        zero_point = self.constant(f"{name}/weight/zero_point", np.zeros(len(op.weight), np.int8))
        return self.node("DequantizeLinear", (codes, scale, zero_point), f"{name}/weight", axis=0)

    def model(self, name: str, outputs: tuple[str, ...], face: OutputFace) -> Any:
        helper = self.onnx.helper
        results = []
        for tensor in outputs:
            value = self.value(tensor)
            if tensor in self.given:  # computed afresh: its consumers read the input
                value = self.converted(self.graph[tensor], tensor)
            kind = "uint8" if _holds_classes(self.graph, tensor) else "float32"
            results.append(give_output(self, face, self.graph.shape(tensor), kind, value)[0])
        graph = helper.make_graph(self.nodes, name, self.inputs, results, list(self.initializers.values()))
        return helper.make_model(
            graph,
            producer_name="sparse-icnet",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
