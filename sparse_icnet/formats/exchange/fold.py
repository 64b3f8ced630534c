"""Constants of foreign files: integer codes with a scale, and folding of the operations between them.

Exporters compute sizes (Shape, Gather, Concat, ...) and decompress weights (Convert, Subtract, Multiply) with
ordinary operations.  Folding them keeps integers as integers, so the codes of a weight survive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS, MAX_RANK, Node


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant tensor; its value is `array`, or `array * scale` where there is a scale.

    array  any integer or float type; integers (codes minus zero point) where there is a scale
    scale  float64, broadcasts to the shape of `array`
    half   whether the file stores it in half precision
    """

    array: NDArray
    scale: NDArray[np.float64] | None = None
    half: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def values(self) -> NDArray:
        """The value as one array, float32 where there is a scale."""
        if self.scale is None:
            return self.array
        return (self.array * self.scale).astype(np.float32)


def integers(constant: Constant, where: str, what: str, count: int | None = None) -> list[int]:
    """A constant list of whole numbers (sizes, axes, ...), of `count` numbers where given."""
    values = constant.values()
    if values.ndim > 1 or values.size > MAX_RANK or (count is not None and values.size != count):
        expected = f"{count}" if count is not None else f"at most {MAX_RANK}"
        raise FormatError(f"{where}: expected {expected} numbers as {what}, found shape {values.shape}")
    numbers = values.ravel().tolist()
    for number in numbers:
        if not math.isfinite(number) or number != int(number):
            raise FormatError(f"{where}: expected whole numbers as {what}, found {number}")
    return [int(number) for number in numbers]


