"""From an image or a float blob to codes, in the interleaved planes that the first convolutions read."""

from __future__ import annotations

import numpy as np

from sparse_icnet.operators.epilogue import pack
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_f32, get_i32, get_i64, get_u8, put_i32
from sparse_icnet.simd.transposes import prefetch, put_rgb_codes, put_rgb_products, scatter_16x16
from sparse_icnet.simd.vectors import load_f32, splat_f32, splat_i32, store
from sparse_icnet.target import HAS_BYTE_TABLES

BLOCK = 64  # pixels that are looked up at once


@jit
def scatter_row(pixels, width, kx, planes, out):
    """One row of pixels to its kx phases: code x at address `pixels` goes to out + planes[x % kx] + 4 * (x // kx).

    Padding columns of a plane may be written too: nobody reads them.
    """
    columns = width // kx
    if kx % 16 == 0:
        for first in range(0, columns, 16):
            # At least 16 columns: the last vector overlaps the one before.  Fewer: a row of a plane still holds 16.
            x = max(0, min(first, columns - 16))
            for px in range(0, kx, 16):
                scatter_16x16(pixels + 4 * (x * kx + px), 4 * kx, out + 4 * x, planes + 8 * px)
        return
    for px in range(kx):
        target = out + get_i64(planes + 8 * px)
        source = pixels + 4 * px
        for x in range(columns):
            put_i32(target + 4 * x, get_i32(source))
            source += 4 * kx


@jit
def _codes_by_loop(row, first, width, table, pixels):
    for x in range(first, min(first + BLOCK, width)):
        pixel = row + 3 * x
        red = np.int32(get_u8(table + np.int64(get_u8(pixel))))
        green = np.int32(get_u8(table + 256 + np.int64(get_u8(pixel + 1))))
        blue = np.int32(get_u8(table + 512 + np.int64(get_u8(pixel + 2))))
        put_i32(pixels + 4 * x, red | (green << 8) | (blue << 16))


@jit
def _codes(row, first, width, table, factors, pixels):
    """BLOCK pixels, or what is left of them, of a row of RGB pixels through a table u8 (3, 256), to 32-bit lanes.

    factors  what gives the same codes without the table, 0 if nothing does
    """
    if width < BLOCK or not (HAS_BYTE_TABLES or factors):
        _codes_by_loop(row, first, width, table, pixels)
        return
    x = min(first, width - BLOCK)  # the last block overlaps the one before
    if HAS_BYTE_TABLES:
        put_rgb_codes(row + 3 * x, table, pixels + 4 * x)
    else:
        put_rgb_products(row + 3 * x, factors, pixels + 4 * x)


@jit
def quantize_image(step, task, scratch):
    """One task: one row of phases of an RGB image u8 (H, W, 3), through a table of codes for each channel."""
    width, height = step.width, step.height
    ky, kx = step.phases_y, step.phases_x
    image, table = step.source, step.codes
    planes, out = step.output.planes + 8 * task * kx, step.output.address
    for y in range(task, height, ky):
        row = image + y * width * 3
        for first in range(0, width, BLOCK):
            # The next row of this task lies too far behind this one for the CPU to prefetch it by itself.
            ahead = row + 3 * (ky * width + first)
            prefetch(ahead)
            prefetch(ahead + 64)
            prefetch(ahead + 128)
            _codes(row, first, width, table, step.factors, scratch)
        scatter_row(scratch, width, kx, planes, out)
        out += step.pitch


@jit
def quantize_blob(step, task, scratch):
    """One task: one row of phases of a float32 blob (C, H, W), C <= 4: (Q10) or (Q9), then (Q1)."""
    width, height, channels = step.width, step.height, step.channels
    ky, kx = step.phases_y, step.phases_x
    affine, table = step.affine, step.constants
    unit = splat_f32(step.scale)
    low, high = splat_f32(step.rounding.low), splat_f32(step.rounding.high)
    constant = splat_i32(np.int32(step.rounding.pack))
    nothing = splat_f32(np.float32(0))
    m0, m1 = splat_f32(get_f32(table)), splat_f32(get_f32(table + 4))
    m2, m3 = splat_f32(get_f32(table + 8)), splat_f32(get_f32(table + 12))
    b0, b1 = splat_f32(get_f32(table + 16)), splat_f32(get_f32(table + 20))
    b2, b3 = splat_f32(get_f32(table + 24)), splat_f32(get_f32(table + 28))
    stride = 4 * width * height
    planes, out = step.output.planes + 8 * task * kx, step.output.address
    for y in range(task, height, ky):
        row = step.source + y * 4 * width
        for first in range(0, width, 16):
            x = min(first, width - 16)  # the last vector overlaps the one before
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
        scatter_row(scratch, width, kx, planes, out)
        out += step.pitch
