"""From an image or a float blob to codes, in the interleaved planes that the first convolutions read."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.epilogue import pack
from sparse_icnet.kernels.simd import (
    get_f32,
    get_i32,
    get_i64,
    get_u8,
    load_f32,
    put_i32,
    splat_f32,
    splat_i32,
    store,
)
from sparse_icnet.kernels.step import field, field_f32


@njit
def quantize_image(step, task, scratch):
    """One task: one row of an RGB image u8 (H, W, 3), through a table of codes for each channel.

    TABLE  int32 (3, 256): the stored code, shifted to the byte of its channel
    """
    width = field(step, f.WIDTH)
    ky, kx = field(step, f.STEP_Y), field(step, f.STEP_X)
    row = field(step, f.IN) + task * width * 3
    table, planes = field(step, f.TABLE), field(step, f.OUT_PLANES) + 8 * (task % ky) * kx
    out = field(step, f.OUT) + task // ky * field(step, f.PITCH)
    for px in range(kx):
        target = out + get_i64(planes + 8 * px)
        pixel = row + 3 * px
        for x in range(width // kx):
            red = get_i32(table + 4 * np.int64(get_u8(pixel)))
            green = get_i32(table + 1024 + 4 * np.int64(get_u8(pixel + 1)))
            blue = get_i32(table + 2048 + 4 * np.int64(get_u8(pixel + 2)))
            put_i32(target + 4 * x, red | green | blue)
            pixel += 3 * kx


@njit
def quantize_blob(step, task, scratch):
    """One task: one row of a float32 blob (C, H, W), C <= 4: (Q10) or (Q9), then (Q1).

    TABLE  float32 (2, 4): multiplier and offset of (Q9) if EXTRA is set; otherwise x / IN_SCALE
    """
    width, height, channels = field(step, f.WIDTH), field(step, f.HEIGHT), field(step, f.CHANNELS)
    ky, kx = field(step, f.STEP_Y), field(step, f.STEP_X)
    affine, table = field(step, f.EXTRA), field(step, f.TABLE)
    unit = splat_f32(field_f32(step, f.IN_SCALE))
    low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
    constant = splat_i32(np.int32(field(step, f.PACK)))
    nothing = splat_f32(np.float32(0))
    m0, m1 = splat_f32(get_f32(table)), splat_f32(get_f32(table + 4))
    m2, m3 = splat_f32(get_f32(table + 8)), splat_f32(get_f32(table + 12))
    b0, b1 = splat_f32(get_f32(table + 16)), splat_f32(get_f32(table + 20))
    b2, b3 = splat_f32(get_f32(table + 24)), splat_f32(get_f32(table + 28))
    stride = 4 * width * height
    row = field(step, f.IN) + task * 4 * width
    # The sizes are multiples of 16 or the last vector begins earlier and repeats some pixels.
    for first in range(0, width, 16):
        x = min(first, width - 16)
        place = row + 4 * x
        a, b, c, d = load_f32(place), nothing, nothing, nothing
        if channels > 1:
            b = load_f32(place + stride)
        if channels > 2:
            c = load_f32(place + 2 * stride)
        if channels > 3:
            d = load_f32(place + 3 * stride)
        if affine:
            a, b, c, d = a * m0 + b0, b * m1 + b1, c * m2 + b2, d * m3 + b3
        else:
            a, b, c, d = a / unit, b / unit, c / unit, d / unit
        store(scratch + 4 * x, pack(a, b, c, d, low, high, constant))
    planes = field(step, f.OUT_PLANES) + 8 * (task % ky) * kx
    out = field(step, f.OUT) + task // ky * field(step, f.PITCH)
    for px in range(kx):
        target = out + get_i64(planes + 8 * px)
        source = scratch + 4 * px
        for x in range(width // kx):
            put_i32(target + 4 * x, get_i32(source))
            source += 4 * kx
