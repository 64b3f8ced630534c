"""A step of a plan is one row of int64: what its kernel reads, by name.

The plan writes these rows, the kernels read them; addresses are bytes, strides are bytes, float32 values are
stored as their bits.  Terms: a *map* is a tensor stored as described in `sparse_icnet.runtime.layout`, a *phase* one
of its interleaved planes, a *plane table* int64 byte offsets, one for each phase, a *group* four channels.
"""

from __future__ import annotations

from enum import IntEnum

from sparse_icnet.network.arithmetic import ROUNDING

ROW_FIELDS = 70


class Kind(IntEnum):
    """Which kernel runs the step."""

    CONVOLUTION = 0
    SHIFT = 1
    MAX_POOL = 2
    PYRAMID = 3
    COMBINE = 4
    QUANTIZE_IMAGE = 5
    QUANTIZE_BLOB = 6
    SOFTMAX = 7
    ARGMAX = 8
    UPSAMPLE = 9
    AVERAGE_POOL = 10
    EXPAND = 11
    WINOGRAD = 12
    WINOGRAD_INPUT = 13
    SMOOTH_CLASSES = 14
    LOGITS = 15
    BILINEAR_SOFTMAX = 16


# Every step.  GRAIN: tasks that a thread takes at once
KIND, TASKS, GRAIN = 0, 1, 54
# The output and the geometry of its planes: most kernels
OUT, OUT_GROUP, OUT_PLANES, PHASES, VECTORS, PITCH = 2, 3, 4, 5, 6, 7
# Quantizer of the output: bounds of n = code - zero_point as float32 bits, and the stored code of n = 0 as two int16
OUT_REAL, LOW, HIGH, PACK = 8, 9, 10, 11
# First and second operand
IN, IN_GROUP, IN_PLANES = 12, 13, 14
RESIDUAL, RESIDUAL_KIND, RESIDUAL_GROUP, RESIDUAL_PLANES, RESIDUAL_SCALE, RESIDUAL_ZERO = (
    15,
    16,
    17,
    18,
    19,
    20,
)
RELU = 21
IN_KIND, IN_SCALE, IN_ZERO = 22, 23, 24
# Convolution
OFFSETS, OFFSETS_PHASE, INDPTR, WEIGHTS, INITIAL, MULTIPLIER, BIAS = 25, 26, 27, 28, 29, 30, 31
GROUPS, GROUPS_PER_TASK, STRETCHES, KERNEL, TILE_VECTORS, TAIL_KERNEL, COPIES = 32, 33, 34, 35, 48, 49, 50
TASK_VECTORS = 51  # of each task, in tiles of TILE_VECTORS
# Whether codes are n clipped to 0..255, and every real value is below 2**31: saturating instructions do the clip
DIRECT = 52
# Padding that the step writes around its output: 0, or the address of a table as `elementwise.pad` reads it
PADDING, PADDING_VALUE = 53, 55
INNER, INNER_LOW, INNER_HIGH, INNER_SCALE = 36, 37, 38, 39
# Winograd: address of the transformed inputs (0: made in scratch), bytes from one element to the next of these and of the
# sums of products, byte offset of the sums in scratch; bytes from one element to the next in the tables of pixels that
# lie apart (0: they do not), address of the table of outputs
WORDS, WORDS_ELEMENT, SUMS_ELEMENT, SUMS, GATHER, SCATTER, IN_GROUPS = 56, 57, 58, 59, 60, 61, 62
# Bilinear upsampling: address of the class map of the grid; size of the picture; of the pixels along each axis the address
# of int64 (cells + 1,), the first pixel of each cell, and of float32 weights: near, and behind VECTOR_SLACK more, far
CLASSES, OUT_HEIGHT, OUT_WIDTH, ROW_STARTS, ROW_WEIGHTS, COLUMN_STARTS, COLUMN_WEIGHTS = range(63, 70)
# Others
HEIGHT, WIDTH, CHANNELS, TABLE, COUNT, STEP_Y, STEP_X, EXTRA = 40, 41, 42, 43, 44, 45, 46, 47

# Kinds of operand: FUSED is a convolution computed tile by tile into the scratch memory of the thread
NONE, CODES, REAL, FUSED = 0, 1, 2, 3

MAGIC = ROUNDING
