"""Small helpers of the rewrites: an operation table under edit, free names, integer factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparse_icnet.network.graph import Graph, MaxPool, Op, Quantize, Quantizer, Resize, Size, pruned

Ops = dict[str, Op]


def size_of(graph: Graph, name: str) -> Size:
    """(height, width) of tensor `name`."""
    _, height, width = graph.shape(name)
    return height, width


def held_quantizer(ops: Mapping[str, Op], name: str) -> Quantizer | None:
    """`Graph.quantizer` for operations under edit: whose codes `name` holds, None if it is real."""
    op = ops[name]
    while isinstance(op, Resize | MaxPool):
        op = ops[op.input]
    return op.quantizer if isinstance(op, Quantize) else None


def fresh(base: str, taken: set[str]) -> str:
    """`base`, or `base.2`, `base.3`, ... : the first name that is not `taken`, which then is."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}.{count}"
    taken.add(name)
    return name


def factor(small: Size, large: Size) -> Size | None:
    """(large / small) per axis if both are whole numbers, else None."""
    if large[0] % small[0] or large[1] % small[1]:
        return None
    return large[0] // small[0], large[1] // small[1]


def rebuilt(graph: Graph, ops: Mapping[str, Op], output: str) -> Graph:
    """`graph` with the edited `ops`, ordered, and without those that nothing reads any more.

    The input stays even when nothing reads it: a graph has one.
    """
    order = pruned(ops.values(), output)
    if graph.input not in order:
        order = (graph.input, *order)
    return replace(graph, ops=order, output=output)
