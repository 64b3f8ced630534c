"""What every reader of a foreign file hands over: nodes of one small vocabulary, bounded and in order.

A reader translates the operations of its format to the kinds below and checks what only it can check
(syntax, sizes, identifiers).  `build` then turns the nodes into a `Graph`.

kind               inputs (None where absent)             attributes
parameter          -                                      shape (n,c,h,w), -1 for a free batch
constant           -                                      (value on the node)
result, identity   x
convert            x                                      dtype: numpy dtype, None if not supported
fakequantize       x, il, ih, ol, oh                      levels
quantizelinear     x, scale, zero point                   axis
dequantizelinear   x, scale, zero point                   axis
add, subtract, multiply, divide   a, b
convolution        x, weight, bias                        strides dilations pads_begin pads_end auto_pad group
batchnorm          x, gamma, beta, mean, variance         epsilon
relu               x
clip               x, low, high                           low, high (in place of the inputs)
maxpool, avgpool   x                                      as convolution without group, and kernel rounding
adaptiveavgpool    x, size
matmul             a, b                                   one of them the constant matrix of an average pool along an axis
reducemean         x, axes                                axes (in place of the input), keep_dims
interpolate        x, sizes, scales, axes                 mode (nearest, linear) coordinate nearest axes pads antialias
softmax            x                                      axis, flattens (True: over all axes from `axis` on)
argmax             x                                      axis, keep_dims
topk               x, k                                   axis, mode; output 1 holds the indices
transpose          x, order                               order (in place of the input)
squeeze, unsqueeze x, axes                                axes (in place of the input)
reshape            x, shape                               zero_copies
shapeof            x                                      start, end
gather             x, indices, axis                       axis (in place of the input)
slice              x, starts, ends, axes, steps
stridedslice       x, begin, end, strides                 begin_mask end_mask new_axis_mask shrink_axis_mask
concat             x, ...                                 axis
floor, ceil        x
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError

MAX_NODES = 8192
MAX_INPUTS = 64  # of one node
MAX_RANK = 8
MAX_NAME = 1024
MAX_ELEMENTS = 1 << 26  # of all constants of a file together, folded ones included

Source = tuple[int, int]  # node, output of that node


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation of a foreign file.

    kind        of the vocabulary above, or "unsupported" with the attribute `type`
    name        unique in the file
    where       "m.xml: layer 41 'conv4_1/reduce'", the start of every error message
    inputs      where each input comes from, None for an absent optional input
    value       of a constant
    declared    output shapes as the file states them, None where it does not; negative sizes are free
    """

    kind: str
    name: str
    where: str
    inputs: tuple[Source | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    value: NDArray | None = None
    declared: tuple[tuple[int, ...] | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ForeignModel:
    """`label` (the path, for messages), nodes in any order, and the node that is the one result."""

    label: str
    nodes: tuple[Node, ...]
    result: int


# Inputs that must be there, and the most there may be; the tables of the readers follow this order.
ARITY = {
    "parameter": (0, 0),
    "constant": (0, 0),
    "fakequantize": (5, 5),
    "quantizelinear": (2, 3),
    "dequantizelinear": (2, 3),
    "add": (2, 2),
    "subtract": (2, 2),
    "multiply": (2, 2),
    "divide": (2, 2),
    "convolution": (2, 3),
    "batchnorm": (5, 5),
    "clip": (1, 3),
    "adaptiveavgpool": (2, 2),
    "matmul": (2, 2),
    "reducemean": (1, 2),
    "interpolate": (1, 4),
    "topk": (2, 2),
    "transpose": (1, 2),
    "squeeze": (1, 2),
    "unsqueeze": (1, 2),
    "reshape": (2, 2),
    "gather": (2, 3),
    "slice": (3, 5),
    "stridedslice": (3, 4),
    "concat": (1, MAX_INPUTS),
    "unsupported": (0, MAX_INPUTS),
}


def check_inputs(node: Node) -> None:
    """FormatError unless `node` has the inputs that its kind needs."""
    least, most = ARITY.get(node.kind, (1, 1))
    if len(node.inputs) > most or len(node.inputs) < least or None in node.inputs[:least]:
        found = sum(source is not None for source in node.inputs)
        expected = f"{least}" if least == most else f"{least} to {most}"
        raise FormatError(f"{node.where}: expected {expected} inputs, found {found}")


def in_order(model: ForeignModel) -> list[int]:
    """The nodes that the result needs, each after its inputs; FormatError on a cycle anywhere in the file."""
    readers: list[list[int]] = [[] for _ in model.nodes]
    missing = [0] * len(model.nodes)
    for index, node in enumerate(model.nodes):
        for source in node.inputs:
            if source is not None:
                readers[source[0]].append(index)
                missing[index] += 1
    order: list[int] = [index for index, count in enumerate(missing) if count == 0]
    for index in order:  # grows while it is read
        for reader in readers[index]:
            missing[reader] -= 1
            if missing[reader] == 0:
                order.append(reader)
    if len(order) < len(model.nodes):
        stuck = next(node for node, count in zip(model.nodes, missing, strict=True) if count)
        raise FormatError(
            f"{stuck.where}: expected a graph without cycles, found this layer in or behind one"
        )
    needed = {model.result}
    for index in reversed(order):
        if index in needed:
            needed.update(source[0] for source in model.nodes[index].inputs if source is not None)
    return [index for index in order if index in needed]


class UniqueNames:
    """Hands out names: the wanted one if it is free, else with #2, #3, ... behind it."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._next: dict[str, int] = {}

    def __call__(self, wanted: str) -> str:
        name = wanted
        while name in self._used:
            self._next[wanted] = self._next.get(wanted, 1) + 1
            name = f"{wanted}#{self._next[wanted]}"
        self._used.add(name)
        return name


def checked_name(name: str, where: str) -> str:
    """`name`, if it is text for one line (protobuf gives bytes for text that is not UTF-8)."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise FormatError(
            f"{where}: expected a printable name of at most {MAX_NAME} characters, found {name[:40]!r}..."
        )
    return name
