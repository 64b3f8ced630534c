"""Constants of exchange formats: integer codes with a scale; and the shapes, axes and slices that constants state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.attributes import (
    AxesAttributes,
    ReshapeAttributes,
    StridedSliceAttributes,
    TransposeAttributes,
)
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS, MAX_RANK, AnyNode, Node


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant tensor; its value is `array`, or `array * scale` where there is a scale.

    array  any integer or float type; integers (codes minus zero point) where there is a scale
    scale  float64, broadcasts to the shape of `array`
    half   whether the file stores it in half precision
    """

    array: NDArray[Any]
    scale: NDArray[np.float64] | None = None
    half: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def values(self) -> NDArray[Any]:
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


def bounded(node: AnyNode, shape: Sequence[int]) -> tuple[int, ...]:
    """`shape`, if a tensor of it may be allocated."""
    if len(shape) > MAX_RANK or math.prod(int(size) for size in shape) > MAX_ELEMENTS:
        raise FormatError(
            f"{node.where}: expected at most {MAX_ELEMENTS} elements in {MAX_RANK} dimensions, found "
            f"{tuple(shape)}"
        )
    return tuple(shape)


def axes_of(
    node: AnyNode, given: Constant | None, default: Sequence[int] | None, rank: int, what: str = "axes"
) -> list[int] | None:
    """Axes from the input, else the attribute `default`, made non-negative; None if neither is there."""
    axes = integers(given, node.where, what) if given is not None else default
    if axes is None:
        return None
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) != len(axes):
        raise FormatError(f"{node.where}: expected distinct axes of {rank} dimensions, found {list(axes)}")
    return [axis % rank for axis in axes]


def reshaped(node: Node[ReshapeAttributes], old: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """The shape that a reshape of `old` to `wanted` gives: 0 copies a size, one -1 takes the rest."""
    shape = list(wanted)
    for axis, size in enumerate(shape):
        if size == 0 and node.attributes.zero_copies:
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


def unsqueezed(node: Node[AxesAttributes], old: Sequence[int], given: Constant | None) -> tuple[int, ...]:
    """The shape after Unsqueeze; its axes count in the result."""
    count = len(given.values().ravel()) if given is not None else len(node.attributes.axes or ())
    axes = axes_of(node, given, node.attributes.axes, len(old) + count) or []
    shape = list(old)
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return bounded(node, shape)


def squeezed(node: Node[AxesAttributes], old: Sequence[int], given: Constant | None) -> tuple[int, ...]:
    """The shape after Squeeze: the axes named, or every axis of size 1."""
    axes = axes_of(node, given, node.attributes.axes, len(old))
    if axes is None:
        axes = [axis for axis, size in enumerate(old) if size == 1]
    for axis in axes:
        if old[axis] != 1:
            raise FormatError(f"{node.where}: expected size 1 at axis {axis}, found shape {tuple(old)}")
    return tuple(size for axis, size in enumerate(old) if axis not in axes)


Slices = tuple[list[slice], list[int], list[int]]  # a slice per axis, axes to drop, axes to insert


def sliced(
    node: AnyNode,
    shape: Sequence[int],
    starts: Constant,
    ends: Constant,
    axes: Constant | None,
    steps: Constant | None,
) -> Slices:
    """What Slice reads of `shape`."""
    rank = len(shape)
    result = [slice(0, size, 1) for size in shape]
    first = integers(starts, node.where, "starts")
    last = integers(ends, node.where, "ends", len(first))
    chosen = axes_of(node, axes, range(len(first)), rank) or []
    stride = integers(steps, node.where, "steps", len(first)) if steps is not None else [1] * len(first)
    if len(chosen) != len(first) or len(first) > rank or 0 in stride:
        raise FormatError(f"{node.where}: expected one start, end and step other than 0 for each axis")
    for axis, start, end, step in zip(chosen, first, last, stride, strict=True):
        result[axis] = slice(start, end, step)
    return result, [], []


def strided(
    node: Node[StridedSliceAttributes],
    shape: Sequence[int],
    begin: Constant,
    end: Constant,
    strides: Constant | None,
) -> Slices:
    """What StridedSlice reads of `shape`."""
    rank = len(shape)
    result = [slice(0, size, 1) for size in shape]
    begin_ = integers(begin, node.where, "begin")
    end_ = integers(end, node.where, "end", len(begin_))
    strides_ = (
        integers(strides, node.where, "strides", len(begin_)) if strides is not None else [1] * len(begin_)
    )
    given = node.attributes
    begin_mask, end_mask, new_axis, shrink, ellipsis = (
        [*mask, *[0] * len(begin_)][: len(begin_)]
        for mask in (
            given.begin_mask,
            given.end_mask,
            given.new_axis_mask,
            given.shrink_axis_mask,
            given.ellipsis_mask,
        )
    )
    if any(ellipsis):
        raise FormatError(f"{node.where}: expected no ellipsis in StridedSlice, found one")
    axis = 0
    drop: list[int] = []
    insert: list[int] = []
    for position, (start, stop, step) in enumerate(zip(begin_, end_, strides_, strict=True)):
        if new_axis[position]:
            insert.append(position)
            continue
        if axis >= rank or step == 0:
            raise FormatError(f"{node.where}: expected at most {rank} strides other than 0, found {strides_}")
        if shrink[position]:
            if not -shape[axis] <= start < shape[axis]:
                raise FormatError(
                    f"{node.where}: expected an index into {shape[axis]} elements, found {start}"
                )
            result[axis] = slice(start % shape[axis], start % shape[axis] + 1, 1)
            drop.append(axis)
        else:
            low = None if begin_mask[position] else start
            high = None if end_mask[position] else stop
            result[axis] = slice(low, high, step)
        axis += 1
    return result, drop, insert


def order_of(node: Node[TransposeAttributes], rank: int, given: Constant | None) -> list[int]:
    """The permutation of a Transpose; without one it reverses the axes."""
    order = (
        integers(given, node.where, "order", rank) if given is not None else node.attributes.order
    ) or list(range(rank))[::-1]
    if sorted(axis % rank if -rank <= axis < rank else -1 for axis in order) != list(range(rank)):
        raise FormatError(f"{node.where}: expected an order of {rank} axes, found {list(order)}")
    return [axis % rank for axis in order]
