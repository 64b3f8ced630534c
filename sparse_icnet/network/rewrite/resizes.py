"""Nearest resizes that follow each other."""

from __future__ import annotations

from collections.abc import Mapping

from sparse_icnet.network.graph import Graph, Op, Resize, Size, rename_inputs
from sparse_icnet.network.rewrite._edit import Ops, rebuilt, size_of


def merge_resizes(graph: Graph) -> Graph:
    """One resize in place of two where that is exact, none where the size does not change.

    Let one axis go from a to b to c pixels.  By (Q7) result pixel i is pixel ((i * b // c) * a) // b of
    the source, and the merged resize would take pixel i * a // c.  They agree whenever

    * b = k * a, the first enlarges by a whole number:
      ((i * k * a // c) * a) // (k * a) = (i * k * a // c) // k = i * a // c, for
      floor(floor(v) / k) = floor(v / k);
    * b = k * c, the second shrinks by a whole number:
      ((i * k * c // c) * a) // (k * c) = (i * k * a) // (k * c) = i * a // c.

    A resize from a to a pixels takes pixel i * a // a = i.
    """
    ops: Ops = {}
    sizes: dict[str, Size] = {}
    renamed: dict[str, str] = {}
    changed = False
    for op in graph.ops:
        op = rename_inputs(op, renamed)
        if isinstance(op, Resize):
            merged = composed(op, ops, sizes)
            changed |= merged is not op
            op = merged
            if op.size == sizes[op.input]:
                renamed[op.name] = op.input
                continue
        ops[op.name] = op
        sizes[op.name] = size_of(graph, op.name)
    if not (changed or renamed):
        return graph
    return rebuilt(graph, ops, renamed.get(graph.output, graph.output))


def composed(op: Resize, ops: Mapping[str, Op], sizes: Mapping[str, Size]) -> Resize:
    """`op` past every resize that `merge_resizes` proves it may skip; `op` itself if there is none."""
    while isinstance(inner := ops[op.input], Resize):
        before = sizes[inner.input]
        if any(b % a and b % c for a, b, c in zip(before, inner.size, op.size, strict=True)):
            break
        op = Resize(op.name, inner.input, op.size)
    return op
