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
from sparse_icnet.kernels.epilogue import clip_round, pack
from sparse_icnet.kernels.fields import field, field_f32
from sparse_icnet.kernels.simd import (
    ISA,
    WORDS_PER_BLOCK_ROW,
    get_f32,
    get_i32,
    get_i64,
    load_f32,
    load_i32,
    maximum,
    splat_f32,
    splat_i32,
    store,
    tile_dot,
    tile_start,
    tile_store,
    to_f32,
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
    "avx512vnni": ((4, 6), (2, 12)),
    "avx512bw": ((4, 4), (2, 6)),
    "avxvnni": ((4, 1), (2, 3)),
    "avx2": ((4, 1), (2, 2)),
    "sse2": ((4, 1), (2, 1)),
    "generic": ((4, 1), (2, 2)),
}
REGISTRY = tuple(MicroKernel(rows, vectors) for rows, vectors in _TILES[ISA])
_P4, _P2 = REGISTRY[0].vectors, REGISTRY[1].vectors
SCRATCH_BYTES = 4 * 64 * max(kernel.vectors for kernel in REGISTRY)


def _micro_kernel(rows: int, vectors: int) -> Any:
    words_bytes = 4 * rows * WORDS_PER_BLOCK_ROW
    row_bytes = 64 * vectors

    @njit
    def accumulate(activations, offsets, weights, start, stop, initial, sums):
        """sums int32 (R, P, 16) = initial (R,) + sum over blocks j of dot4(activations + offsets[j], weights[j])."""
        tile = tile_start(rows, vectors, initial)
        for j in range(start, stop):
            tile = tile_dot(tile, activations + get_i32(offsets + 4 * j), weights + words_bytes * j)
        tile_store(sums, row_bytes, tile)

    return accumulate


_rows4 = _micro_kernel(4, _P4)
_rows2 = _micro_kernel(2, _P2)


@njit
def convolution(step, task, scratch):
    """One task: a tile of pixels of one phase, for a range of groups of four output channels."""
    tiles, phases = field(step, f.TILES), field(step, f.PHASES)
    tile = task % tiles
    phase = (task // tiles) % phases
    first = task // (tiles * phases) * field(step, f.GROUPS_PER_TASK)
    last = min(first + field(step, f.GROUPS_PER_TASK), field(step, f.GROUPS))
    rows = field(step, f.ROWS)
    vectors = _P4 if rows == 4 else _P2
    start = tile * vectors
    count = min(vectors, field(step, f.VECTORS) - start)
    activations = field(step, f.IN) + start * 64
    offsets = field(step, f.OFFSETS) + phase * field(step, f.OFFSETS_PHASE)
    weights, indptr, initial = field(step, f.WEIGHTS), field(step, f.INDPTR), field(step, f.INITIAL)
    for group in range(first, last):
        if rows == 4:
            place = indptr + 4 * group
            _rows4(
                activations, offsets, weights, get_i32(place), get_i32(place + 4), initial + 16 * group, scratch
            )
        else:
            for half in range(2):
                place = indptr + 8 * group + 4 * half
                _rows2(
                    activations,
                    offsets,
                    weights,
                    get_i32(place),
                    get_i32(place + 4),
                    initial + 16 * group + 8 * half,
                    scratch + half * 2 * 64 * _P2,
                )
        _finish(step, group, phase, start, count, scratch, 64 * vectors)


@njit
def _finish(step, group, phase, start, count, sums, row_bytes):
    """Epilogue (Q4), (Q5), (Q1) of four channels: rescale, inner quantizer, residual, ReLU, store."""
    multiplier, bias = field(step, f.MULTIPLIER) + 16 * group, field(step, f.BIAS) + 16 * group
    m0, m1 = splat_f32(get_f32(multiplier)), splat_f32(get_f32(multiplier + 4))
    m2, m3 = splat_f32(get_f32(multiplier + 8)), splat_f32(get_f32(multiplier + 12))
    b0, b1 = splat_f32(get_f32(bias)), splat_f32(get_f32(bias + 4))
    b2, b3 = splat_f32(get_f32(bias + 8)), splat_f32(get_f32(bias + 12))
    low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
    constant = splat_i32(np.int32(field(step, f.PACK)))
    out = field(step, f.OUT) + get_i64(field(step, f.OUT_PLANES) + 8 * phase)
    real = field(step, f.OUT_REAL)
    channel = field(step, f.OUT_GROUP)  # of one channel if the output is real, of four if it is codes
    out += channel * group * 4 + start * 64 if real else channel * group + start * 64
    inner = field(step, f.INNER)
    inner_low, inner_high = splat_f32(field_f32(step, f.INNER_LOW)), splat_f32(field_f32(step, f.INNER_HIGH))
    inner_scale = splat_f32(field_f32(step, f.INNER_SCALE))
    residual_kind = field(step, f.RESIDUAL_KIND)
    residual, residual_channel = field(step, f.RESIDUAL), field(step, f.RESIDUAL_GROUP)
    residual_scale = splat_f32(field_f32(step, f.RESIDUAL_SCALE))
    residual_zero = splat_i32(np.int32(field(step, f.RESIDUAL_ZERO)))
    byte = splat_i32(np.int32(255))
    relu = field(step, f.RELU)
    zero = splat_f32(np.float32(0))
    if residual_kind:
        residual += get_i64(field(step, f.RESIDUAL_PLANES) + 8 * phase) + start * 64
        residual += residual_channel * group * (4 if residual_kind == f.REAL else 1)
    for p in range(count):
        a = to_f32(load_i32(sums + 64 * p)) * m0 + b0
        b = to_f32(load_i32(sums + row_bytes + 64 * p)) * m1 + b1
        c = to_f32(load_i32(sums + 2 * row_bytes + 64 * p)) * m2 + b2
        d = to_f32(load_i32(sums + 3 * row_bytes + 64 * p)) * m3 + b3
        if inner:
            a = clip_round(a, inner_low, inner_high) * inner_scale
            b = clip_round(b, inner_low, inner_high) * inner_scale
            c = clip_round(c, inner_low, inner_high) * inner_scale
            d = clip_round(d, inner_low, inner_high) * inner_scale
        if residual_kind == f.CODES:
            x = load_i32(residual + 64 * p)
            a = a + to_f32((x & byte) - residual_zero) * residual_scale
            b = b + to_f32(((x >> splat_i32(np.int32(8))) & byte) - residual_zero) * residual_scale
            c = c + to_f32(((x >> splat_i32(np.int32(16))) & byte) - residual_zero) * residual_scale
            d = d + to_f32((x >> splat_i32(np.int32(24))) - residual_zero) * residual_scale
        elif residual_kind == f.REAL:
            a = a + load_f32(residual + 64 * p)
            b = b + load_f32(residual + residual_channel + 64 * p)
            c = c + load_f32(residual + 2 * residual_channel + 64 * p)
            d = d + load_f32(residual + 3 * residual_channel + 64 * p)
        if real:
            if relu:
                a, b, c, d = maximum(a, zero), maximum(b, zero), maximum(c, zero), maximum(d, zero)
            store(out + 64 * p, a)
            store(out + channel + 64 * p, b)
            store(out + 2 * channel + 64 * p, c)
            store(out + 3 * channel + 64 * p, d)
        else:
            store(out + 64 * p, pack(a, b, c, d, low, high, constant))
