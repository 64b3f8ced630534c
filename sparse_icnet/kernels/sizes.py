"""What the planner must know of the kernels beside the fields of a step.  Does not import Numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.target import TARGET

MAX_BINS = 16  # rows or columns of bins in a pyramid stage
MAX_STAGES = 8
# One stage of a pyramid in its table, float32 or int32 words: bin rows, bin columns, byte offset in the table of its
# multipliers (float32 for each bin), counts (int32 for each bin) and windows, (flag, low, high, scale) of the quantizer
# on the pooled value and of the quantizer on the running sum, whether the finest bins divide its bins, and the byte
# offset of the first columns int32 (bin columns + 1,) of what each bin is spread to (Q7).
STAGE_WORDS = 13
LINE = 64  # bytes of a cache line
SYNC_BYTES = 2 * LINE  # of the counters of a step: tasks taken, tasks complete
CELL = 64  # bytes of the sums of one bin: a vector, of which four lanes count

# Scratch of one thread: a tile on its way out, then the tile of a fused residual convolution; rows of real values or of
# pairs lie TILE_ROW_BYTES apart.
TILE_ROW_BYTES = 64 * max(kernel.vectors for kernel in TARGET.kernels)
TILE_BYTES = 4 * TILE_ROW_BYTES
SCRATCH_BYTES = 2 * TILE_BYTES
# Scratch for a tile of Winograd's filtering on its way through a transform: 36 words of codes, then twice as many pairs.
WINOGRAD_WORK_BYTES = 64 * 3 * 36


def line_bytes(size: int) -> int:
    """Bytes of a line of `size` bytes and of a vector behind it, whole cache lines."""
    return (size + 127) // 64 * 64


def average_pool_scratch_bytes(pitch: int, rows: int, columns: int) -> int:
    """Scratch of one thread for the sums of rows x columns bins; pitch in bytes."""
    return line_bytes(4 * pitch) * rows + CELL * rows * columns


def pyramid_line_offsets(pitch: int, height: int, bin_rows: list[int]) -> NDArray[np.int64]:
    """OFFSETS of a pyramid whose stages have `bin_rows` rows of bins: (height, stages), for a table of int32."""
    y, lines = np.arange(height)[:, None], np.array([0, *bin_rows])
    above = np.cumsum(lines)[:-1]  # rows of bins of the stages before
    return 4 * line_bytes(pitch) * (above + y * lines[1:] // height)


def pyramid_scratch_bytes(pitch: int, bin_rows: int) -> int:
    """Scratch of one thread for a pyramid with `bin_rows` rows of bins in all stages together; pitch in bytes."""
    return average_pool_scratch_bytes(pitch, MAX_BINS, 2 * MAX_BINS) + 4 * bin_rows * line_bytes(pitch)


def quantize_scratch_bytes(width: int, phases: int) -> int:
    """Scratch of one thread for rows of `width` pixels in `phases` phases, at least 16 columns of them."""
    return 4 * max(width, 16 * phases) + 64


VECTOR_SLACK = (
    16  # float32 behind a table of weights of pixels: the last vector of weights may run past its end
)


def smooth_scratch_bytes(channels: int) -> int:
    """Scratch of one thread for one cell: of each class four corners, two ends of a row and its number; and a vector."""
    return (16 + 8 + 4) * channels + 64


AT_ONCE = 256  # pixels of a row whose probabilities are computed at a time


def bilinear_line_bytes(width: int) -> int:
    """Bytes of a row of `width` grid points of one class, whole vectors."""
    return (width + 15) // 16 * 64


def bilinear_scratch_bytes(channels: int, width: int) -> int:
    """Scratch of one thread for probabilities of interpolated logits: two rows of the grid, one between, pixels."""
    return channels * (3 * bilinear_line_bytes(width) + 4 * (AT_ONCE + VECTOR_SLACK))


def pack_constant(stored_zero: int) -> int:
    """int32: the stored code of 0 as a pair of int16, which `epilogue.pack` adds to the rounded values."""
    return stored_zero * 0x00010001
