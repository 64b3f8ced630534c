"""What the planner must know of the kernels beside the fields of a step.  Does not import Numba."""

from __future__ import annotations

from sparse_icnet.kernels.fields import MAGIC_BITS

MAX_BINS = 16  # rows or columns of bins in a pyramid stage
MAX_STAGES = 8
# One stage of a pyramid in its table, float32 or int32 words: bin rows, bin columns, byte offset in the table of its
# multipliers (float32 for each bin) and counts (int32 for each bin), (flag, low, high, scale) of the quantizer on the
# pooled value and of the quantizer on the running sum, and whether the finest bins divide its bins.
STAGE_WORDS = 12


def average_pool_scratch_bytes(rows: int, columns: int) -> int:
    """Scratch of one thread for an average pool of rows x columns bins."""
    return 32 * rows * columns


def pyramid_scratch_bytes(pitch: int, bin_rows: int) -> int:
    """Scratch of one thread for a pyramid with `bin_rows` rows of bins in all stages together; pitch in bytes."""
    return (32 + 32 + 16) * MAX_BINS * MAX_BINS + 4 * bin_rows * pitch + 64


def pack_constant(stored_zero: int) -> int:
    """int32: what to subtract from four packed sums (`epilogue.pack`) so that each byte holds n + stored_zero."""
    ones = 0x01010101
    value = (int(MAGIC_BITS) * ones - stored_zero * ones) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
