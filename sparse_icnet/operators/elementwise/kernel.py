"""Kernels without weights: sums of two maps, requantization, spreading of small maps, shifted copies."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.operators.epilogue import pack, pad
from sparse_icnet.operators.params import CODES, REAL
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_f32, get_i64, put_f32, put_i32
from sparse_icnet.simd.vectors import load_f32, load_i32, maximum, splat_f32, splat_i32, store, to_f32


@njit(inline="always")
def _operand(kind, place, channel, r, zero, scale):
    """16 pixels of channel r of an operand in the output's unit: codes (Q2) or real values."""
    if kind == CODES:
        code = (load_i32(place) >> splat_i32(np.int32(8 * r))) & splat_i32(np.int32(255))
        return to_f32(code - zero) * scale
    return load_f32(place + r * channel)


@jit
def combine(step, task, scratch):
    """One task: one phase of one group of [relu](x [+ y]), to codes or to real values (Q1), (Q2), (Q5)."""
    phases, left, right, output = step.phases, step.left, step.right, step.output
    group, phase = task // phases, task % phases
    kind, other_kind, real = left.kind, right.kind, output.real
    channel, other_channel, out_channel = left.map.stride, right.map.stride, output.map.stride
    x = left.map.address + get_i64(left.map.planes + 8 * phase)
    x += group * channel * (4 if kind == REAL else 1)
    y = right.map.address
    if other_kind:
        y += get_i64(right.map.planes + 8 * phase)
        y += group * other_channel * (4 if other_kind == REAL else 1)
    out = output.map.address + get_i64(output.map.planes + 8 * phase)
    out += group * out_channel * (4 if real else 1)
    scale, other_scale = splat_f32(left.scale), splat_f32(right.scale)
    zero, other_zero = splat_i32(np.int32(left.zero)), splat_i32(np.int32(right.zero))
    low, high = splat_f32(output.rounding.low), splat_f32(output.rounding.high)
    constant = splat_i32(np.int32(output.rounding.pack))
    relu, nothing = output.relu, splat_f32(np.float32(0))
    for p in range(step.vectors):
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
def shift(step, task, scratch):
    """One task: the shifted copies of one group (codes) or channel (real values), and its padding.

    copy[y][x] = plane[y][x + d], the zero of the record outside.
    """
    base = step.address + task * step.stride
    if step.padding.entries:
        pad(step.padding, np.int64(0), base)  # Numba would compile it anew for a literal
    copies, count = step.copies, step.count
    height, width, pitch = step.height, step.width, step.pitch
    zero = np.int32(step.zero)
    for i in range(count):
        source = base + get_i64(copies + 24 * i)
        target = base + get_i64(copies + 24 * i + 8)
        d = get_i64(copies + 24 * i + 16)
        for y in range(height):
            row, out = source + y * pitch, target + y * pitch
            # The load may run past the row by |d| pixels: into a neighbour row or the slack of the map.
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
    rows, columns = step.rows, step.columns
    height, width, pitch = step.height, step.width, step.pitch
    ky, kx = step.phases_y, step.phases_x
    source = step.source + task * 4 * rows * columns
    out = step.output.address + task * step.output.stride
    planes = step.output.planes
    for y in range(height):
        for x in range(width):
            value = get_f32(source + 4 * ((y * rows // height) * columns + x * columns // width))
            plane = get_i64(planes + 8 * ((y % ky) * kx + x % kx))
            put_f32(out + plane + (y // ky) * pitch + (x // kx) * 4, value)
