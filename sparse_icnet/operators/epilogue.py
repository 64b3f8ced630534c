"""From the sums of a convolution, or four rows of real values, to what is stored: (Q4), (Q5), (Q1), copies, padding."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.network.arithmetic import ROUNDING
from sparse_icnet.operators.params import CODES, FUSED, REAL, TILE_BYTES, TILE_ROW_BYTES
from sparse_icnet.simd.codes import pack_codes
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_i64, put_i32
from sparse_icnet.simd.tiles import tile_add_codes, tile_add_real, tile_requantize, tile_scale
from sparse_icnet.simd.vectors import load_f32, load_i32, maximum, minimum, splat_f32, splat_i32, store

MAGIC = ROUNDING


@njit(inline="always")
def clip_round(x, low, high):
    """clip and rint of (Q1) on 16 float32: low and high are integers, so clipping first changes nothing.

    With |x| < 2**22 the sum x + 1.5 * 2**23 has no fraction bits left: the addition itself rounds, half to even.
    """
    magic = splat_f32(MAGIC)
    return (minimum(maximum(x, low), high) + magic) - magic


@njit(inline="always")
def pack(a, b, c, d, low, high, constant):
    """Codes of four channels, 16 pixels each, from real values in units of the quantizer: one vector of u8 x 4."""
    a, b = minimum(maximum(a, low), high), minimum(maximum(b, low), high)
    c, d = minimum(maximum(c, low), high), minimum(maximum(d, low), high)
    return pack_codes(a, b, c, d, constant)


@njit(inline="always")
def addend_of(epilogue, group, phase):
    """Address of what is added to the first vector of channel 4 * group; 0 if that is in no map."""
    addend = epilogue.addend
    place = np.int64(0)
    if addend.kind == CODES or addend.kind == REAL:
        # of one channel if real, of four channels if codes
        stride = addend.map.stride * (1 if addend.kind == CODES else 4)
        place = addend.map.address + get_i64(addend.map.planes + 8 * phase) + stride * group
    return place


@njit(inline="always")
def rescale_beside(epilogue, tile, channel, place, first, scratch):
    """`rescale`, with the address of what is added to the first vector of channel 4 * group."""
    x = tile_scale(tile, epilogue.multiplier + 4 * channel, epilogue.bias + 4 * channel)
    if epilogue.requantize:
        inner = epilogue.inner
        x = tile_requantize(x, inner.low, inner.high, inner.scale)
    addend = epilogue.addend
    kind = addend.kind
    if kind:
        if kind == FUSED:
            x = tile_add_real(x, scratch + TILE_BYTES + TILE_ROW_BYTES * first, TILE_ROW_BYTES)
        elif kind == CODES:
            x = tile_add_codes(x, place, first, np.int32(addend.zero), addend.scale)
        else:
            x = tile_add_real(x, place + addend.map.stride * first, addend.map.stride)
    return x


@njit(inline="always")
def rescale(epilogue, tile, channel, group, phase, start, first, scratch):
    """Epilogue (Q4), (Q5) up to the last rounding, for output channels 4 * group + first onwards."""
    place = addend_of(epilogue, group, phase) + 64 * start
    return rescale_beside(epilogue, tile, channel, place, first, scratch)


@njit(inline="always")
def pack_row(rounding, tile):
    """The codes of 16 pixels from the real values of four channels in scratch (Q1)."""
    low, high = splat_f32(rounding.low), splat_f32(rounding.high)
    a, b = load_f32(tile), load_f32(tile + TILE_ROW_BYTES)
    c, d = load_f32(tile + 2 * TILE_ROW_BYTES), load_f32(tile + 3 * TILE_ROW_BYTES)
    return pack(a, b, c, d, low, high, splat_i32(np.int32(rounding.pack)))


@jit
def finish_codes(output, phase, start, count, codes, out):
    """Move codes to `out` if they are not there, and again into each shifted copy of their plane.

    In a copy shifted by d columns a pixel lies d places earlier in the flat plane; one that would cross into another row
    becomes padding.
    """
    if codes != out:
        for p in range(count):
            store(out + 64 * p, load_i32(codes + 64 * p))
    copies = output.copies
    table = copies.entries
    if table:
        entries = table + 8 * (copies.planes + 1)
        for i in range(get_i64(table + 8 * phase), get_i64(table + 8 * phase + 8)):
            copy = out + get_i64(entries + 16 * i)
            masks = copies.masks + get_i64(entries + 16 * i + 8) + 128 * start
            for p in range(count):
                keep, padding = load_i32(masks + 128 * p), load_i32(masks + 128 * p + 64)
                store(copy + 64 * p, (load_i32(codes + 64 * p) & keep) | padding)


@jit
def finish_real(output, phase, start, count, tile, out):
    """Real values of four channels in scratch, to `out`: as they are, or as the codes of any quantizer (Q1), (Q5).

    Codes that saturate do not come here: `tile_store_codes` has stored them, without a clip.
    """
    if output.real:
        stride, relu, nothing = output.map.stride, output.relu, splat_f32(np.float32(0))
        for r in range(4):
            for p in range(0, 64 * count, 64):
                x = load_f32(tile + r * TILE_ROW_BYTES + p)
                store(out + r * stride + p, maximum(x, nothing) if relu else x)
    else:
        for p in range(0, 64 * count, 64):
            store(out + p, pack_row(output.rounding, tile + p))
        finish_codes(output, phase, start, count, out, out)


@jit
def pad(padding, part, start):
    """Write what lies around a part of a result, which begins at `start`, but holds no pixel."""
    table, value = padding.entries, np.int32(padding.value)
    entries = table + 8 * (padding.parts + 1)
    line = splat_i32(value)
    for i in range(get_i64(table + 8 * part), get_i64(table + 8 * part + 8)):
        place, size = start + get_i64(entries + 16 * i), get_i64(entries + 16 * i + 8)
        if size >= 64:
            for at in range(0, size, 64):
                store(place + min(at, size - 64), line)
        else:
            for at in range(0, size, 4):
                put_i32(place + at, value)
