"""Converters that choose channels, as of the network input: reversed (BGR for RGB), split and put together again.

Nothing is moved: a tensor remembers which channels of its operation it has, quantizers and scales act on each channel by
itself, and the convolution behind gets weights in the operation's order.  A sum over channels of codes does not depend on
their order: it is exact (Q3).  One of float32 (Q12) is taken in the operation's order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.attributes import AxisAttributes, SplitAttributes
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.constants import integers
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.tensors import Channels, PendingConvolution, Tensor, Value, required


def chosen_channels(g: Builder, node: AnyNode, tensor: Tensor, positions: Iterable[int]) -> Tensor:
    """`tensor` with the channels at `positions`, each at most once."""
    if isinstance(tensor.pending, PendingConvolution) or g.holds_classes(tensor):
        raise FormatError(f"{node.where}: expected to choose channels of the network input or of codes alone")
    old = tensor.channels or Channels(tuple(range(tensor.shape[0])), tensor.shape[0])
    order = tuple(old.order[position] for position in positions)
    if not order or len(set(order)) != len(order):
        raise FormatError(f"{node.where}: expected channels, each at most once, found {list(order)[:16]}")
    whole = order == tuple(range(old.total))
    if order == tuple(reversed(range(old.total))) and not whole:
        g.note("channels are reversed inside the file: bgr=True if it takes blue, green, red")
    axis = channel_axis(node, tensor)
    axes = tensor.axes[:axis] + ("C" if len(order) > 1 else "1") + tensor.axes[axis + 1 :]
    channels = None if whole else Channels(order, old.total)
    return replace(tensor, shape=(len(order), *tensor.shape[1:]), axes=axes, channels=channels)


def channel_axis(node: AnyNode, tensor: Tensor, axis: int | None = None) -> int:
    """Where `tensor` has its channels; FormatError if `axis` is given and another one."""
    found = tensor.axes.find("C") if tensor.shape[0] > 1 else 1
    if axis is not None and (
        not -len(tensor.axes) <= axis < len(tensor.axes) or axis % len(tensor.axes) != found
    ):
        raise FormatError(f"{node.where}: expected axis {found}, the channels, found {axis}")
    return found


def _axis(node: Node[AxisAttributes] | Node[SplitAttributes], given: Value | None) -> int:
    if given is None:
        return node.attributes.axis
    return integers(required(node, given, "the axis"), node.where, "axis", 1)[0]


def gather(
    g: Builder, node: Node[AxisAttributes], x: Value, indices: Value, axis: Value | None = None
) -> Tensor:
    """Channels by their numbers."""
    constant, at = required(node, indices, "the indices"), _axis(node, axis)
    rank = len(x.axes) if isinstance(x, Tensor) else 0
    if isinstance(x, Tensor) and -rank <= at < rank and x.dimensions[at] == 1 and constant.shape == ():
        if integers(constant, node.where, "indices") not in ([0], [-1]):
            raise FormatError(f"{node.where}: expected the only index 0 of axis {at}, found {constant.array}")
        return replace(x, axes=x.axes[: at % rank] + x.axes[at % rank + 1 :])
    tensor = g.activation(node, x, codes_allowed=True, any_channels=True)
    channel_axis(node, tensor, at)
    numbers, count = integers(constant, node.where, "indices"), tensor.shape[0]
    if len(constant.shape) != 1 or not all(-count <= number < count for number in numbers):
        raise FormatError(f"{node.where}: expected a list of channels below {count}, found {numbers}")
    return chosen_channels(g, node, tensor, [number % count for number in numbers])


def split(
    g: Builder,
    node: Node[SplitAttributes],
    x: Value,
    sizes: Value | None = None,
    axis: Value | None = None,
) -> tuple[Tensor, ...]:
    """Channels in groups of constant sizes, or of equal ones."""
    tensor = g.activation(node, x, codes_allowed=True, any_channels=True)
    channel_axis(node, tensor, _axis(node, axis))
    count = tensor.shape[0]
    if sizes is not None:
        lengths = integers(required(node, sizes, "the sizes"), node.where, "sizes")
    elif node.attributes.sizes is not None:
        lengths = list(node.attributes.sizes)
    else:
        length = -(-count // len(node.outputs))
        lengths = [length] * (len(node.outputs) - 1)
        lengths.append(count - sum(lengths))
    if len(lengths) != len(node.outputs) or min(lengths) < 1 or sum(lengths) != count:
        raise FormatError(
            f"{node.where}: expected {len(node.outputs)} parts of {count} channels, found {lengths}"
        )
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return tuple(
        chosen_channels(g, node, tensor, range(end - length, end))
        for end, length in zip(ends, lengths, strict=True)
    )


def concat(g: Builder, node: Node[AxisAttributes], **inputs: Value) -> Tensor:
    """Channels of one tensor put together again."""
    parts = [
        g.activation(node, inputs[f"x{number}"], codes_allowed=True, any_channels=True)
        for number in range(len(inputs))
    ]
    first = parts[0]
    order: list[int] = []
    for part in parts:
        channel_axis(node, part, node.attributes.axis)
        same = (part.name, part.pending, part.codes, part.shape[1:]) == (
            first.name,
            first.pending,
            first.codes,
            first.shape[1:],
        )
        if not same:
            raise FormatError(
                f"{node.where}: expected a Concat of channels of one tensor, found {first.name!r} and {part.name!r}"
            )
        order += part.channels.order if part.channels is not None else range(part.shape[0])
    total = first.channels.total if first.channels is not None else first.shape[0]
    if len(first.axes) != 4:
        raise FormatError(f"{node.where}: expected a tensor of 4 dimensions, found {first.dimensions}")
    labels = first.axes if first.shape[0] > 1 else f"{first.axes[0]}C{first.axes[2:]}"
    whole = replace(
        first, shape=(total, *first.shape[1:]), axes=labels if total > 1 else first.axes, channels=None
    )
    return chosen_channels(g, node, whole, order)
