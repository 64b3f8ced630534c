"""Work without multiplication tables: sums of two maps, requantization, spreading of small maps, shifted copies."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.epilogue import pack
from sparse_icnet.kernels.jit import jit
from sparse_icnet.kernels.step import field, field_f32
from sparse_icnet.simd.scalars import get_f32, get_i64, put_f32, put_i32
from sparse_icnet.simd.vectors import load_f32, load_i32, maximum, splat_f32, splat_i32, store, to_f32


@njit(inline="always")
def _operand(kind, place, channel, r, zero, scale):
    """16 pixels of channel r of an operand in the output's unit: codes (Q2) or real values."""
    if kind == f.CODES:
        code = (load_i32(place) >> splat_i32(np.int32(8 * r))) & splat_i32(np.int32(255))
        return to_f32(code - zero) * scale
    return load_f32(place + r * channel)


@jit
def combine(step, task, scratch):
    """One task: one phase of one group of [relu](x [+ y]), to codes or to real values (Q1), (Q2), (Q5)."""
    phases = field(step, f.PHASES)
    group, phase = task // phases, task % phases
    kind, other_kind, real = field(step, f.IN_KIND), field(step, f.RESIDUAL_KIND), field(step, f.OUT_REAL)
    channel, other_channel, out_channel = (
        field(step, f.IN_GROUP),
        field(step, f.RESIDUAL_GROUP),
        field(step, f.OUT_GROUP),
    )
    x = field(step, f.IN) + get_i64(field(step, f.IN_PLANES) + 8 * phase)
    x += group * channel * (4 if kind == f.REAL else 1)
    y = field(step, f.RESIDUAL)
    if other_kind:
        y += get_i64(field(step, f.RESIDUAL_PLANES) + 8 * phase)
        y += group * other_channel * (4 if other_kind == f.REAL else 1)
    out = field(step, f.OUT) + get_i64(field(step, f.OUT_PLANES) + 8 * phase)
    out += group * out_channel * (4 if real else 1)
    scale, other_scale = splat_f32(field_f32(step, f.IN_SCALE)), splat_f32(field_f32(step, f.RESIDUAL_SCALE))
    zero = splat_i32(np.int32(field(step, f.IN_ZERO)))
    other_zero = splat_i32(np.int32(field(step, f.RESIDUAL_ZERO)))
    low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
    constant = splat_i32(np.int32(field(step, f.PACK)))
    relu, nothing = field(step, f.RELU), splat_f32(np.float32(0))
    for p in range(field(step, f.VECTORS)):
        a = _operand(kind, x + 64 * p, channel, 0, zero, scale)
        b = _operand(kind, x + 64 * p, channel, 1, zero, scale)
        c = _operand(kind, x + 64 * p, channel, 2, zero, scale)
        d = _operand(kind, x + 64 * p, channel, 3, zero, scale)
        if other_kind:
            a = a + _operand(other_kind, y + 64 * p, other_channel, 0, other_zero, other_scale)
            b = b + _operand(other_kind, y + 64 * p, other_channel, 1, other_zero, other_scale)
            c = c + _operand(other_kind, y + 64 * p, other_channel, 2, other_zero, other_scale)
            d = d + _operand(other_kind, y + 64 * p, other_channel, 3, other_zero, other_scale)
        if relu:
            a, b, c, d = maximum(a, nothing), maximum(b, nothing), maximum(c, nothing), maximum(d, nothing)
        if real:
            store(out + 64 * p, a)
            store(out + out_channel + 64 * p, b)
            store(out + 2 * out_channel + 64 * p, c)
            store(out + 3 * out_channel + 64 * p, d)
        else:
            store(out + 64 * p, pack(a, b, c, d, low, high, constant))


@jit
def pad(step, phase, plane):
    """Write what lies around a plane of one group, and around its shifted copies, but holds no pixel.

    PADDING  int64 (phases + 1,): range of entries of each phase; then entries of two int64: byte distance from the
             plane, bytes (whole pixels, so multiples of four)
    """
    table, value = field(step, f.PADDING), np.int32(field(step, f.PADDING_VALUE))
    entries = table + 8 * (field(step, f.PHASES) + 1)
    line = splat_i32(value)
    for i in range(get_i64(table + 8 * phase), get_i64(table + 8 * phase + 8)):
        place, size = plane + get_i64(entries + 16 * i), get_i64(entries + 16 * i + 8)
        if size >= 64:
            for at in range(0, size, 64):
                store(place + min(at, size - 64), line)
        else:
            for at in range(0, size, 4):
                put_i32(place + at, value)


@jit
def shift(step, task, scratch):
    """One task: the shifted copies of one group: copy[y][x] = plane[y][x + d], the stored zero outside; and padding.

    TABLE  int64 (COUNT, 3): byte offset of the plane, byte offset of the copy, d in pixels (positive or negative)
    """
    base = field(step, f.IN) + task * field(step, f.IN_GROUP)
    if field(step, f.PADDING):
        pad(step, 0, base)
    table, count = field(step, f.TABLE), field(step, f.COUNT)
    height, width, pitch = field(step, f.HEIGHT), field(step, f.WIDTH), field(step, f.PITCH)
    zero = np.int32(field(step, f.IN_ZERO))
    for i in range(count):
        source = base + get_i64(table + 24 * i)
        target = base + get_i64(table + 24 * i + 8)
        d = get_i64(table + 24 * i + 16)
        for y in range(height):
            row, out = source + y * pitch, target + y * pitch
            # The load may run past the row by |d| pixels: into a neighbour row or the slack of the buffer.
            for first in range(0, pitch, 64):
                # Rows without a gap end with a vector that overlaps the one before.
                x = min(first, pitch - 64)
                store(out + x, load_i32(row + x + 4 * d))
            for x in range(max(0, width - d), width):
                put_i32(out + 4 * x, zero)
            for x in range(0, min(-d, width)):
                put_i32(out + 4 * x, zero)


@jit
def expand(step, task, scratch):
    """One task: one channel of a small map float32 (C, rows, columns), nearest (Q7), to a real map."""
    rows, columns = field(step, f.COUNT), field(step, f.EXTRA)
    height, width, pitch = field(step, f.HEIGHT), field(step, f.WIDTH), field(step, f.PITCH)
    ky, kx = field(step, f.STEP_Y), field(step, f.STEP_X)
    source = field(step, f.IN) + task * 4 * rows * columns
    out = field(step, f.OUT) + task * field(step, f.OUT_GROUP)
    planes = field(step, f.OUT_PLANES)
    for y in range(height):
        for x in range(width):
            value = get_f32(source + 4 * ((y * rows // height) * columns + x * columns // width))
            plane = get_i64(planes + 8 * ((y % ky) * kx + x % kx))
            put_f32(out + plane + (y // ky) * pitch + (x // kx) * 4, value)
