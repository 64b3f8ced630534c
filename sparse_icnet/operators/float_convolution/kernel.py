"""Convolution of float32: each output channel is a tile of float32 sums in registers, (Q12) weight by weight.

The weights that are not 0 of an output channel are a list; where each reads is a byte offset that the plan computed.  The
loop is P loads, a broadcast, P multiplications and P additions, in the order of (Q12), never fused.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.operators.epilogue import pack
from sparse_icnet.operators.float_convolution.params import ROW_BYTES, VECTORS
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.real_tiles import real_add_products, real_scale, real_zero
from sparse_icnet.simd.scalars import get_f32, get_i32, get_i64
from sparse_icnet.simd.tiles import tile_store
from sparse_icnet.simd.vectors import load_f32, maximum, splat_f32, splat_i32, store


@njit(inline="always")
def _channel(step, channel, values, offsets, scratch):
    """One output channel of a tile, in the unit of the result, to scratch."""
    place, weights = step.indptr + 4 * channel, step.weights
    tile = real_zero(VECTORS)
    for j in range(np.int64(get_i32(place)), np.int64(get_i32(place + 4))):
        tile = real_add_products(tile, values + get_i32(offsets + 4 * j), get_f32(weights + 4 * j))
    tile = real_scale(tile, step.multiplier, get_f32(step.biases + 4 * channel))
    tile_store(scratch, np.int64(ROW_BYTES), tile)


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
    count = min(VECTORS, step.vectors - start)
    values, offsets = step.source + 64 * start, step.offsets + phase * step.offsets_phase
    output = step.output
    stride = output.map.stride  # of one channel if real, of four channels if codes
    out = output.map.address + get_i64(output.map.planes + 8 * phase) + 64 * start
    low, high = splat_f32(output.rounding.low), splat_f32(output.rounding.high)
    constant, nothing = splat_i32(np.int32(output.rounding.pack)), splat_f32(np.float32(0))
    for group in range(first, last):
        for r in range(4):
            _channel(step, 4 * group + r, values, offsets, scratch + ROW_BYTES * r)
        if output.real:
            for r in range(4):
                place = out + (4 * group + r) * stride
                for p in range(0, 64 * count, 64):
                    x = load_f32(scratch + ROW_BYTES * r + p)
                    store(place + p, maximum(x, nothing) if output.relu else x)
        else:
            for p in range(0, 64 * count, 64):
                a, b = load_f32(scratch + p), load_f32(scratch + ROW_BYTES + p)
                c, d = load_f32(scratch + 2 * ROW_BYTES + p), load_f32(scratch + 3 * ROW_BYTES + p)
                store(out + group * stride + p, pack(a, b, c, d, low, high, constant))
