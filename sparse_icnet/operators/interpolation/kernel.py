"""Class maps of any size by bilinear interpolation of the logits, equation (Q11).

Neighbouring cells of the grid whose corners agree on one class are filled with it, row by row.  In another cell only the
classes that are not beaten are interpolated: at the left and the right edge of each row of pixels first, then 16 pixels at
a time between them.  Pixels are written as whole vectors where the picture has room: what is too much the next cells of
the same rows overwrite.
"""

from __future__ import annotations

import numpy as np

from sparse_icnet.operators.interpolation.params import VECTOR_SLACK
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_f32, get_i32, get_i64, get_u8, put_f32, put_i32, put_u8
from sparse_icnet.simd.vectors import load_f32, maximum, splat_f32, splat_i32, store, store_u8, where_greater


@jit
def _fill(place, columns, room, rows, pitch, value):
    """`rows` rows of `columns` bytes `value`, `pitch` bytes apart; `room` bytes of each may be written."""
    filled = splat_i32(np.int32(value * 0x01010101))
    for _ in range(rows):
        if columns >= 64:
            for at in range(0, columns, 64):
                store(place + min(at, columns - 64), filled)
        elif room >= 64:
            store(place, filled)
        else:
            for at in range(columns):
                put_u8(place + at, np.uint8(value))
        place += pitch


@jit
def _beats(values, c, d):
    """Whether class c beats class d at all four corners."""
    p, q = values + 16 * c, values + 16 * d
    if c < d:
        return (
            (get_f32(p) >= get_f32(q))
            & (get_f32(p + 4) >= get_f32(q + 4))
            & (get_f32(p + 8) >= get_f32(q + 8))
            & (get_f32(p + 12) >= get_f32(q + 12))
        )
    return (
        (get_f32(p) > get_f32(q))
        & (get_f32(p + 4) > get_f32(q + 4))
        & (get_f32(p + 8) > get_f32(q + 8))
        & (get_f32(p + 12) > get_f32(q + 12))
    )


@jit
def _corners(step, upper, lower, left, right, values):
    """The logits of the corners of a cell, float32 (C, 4) at `values`: upper left, upper right, lower left, lower right."""
    stride, source, points = step.points.stride, step.points.address, step.points.offsets
    a, b = get_i32(points + 4 * (upper + left)), get_i32(points + 4 * (upper + right))
    c, d = get_i32(points + 4 * (lower + left)), get_i32(points + 4 * (lower + right))
    for _ in range(step.points.channels):
        put_f32(values, get_f32(source + a))
        put_f32(values + 4, get_f32(source + b))
        put_f32(values + 8, get_f32(source + c))
        put_f32(values + 12, get_f32(source + d))
        source += stride
        values += 16


@jit
def _pick(step, upper, lower, left, right, values, picked):
    """The classes that are not beaten in a cell, ascending int32 at `picked`; how many."""
    classes, channels, count = step.classes, step.points.channels, 0
    a, b = np.int64(get_u8(classes + upper + left)), np.int64(get_u8(classes + upper + right))
    c, d = np.int64(get_u8(classes + lower + left)), np.int64(get_u8(classes + lower + right))
    for one in range(channels):
        beaten = _beats(values, a, one)
        if b != a:
            beaten |= _beats(values, b, one)
        if c != a:
            beaten |= _beats(values, c, one)
        if d != b:
            beaten |= _beats(values, d, one)
        put_i32(picked + 4 * count, np.int32(one))
        count += 0 if beaten else 1
    return count


@jit
def _interpolate(step, values, picked, count, lines, spare, first_row, last_row, first, last):
    """The classes of the pixels of a cell."""
    rows, columns = step.stretch.row_weights, step.stretch.column_weights
    height, width = step.stretch.height, step.stretch.width
    far_rows, far_columns = rows + 4 * (height + VECTOR_SLACK), columns + 4 * (width + VECTOR_SLACK)
    out = step.out + first_row * width
    for y in range(first_row, last_row):
        near, far = get_f32(rows + 4 * y), get_f32(far_rows + 4 * y)
        for i in range(count):
            corner = values + 16 * np.int64(get_i32(picked + 4 * i))
            put_f32(lines + 8 * i, near * get_f32(corner) + far * get_f32(corner + 8))
            put_f32(lines + 8 * i + 4, near * get_f32(corner + 4) + far * get_f32(corner + 12))
        for x in range(first, last, 16):
            left, right = load_f32(columns + 4 * x), load_f32(far_columns + 4 * x)
            best = left * splat_f32(get_f32(lines)) + right * splat_f32(get_f32(lines + 4))
            classes = splat_i32(get_i32(picked))
            for i in range(1, count):
                value = left * splat_f32(get_f32(lines + 8 * i)) + right * splat_f32(
                    get_f32(lines + 8 * i + 4)
                )
                classes = where_greater(value, best, splat_i32(get_i32(picked + 4 * i)), classes)
                best = maximum(value, best)
            if x + 16 <= width:
                store_u8(out + x, classes)
            else:
                store_u8(spare, classes)
                for i in range(last - x):
                    put_u8(out + x + i, get_u8(spare + i))
        out += width


@jit
def smooth_classes(step, task, scratch):
    """One task: the pixels of one row of cells, from the logits to the class of each pixel."""
    height, width, channels = step.points.height, step.points.width, step.points.channels
    first_row = get_i64(step.stretch.row_starts + 8 * task)
    last_row = get_i64(step.stretch.row_starts + 8 * task + 8)
    if first_row == last_row:
        return
    starts, classes, out_width = (
        step.stretch.column_starts,
        step.classes,
        step.stretch.width,
    )
    out = step.out + first_row * out_width
    values, lines = scratch, scratch + 16 * channels
    picked, spare = lines + 8 * channels, lines + 12 * channels
    upper, lower = task * width, min(task + 1, height - 1) * width
    # Numba would compile anew what takes a literal.
    cells, x = max(width - 1, 1), np.int64(0)
    while x < cells:
        right, end = min(x + 1, width - 1), x + 1
        one = get_u8(classes + upper + x)
        agree = (
            (one == get_u8(classes + upper + right))
            & (one == get_u8(classes + lower + x))
            & (one == get_u8(classes + lower + right))
        )
        while (
            agree
            and end < cells
            and get_u8(classes + upper + end + 1) == one
            and get_u8(classes + lower + end + 1) == one
        ):
            end += 1
        first, last = get_i64(starts + 8 * x), get_i64(starts + 8 * end)
        if first < last:
            if agree:
                _fill(
                    out + first,
                    last - first,
                    out_width - first,
                    last_row - first_row,
                    out_width,
                    np.int64(one),
                )
            else:
                _corners(step, upper, lower, x, right, values)
                count = _pick(step, upper, lower, x, right, values, picked)
                _interpolate(step, values, picked, count, lines, spare, first_row, last_row, first, last)
        x = end
