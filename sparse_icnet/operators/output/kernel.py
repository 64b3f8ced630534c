"""The end of the network: softmax or argmax over the channels, and the upsampling of the result."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.network.arithmetic import EXP_LOWEST, EXP_POLYNOMIAL, LN2_HIGH, LN2_LOW, LOG2_E
from sparse_icnet.operators.epilogue import MAGIC
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import fence, get_f32, get_i32, get_i64, put_f32, put_u8
from sparse_icnet.simd.vectors import (
    bits_to_f32,
    bits_to_i32,
    load_f32,
    maximum,
    splat_f32,
    splat_i32,
    store,
    store_streaming,
)

_C0, _C1, _C2, _C3, _C4, _C5 = EXP_POLYNOMIAL


@njit(inline="always")
def exp(x):
    """exp of (Q8), 16 lanes, x <= 0: the same operations in the same order as `arithmetic.exp`."""
    x = maximum(x, splat_f32(EXP_LOWEST))
    shifted = x * splat_f32(LOG2_E) + splat_f32(MAGIC)
    k = shifted - splat_f32(MAGIC)
    r = (x - k * splat_f32(LN2_HIGH)) - k * splat_f32(LN2_LOW)
    p = splat_f32(_C0) * r + splat_f32(_C1)
    p = p * r + splat_f32(_C2)
    p = p * r + splat_f32(_C3)
    p = p * r + splat_f32(_C4)
    p = p * r + splat_f32(_C5)
    p = (p * (r * r) + r) + splat_f32(np.float32(1))
    # The low bits of `shifted` hold k: as an exponent it is (k + 127) << 23.
    exponent = (bits_to_i32(shifted) - bits_to_i32(splat_f32(MAGIC))) + splat_i32(np.int32(127))
    return p * bits_to_f32(exponent << splat_i32(np.int32(23)))


@jit
def softmax(step, task, scratch):
    """One task: one phase.  Real map of logits -> probabilities float32, (C, phases, plane) as `upsample` reads them."""
    channels, stride = step.channels, step.logits.stride
    logits = step.logits.address + get_i64(step.logits.planes + 8 * task)
    vectors, out_stride = step.vectors, step.out_stride
    out = step.out + task * 64 * vectors
    for p in range(vectors):
        place = logits + 64 * p
        largest = load_f32(place)
        for c in range(1, channels):
            largest = maximum(load_f32(place + c * stride), largest)
        total = exp(load_f32(place) - largest)
        store(scratch, total)
        for c in range(1, channels):
            e = exp(load_f32(place + c * stride) - largest)
            store(scratch + 64 * c, e)
            total = total + e
        inverse = splat_f32(np.float32(1)) / total
        for c in range(channels):
            store(out + c * out_stride + 64 * p, load_f32(scratch + 64 * c) * inverse)


@jit
def argmax(step, task, scratch):
    """One task: one phase.  Real map of logits -> class indices u8 (H, W) in scan order, the lowest among equals."""
    channels, stride = step.channels, step.logits.stride
    logits = step.logits.address + get_i64(step.logits.planes + 8 * task)
    ky, kx = step.phases_y, step.phases_x
    width, pitch = step.width, step.pitch
    for y in range(step.height // ky):
        out = step.out + (y * ky + task // kx) * width + task % kx
        for x in range(width // kx):
            place = logits + y * pitch + 4 * x
            best, best_class = get_f32(place), 0
            for c in range(1, channels):
                value = get_f32(place + c * stride)
                if value > best:
                    best, best_class = value, c
            put_u8(out + x * kx, np.uint8(best_class))


@jit
def upsample(step, task, scratch):
    """One task: some rows of the small maps, float32 (C, phases, plane) -> (C, H, W) in scan order (Q7).

    The result is written past the caches: it is far larger than they are and nobody reads it soon.
    """
    ky, kx, width = step.enlarged_y, step.enlarged_x, step.width
    height, count = step.height, step.rows_per_task
    phases_x, phases, plane = step.phases_x, step.phases, 64 * step.vectors
    phases_y = phases // phases_x
    row = 4 * width * kx
    for index in range(task * count, min((task + 1) * count, step.channels * height)):
        channel, y = index // height, index % height
        source = step.source + channel * step.source_stride
        source += y % phases_y * phases_x * plane + y // phases_y * step.pitch
        # Each pixel is written as whole vectors of 16; what is too much the next pixel overwrites.
        place = scratch
        for x in range(width // phases_x):
            for phase in range(phases_x):
                value = splat_f32(get_f32(source + phase * plane + 4 * x))
                for i in range(0, kx, 16):
                    store(place + 4 * i, value)
                place += 4 * kx
        out = step.out + index * ky * row
        if row % 64 == 0 and out % 64 == 0:
            for _ in range(ky):
                for x in range(0, row, 64):
                    store_streaming(out + x, load_f32(scratch + x))
                out += row
        elif row >= 64:
            for _ in range(ky):
                for first in range(0, row, 64):
                    x = min(first, row - 64)
                    store(out + x, load_f32(scratch + x))
                out += row
        else:
            for _ in range(ky):
                for x in range(0, row, 4):
                    put_f32(out + x, get_f32(scratch + x))
                out += row
    fence()


@jit
def logits(step, task, scratch):
    """One task: one channel of a real map -> float32 (C, height, width) in scan order."""
    points = step.points
    count, offsets = points.height * points.width, points.offsets
    source = points.address + task * points.stride
    out = step.out + 4 * task * count
    for i in range(count):
        put_f32(out + 4 * i, get_f32(source + get_i32(offsets + 4 * i)))
