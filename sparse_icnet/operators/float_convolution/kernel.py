"""Convolution of float32: a tile of sums of four output channels in registers, (Q12) weight by weight.

The blocks of a group of four output channels are a list; where each reads is a byte offset that the plan computed.  The
loop is P loads, four broadcasts, 4 * P multiplications and 4 * P additions, in the order of (Q12), never fused.
"""

from __future__ import annotations

import numpy as np

from sparse_icnet.operators.epilogue import finish_real
from sparse_icnet.operators.float_convolution.params import VECTORS
from sparse_icnet.operators.params import TILE_ROW_BYTES
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.real_tiles import real_add_products, real_scale, real_zero
from sparse_icnet.simd.scalars import get_i32, get_i64
from sparse_icnet.simd.tiles import tile_store


@jit
def float_convolution(step, task, scratch):
    """One task: a tile of vectors of one phase, for a range of groups of four output channels.

    The tile of the last vectors of a plane computes more than there are, and stores those that there are.
    """
    chunks, phases = step.chunks, step.phases
    phase = (task // chunks) % phases
    first = task // (chunks * phases) * step.groups_per_task
    last = min(first + step.groups_per_task, step.groups)
    start = task % chunks * VECTORS
    values, offsets = step.source + 64 * start, step.offsets + phase * step.offsets_phase
    output = step.output
    stride = output.map.stride * (4 if output.real else 1)  # of four channels
    out = output.map.address + get_i64(output.map.planes + 8 * phase) + 64 * start
    for group in range(first, last):
        place = step.indptr + 4 * group
        tile = real_zero(4, VECTORS)
        for j in range(np.int64(get_i32(place)), np.int64(get_i32(place + 4))):
            tile = real_add_products(tile, values + get_i32(offsets + 4 * j), step.weights + 16 * j)
        tile_store(scratch, TILE_ROW_BYTES, real_scale(tile, step.multiplier, step.biases + 16 * group))
        count = np.int64(min(VECTORS, step.vectors - start))
        finish_real(output, phase, start, count, scratch, out + stride * group)
