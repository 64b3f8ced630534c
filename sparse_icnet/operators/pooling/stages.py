"""Pyramid pooling recognised in a graph: x + up(pool(x)) + up(pool(x)) + ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sparse_icnet.network.graph import Add, AveragePool, Graph, Op, Quantize, Quantizer, Resize
from sparse_icnet.operators.pooling.params import MAX_BINS, MAX_STAGES

# The pooling, the quantizer of what it adds, and that of the running sum that it is added to.
Stage: TypeAlias = tuple[AveragePool, Quantizer | None, Quantizer | None]


def stages_of(graph: Graph, op: Add, used_once: Callable[[str], bool]) -> tuple[str, list[Stage]] | None:
    """The chain ((x + up(pool(x))) + up(pool(x))) + ... with its quantizers, or None if this is not one."""
    stages: list[Stage] = []
    node: Op = op
    running: Quantizer | None = None
    while True:
        if not isinstance(node, Add):
            return None
        found = None
        for pooled, rest in ((node.right, node.left), (node.left, node.right)):
            match = _pooled(graph, pooled)
            if match is not None:
                found = (*match, rest)
                break
        if found is None:
            return None
        pool, quantizer, rest = found
        stages.insert(0, (pool, quantizer, running))
        if rest == pool.input:
            break
        node, running = graph[rest], None
        if isinstance(node, Quantize) and used_once(node.name):
            running = node.quantizer
            node = graph[node.input]
    source = stages[0][0].input
    rows = [stage[0].bins for stage in stages]
    simple = (
        all(stage[0].input == source for stage in stages)
        and len(stages) <= MAX_STAGES
        and max(map(max, rows)) <= MAX_BINS
    )
    return (source, stages) if simple else None


def _pooled(graph: Graph, name: str) -> tuple[AveragePool, Quantizer | None] | None:
    """Nearest-up(average pool) with at most one quantizer anywhere on the way, or None."""
    node: Op = graph[name]
    quantizer: Quantizer | None = None
    resizes = 0
    while isinstance(node, Resize | Quantize):
        resizes += isinstance(node, Resize)
        if resizes > 1:  # not one nearest resize: those that are were merged
            return None
        if isinstance(node, Quantize):
            if quantizer is not None:
                return None
            quantizer = node.quantizer
        node = graph[node.input]
    return (node, quantizer) if isinstance(node, AveragePool) else None
