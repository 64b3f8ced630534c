"""Block-sparse convolution: u8 activations x s8 weight blocks -> exact int32 -> fused epilogue.

One kernel serves every kernel size, stride and dilation: where a tap reads is a byte offset that the plan
computed for each stored block, so the loop is two loads, R broadcasts and R * P dot products.  Stored blocks come in
*entries*: two that are multiplied together (`sparse_icnet.sparse.couples`, where the CPU gains by it), or one.

Micro-kernels are named rows x vectors and class of CPUs: ``4x5_avx512vnni`` keeps 4 output channels x 5 vectors of 16
pixels in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.epilogue import addend_of, finish_codes, finish_real, pad, rescale_beside
from sparse_icnet.operators.params import AHEAD, FUSED, TILE_BYTES, TILE_ROW_BYTES
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.record import at
from sparse_icnet.simd.scalars import get_i32, get_i64
from sparse_icnet.simd.tiles import (
    tile_dot,
    tile_dot_couple,
    tile_pairs,
    tile_start,
    tile_store,
    tile_store_codes,
    tile_under,
)
from sparse_icnet.simd.transposes import prefetch
from sparse_icnet.target import TARGET, Dot

_as_convolution = at(ConvolutionParams)


def _micro_kernel(rows: int, vectors: int) -> Any:
    """The loop over the stored blocks of one row group, and the epilogue, for one tile shape."""
    entry_bytes = 4 * rows * TARGET.lanes_per_row
    offsets_bytes = 4 * TARGET.blocks_per_entry
    # Wide tiles of many blocks do not fit the first-level cache, and its own prefetches do not follow a list of blocks:
    # up to 6 % less time for 3x3 windows of 512 channels on Zen 4.
    fetches = vectors > 2 and TARGET.dot is Dot.BYTES

    if TARGET.couples:

        @njit(inline="always")
        def add_couples(tile, activations, offsets, weights, start, stop):
            """Add the products of the couples start to stop - 1."""
            for j in range(start, stop):
                place = offsets + offsets_bytes * j
                first, second = activations + get_i32(place), activations + get_i32(place + 4)
                tile = tile_dot_couple(tile, first, second, weights + entry_bytes * j)
            return tile

    else:

        @njit(inline="always")
        def add_couples(tile, activations, offsets, weights, start, stop):
            """There are none."""
            return tile

    @njit(inline="always")
    def blocks_of(step, row_group):
        """Of the stored blocks of a row group: first couple, first single block, end."""
        place = step.indptr + 8 * row_group
        return np.int64(get_i32(place)), np.int64(get_i32(place + 4)), np.int64(get_i32(place + 8))

    @njit(inline="always")
    def accumulate(weights, blocks, activations, offsets, initial):
        """Tile (R, P) = initial (R,) + sum over blocks j of dot4(activations + offsets[j], weights[j])  (Q3)."""
        couples, singles, end = blocks
        tile = tile_start(rows, vectors, initial)
        tile = add_couples(tile, activations, offsets, weights, couples, singles)
        for j in range(singles, end):
            if fetches:
                ahead = activations + get_i32(offsets + offsets_bytes * (j + AHEAD))
                for p in range(vectors):
                    prefetch(ahead + 64 * p)
            tile = tile_dot(
                tile, activations + get_i32(offsets + offsets_bytes * j), weights + entry_bytes * j
            )
        return tile

    if rows == 4:

        @njit(inline="always")
        def finish(step, group, tile, addend, codes, scratch):
            """From the sums of four output channels to values: saturated codes at `codes`, or real in scratch."""
            x = rescale_beside(step.epilogue, tile, 4 * group, addend, 0, scratch)
            if step.epilogue.output.saturates:
                tile_store_codes(codes, tile_pairs(x))
            else:
                tile_store(scratch, TILE_ROW_BYTES, x)

    else:

        @njit(inline="always")
        def finish(step, group, tile, addend, codes, scratch):
            """The same of the upper two channels: they wait in scratch."""
            x = rescale_beside(step.epilogue, tile, 4 * group, addend, 0, scratch)
            if step.epilogue.output.saturates:
                tile_store(scratch, TILE_ROW_BYTES, tile_pairs(x))
            else:
                tile_store(scratch, TILE_ROW_BYTES, x)

    @njit(inline="always")
    def finish_lower(step, group, tile, addend, codes, scratch):
        """The lower two channels of four, and the upper two with them."""
        x = rescale_beside(step.epilogue, tile, 4 * group + 2, addend, 2, scratch)
        if step.epilogue.output.saturates:
            tile_store_codes(codes, tile_under(scratch, tile_pairs(x)))
        else:
            tile_store(scratch + 2 * TILE_ROW_BYTES, TILE_ROW_BYTES, x)

    @jit
    def chunk(step, group, phase, begin, end, codes, scratch):
        """Whole tiles of one group of channels that cover the vectors `begin` to `end` - 1.

        codes, scratch  where the codes, or the real values, of vector `begin` go

        What all tiles have in common is read before the first: the stores between them would have it read for each.
        """
        offsets, weights = step.offsets + phase * step.offsets_phase, step.weights
        initial = step.epilogue.initial + 16 * group
        blocks = blocks_of(step, group if rows == 4 else 2 * group)
        lower = blocks if rows == 4 else blocks_of(step, 2 * group + 1)
        activations = step.source + 64 * begin
        addend = addend_of(step.epilogue, group, phase) + 64 * begin
        for _ in range(begin, end, vectors):
            tile = accumulate(weights, blocks, activations, offsets, initial)
            finish(step, group, tile, addend, codes, scratch)
            if rows == 2:
                tile = accumulate(weights, lower, activations, offsets, initial + 8)
                finish_lower(step, group, tile, addend, codes, scratch)
            activations += 64 * vectors
            addend += 64 * vectors
            codes += 64 * vectors
            scratch += 64 * vectors

    return chunk


_KERNELS = tuple(_micro_kernel(kernel.rows, kernel.vectors) for kernel in TARGET.kernels)
_COUNT = len(TARGET.kernels)
_first, _second = _KERNELS[:2]
_third, _fourth = (*_KERNELS, *_KERNELS)[2:4]


@jit
def _chunk(kernel, step, group, phase, begin, end, codes, scratch):
    if kernel == 0:
        _first(step, group, phase, begin, end, codes, scratch)
    elif kernel == 1:
        _second(step, group, phase, begin, end, codes, scratch)
    elif _COUNT > 2 and kernel == 2:
        _third(step, group, phase, begin, end, codes, scratch)
    elif _COUNT > 3 and kernel == 3:
        _fourth(step, group, phase, begin, end, codes, scratch)


@jit
def _run(kernel, step, group, phase, begin, end, codes, out, scratch):
    """The vectors `begin` to `end` - 1 of one group of channels, for the plane at `out`.

    A residual that is itself a convolution of the same output size (the projection of a bottleneck) is computed just
    before it is added, and never leaves the first-level cache: it waits in the second half of scratch.

    codes  where saturated codes go: to their place, or to scratch if the last tile is wider than the run
    """
    addend, output = step.epilogue.addend, step.epilogue.output
    if addend.kind == FUSED:
        residual = _as_convolution(step.epilogue.fused)
        _chunk(kernel, residual, group, phase, begin, end, codes, scratch + TILE_BYTES)
    _chunk(kernel, step, group, phase, begin, end, codes, scratch)
    place = out + 64 * begin
    if output.saturates:
        finish_codes(output, phase, begin, end - begin, codes, place)
    else:
        finish_real(output, phase, begin, end - begin, scratch, place)


@jit
def convolution(step, task, scratch):
    """One task: a run of tiles of pixels of one phase, for a range of groups of four output channels.

    All tiles of the run use the weights of a group before the next group: small tiles would else read all weights
    again for every few pixels.
    """
    chunks, phases = step.chunks, step.phases
    phase = (task // chunks) % phases
    first = task // (chunks * phases) * step.groups_per_task
    last = min(first + step.groups_per_task, step.groups)
    begin = task % chunks * step.vectors_per_task
    end = min(begin + step.vectors_per_task, step.vectors)
    whole = end - (end - begin) % step.tile_vectors
    output = step.epilogue.output
    stride = output.map.stride * (4 if output.real else 1)  # of four channels
    out = output.map.address + get_i64(output.map.planes + 8 * phase) + stride * first
    pads = output.padding.entries if begin == 0 else 0
    for group in range(first, last):
        if pads:
            pad(output.padding, phase, out)
        if begin < whole:
            _run(step.kernel, step, group, phase, begin, whole, out + 64 * begin, out, scratch)
        if whole < end:
            _run(step.remainder_kernel, step, group, phase, whole, end, scratch, out, scratch)
        out += stride
