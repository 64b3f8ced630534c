"""Where the tiles of a Winograd convolution lie, how its weights are packed, and what it is estimated to cost.

The kernels are `sparse_icnet.kernels.winograd`, the arithmetic and its proof `sparse_icnet.sparse.winograd`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels.sizes import LINE, SCRATCH_BYTES, WINOGRAD_WORK_BYTES
from sparse_icnet.network.graph import Convolution, Size
from sparse_icnet.runtime.layout import VECTOR_PIXELS, Buffer, Grid, Piece, View
from sparse_icnet.runtime.steps import int32_table
from sparse_icnet.sparse.winograd import ELEMENTS, INPUTS, OUTPUTS, SUM_LIMIT, TAPS, largest_sum, transformed
from sparse_icnet.target import TARGET

# A task keeps the sums of its output channels in the second-level cache, and its own transformed inputs if those fit.
LARGEST_SUMS, LARGEST_WORDS = 160 << 10, 192 << 10
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


class Words(Buffer):
    """Memory of transformed inputs between the step that writes and the step that reads them."""

    def __init__(self, name: str, size: int, grid: Grid) -> None:
        super().__init__(name, 0, (0, 0), None, grid)
        self.size = size

    @property
    def bytes(self) -> int:
        return self.size

    def place(self, memory: NDArray[np.uint8], keep: bool) -> None:
        self.memory = Piece(memory, False)
        self.address = memory.ctypes.data


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


def pack_weights(op: Convolution, at_once: int) -> NDArray[np.int32]:
    """Words of two int16 as the kernel reads them: [output groups at once][element][group][pair][4 output channels].

    Pair 2 g + h of input channels holds channels 4 g + h and 4 g + h + 2, as the bytes of a lane are taken apart.
    """
    outputs, inputs = op.weight.shape[:2]
    padded = np.pad(op.weight, ((0, -outputs % 4), (0, -inputs % 4), (0, 0), (0, 0)))
    groups = padded.shape[0] // 4
    # Channels are put in order before the transform, while there are nine numbers of each filter: (groups, 4 outputs,
    # input groups, 2 of a pair, 2 pairs, taps) -> taps outermost, outputs innermost, a pair in one word.
    taps = padded.reshape(groups, 4, -1, 2, 2, TAPS, TAPS).transpose(5, 6, 0, 2, 4, 1, 3)
    words = transformed(np.ascontiguousarray(taps)).reshape(ELEMENTS, -1).view(np.int32)
    words = words.reshape(ELEMENTS, groups, -1)
    return np.concatenate([words[:, i : i + at_once].reshape(-1) for i in range(0, groups, at_once)])


def weight_bytes(op: Convolution) -> int:
    """Bytes of `pack_weights(op, ...)`."""
    outputs, inputs = (n + -n % 4 for n in op.weight.shape[:2])
    return 2 * ELEMENTS * outputs * inputs


def groups_at_once(op: Convolution, tiles: Tiling, tasks: int) -> int:
    """Groups of output channels whose sums are kept at a time: few enough for the cache and for `tasks` tasks."""
    groups = -(-op.weight.shape[0] // 4)
    fitting = LARGEST_SUMS // (ELEMENTS * 4 * LINE * tiles.at_once)
    return max(1, min(fitting, groups * math.prod(tiles.phases) * tiles.blocks // tasks, groups))


def words_bytes(op: Convolution, tiles: Tiling) -> int:
    """Bytes of the transformed inputs of one task's vectors."""
    return ELEMENTS * element_bytes(2 * -(-op.weight.shape[1] // 4) * tiles.at_once)


def own_inputs(op: Convolution, tiles: Tiling, tasks: int) -> bool:
    """Whether each task transforms its own inputs."""
    return words_bytes(op, tiles) <= LARGEST_WORDS and math.prod(tiles.phases) * tiles.blocks >= tasks


def scratch_bytes(op: Convolution, tiles: Tiling, own: bool, groups: int) -> tuple[int, int]:
    """(byte offset of the sums in the scratch of a thread, bytes of scratch)."""
    sums = SCRATCH_BYTES + WINOGRAD_WORK_BYTES + (words_bytes(op, tiles) if own else 0)
    return sums, sums + ELEMENTS * element_bytes(4 * groups * tiles.at_once)


def gathered(
    op: Convolution, tiles: Tiling, size: Size, source: View, target: View
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tables of a tiling with `starts`: int32 (ELEMENTS, lanes) and (OUTPUTS**2, lanes) byte offsets.

    Of the pixel of each tile in the input, within a group of channels: the row of padding above the first plane where
    there is none.  And in the output: -1 where there is none.  Lanes: those of whole tasks.
    """
    dilation = op.dilation[0]
    lanes = tiles.blocks * tiles.at_once * VECTOR_PIXELS
    starts = np.full((lanes, 2), -1, np.int64)
    starts[: len(tiles.starts)] = tiles.starts
    used = starts[:, :1] >= 0
    padding = int(source.planes[0, 0])
    outside = source.buffer.plane_offset(padding) - source.buffer.grid.pitch
    inputs = _pixels(source, size, starts, dilation * (np.arange(INPUTS) - 1), used, outside)
    outputs = _pixels(target, size, starts, dilation * np.arange(OUTPUTS), used, -1)
    what = f"convolution {op.name!r}"
    return int32_table(inputs, what), int32_table(outputs, what)


def _pixels(
    view: View, size: Size, starts: NDArray[np.int64], steps: NDArray[np.int64], used: NDArray, outside: int
) -> NDArray[np.int64]:
    """int64 (steps * steps, lanes): byte offset of the pixel start + (step, step) of each lane, or `outside`."""
    grid, phases = view.buffer.grid, view.phases
    at = [starts[None, :, axis] + steps[:, None] for axis in (0, 1)]  # (steps, lanes)
    inside = [(x >= 0) & (x < n) & used[:, 0] for x, n in zip(at, size, strict=True)]
    rows, columns = (np.where(ok, x, 0) for x, ok in zip(at, inside, strict=True))
    rows, columns = rows[:, None], columns[None, :]
    offsets = np.array([view.buffer.plane_offset(p) for p in range(view.buffer.planes)], np.int64)
    planes = offsets[view.planes[rows % phases[0], columns % phases[1]]]
    pixels = planes + rows // phases[0] * grid.pitch + columns // phases[1] * 4
    result = np.where(inside[0][:, None] & inside[1][None, :], pixels, outside)
    return result.reshape(len(steps) ** 2, -1)
