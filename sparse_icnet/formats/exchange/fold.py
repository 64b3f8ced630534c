"""Folding: what an operation gives of constants alone.

Exporters compute sizes (Shape, Gather, Concat, ...) and decompress weights (Convert, Subtract, Multiply) with
ordinary operations.  Folding them keeps integers as integers, so the codes of a weight survive.  Each function takes the
node and its inputs by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.attributes import (
    AxesAttributes,
    AxisAttributes,
    ConvertAttributes,
    FakeQuantizeAttributes,
    FillAttributes,
    ReshapeAttributes,
    StridedSliceAttributes,
    TransposeAttributes,
)
from sparse_icnet.formats.exchange.constants import (
    Constant,
    Slices,
    bounded,
    integers,
    order_of,
    reshaped,
    sliced,
    squeezed,
    strided,
    unsqueezed,
)
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.quantizers import (
    dequantize_linear_constant,
    quantize_linear_constant,
    quantized_constant,
)
from sparse_icnet.formats.exchange.quantizers import fake_quantize as checked_fake_quantize


def identity(node: AnyNode, x: Constant) -> Constant:
    """The input itself."""
    return x


def convert(node: Node[ConvertAttributes], x: Constant) -> Constant:
    """A cast: integers that become floats keep their codes, with a scale of 1."""
    dtype = node.attributes.dtype
    if dtype is None:
        raise FormatError(
            f"{node.where}: expected a conversion to a float or integer type, found {node.attributes.type!r}"
        )
    if dtype.kind == "f":
        if x.scale is not None or x.array.dtype.kind == "f":
            wide = x.array.astype(np.float32) if x.array.dtype.kind == "f" else x.array
            return replace(x, array=wide)
        return Constant(x.array, np.ones((), np.float64))
    values = x.values()
    if values.dtype.kind == "f":
        if not (np.abs(values) < 2.0**62).all():
            raise FormatError(f"{node.where}: expected finite numbers to convert to integers")
        values = np.trunc(values)
    return Constant(values.astype(np.int64))


def arithmetic(node: AnyNode, a: Constant, b: Constant) -> Constant:
    """Add, Subtract, Multiply or Divide with broadcasting; of codes with a scale, the codes stay where they can."""
    shape = bounded(node, np.broadcast_shapes(a.shape, b.shape))
    if node.operation == "multiply" and a.scale is None and b.scale is not None:
        a, b = b, a
    if a.scale is not None and shape == a.shape:  # decompression of weights keeps the codes
        other = b.values().astype(np.float64)
        if node.operation == "multiply":
            return replace(a, scale=a.scale * other, half=a.half or b.half)
        if node.operation == "subtract" and a.array.dtype.kind in "iu" and (a.scale == 1).all():
            if (other == np.rint(other)).all() and (np.abs(other) < 1 << 20).all():
                return replace(a, array=a.array.astype(np.int32) - other.astype(np.int32))
            if a.array.ndim == 4:
                worst = float(other[other != np.rint(other)].flat[0])
                raise FormatError(
                    f"{node.where}: expected an integer zero point, so that zero weights stay zero, found "
                    f"{worst:.6g}"
                )
    x, y = a.values(), b.values()
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        x, y = x.astype(np.int64), y.astype(np.int64)
    else:
        x, y = x.astype(np.float32), y.astype(np.float32)
    if node.operation == "divide":
        if not y.all():
            raise FormatError(f"{node.where}: expected a divisor other than 0")
        if x.dtype.kind == "i":
            return Constant(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)))
    operation = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}[
        node.operation
    ]
    return Constant(operation(x, y), half=a.half or b.half)


def fake_quantize(
    node: Node[FakeQuantizeAttributes],
    x: Constant,
    input_low: Constant,
    input_high: Constant,
    output_low: Constant,
    output_high: Constant,
) -> Constant:
    """Weights behind a FakeQuantize: their codes."""
    ranges = [input_low, input_high, output_low, output_high]
    return quantized_constant(checked_fake_quantize(node.attributes.levels, ranges, node.where), x)


def quantize_linear(
    node: Node[AxisAttributes], x: Constant, scale: Constant, zero_point: Constant | None = None
) -> Constant:
    """Codes of a constant."""
    return quantize_linear_constant(x, scale, zero_point, node.attributes.axis, node.where)


def dequantize_linear(
    node: Node[AxisAttributes], x: Constant, scale: Constant, zero_point: Constant | None = None
) -> Constant:
    """Codes with their scale."""
    return dequantize_linear_constant(x, scale, zero_point, node.attributes.axis, node.where)


def gather(
    node: Node[AxisAttributes], x: Constant, indices: Constant, axis: Constant | None = None
) -> Constant:
    """Elements of `x` at `indices` along one axis."""
    number = integers(axis, node.where, "axis", 1)[0] if axis is not None else node.attributes.axis
    values, positions = x.values(), indices.values().astype(np.int64)
    rest = values.size // max(values.shape[number], 1)
    bounded(node, (rest, positions.size))
    return Constant(np.take(values, positions, number), half=x.half)


def broadcast(node: AnyNode, x: Constant, shape: Constant) -> Constant:
    """`x` repeated to a shape, by NumPy's rules."""
    wanted = np.broadcast_shapes(x.shape, bounded(node, integers(shape, node.where, "shape")))
    return Constant(np.broadcast_to(x.values(), bounded(node, wanted)), half=x.half)


