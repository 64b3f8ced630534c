"""Converters of foreign nodes that act on each pixel: input, quantizers, arithmetic, softmax, argmax.

Each takes the graph under construction, the node and its input values, and returns the output value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import quantizers
from sparse_icnet.formats.exchange.fold import Constant, integers
from sparse_icnet.formats.exchange.geometry import MAX_LENGTH
from sparse_icnet.formats.exchange.nodes import Node
from sparse_icnet.formats.exchange.tensors import Builder, PendingInput, Tensor, Value, required
from sparse_icnet.network.graph import Add, Argmax, Input, Quantize, Quantizer, Relu, Resize, Softmax
from sparse_icnet.network.icnet import DEFAULT_SIZE


def parameter(g: Builder, node: Node) -> Tensor:
    """The network input; sizes that the file leaves free are those of the model card, 1 x 3 x 768 x 960."""
    if g.input is not None:
        raise FormatError(f"{node.where}: expected one input of the network, found a second")
    shape = list(node.attributes["shape"])
    if len(shape) == 4:
        free = (1, *DEFAULT_SIZE, 3) if shape[3] == 3 else (1, 3, *DEFAULT_SIZE)
        g.size_is_free = -1 in (shape[1:3] if shape[3] == 3 else shape[2:])
        shape = [default if size == -1 else size for size, default in zip(shape, free, strict=True)]
    if len(shape) != 4 or shape[0] != 1 or not all(1 <= size <= MAX_LENGTH for size in shape):
        raise FormatError(
            f"{node.where}: expected an input of shape (1, channels, height, width), found "
            f"{node.attributes['shape']}"
        )
    interleaved = shape[3] == 3 and shape[1] != 3
    channels, height, width = (shape[3], shape[1], shape[2]) if interleaved else shape[1:]
    size = (channels, height, width)
    g.input = Input(node.name, size)
    g.emit(g.input)
    axes = "".join(
        label if length > 1 else "1"
        for label, length in zip("1HWC" if interleaved else "1CHW", shape, strict=True)
    )
    pending = PendingInput(np.ones(channels), np.zeros(channels), node.name)
    return Tensor(node.name, size, axes, pending)


def fake_quantize_ranges(node: Node, ranges: Sequence[Value | None]) -> quantizers.FakeQuantize:
    """The checked ranges of a FakeQuantize, given as four constants."""
    if len(ranges) != 4:
        raise FormatError(f"{node.where}: expected 5 inputs of FakeQuantize, found {len(ranges) + 1}")
    constants = [required(node, value, "a FakeQuantize range") for value in ranges]
    return quantizers.fake_quantize(node.attributes["levels"], constants, node.where)


def fake_quantize(g: Builder, node: Node, x: Value | None, *ranges: Value | None) -> Tensor:
    """Quantize; an input range other than the output range first scales and shifts what it reads."""
    fq = fake_quantize_ranges(node, ranges)
    tensor = g.activation(node, x)
    low, high, output_low, output_high = (
        g.per_channel(node, Constant(part), tensor)
        for part in (fq.input_low, fq.input_high, fq.output_low, fq.output_high)
    )
    if not quantizers.same_range(fq):
        if tensor.pending is None:
            raise FormatError(
                f"{node.where}: expected equal input and output ranges of FakeQuantize on an activation, "
                f"found {low[0]:.6g}..{high[0]:.6g} and {output_low[0]:.6g}..{output_high[0]:.6g}"
            )
        slope = (output_high - output_low) / (high - low)
        tensor = g.scaled(node, tensor, slope, output_low - low * slope, f"{node.name}/range")
    quantizer = quantizers.activation_quantizer(fq)
    return g.tensor(Quantize(node.name, g.operand(tensor), quantizer), tensor.shape, tensor.axes)


def quantize_linear(
    g: Builder, node: Node, x: Value | None, scale: Value | None, zero_point: Value | None = None
) -> Tensor:
    """Codes of a per-tensor quantizer, to be read by DequantizeLinear."""
    tensor = g.activation(node, x)
    quantizer = _linear_quantizer(node, scale, zero_point)
    op = Quantize(node.name, g.operand(tensor), quantizer)
    return g.tensor(op, tensor.shape, tensor.axes, quantizer)


def dequantize_linear(
    g: Builder, node: Node, x: Value | None, scale: Value | None, zero_point: Value | None = None
) -> Tensor:
    """The real values of the codes; scale and zero point must be those of QuantizeLinear."""
    tensor = g.activation(node, x, codes_allowed=True)
    quantizer = _linear_quantizer(node, scale, zero_point)
    if tensor.codes is None or tensor.codes != quantizer:
        raise FormatError(
            f"{node.where}: expected scale and zero point of the QuantizeLinear before it "
            f"({tensor.codes}), found {quantizer}"
        )
    return replace(tensor, codes=None)


def _linear_quantizer(node: Node, scale: Value | None, zero_point: Value | None) -> Quantizer:
    zero = None if zero_point is None else required(node, zero_point, "the zero point")
    return quantizers.linear_quantizer(required(node, scale, "the scale"), zero, node.where)


def arithmetic(g: Builder, node: Node, a: Value | None, b: Value | None) -> Tensor:
    """Add, Subtract, Multiply or Divide: by a constant per channel, or the sum of two activations."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _sum(g, node, a, b)
    if isinstance(a, Constant):
        tensor = g.activation(node, b)
        constant = g.per_channel(node, a, tensor)
        if node.kind == "subtract":
            return g.scaled(node, tensor, -1.0, constant)
        if node.kind == "divide":
            raise FormatError(f"{node.where}: expected a constant divisor, found an activation")
    else:
        tensor = g.activation(node, a)
        constant = g.per_channel(node, required(node, b), tensor)
        if node.kind == "subtract":
            return g.scaled(node, tensor, 1.0, -constant)
        if node.kind == "divide":
            if not constant.all():
                raise FormatError(f"{node.where}: expected a divisor other than 0")
            return g.scaled(node, tensor, 1 / constant, 0.0)
    if node.kind == "multiply":
        return g.scaled(node, tensor, constant, 0.0)
    return g.scaled(node, tensor, 1.0, constant)


