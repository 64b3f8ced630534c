"""Converters of nodes that act on each pixel: input, quantizers, arithmetic, batch norm, ReLU, softmax, argmax.

Each takes the graph under construction, the node and its inputs by name, and returns the output value.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import quantizers
from sparse_icnet.formats.exchange.attributes import (
    ArgmaxAttributes,
    BatchNormAttributes,
    ClipAttributes,
    FakeQuantizeAttributes,
    ParameterAttributes,
    SoftmaxAttributes,
    TopKAttributes,
)
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.channels import channel_axis
from sparse_icnet.formats.exchange.constants import Constant, integers
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.tensors import PendingInput, Tensor, Value, required
from sparse_icnet.network.faces import PLANAR, InputFace
from sparse_icnet.network.graph import Add, Argmax, Input, Quantize, Quantizer, Relu, Resize, Size, Softmax
from sparse_icnet.network.icnet import DEFAULT_SIZE
from sparse_icnet.network.limits import MAX_LENGTH


def parameter(g: Builder, node: Node[ParameterAttributes]) -> Tensor:
    """The network input; sizes that the file leaves free are those of the model card, 1 x 3 x 768 x 960.

    Height and width behind a resize of pictures that the file begins with are those of the resize.
    """
    if g.input is not None:
        raise FormatError(f"{node.where}: expected one input of the network, found a second")
    shape = list(node.attributes.shape)
    if len(shape) == 4:
        size = DEFAULT_SIZE if g.resize is None else g.resize.size
        free = (1, *size, 3) if shape[3] == 3 else (1, 3, *size)
        g.size_is_free = -1 in (shape[1:3] if shape[3] == 3 else shape[2:])
        shape = [default if size == -1 else size for size, default in zip(shape, free, strict=True)]
    if len(shape) != 4 or shape[0] != 1 or not all(1 <= size <= MAX_LENGTH for size in shape):
        raise FormatError(
            f"{node.where}: expected an input of shape (1, channels, height, width), found "
            f"{node.attributes.shape}{': export the network with one picture, or any number' if _batched(shape) else ''}"
        )
    interleaved = shape[3] == 3 and shape[1] != 3
    channels, height, width = (shape[3], shape[1], shape[2]) if interleaved else shape[1:]
    dtype = node.attributes.dtype or "float32"
    try:
        g.face = _input_face(g, dtype, "NHWC" if interleaved else PLANAR, (height, width))
    except ValueError as error:
        raise FormatError(f"{node.where}: {error}") from None
    if g.face.picture is not None and g.resize is not None:
        height, width = g.resize.size
        shape = [1, height, width, channels] if interleaved else [1, channels, height, width]
    taken = (channels, height, width)
    g.input = Input(node.name, taken)
    g.emit(g.input)
    axes = "".join(
        label if length > 1 else "1"
        for label, length in zip("1HWC" if interleaved else "1CHW", shape, strict=True)
    )
    pending = PendingInput(np.ones(channels), np.zeros(channels), node.name)
    return Tensor(node.name, taken, axes, pending, dtype=dtype)


def _batched(shape: list[int]) -> bool:
    return len(shape) == 4 and shape[0] > 1


def _input_face(g: Builder, dtype: str, axes: str, size: Size) -> InputFace:
    """How the file takes pictures; one that resizes pictures of any size takes those of the size behind the resize."""
    resize = g.resize
    if resize is not None and g.size_is_free:
        g.size_is_free = False
        g.note(f"pictures of any size are resized by Pillow, not by the file's own {resize.mode}")
    elif resize is not None and resize.mode == "bilinear_pillow" and size != resize.size:
        g.note(
            f"pictures of {size[0]}x{size[1]} are resized as Pillow does; OpenVINO may round bytes otherwise, by 2 of 255"
        )
        return InputFace(dtype, axes, picture=size, whole=not resize.floats)
    return InputFace(dtype, axes)


def fake_quantize(
    g: Builder,
    node: Node[FakeQuantizeAttributes],
    x: Value,
    input_low: Value,
    input_high: Value,
    output_low: Value,
    output_high: Value,
) -> Tensor:
    """Quantize; an input range other than the output range first scales and shifts what it reads."""
    ranges = [
        required(node, value, "a FakeQuantize range")
        for value in (input_low, input_high, output_low, output_high)
    ]
    fq = quantizers.fake_quantize(node.attributes.levels, ranges, node.where)
    tensor = g.activation(node, x, any_channels=True, padded=True)
    if node.outputs[0] in g.integers:
        codes = quantizers.code_quantizer(fq)
        op = Quantize(node.name, g.operand(tensor), codes)
        return replace(tensor, name=g.emit(op), pending=None, codes=codes)
    low, high, first, last = (
        g.per_channel(node, Constant(part), tensor)
        for part in (fq.input_low, fq.input_high, fq.output_low, fq.output_high)
    )
    if not quantizers.same_range(fq):
        if tensor.pending is None:
            raise FormatError(
                f"{node.where}: expected equal input and output ranges of FakeQuantize on an activation, "
                f"found {low[0]:.6g}..{high[0]:.6g} and {first[0]:.6g}..{last[0]:.6g}"
            )
        slope = (last - first) / (high - low)
        tensor = g.scaled(node, tensor, slope, first - low * slope, f"{node.name}/range")
    quantizer = quantizers.activation_quantizer(fq)
    op = Quantize(node.name, g.operand(tensor), quantizer)
    return replace(tensor, name=g.emit(op), pending=None)


def quantize_linear(
    g: Builder, node: AnyNode, x: Value, scale: Value, zero_point: Value | None = None
) -> Tensor:
    """Codes of a per-tensor quantizer, to be read by DequantizeLinear."""
    tensor = g.activation(node, x, any_channels=True, padded=True)
    quantizer = _linear_quantizer(node, scale, zero_point)
    op = Quantize(node.name, g.operand(tensor), quantizer)
    return replace(tensor, name=g.emit(op), pending=None, codes=quantizer)


def dequantize_linear(
    g: Builder, node: AnyNode, x: Value, scale: Value, zero_point: Value | None = None
) -> Tensor:
    """The real values of the codes; scale and zero point must be those of QuantizeLinear."""
    tensor = g.activation(node, x, codes_allowed=True, any_channels=True, padded=True)
    quantizer = _linear_quantizer(node, scale, zero_point)
    if tensor.codes is None:
        raise FormatError(
            f"{node.where}: expected QuantizeLinear before it, found real values or the network input: "
            "keep the quantizer of the input in the file"
        )
    if tensor.codes != quantizer:
        raise FormatError(
            f"{node.where}: expected scale and zero point of the QuantizeLinear before it "
            f"({tensor.codes}), found {quantizer}"
        )
    return replace(tensor, codes=None)


def _linear_quantizer(node: AnyNode, scale: Value, zero_point: Value | None) -> Quantizer:
    zero = None if zero_point is None else required(node, zero_point, "the zero point")
    return quantizers.linear_quantizer(required(node, scale, "the scale"), zero, node.where)


def arithmetic(g: Builder, node: AnyNode, a: Value, b: Value) -> Tensor:
    """Add, Subtract, Multiply or Divide: by a constant per channel, or the sum of two activations."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _sum(g, node, a, b)
    if isinstance(a, Tensor) and a.codes is not None and node.operation in ("subtract", "multiply"):
        return _dequantized(g, node, a, a.codes, required(node, b))
    if isinstance(a, Constant):
        tensor = g.activation(node, b, any_channels=True)
        constant = g.per_channel(node, a, tensor)
        if node.operation == "subtract":
            return g.scaled(node, tensor, -1.0, constant)
        if node.operation == "divide":
            raise FormatError(f"{node.where}: expected a constant divisor, found an activation")
    else:
        tensor = g.activation(node, a, any_channels=True)
        constant = g.per_channel(node, required(node, b), tensor)
        if node.operation == "subtract":
            return g.scaled(node, tensor, 1.0, -constant)
        if node.operation == "divide":
            if not constant.all():
                raise FormatError(f"{node.where}: expected a divisor other than 0")
            return g.scaled(node, tensor, 1 / constant, 0.0)
    if node.operation == "multiply":
        return g.scaled(node, tensor, constant, 0.0)
    return g.scaled(node, tensor, 1.0, constant)


