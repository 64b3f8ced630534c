"""Where the tiles of a Winograd convolution lie, how it is divided, and what it is estimated to cost.

The arithmetic and its proof are `sparse_icnet.sparse.winograd`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, Size
from sparse_icnet.operators.params import LINE, SCRATCH_BYTES
from sparse_icnet.operators.storage import VECTOR_PIXELS, Grid
from sparse_icnet.operators.winograd.params import WORK_BYTES
from sparse_icnet.sparse.winograd import ELEMENTS, OUTPUTS, SUM_LIMIT, TAPS, largest_sum
from sparse_icnet.target import TARGET

# A task keeps the sums of its output channels in the second-level cache, and its own elements if those fit.
LARGEST_SUMS, LARGEST_ELEMENTS = 160 << 10, 192 << 10
# What `estimated_cost` computes, in the names of `Filtering`.
COST = "vectors * (72 * groups * channels * product + groups * inputs + channels * outputs)"
COST_WORDS = "vectors of 16 tiles; groups of 4 input channels; output channels in whole fours"
MOST_GATHERED = 4096  # tiles, of a map whose pixels need a table


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """The tiles of the outputs of a convolution, 16 to a vector.

    phases    (vertical, horizontal) phases of tiles: those of the map over 4 each, or (1, 1) with `starts`
    starts    None: a vector is 16 neighbours of one grid row after the other, in 16 planes; else the first output (row,
              column) of each tile, int64 (tiles, 2)
    vectors   of one phase; at_once: of one task, whole register tiles
    """

    phases: Size
    starts: NDArray[np.int64] | None
    vectors: int
    at_once: int

    @property
    def blocks(self) -> int:
        """Tasks' worth of vectors in one phase."""
        return -(-self.vectors // self.at_once)

    @property
    def all_vectors(self) -> int:
        """What is computed: whole tasks of vectors, of all phases."""
        return math.prod(self.phases) * self.blocks * self.at_once


def tiling(op: Convolution, size: Size, phases: Size, grid: Grid, alone: bool) -> Tiling | None:
    """How `op` with outputs of `size` in `phases` can be tiled; None where (W1), (W2) or the layout do not allow it.

    alone  nothing is added to the outputs before they are rounded
    """
    dilation = op.dilation[0]
    suits = (
        op.weight.shape[2:] == (TAPS, TAPS)
        and op.stride == (1, 1)
        and op.dilation == (dilation, dilation)
        and op.padding[:2] == (dilation, dilation)
        and largest_sum(op.weight) < SUM_LIMIT
    )
    if not suits:
        return None
    if dilation == 1 and phases[0] % OUTPUTS == phases[1] % OUTPUTS == 0:
        tile_phases = (phases[0] // OUTPUTS, phases[1] // OUTPUTS)
        return Tiling(tile_phases, None, grid.vectors, _at_once(grid.vectors))
    if not alone:
        return None
    # Every dilation-th output belongs together, each such class is cut into tiles.
    rows, columns = (
        [
            first + dilation * OUTPUTS * i
            for first in range(min(dilation, n))
            for i in range(-(-len(range(first, n, dilation)) // OUTPUTS))
        ]
        for n in size
    )
    if len(rows) * len(columns) > MOST_GATHERED:
        return None
    starts = np.array([(y, x) for y in rows for x in columns], np.int64)
    vectors = -(-len(starts) // VECTOR_PIXELS)
    return Tiling((1, 1), starts, vectors, _at_once(vectors))


def _at_once(vectors: int) -> int:
    """Vectors of a task, whole register tiles: those of the fewest in vain, then the most, up to four."""
    choices = [n for n in range(1, 5) if any(n % width == 0 for width in TARGET.filtering.vectors)]
    return min(choices, key=lambda n: (-(-vectors // n) * n, -n))


def costs(op: Convolution, tiles: Tiling) -> tuple[int, int, int]:
    """How often each cost of `sparse_icnet.target.Filtering` counts: product, inputs, outputs."""
    outputs, inputs = 4 * -(-op.weight.shape[0] // 4), -(-op.weight.shape[1] // 4)
    vectors = tiles.all_vectors
    return vectors * ELEMENTS * 2 * inputs * outputs, vectors * inputs, vectors * outputs


def estimated_cost(op: Convolution, tiles: Tiling) -> float:
    """Estimated time, in units of a single block row x a vector of the first micro-kernel."""
    known = TARGET.filtering
    products, inputs, outputs = costs(op, tiles)
    return products * known.product + inputs * known.inputs + outputs * known.outputs


def element_bytes(vectors: int) -> int:
    """Bytes from one element to the next: an odd number of cache lines, so that elements share no few sets of a cache."""
    return (vectors | 1) * LINE


def groups_at_once(op: Convolution, tiles: Tiling, tasks: int) -> int:
    """Groups of output channels whose sums are kept at a time: few enough for the cache and for `tasks` tasks."""
    groups: int = -(-op.weight.shape[0] // 4)
    fitting = LARGEST_SUMS // (ELEMENTS * 4 * LINE * tiles.at_once)
    return max(1, min(fitting, groups * math.prod(tiles.phases) * tiles.blocks // tasks, groups))


def elements_bytes(op: Convolution, tiles: Tiling) -> int:
    """Bytes of the elements of one task's vectors."""
    return ELEMENTS * element_bytes(2 * -(-op.weight.shape[1] // 4) * tiles.at_once)


def own_elements(op: Convolution, tiles: Tiling, tasks: int) -> bool:
    """Whether each task transforms its own inputs."""
    return elements_bytes(op, tiles) <= LARGEST_ELEMENTS and math.prod(tiles.phases) * tiles.blocks >= tasks


def scratch_bytes(op: Convolution, tiles: Tiling, own: bool, groups: int) -> tuple[int, int]:
    """(byte offset of the sums in the scratch of a thread, bytes of scratch)."""
    sums = SCRATCH_BYTES + WORK_BYTES + (elements_bytes(op, tiles) if own else 0)
    return sums, sums + ELEMENTS * element_bytes(4 * groups * tiles.at_once)