def _sum(g: Builder, node: Node, a: Tensor, b: Tensor) -> Tensor:
    if node.kind != "add":
        raise FormatError(f"{node.where}: {node.kind} of two activations is not supported")
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


def batch_norm(g: Builder, node: Node, x: Value | None, *parameters: Value | None) -> Tensor:
    """Batch normalization for inference, float (C,) each: gamma * (x - mean) / sqrt(variance + eps) + beta."""
    tensor = g.planar_activation(node, x)
    arrays = []
    for value, what in zip(parameters, ("gamma", "beta", "mean", "variance"), strict=True):
        array = required(node, value, what).values().astype(np.float64)
        if array.shape != tensor.shape[:1] or not np.isfinite(array).all():
            raise FormatError(
                f"{node.where}: expected finite {what} of shape {tensor.shape[:1]}, found shape {array.shape}"
            )
        arrays.append(array)
    gamma, beta, mean, variance = arrays
    deviation = variance + node.attributes["epsilon"]
    if not (deviation > 0).all():
        raise FormatError(f"{node.where}: expected variance + epsilon above 0, found {deviation.min():.6g}")
    scale = gamma / np.sqrt(deviation)
    return g.scaled(node, tensor, scale, beta - mean * scale)


def relu(g: Builder, node: Node, x: Value | None) -> Tensor:
    """max(x, 0)."""
    tensor = g.activation(node, x)
    return g.tensor(Relu(node.name, g.operand(tensor)), tensor.shape, tensor.axes)


def clip(
    g: Builder, node: Node, x: Value | None, low: Value | None = None, high: Value | None = None
) -> Tensor:
    """A clip from 0 to infinity, which is a ReLU; others are refused."""
    bounds = []
    for value, key, default in ((low, "low", -math.inf), (high, "high", math.inf)):
        if value is None:
            bounds.append(node.attributes.get(key, default))
        else:
            array = required(node, value, key).values()
            bounds.append(float(array.ravel()[0]) if array.size == 1 else math.nan)
    if bounds[0] != 0 or not bounds[1] >= 3.4e38:
        raise FormatError(f"{node.where}: expected a clip that is a ReLU (0..infinity), found {bounds}")
    return relu(g, node, x)


def softmax(g: Builder, node: Node, x: Value | None) -> Tensor:
    """Softmax over the channels."""
    tensor = g.activation(node, x)
    axis = _channel_axis(node, tensor)
    if node.attributes.get("flattens") and math.prod(tensor.dimensions[axis + 1 :]) != 1:
        raise FormatError(
            f"{node.where}: expected a softmax over channels alone (ONNX opset 13), found an older one"
        )
    return g.tensor(Softmax(node.name, g.operand(tensor)), tensor.shape, tensor.axes)


def argmax(g: Builder, node: Node, x: Value | None) -> Tensor:
    """Index of the largest channel."""
    tensor = g.activation(node, x)
    axis = _channel_axis(node, tensor)
    axes = tensor.axes[:axis] + ("1" if node.attributes["keep_dims"] else "") + tensor.axes[axis + 1 :]
    return g.tensor(Argmax(node.name, g.operand(tensor)), (1, *tensor.shape[1:]), axes)


def topk(g: Builder, node: Node, x: Value | None, k: Value | None) -> Tensor:
    """TopK that is an argmax; its output 1."""
    if integers(required(node, k, "k"), node.where, "k", 1) != [1] or node.attributes["mode"] != "max":
        raise FormatError(f"{node.where}: expected TopK to be an argmax (k 1, mode max)")
    return argmax(g, node, x)


def _channel_axis(node: Node, tensor: Tensor) -> int:
    axis, rank = node.attributes["axis"], len(tensor.axes)
    channel = tensor.axes.find("C") if tensor.shape[0] > 1 else 1
    if not -rank <= axis < rank or axis % rank != channel:
        raise FormatError(f"{node.where}: expected axis {channel}, the channels, found {axis}")
    return channel