def _dequantized(g: Builder, node: AnyNode, tensor: Tensor, codes: Quantizer, constant: Constant) -> Tensor:
    """Codes without their zero point, then times their scale: real values.

    The scale is stated more exactly here than by the range of the FakeQuantize, so it becomes that of the quantizer.
    """
    values = np.unique(constant.values().astype(np.float64))
    if node.operation == "subtract":
        if values.size != 1 or values[0] != codes.zero_point or tensor.centred:
            raise FormatError(
                f"{node.where}: expected the zero point {codes.zero_point} to be subtracted once, found {values[:4]}"
            )
        return replace(tensor, centred=True)
    close = values.size == 1 and abs(values[0] - codes.scale) <= quantizers.RANGE_TOLERANCE * 4 * codes.scale
    if not close or not (tensor.centred or codes.zero_point == 0):
        raise FormatError(
            f"{node.where}: expected the scale {codes.scale:.6g} of codes without their zero point, found {values[:4]}"
        )
    op = g.ops[tensor.name]
    if isinstance(op, Quantize):
        g.ops[op.name] = replace(op, quantizer=replace(op.quantizer, scale=float(values[0])))
    return replace(tensor, codes=None, centred=False)


def _sum(g: Builder, node: AnyNode, a: Tensor, b: Tensor) -> Tensor:
    if node.operation != "add":
        raise FormatError(f"{node.where}: {node.operation} of two activations is not supported")
    left, right = g.activation(node, a), g.activation(node, b)
    if left.shape == right.shape and left.axes == right.axes:
        return g.tensor(Add(node.name, g.operand(left), g.operand(right)), left.shape, left.axes)
    left, right = g.planar_activation(node, a), g.planar_activation(node, b)
    if left.shape[0] != right.shape[0] or (1, 1) not in (left.shape[1:], right.shape[1:]):
        raise FormatError(f"{node.where}: expected inputs of one shape, found {left.shape} and {right.shape}")
    shape = left.shape if right.shape[1:] == (1, 1) else right.shape
    names = []
    for tensor in (left, right):  # adding one pixel everywhere is adding its resize
        name = g.operand(tensor)
        if tensor.shape != shape:
            name = g.emit(Resize(f"{node.name}/broadcast", name, shape[1:]))
        names.append(name)
    return g.tensor(Add(node.name, *names), shape)


