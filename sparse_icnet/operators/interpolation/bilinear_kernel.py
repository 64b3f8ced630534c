"""Probabilities at full size: the softmax (Q8) of logits that a bilinear upsampling (Q11) enlarges."""

from __future__ import annotations

import numpy as np

from sparse_icnet.operators.interpolation.params import AT_ONCE, VECTOR_SLACK, line_bytes
from sparse_icnet.operators.output.kernel import exp
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import fence, get_f32, get_i32, get_i64, put_f32
from sparse_icnet.simd.vectors import load_f32, maximum, splat_f32, store, store_streaming

_line_bytes = jit(line_bytes)
_ROW = 4 * (AT_ONCE + VECTOR_SLACK)  # bytes of the pixels of one class


@jit
def _gather(step, row, target, line):
    """One row of grid points of all classes, float32 (C, width), to rows `line` bytes apart."""
    width, stride = step.points.width, step.points.stride
    source, points = step.points.address, step.points.offsets + 4 * row * width
    for _ in range(step.points.channels):
        for x in range(width):
            put_f32(target + 4 * x, get_f32(source + get_i32(points + 4 * x)))
        source += stride
        target += line


@jit
def _spread(step, lines, line, cell, first, last, pixels):
    """Pixels first .. last of a row of each class, at most AT_ONCE: interpolated between its grid points at `lines`.

    cell  in which pixel `first` lies; a vector that is longer than its cell is overwritten by the next
    """
    columns, starts = step.stretch.column_weights, step.stretch.column_starts
    far = columns + 4 * (step.stretch.width + VECTOR_SLACK)
    points = step.points.width
    for _ in range(step.points.channels):
        x, k = first, cell
        while x < last:
            end = min(get_i64(starts + 8 * k + 8), last)
            if x < end:
                left = splat_f32(get_f32(lines + 4 * k))
                right = splat_f32(get_f32(lines + 4 * min(k + 1, points - 1)))
                for at in range(x, end, 16):
                    value = load_f32(columns + 4 * at) * left + load_f32(far + 4 * at) * right
                    store(pixels + 4 * (at - first), value)
                x = end
            k += 1
        lines += line
        pixels += _ROW


@jit
def _normalize(channels, count, pixels):
    """The probabilities of `count` pixels in place of their logits."""
    for place in range(pixels, pixels + 4 * count, 64):
        largest = load_f32(place)
        for c in range(1, channels):
            largest = maximum(load_f32(place + c * _ROW), largest)
        total = exp(load_f32(place) - largest)
        store(place, total)
        for c in range(1, channels):
            e = exp(load_f32(place + c * _ROW) - largest)
            store(place + c * _ROW, e)
            total = total + e
        inverse = splat_f32(np.float32(1)) / total
        for c in range(channels):
            store(place + c * _ROW, load_f32(place + c * _ROW) * inverse)


@jit
def _write(channels, count, pixels, out, plane):
    """Rows of `count` pixels of each class to `out`, `plane` bytes apart; past the caches where they are whole lines."""
    streams = count % 16 == 0 and out % 64 == 0 and plane % 64 == 0
    for _ in range(channels):
        if streams:
            for x in range(0, 4 * count, 64):
                store_streaming(out + x, load_f32(pixels + x))
        elif count >= 16:
            for first in range(0, 4 * count, 64):
                x = min(first, 4 * count - 64)
                store(out + x, load_f32(pixels + x))
        else:
            for x in range(0, 4 * count, 4):
                put_f32(out + x, get_f32(pixels + x))
        pixels += _ROW
        out += plane


@jit
def bilinear_softmax(step, task, scratch):
    """One task: the pixels of one row of cells, from the logits to their probabilities."""
    first_row = get_i64(step.stretch.row_starts + 8 * task)
    last_row = get_i64(step.stretch.row_starts + 8 * task + 8)
    if first_row == last_row:
        return
    channels, starts = step.points.channels, step.stretch.column_starts
    height, width = step.stretch.height, step.stretch.width
    rows = step.stretch.row_weights
    far_rows = rows + 4 * (height + VECTOR_SLACK)
    line = _line_bytes(step.points.width)
    upper, lower, between = scratch, scratch + channels * line, scratch + 2 * channels * line
    pixels = scratch + 3 * channels * line
    _gather(step, task, upper, line)
    _gather(step, min(task + 1, step.points.height - 1), lower, line)
    for y in range(first_row, last_row):
        near, far = splat_f32(get_f32(rows + 4 * y)), splat_f32(get_f32(far_rows + 4 * y))
        for at in range(0, channels * line, 64):
            store(between + at, near * load_f32(upper + at) + far * load_f32(lower + at))
        cell = 0
        for first in range(0, width, AT_ONCE):
            last = min(first + AT_ONCE, width)
            while get_i64(starts + 8 * cell + 8) <= first:
                cell += 1
            _spread(step, between, line, cell, first, last, pixels)
            _normalize(channels, last - first, pixels)
            out = step.out + 4 * (y * width + first)
            _write(channels, last - first, pixels, out, 4 * height * width)
    fence()
