"""Block-sparse convolution: u8 activations x s8 weight blocks -> exact int32 -> fused epilogue.

One kernel serves every kernel size, stride and dilation: where a tap reads is a byte offset that the plan
computed for each stored block, so the loop is two loads, R broadcasts and R * P dot products.

Micro-kernels are named rows x vectors: ``4x6`` keeps 4 output channels x 6 vectors of 16 pixels in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.epilogue import pack
from sparse_icnet.kernels.fields import field, field_f32
from sparse_icnet.kernels.simd import (
    ISA,
    WORDS_PER_BLOCK_ROW,
    get_i32,
    get_i64,
    load_f32,
    load_i32,
    maximum,
    splat_f32,
    splat_i32,
    store,
    tile_add_codes,
    tile_add_real,
    tile_dot,
    tile_pairs,
    tile_requantize,
    tile_scale,
    tile_start,
    tile_store,
    tile_store_codes,
    tile_under,
)


@dataclass(frozen=True, slots=True)
class MicroKernel:
    """What the packer must obey.

    rows     output channels in a block (R)
    vectors  vectors of 16 pixels in a tile (P)
    words    32-bit words that one row of a block takes: 1 with VNNI, 2 as int16 pairs
    """

    rows: int
    vectors: int
    words: int = WORDS_PER_BLOCK_ROW

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.vectors}_{ISA}"


# Tiles that fill the registers of each instruction set: 32 of 512 bits, 16 of 256 bits, 16 of 128 bits.
_TILES = {
    "avx512vnni": ((4, 6), (4, 3), (2, 12), (2, 9)),
    "avx512bw": ((4, 4), (2, 6)),
    "avxvnni": ((4, 1), (2, 3)),
    "avx2": ((4, 1), (2, 2)),
    "sse2": ((4, 1), (2, 1)),
    "generic": ((4, 1), (2, 2)),
}
REGISTRY = tuple(MicroKernel(rows, vectors) for rows, vectors in _TILES[ISA])
# Scratch of one thread: a tile on its way out, then the tile of a fused residual convolution; rows of real values or of
# pairs lie _ROW bytes apart.
_ROW = 64 * max(kernel.vectors for kernel in REGISTRY)
_TILE_BYTES = 4 * _ROW
SCRATCH_BYTES = 2 * _TILE_BYTES


@njit
def _finish_codes(step, phase, start, count, codes, out):
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


@njit
def _finish_real(step, phase, start, count, tile, out):
    """Real values of four channels in scratch, to `out`: as they are, or as the codes of any quantizer (Q1), (Q5).

    Direct codes (fields.DIRECT) take a shorter way, without a clip and through no memory.
    """
    if field(step, f.OUT_REAL):
        stride, relu, nothing = field(step, f.OUT_GROUP), field(step, f.RELU), splat_f32(np.float32(0))
        for r in range(4):
            for p in range(0, 64 * count, 64):
                x = load_f32(tile + r * _ROW + p)
                store(out + r * stride + p, maximum(x, nothing) if relu else x)
    else:
        low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
        constant = splat_i32(np.int32(field(step, f.PACK)))
        for p in range(0, 64 * count, 64):
            a, b = load_f32(tile + p), load_f32(tile + _ROW + p)
            c, d = load_f32(tile + 2 * _ROW + p), load_f32(tile + 3 * _ROW + p)
            store(out + p, pack(a, b, c, d, low, high, constant))
        _finish_codes(step, phase, start, count, out, out)


def _micro_kernel(rows: int, vectors: int) -> Any:
    """The loop over the stored blocks of one row group, and the epilogue, for one tile shape."""
    words_bytes = 4 * rows * WORDS_PER_BLOCK_ROW

    @njit(inline="always")
    def accumulate(activations, offsets, weights, start, stop, initial):
        """Tile (R, P) = initial (R,) + sum over blocks j of dot4(activations + offsets[j], weights[j])  (Q3)."""
        tile = tile_start(rows, vectors, initial)
        for j in range(start, stop):
            tile = tile_dot(tile, activations + get_i32(offsets + 4 * j), weights + words_bytes * j)
        return tile

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
                return tile_add_real(x, scratch + _TILE_BYTES + _ROW * first, _ROW)
            stride = field(step, f.RESIDUAL_GROUP)  # of one channel if real, of four channels if codes
            place = field(step, f.RESIDUAL) + get_i64(field(step, f.RESIDUAL_PLANES) + 8 * phase) + start * 64
            if kind == f.CODES:
                zero, scale = np.int32(field(step, f.RESIDUAL_ZERO)), field_f32(step, f.RESIDUAL_SCALE)
                x = tile_add_codes(x, place + stride * group, first, zero, scale)
            else:
                x = tile_add_real(x, place + stride * channel, stride)
        return x

    if rows == 4:

        @njit
        def tile(step, group, phase, start, activations, offsets, codes, scratch):
            """Four output channels x P vectors from blocks to values: direct codes at `codes`, or real in scratch."""
            place = field(step, f.INDPTR) + 4 * group
            first, last = get_i32(place), get_i32(place + 4)
            initial = field(step, f.INITIAL) + 16 * group
            sums = accumulate(activations, offsets, field(step, f.WEIGHTS), first, last, initial)
            x = rescale(step, sums, 4 * group, group, phase, start, 0, scratch)
            if field(step, f.DIRECT):
                tile_store_codes(codes, tile_pairs(x))
            else:
                tile_store(scratch, _ROW, x)

    else:

        @njit
        def tile(step, group, phase, start, activations, offsets, codes, scratch):
            """The same in two halves of two channels: the first waits in scratch."""
            weights, initial = field(step, f.WEIGHTS), field(step, f.INITIAL) + 16 * group
            place = field(step, f.INDPTR) + 8 * group
            first, middle, last = get_i32(place), get_i32(place + 4), get_i32(place + 8)
            direct = field(step, f.DIRECT)
            top = accumulate(activations, offsets, weights, first, middle, initial)
            x = rescale(step, top, 4 * group, group, phase, start, 0, scratch)
            if direct:
                tile_store(scratch, _ROW, tile_pairs(x))
            else:
                tile_store(scratch, _ROW, x)
            bottom = accumulate(activations, offsets, weights, middle, last, initial + 8)
            y = rescale(step, bottom, 4 * group + 2, group, phase, start, 2, scratch)
            if direct:
                tile_store_codes(codes, tile_under(scratch, tile_pairs(y)))
            else:
                tile_store(scratch + 2 * _ROW, _ROW, y)

    return tile


_KERNELS = tuple(_micro_kernel(kernel.rows, kernel.vectors) for kernel in REGISTRY)
_COUNT = len(REGISTRY)
_first, _second = _KERNELS[:2]
_third, _fourth = (*_KERNELS, *_KERNELS)[2:4]


@njit
def _tile(kernel, step, group, phase, start, codes, scratch):
    activations = field(step, f.IN) + start * 64
    offsets = field(step, f.OFFSETS) + phase * field(step, f.OFFSETS_PHASE)
    if kernel == 0:
        _first(step, group, phase, start, activations, offsets, codes, scratch)
    elif kernel == 1:
        _second(step, group, phase, start, activations, offsets, codes, scratch)
    elif _COUNT > 2 and kernel == 2:
        _third(step, group, phase, start, activations, offsets, codes, scratch)
    elif _COUNT > 3 and kernel == 3:
        _fourth(step, group, phase, start, activations, offsets, codes, scratch)


@njit
def convolution(step, task, scratch):
    """One task: a tile of pixels of one phase, for a range of groups of four output channels.

    A residual that is itself a convolution of the same output size (the projection of a bottleneck) is computed
    tile by tile just before it is added, and never leaves the first-level cache.
    """
    tiles, phases = field(step, f.TILES), field(step, f.PHASES)
    tile = task % tiles
    phase = (task // tiles) % phases
    first = task // (tiles * phases) * field(step, f.GROUPS_PER_TASK)
    last = min(first + field(step, f.GROUPS_PER_TASK), field(step, f.GROUPS))
    vectors = field(step, f.TILE_VECTORS)
    start = tile * vectors
    count = min(vectors, field(step, f.VECTORS) - start)
    whole = count == vectors
    kernel = field(step, f.KERNEL) if whole else field(step, f.TAIL_KERNEL)
    residual = field(step, f.RESIDUAL) if field(step, f.RESIDUAL_KIND) == f.FUSED else 0
    stride = field(step, f.OUT_GROUP) * (4 if field(step, f.OUT_REAL) else 1)  # of four channels
    out = field(step, f.OUT) + get_i64(field(step, f.OUT_PLANES) + 8 * phase) + start * 64 + stride * first
    for group in range(first, last):
        if residual:
            _tile(kernel, residual, group, phase, start, scratch, scratch + _TILE_BYTES)
        codes = out if whole else scratch
        _tile(kernel, step, group, phase, start, codes, scratch)
        if field(step, f.DIRECT):
            _finish_codes(step, phase, start, count, codes, out)
        else:
            _finish_real(step, phase, start, count, scratch, out)
        out += stride
