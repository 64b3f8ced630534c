"""Pyramid pooling as one step: x + up(pool(x)) + up(pool(x)) + ..., recognised in a graph and put into tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels.sizes import MAX_BINS, MAX_STAGES, STAGE_WORDS
from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import (
    Add,
    AveragePool,
    Graph,
    Op,
    Quantize,
    Quantizer,
    Resize,
    Size,
    pool_windows,
)
from sparse_icnet.runtime.steps import PlanError, f32_bits, int32_table

MAX_WINDOW = (2**31 - 1) // 255  # pixels of an average: their sum is an int32

# The pooling, the quantizer of what it adds, and that of the running sum that it is added to.
Stage = tuple[AveragePool, Quantizer | None, Quantizer | None]


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
            node, running = graph[node.input], node.quantizer
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
    node, quantizer, resizes = graph[name], None, 0
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


def tables(
    quantizer: Quantizer, size: Size, stages: list[Stage], result: Quantizer
) -> tuple[NDArray[np.int32], int, float]:
    """What the kernel reads of the stages, the stage with the finest bins, and the unit of the first running sum.

    The first is int32: STAGE_WORDS of each stage, then the tables of all bins.  The second is -1 if the finest bins do
    not divide the map evenly.
    quantizer  of the map of `size` that is pooled; result: of the sum
    """
    units = [running.scale if running else None for _, _, running in stages]
    # The running sum is in the unit of the next quantizer that it meets.
    unit = result.scale
    for i in reversed(range(len(stages))):
        unit = units[i] = units[i] or unit
    table = np.zeros((len(stages), STAGE_WORDS), np.int64)
    table_bytes = 4 * table.size  # as the kernel reads it
    bin_tables: list[NDArray[np.int32]] = []
    bins = [pool.bins for pool, _, _ in stages]
    finest = bins.index(max(bins, key=math.prod))
    for i, (pool, pooled, running) in enumerate(stages):
        table[i, :2] = pool.bins
        table[i, 2] = table_bytes + sum(t.nbytes for t in bin_tables)
        table[i, 11] = all(
            n % fine == 0 and fine % b == 0 for n, fine, b in zip(size, bins[finest], pool.bins, strict=True)
        )
        mean_unit = pooled.scale if pooled else units[i]
        means = bin_table(quantizer, size, pool.bins, mean_unit)
        # A column x shows the bin x * columns // width (Q7).
        starts = [-(-j * size[1] // pool.bins[1]) for j in range(pool.bins[1] + 1)]
        table[i, 12] = means.nbytes
        bin_tables.append(np.concatenate([means, int32_table(np.array(starts, np.int64), "pyramid")]))
        next_unit = units[i + 1] if i + 1 < len(stages) else result.scale
        for place, q, target in ((3, pooled, units[i]), (7, running, next_unit)):
            if q is not None:
                table[i, place] = 1
                table[i, place + 1] = f32_bits(q.low - q.zero_point)
                table[i, place + 2] = f32_bits(q.high - q.zero_point)
                table[i, place + 3] = f32_bits(arithmetic.dequantize_multiplier(q, target))
    words = np.concatenate([int32_table(table.reshape(-1), "pyramid"), *bin_tables])
    return words, finest if table[finest, 11] else -1, units[0]


def bin_table(
    quantizer: Quantizer, size: Size, bins: Size, unit: float, phases: Size = (1, 1)
) -> NDArray[np.int32]:
    """Multipliers of (Q6) as float32 bits (rows * columns,), then the pixels of the window of each bin, then windows.

    Windows (phases, bins, 2) of the rows, then of the columns: first and end of each bin in the planes of each phase.
    """
    windows = [np.array(pool_windows(n, b)) for n, b in zip(size, bins, strict=True)]
    counts = np.outer(*(ends - starts for starts, ends in (w.T for w in windows))).reshape(-1)
    if counts.max() > MAX_WINDOW:
        raise PlanError(f"an average of {counts.max()} pixels: expected at most {MAX_WINDOW}")
    multipliers = [arithmetic.mean_multiplier(quantizer, int(count), unit) for count in counts]
    # Pixel k * Y + i of a map is pixel Y of phase i.
    in_planes = [
        -(-(w - np.arange(k)[:, None, None]) // k).reshape(-1) for w, k in zip(windows, phases, strict=True)
    ]
    integers = int32_table(np.concatenate([counts, *in_planes]), "average pool")
    return np.concatenate([np.array(multipliers, np.float32).view(np.int32), integers])
