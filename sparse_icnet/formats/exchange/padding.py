"""Padding as an operation of its own: zeros around a map, which the convolution or max pool behind takes over.

The real value 0 is a code of every quantizer, so quantizing zeros gives what a convolution pads with, its zero point.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.attributes import PadAttributes
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.constants import axes_of, integers
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.tensors import Tensor, Value, planar, required
from sparse_icnet.network.graph import Quantize, Relu, Resize
from sparse_icnet.network.limits import MAX_WINDOW


def pad(
    g: Builder,
    node: Node[PadAttributes],
    x: Value,
    pads: Value | None = None,
    pads_begin: Value | None = None,
    pads_end: Value | None = None,
    value: Value | None = None,
    axes: Value | None = None,
) -> Tensor:
    """Zeros above, left, below and right of (1, channels, height, width).

    pads                  those at the begin of each of `axes`, then those at the end, or
    pads_begin, pads_end  each by itself
    value                 what fills them, which must be the real value 0
    axes                  that the pads are of; None: all
    """
    tensor = g.planar_activation(node, x, codes_allowed=True, any_channels=True, padded=True)
    if node.attributes.mode != "constant":
        raise FormatError(
            f"{node.where}: expected padding with zeros, found mode {node.attributes.mode!r}: "
            "train or export with zero padding"
        )
    given = None if axes is None else required(node, axes, "the axes")
    chosen = axes_of(node, given, None, 4) or [0, 1, 2, 3]
    begin, end = _amounts(node, len(chosen), pads, pads_begin, pads_end)
    filled = _fill(node, value)
    zero = 0 if tensor.codes is None or tensor.centred else tensor.codes.zero_point
    if filled != zero:
        raise FormatError(f"{node.where}: expected padding with {zero}, the real value 0, found {filled:.6g}")
    amounts = [(0, 0)] * 4
    for axis, *pair in zip(chosen, begin, end, strict=True):
        amounts[axis] = (pair[0], pair[1])
    if any(amounts[0]) or any(amounts[1]) or not all(0 <= n <= MAX_WINDOW for n in (*begin, *end)):
        raise FormatError(
            f"{node.where}: expected padding of at least 0 of height and width alone, found {begin} and {end}"
        )
    (top, bottom), (left, right) = amounts[2], amounts[3]
    channels, height, width = tensor.shape
    shape = (channels, height + top + bottom, width + left + right)
    g.note("zeros around a map became padding of what reads it")
    before = tensor.padding
    total = (before[0] + top, before[1] + left, before[2] + bottom, before[3] + right)
    return replace(tensor, shape=shape, axes=planar(shape), padding=total)


def _amounts(
    node: Node[PadAttributes],
    count: int,
    pads: Value | None,
    pads_begin: Value | None,
    pads_end: Value | None,
) -> tuple[list[int], list[int]]:
    if node.attributes.pads is not None:
        both = list(node.attributes.pads)
    elif pads is not None:
        both = integers(required(node, pads, "the pads"), node.where, "pads", 2 * count)
    else:
        both = [
            *integers(required(node, pads_begin, "the pads"), node.where, "pads_begin", count),
            *integers(required(node, pads_end, "the pads"), node.where, "pads_end", count),
        ]
    if len(both) != 2 * count:
        raise FormatError(f"{node.where}: expected {2 * count} pads, found {both}")
    return both[:count], both[count:]


def _fill(node: Node[PadAttributes], value: Value | None) -> float:
    if value is None:
        return node.attributes.value
    array = required(node, value, "the value").values()
    if array.size > 1:
        raise FormatError(f"{node.where}: expected one value to pad with, found {array.size}")
    return float(array.ravel()[0]) if array.size else 0.0


def pooled_padding(g: Builder, node: AnyNode, tensor: Tensor) -> tuple[int, int, int, int]:
    """The zeros around what a max pool reads: its own padding, which never wins, where no value is below 0."""
    op = g.ops.get(tensor.name)
    while isinstance(op, Resize) or (isinstance(op, Quantize) and op.quantizer.low < op.quantizer.zero_point):
        op = g.ops[op.input]
    if any(tensor.padding) and not isinstance(op, Relu | Quantize):
        raise FormatError(f"{node.where}: expected zeros around a max pool behind a ReLU, found other values")
    return tensor.padding


def added(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Sum of two paddings (top, left, bottom, right)."""
    top, left, bottom, right = np.add(one, other).tolist()
    return top, left, bottom, right