def range_(node: AnyNode, start: Constant, stop: Constant, step: Constant) -> Constant:
    """Whole numbers from `start` on, `stop` left out, by `step`."""
    first, end, stride = (integers(part, node.where, "bounds", 1)[0] for part in (start, stop, step))
    numbers = range(first, end, stride)
    bounded(node, (len(numbers),))
    return Constant(np.array(numbers, np.int64))


def concat(node: Node[AxisAttributes], **inputs: Constant) -> Constant:
    """The inputs one behind the other, in the order of their names' numbers."""
    arrays = [inputs[f"x{number}"].values() for number in range(len(inputs))]
    bounded(node, (sum(array.size for array in arrays),))
    return Constant(np.concatenate(arrays, node.attributes.axis))


def slice_(
    node: AnyNode,
    x: Constant,
    starts: Constant,
    ends: Constant,
    axes: Constant | None = None,
    steps: Constant | None = None,
) -> Constant:
    """ONNX's Slice."""
    return _taken(x, sliced(node, x.shape, starts, ends, axes, steps))


def strided_slice(
    node: Node[StridedSliceAttributes],
    x: Constant,
    begin: Constant,
    end: Constant,
    strides: Constant | None = None,
) -> Constant:
    """OpenVINO's StridedSlice."""
    return _taken(x, strided(node, x.shape, begin, end, strides))


def _taken(x: Constant, slices: Slices) -> Constant:
    parts, drop, insert = slices
    result = x.values()[tuple(parts)]
    result = result.reshape([size for axis, size in enumerate(result.shape) if axis not in drop])
    for axis in insert:
        result = np.expand_dims(result, axis)
    return Constant(result)


def reshape(node: Node[ReshapeAttributes], x: Constant, shape: Constant) -> Constant:
    """Another shape of the same elements."""
    return _shaped(x, reshaped(node, x.shape, integers(shape, node.where, "shape")))


def squeeze(node: Node[AxesAttributes], x: Constant, axes: Constant | None = None) -> Constant:
    """Without axes of size 1."""
    return _shaped(x, squeezed(node, x.shape, axes))


def unsqueeze(node: Node[AxesAttributes], x: Constant, axes: Constant | None = None) -> Constant:
    """With axes of size 1."""
    return _shaped(x, unsqueezed(node, x.shape, axes))


def _shaped(x: Constant, shape: Sequence[int]) -> Constant:
    if x.scale is not None and x.scale.size > 1:
        return Constant(x.values().reshape(shape), half=x.half)
    scale = None if x.scale is None else x.scale.reshape(())
    return replace(x, array=x.array.reshape(shape), scale=scale)


def transpose(node: Node[TransposeAttributes], x: Constant, order: Constant | None = None) -> Constant:
    """Axes in another order."""
    axes = order_of(node, len(x.shape), order)
    scale = x.scale
    if scale is not None and scale.size > 1:
        scale = np.broadcast_to(scale, x.shape).transpose(axes)
        return Constant((x.array.transpose(axes) * scale).astype(np.float32))
    return replace(x, array=x.array.transpose(axes), scale=None if scale is None else scale.reshape(()))


def floor(node: AnyNode, x: Constant) -> Constant:
    """The largest whole number that is not above."""
    return Constant(np.floor(x.values()))


def ceil(node: AnyNode, x: Constant) -> Constant:
    """The smallest whole number that is not below."""
    return Constant(np.ceil(x.values()))


def constant_of_shape(node: Node[FillAttributes], x: Constant) -> Constant:
    """One value in a constant shape."""
    shape = bounded(node, [max(size, 0) for size in integers(x, node.where, "shape")])
    return Constant(np.full(shape, node.attributes.value, node.attributes.dtype))
