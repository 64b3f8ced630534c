"""Max and average pooling of real values."""

from __future__ import annotations

import numpy as np

from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_f32, get_i32, get_i64, put_f32
from sparse_icnet.simd.vectors import bits_to_f32, bits_to_i32, load_f32, load_i32, maximum, splat_f32, store


@jit
def real_max_pool(step, task, scratch):
    """One task: one phase of one channel, row by row; a tap outside the map gives -infinity."""
    phases, taps, rows, pitch = step.phases, step.taps, step.rows, step.pitch
    channel, phase = task // phases, task % phases
    source = step.source + channel * step.source_stride
    out = step.output.address + channel * step.output.stride + get_i64(step.output.planes + 8 * phase)
    table = step.table + 32 * taps * phase
    for y in range(rows):
        for first in range(0, pitch, 64):
            x = min(first, pitch - 64)  # rows without a gap end with a vector that overlaps the one before
            best = splat_f32(np.float32(-np.inf))
            for place in range(table, table + 32 * taps, 32):
                row = y + get_i64(place + 8)
                if 0 <= row < rows:
                    masks = step.masks + get_i64(place + 24) + x
                    value = load_f32(source + get_i64(place) + row * pitch + x + get_i64(place + 16))
                    bits = (bits_to_i32(value) & load_i32(masks)) | load_i32(masks + pitch)
                    best = maximum(bits_to_f32(bits), best)
            store(out + y * pitch + x, best)


@jit
def real_average_pool(step, task, scratch):
    """One task: one channel; of each row of bins first the sums of all columns, then those of the bins."""
    ky, kx, pitch, width = step.phases_y, step.phases_x, step.pitch, step.width
    rows, columns, planes = step.rows, step.columns, step.source.planes
    source = step.source.address + task * step.source.stride
    out = step.out + 4 * task * rows * columns
    across = step.windows + 8 * rows
    for i in range(rows):
        top, bottom = np.int64(get_i32(step.windows + 8 * i)), np.int64(get_i32(step.windows + 8 * i + 4))
        for y in range(top, bottom):
            for px in range(kx):
                place = source + get_i64(planes + 8 * (y % ky * kx + px)) + y // ky * pitch
                for x in range(width):
                    total = scratch + 4 * (x * kx + px)
                    value = get_f32(place + 4 * x)
                    put_f32(total, value if y == top else get_f32(total) + value)
        for j in range(columns):
            left, right = np.int64(get_i32(across + 8 * j)), np.int64(get_i32(across + 8 * j + 4))
            mean = get_f32(scratch + 4 * left)
            for x in range(left + 1, right):
                mean = mean + get_f32(scratch + 4 * x)
            multiplier = get_f32(step.multipliers + 4 * (i * columns + j))
            put_f32(out + 4 * (i * columns + j), mean * multiplier)