def batch_norm(
    g: Builder,
    node: Node[BatchNormAttributes],
    x: Value,
    gamma: Value,
    beta: Value,
    mean: Value,
    variance: Value,
) -> Tensor:
    """Batch normalization for inference, float (C,) each: gamma * (x - mean) / sqrt(variance + eps) + beta."""
    tensor = g.planar_activation(node, x, any_channels=True)
    arrays = []
    for value, what in ((gamma, "gamma"), (beta, "beta"), (mean, "mean"), (variance, "variance")):
        array = required(node, value, what).values().astype(np.float64)
        if array.shape != tensor.shape[:1] or not np.isfinite(array).all():
            raise FormatError(
                f"{node.where}: expected finite {what} of shape {tensor.shape[:1]}, found shape {array.shape}"
            )
        arrays.append(array)
    factor, offset, average, spread = arrays
    deviation = spread + node.attributes.epsilon
    if not (deviation > 0).all():
        raise FormatError(f"{node.where}: expected variance + epsilon above 0, found {deviation.min():.6g}")
    scale = factor / np.sqrt(deviation)
    return g.scaled(node, tensor, scale, offset - average * scale)


def relu(g: Builder, node: AnyNode, x: Value) -> Tensor:
    """max(x, 0)."""
    tensor = g.activation(node, x)
    return g.tensor(Relu(node.name, g.operand(tensor)), tensor.shape, tensor.axes)


def clip(
    g: Builder, node: Node[ClipAttributes], x: Value, low: Value | None = None, high: Value | None = None
) -> Tensor:
    """A clip from 0 to infinity, or to the largest float32, which is a ReLU; others are refused."""
    bounds = []
    for value, what, default in ((low, "low", node.attributes.low), (high, "high", node.attributes.high)):
        if value is None:
            bounds.append(default)
        else:
            array = required(node, value, what).values()
            bounds.append(float(array.ravel()[0]) if array.size == 1 else math.nan)
    if bounds[0] != 0 or not bounds[1] >= 3.4e38:
        raise FormatError(f"{node.where}: expected a clip that is a ReLU (0..infinity), found {bounds}")
    return relu(g, node, x)


def softmax(g: Builder, node: Node[SoftmaxAttributes], x: Value) -> Tensor:
    """Softmax over the channels."""
    tensor = g.activation(node, x)
    axis = channel_axis(node, tensor, node.attributes.axis)
    if node.attributes.flattens and math.prod(tensor.dimensions[axis + 1 :]) != 1:
        raise FormatError(
            f"{node.where}: expected a softmax over channels alone (ONNX opset 13), found an older one"
        )
    return g.tensor(Softmax(node.name, g.operand(tensor)), tensor.shape, tensor.axes)


def argmax(g: Builder, node: Node[ArgmaxAttributes], x: Value) -> Tensor:
    """Index of the largest channel."""
    return _argmax(g, node, x, node.attributes.axis, node.attributes.keep_dims, "int64")


def _argmax(g: Builder, node: AnyNode, x: Value, channel: int, keep_dims: bool, indices: str) -> Tensor:
    """Of codes as well: their order is that of the values."""
    tensor = g.activation(node, x, codes_allowed=True)
    axis = channel_axis(node, tensor, channel)
    axes = tensor.axes[:axis] + ("1" if keep_dims else "") + tensor.axes[axis + 1 :]
    result = g.tensor(Argmax(node.name, g.operand(tensor)), (1, *tensor.shape[1:]), axes)
    return replace(result, dtype=indices)


def topk(g: Builder, node: Node[TopKAttributes], x: Value, k: Value) -> tuple[None, Tensor]:
    """TopK that is an argmax: its second output, the indices."""
    if integers(required(node, k, "k"), node.where, "k", 1) != [1] or node.attributes.mode != "max":
        raise FormatError(f"{node.where}: expected TopK to be an argmax (k 1, mode max)")
    return None, _argmax(g, node, x, node.attributes.axis, True, node.attributes.indices)
