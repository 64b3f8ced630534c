"""Block-sparse convolution: u8 activations x s8 weight blocks -> exact int32 -> fused epilogue.

One kernel serves every kernel size, stride and dilation: where a tap reads is a byte offset that the plan
computed for each stored block, so the loop is two loads, R broadcasts and R * P dot products.  Stored blocks come in
*entries*: two that are multiplied together (`sparse_icnet.sparse.couples`, where the CPU gains by it), or one.

Micro-kernels are named rows x vectors: ``4x6`` keeps 4 output channels x 6 vectors of 16 pixels in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.elementwise import pad
from sparse_icnet.kernels.epilogue import pack
from sparse_icnet.kernels.jit import jit
from sparse_icnet.kernels.sizes import TILE_BYTES, TILE_ROW_BYTES
from sparse_icnet.kernels.step import field, field_f32
from sparse_icnet.simd.scalars import get_i32, get_i64
from sparse_icnet.simd.tiles import (
    tile_add_codes,
    tile_add_real,
    tile_dot,
    tile_dot_couple,
    tile_pairs,
    tile_requantize,
    tile_scale,
    tile_start,
    tile_store,
    tile_store_codes,
    tile_under,
)
from sparse_icnet.simd.vectors import load_f32, load_i32, maximum, splat_f32, splat_i32, store
from sparse_icnet.target import TARGET


@jit
def finish_codes(step, phase, start, count, codes, out):
    """Move codes to `out` if they are not there, and again into each shifted copy of their plane.

    The pixels land `d` places earlier in the flat plane; those that would cross into another row become padding.
    COPIES  int64 (phases + 1,): range of entries of each phase; then entries of two int64: byte distance from the
            plane to the first pixel in the copy, address of the masks (vectors, 2, 64 bytes): lanes to keep, padding
    """
    if codes != out:
        for p in range(count):
            store(out + 64 * p, load_i32(codes + 64 * p))
    table = field(step, f.COPIES)
    if table:
        entries = table + 8 * (field(step, f.PHASES) + 1)
        for i in range(get_i64(table + 8 * phase), get_i64(table + 8 * phase + 8)):
            copy = out + get_i64(entries + 16 * i)
            masks = get_i64(entries + 16 * i + 8) + 128 * start
            for p in range(count):
                keep, padding = load_i32(masks + 128 * p), load_i32(masks + 128 * p + 64)
                store(copy + 64 * p, (load_i32(codes + 64 * p) & keep) | padding)


@njit(inline="always")
def pack_row(step, tile):
    """The codes of 16 pixels from the real values of four channels in scratch (Q1)."""
    low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
    a, b = load_f32(tile), load_f32(tile + TILE_ROW_BYTES)
    c, d = load_f32(tile + 2 * TILE_ROW_BYTES), load_f32(tile + 3 * TILE_ROW_BYTES)
    return pack(a, b, c, d, low, high, splat_i32(np.int32(field(step, f.PACK))))


@jit
def finish_real(step, phase, start, count, tile, out):
    """Real values of four channels in scratch, to `out`: as they are, or as the codes of any quantizer (Q1), (Q5).

    Direct codes (fields.DIRECT) take a shorter way, without a clip and through no memory.
    """
    if field(step, f.OUT_REAL):
        stride, relu, nothing = field(step, f.OUT_GROUP), field(step, f.RELU), splat_f32(np.float32(0))
        for r in range(4):
            for p in range(0, 64 * count, 64):
                x = load_f32(tile + r * TILE_ROW_BYTES + p)
                store(out + r * stride + p, maximum(x, nothing) if relu else x)
    else:
        for p in range(0, 64 * count, 64):
            store(out + p, pack_row(step, tile + p))
        finish_codes(step, phase, start, count, out, out)


@njit(inline="always")
def rescale(step, tile, channel, group, phase, start, first, scratch):
    """Epilogue (Q4), (Q5) up to the last rounding, for output channels 4 * group + first onwards."""
    x = tile_scale(tile, field(step, f.MULTIPLIER) + 4 * channel, field(step, f.BIAS) + 4 * channel)
    if field(step, f.INNER):
        x = tile_requantize(
            x, field_f32(step, f.INNER_LOW), field_f32(step, f.INNER_HIGH), field_f32(step, f.INNER_SCALE)
        )
    kind = field(step, f.RESIDUAL_KIND)
    if kind:
        if kind == f.FUSED:
            return tile_add_real(x, scratch + TILE_BYTES + TILE_ROW_BYTES * first, TILE_ROW_BYTES)
        stride = field(step, f.RESIDUAL_GROUP)  # of one channel if real, of four channels if codes
        place = field(step, f.RESIDUAL) + get_i64(field(step, f.RESIDUAL_PLANES) + 8 * phase) + start * 64
        if kind == f.CODES:
            zero, scale = np.int32(field(step, f.RESIDUAL_ZERO)), field_f32(step, f.RESIDUAL_SCALE)
            x = tile_add_codes(x, place + stride * group, first, zero, scale)
        else:
            x = tile_add_real(x, place + stride * channel, stride)
    return x


def _micro_kernel(rows: int, vectors: int) -> Any:
    """The loop over the stored blocks of one row group, and the epilogue, for one tile shape."""
    words_bytes = 4 * rows * TARGET.words_per_row
    offsets_bytes = 4 * TARGET.blocks_per_entry

    if TARGET.couples:

        @njit(inline="always")
        def add_couples(tile, activations, offsets, weights, start, stop):
            """Add the products of the couples start to stop - 1."""
            for j in range(start, stop):
                place = offsets + offsets_bytes * j
                first, second = activations + get_i32(place), activations + get_i32(place + 4)
                tile = tile_dot_couple(tile, first, second, weights + words_bytes * j)
            return tile

    else:

        @njit(inline="always")
        def add_couples(tile, activations, offsets, weights, start, stop):
            """There are none."""
            return tile

    @njit(inline="always")
    def accumulate(step, row_group, activations, offsets, initial):
        """Tile (R, P) = initial (R,) + sum over blocks j of dot4(activations + offsets[j], weights[j])  (Q3)."""
        place, weights = field(step, f.INDPTR) + 8 * row_group, field(step, f.WEIGHTS)
        couples, singles, end = get_i32(place), get_i32(place + 4), get_i32(place + 8)
        tile = tile_start(rows, vectors, initial)
        tile = add_couples(tile, activations, offsets, weights, couples, singles)
        for j in range(singles, end):
            tile = tile_dot(
                tile, activations + get_i32(offsets + offsets_bytes * j), weights + words_bytes * j
            )
        return tile

    if rows == 4:

        @njit(inline="always")
        def tile(step, group, phase, start, activations, offsets, codes, scratch):
            """Four output channels x P vectors from blocks to values: direct codes at `codes`, or real in scratch."""
            sums = accumulate(step, group, activations, offsets, field(step, f.INITIAL) + 16 * group)
            x = rescale(step, sums, 4 * group, group, phase, start, 0, scratch)
            if field(step, f.DIRECT):
                tile_store_codes(codes, tile_pairs(x))
            else:
                tile_store(scratch, TILE_ROW_BYTES, x)

    else:

        @njit(inline="always")
        def tile(step, group, phase, start, activations, offsets, codes, scratch):
            """The same in two halves of two channels: the first waits in scratch."""
            initial = field(step, f.INITIAL) + 16 * group
            direct = field(step, f.DIRECT)
            top = accumulate(step, 2 * group, activations, offsets, initial)
            x = rescale(step, top, 4 * group, group, phase, start, 0, scratch)
            if direct:
                tile_store(scratch, TILE_ROW_BYTES, tile_pairs(x))
            else:
                tile_store(scratch, TILE_ROW_BYTES, x)
            bottom = accumulate(step, 2 * group + 1, activations, offsets, initial + 8)
            y = rescale(step, bottom, 4 * group + 2, group, phase, start, 2, scratch)
            if direct:
                tile_store_codes(codes, tile_under(scratch, tile_pairs(y)))
            else:
                tile_store(scratch + 2 * TILE_ROW_BYTES, TILE_ROW_BYTES, y)

    @jit
    def stretch(step, group, phase, begin, end, out, scratch, finish):
        """Whole tiles of one group of channels from vector `begin` to `end`, for the plane at `out`.

        A call for each tile, with what it saves and loads again, would take as long as a third of the epilogue.
        finish  0: leave direct codes where a tile put them; 1: they also go into the shifted copies
        """
        activations = field(step, f.IN)
        offsets = field(step, f.OFFSETS) + phase * field(step, f.OFFSETS_PHASE)
        for start in range(begin, end, vectors):
            place = out + 64 * start
            tile(step, group, phase, start, activations + 64 * start, offsets, place, scratch)
            if finish:
                finish_codes(step, phase, start, np.int64(vectors), place, place)

    return stretch


_KERNELS = tuple(_micro_kernel(kernel.rows, kernel.vectors) for kernel in TARGET.kernels)
_COUNT = len(TARGET.kernels)
_first, _second = _KERNELS[:2]
_third, _fourth = (*_KERNELS, *_KERNELS)[2:4]


# Numba compiles a function anew for literal arguments: those below are np.int64.


@jit
def _stretch(kernel, step, group, phase, begin, end, out, scratch, finish):
    if kernel == 0:
        _first(step, group, phase, begin, end, out, scratch, finish)
    elif kernel == 1:
        _second(step, group, phase, begin, end, out, scratch, finish)
    elif _COUNT > 2 and kernel == 2:
        _third(step, group, phase, begin, end, out, scratch, finish)
    elif _COUNT > 3 and kernel == 3:
        _fourth(step, group, phase, begin, end, out, scratch, finish)


@jit
def _one_tile(kernel, step, residual, group, phase, start, count, codes, out, scratch):
    """A tile of `count` vectors, and before it that of a fused residual, in the second half of scratch.

    codes  where a tile leaves direct codes: at its place, or in scratch if it is wider than `count`
    """
    if residual:
        _stretch(kernel, residual, group, phase, start, start + 1, scratch, scratch + TILE_BYTES, np.int64(0))
    place = out + 64 * start
    _stretch(kernel, step, group, phase, start, start + 1, codes - 64 * start, scratch, np.int64(0))
    if field(step, f.DIRECT):
        finish_codes(step, phase, start, count, codes, place)
    else:
        finish_real(step, phase, start, count, scratch, place)


@jit
def convolution(step, task, scratch):
    """One task: a stretch of tiles of pixels of one phase, for a range of groups of four output channels.

    All tiles of the stretch use the weights of a group before the next group: small tiles would else read all weights
    again for every few pixels.  A residual that is itself a convolution of the same output size (the projection of a
    bottleneck) is computed tile by tile just before it is added, and never leaves the first-level cache.
    """
    stretches, phases = field(step, f.STRETCHES), field(step, f.PHASES)
    phase = (task // stretches) % phases
    first = task // (stretches * phases) * field(step, f.GROUPS_PER_TASK)
    last = min(first + field(step, f.GROUPS_PER_TASK), field(step, f.GROUPS))
    begin = task % stretches * field(step, f.TASK_VECTORS)
    end = min(begin + field(step, f.TASK_VECTORS), field(step, f.VECTORS))
    kernel, vectors = field(step, f.KERNEL), field(step, f.TILE_VECTORS)
    whole = end - (end - begin) % vectors
    residual = field(step, f.RESIDUAL) if field(step, f.RESIDUAL_KIND) == f.FUSED else 0
    stride = field(step, f.OUT_GROUP) * (4 if field(step, f.OUT_REAL) else 1)  # of four channels
    out = field(step, f.OUT) + get_i64(field(step, f.OUT_PLANES) + 8 * phase) + stride * first
    pads = field(step, f.PADDING) if begin == 0 else 0
    for group in range(first, last):
        if pads:
            pad(step, phase, out)
        if field(step, f.DIRECT) and not residual:
            _stretch(kernel, step, group, phase, begin, whole, out, scratch, np.int64(1))
        else:
            for start in range(begin, whole, vectors):
                place = out + 64 * start
                _one_tile(kernel, step, residual, group, phase, start, vectors, place, out, scratch)
        if whole < end:
            tail = field(step, f.TAIL_KERNEL)
            _one_tile(tail, step, residual, group, phase, whole, end - whole, scratch, out, scratch)
        out += stride