def fold(node: Node, inputs: Sequence[Constant | None]) -> Constant | None:
    """The constant output of `node`; None if this kind of node is not folded."""
    function = _FOLDERS.get(node.kind)
    if function is None:
        return None
    try:
        with np.errstate(all="ignore"):
            return function(node, *inputs)
    except FormatError:
        raise
    except (ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(
            f"{node.where}: cannot compute this {node.kind} of constants: {reason[:200]}"
        ) from None


def bounded(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    """`shape`, if a tensor of it may be allocated."""
    if len(shape) > MAX_RANK or math.prod(int(size) for size in shape) > MAX_ELEMENTS:
        raise FormatError(
            f"{node.where}: expected at most {MAX_ELEMENTS} elements in {MAX_RANK} dimensions, found "
            f"{tuple(shape)}"
        )
    return tuple(shape)


def axes_of(node: Node, given: Constant | None, rank: int, what: str = "axes") -> list[int] | None:
    """Axes from the input or the attribute, made non-negative; None if neither is there."""
    axes = integers(given, node.where, what) if given is not None else node.attributes.get("axes")
    if axes is None:
        return None
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) != len(axes):
        raise FormatError(f"{node.where}: expected distinct axes of {rank} dimensions, found {list(axes)}")
    return [axis % rank for axis in axes]


def reshaped(node: Node, old: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """The shape that a reshape of `old` to `wanted` gives: 0 copies a size, one -1 takes the rest."""
    shape = list(wanted)
    for axis, size in enumerate(shape):
        if size == 0 and node.attributes.get("zero_copies", True):
            if axis >= len(old):
                raise FormatError(
                    f"{node.where}: expected a size to copy for axis {axis}, found shape {tuple(old)}"
                )
            shape[axis] = old[axis]
    if shape.count(-1) == 1:
        rest = -math.prod(shape)
        if rest > 0 and math.prod(old) % rest == 0:
            shape[shape.index(-1)] = math.prod(old) // rest
    if any(size < 0 for size in shape) or math.prod(shape) != math.prod(old):
        raise FormatError(
            f"{node.where}: expected a shape of {math.prod(old)} elements, found {list(wanted)}"
        )
    return bounded(node, shape)


def unsqueezed(node: Node, old: Sequence[int], given: Constant | None) -> tuple[int, ...]:
    """The shape after Unsqueeze; its axes count in the result."""
    count = len(given.values().ravel()) if given is not None else len(node.attributes.get("axes") or ())
    axes = axes_of(node, given, len(old) + count) or []
    shape = list(old)
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return bounded(node, shape)


def squeezed(node: Node, old: Sequence[int], given: Constant | None) -> tuple[int, ...]:
    """The shape after Squeeze: the axes named, or every axis of size 1."""
    axes = axes_of(node, given, len(old))
    if axes is None:
        axes = [axis for axis, size in enumerate(old) if size == 1]
    for axis in axes:
        if old[axis] != 1:
            raise FormatError(f"{node.where}: expected size 1 at axis {axis}, found shape {tuple(old)}")
    return tuple(size for axis, size in enumerate(old) if axis not in axes)


def slices(
    node: Node, shape: Sequence[int], inputs: Sequence[Constant | None]
) -> tuple[list[slice], list[int], list[int]]:
    """What Slice or StridedSlice reads of `shape`: a slice per axis, axes to drop, axes to insert."""
    rank = len(shape)
    result = [slice(0, size, 1) for size in shape]
    if node.kind == "slice":
        starts, ends, axes, steps = (*inputs, None, None)[:4]
        if starts is None or ends is None:
            raise FormatError(f"{node.where}: expected constant starts and ends")
        starts_ = integers(starts, node.where, "starts")
        ends_ = integers(ends, node.where, "ends", len(starts_))
        axes_ = axes_of(node, axes, rank) if axes is not None else list(range(len(starts_)))
        steps_ = (
            integers(steps, node.where, "steps", len(starts_)) if steps is not None else [1] * len(starts_)
        )
        if len(axes_) != len(starts_) or len(starts_) > rank or 0 in steps_:
            raise FormatError(f"{node.where}: expected one start, end and step other than 0 for each axis")
        for axis, start, end, step in zip(axes_, starts_, ends_, steps_, strict=True):
            result[axis] = slice(start, end, step)
        return result, [], []
    begin, end, strides = (*inputs, None)[:3]
    if begin is None or end is None:
        raise FormatError(f"{node.where}: expected constant begin and end")
    begin_ = integers(begin, node.where, "begin")
    end_ = integers(end, node.where, "end", len(begin_))
    strides_ = (
        integers(strides, node.where, "strides", len(begin_)) if strides is not None else [1] * len(begin_)
    )
    masks = {
        key: [*node.attributes.get(key, ()), *[0] * len(begin_)][: len(begin_)]
        for key in ("begin_mask", "end_mask", "new_axis_mask", "shrink_axis_mask", "ellipsis_mask")
    }
    if any(masks["ellipsis_mask"]):
        raise FormatError(f"{node.where}: expected no ellipsis in StridedSlice, found one")
    axis, drop, insert = 0, [], []
    for position, (start, stop, step) in enumerate(zip(begin_, end_, strides_, strict=True)):
        if masks["new_axis_mask"][position]:
            insert.append(position)
            continue
        if axis >= rank or step == 0:
            raise FormatError(f"{node.where}: expected at most {rank} strides other than 0, found {strides_}")
        if masks["shrink_axis_mask"][position]:
            if not -shape[axis] <= start < shape[axis]:
                raise FormatError(
                    f"{node.where}: expected an index into {shape[axis]} elements, found {start}"
                )
            result[axis] = slice(start % shape[axis], start % shape[axis] + 1, 1)
            drop.append(axis)
        else:
            # In OpenVINO a mask bit of 1 ignores the number, as in TensorFlow; the reader made it so.
            low = None if masks["begin_mask"][position] else start
            high = None if masks["end_mask"][position] else stop
            result[axis] = slice(low, high, step)
        axis += 1
    return result, drop, insert


def _identity(node: Node, x: Constant, *_: Constant | None) -> Constant:
    return x


def _convert(node: Node, x: Constant) -> Constant:
    dtype = node.attributes["dtype"]
    if dtype is None:
        raise FormatError(
            f"{node.where}: expected a conversion to a float or integer type, found "
            f"{node.attributes['type']!r}"
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


def _arithmetic(node: Node, a: Constant, b: Constant) -> Constant:
    shape = bounded(node, np.broadcast_shapes(a.shape, b.shape))
    if node.kind == "multiply" and a.scale is None and b.scale is not None:
        a, b = b, a
    if a.scale is not None and shape == a.shape:  # decompression of weights keeps the codes
        other = b.values().astype(np.float64)
        if node.kind == "multiply":
            return replace(a, scale=a.scale * other, half=a.half or b.half)
        if node.kind == "subtract" and a.array.dtype.kind in "iu" and (a.scale == 1).all():
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
    if node.kind == "divide":
        if not y.all():
            raise FormatError(f"{node.where}: expected a divisor other than 0")
        if x.dtype.kind == "i":
            return Constant(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)))
    operation = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}[
        node.kind
    ]
    return Constant(operation(x, y), half=a.half or b.half)


def _gather(node: Node, x: Constant, indices: Constant, axis: Constant | None = None) -> Constant:
    (number,) = (
        integers(axis, node.where, "axis", 1) if axis is not None else (node.attributes.get("axis", 0),)
    )
    values, positions = x.values(), indices.values().astype(np.int64)
    rest = values.size // max(values.shape[number], 1)
    bounded(node, (rest, positions.size))
    return Constant(np.take(values, positions, number), half=x.half)


def _concat(node: Node, *inputs: Constant) -> Constant:
    arrays = [x.values() for x in inputs]
    bounded(node, (sum(array.size for array in arrays),))
    return Constant(np.concatenate(arrays, node.attributes["axis"]))


def _slice(node: Node, x: Constant, *rest: Constant | None) -> Constant:
    values = x.values()
    parts, drop, insert = slices(node, values.shape, rest)
    result = values[tuple(parts)]
    result = result.reshape([size for axis, size in enumerate(result.shape) if axis not in drop])
    for axis in insert:
        result = np.expand_dims(result, axis)
    return Constant(result)


def _shaped(shape_of: Callable) -> Callable:
    def function(node: Node, x: Constant, given: Constant | None = None) -> Constant:
        shape = shape_of(node, x.shape, given)
        if x.scale is not None and x.scale.size > 1:
            return Constant(x.values().reshape(shape), half=x.half)
        scale = None if x.scale is None else x.scale.reshape(())
        return replace(x, array=x.array.reshape(shape), scale=scale)

    return function


def _reshape_shape(node: Node, old: Sequence[int], given: Constant | None) -> tuple[int, ...]:
    if given is None:
        raise FormatError(f"{node.where}: expected a constant shape")
    return reshaped(node, old, integers(given, node.where, "shape"))


def _transpose(node: Node, x: Constant, order: Constant | None = None) -> Constant:
    axes = order_of(node, len(x.shape), order)
    scale = x.scale
    if scale is not None and scale.size > 1:
        scale = np.broadcast_to(scale, x.shape).transpose(axes)
        return Constant((x.array.transpose(axes) * scale).astype(np.float32))
    return replace(x, array=x.array.transpose(axes), scale=None if scale is None else scale.reshape(()))


def order_of(node: Node, rank: int, given: Constant | None) -> list[int]:
    """The permutation of a Transpose; without one it reverses the axes."""
    order = (
        integers(given, node.where, "order", rank) if given is not None else node.attributes.get("order")
    ) or list(range(rank))[::-1]
    if sorted(axis % rank if -rank <= axis < rank else -1 for axis in order) != list(range(rank)):
        raise FormatError(f"{node.where}: expected an order of {rank} axes, found {list(order)}")
    return [axis % rank for axis in order]


def _round(node: Node, x: Constant) -> Constant:
    values = x.values()
    return Constant(np.floor(values) if node.kind == "floor" else np.ceil(values))


_FOLDERS: dict[str, Callable[..., Constant]] = {
    "identity": _identity,
    "convert": _convert,
    "add": _arithmetic,
    "subtract": _arithmetic,
    "multiply": _arithmetic,
    "divide": _arithmetic,
    "gather": _gather,
    "concat": _concat,
    "slice": _slice,
    "stridedslice": _slice,
    "reshape": _shaped(_reshape_shape),
    "squeeze": _shaped(squeezed),
    "unsqueeze": _shaped(unsqueezed),
    "transpose": _transpose,
    "floor": _round,
    "ceil": _round,
}
