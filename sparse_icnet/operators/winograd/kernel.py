"""Winograd's minimal filtering of 3x3 convolutions, exact in integers (`sparse_icnet.sparse.winograd` has the proof).

A tile is 4 x 4 outputs; its 6 x 6 inputs become 36 elements, in every input channel.  The lanes of a vector are 16 tiles.
Three passes, for a few vectors of tiles at a time:

    transform   u8 codes of 4 channels -> B d B' as pairs of int16, for every element
    products    for every element a small dense matrix product: int16 x int16 pairs, added in int32
    outputs     A m A', the exact division (W2), then the epilogue of every convolution

Where a map has a multiple of 4 phases, the 16 pixels of a tile lie in 16 planes and the same pixel of each: lanes are
neighbours in memory.  Elsewhere, and with a dilation, tables say where each lane's pixels lie, and lanes are gathered
and scattered one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sparse_icnet.operators.epilogue import finish_codes, finish_real, pack_row, pad, rescale
from sparse_icnet.operators.params import SCRATCH_BYTES, TILE_ROW_BYTES
from sparse_icnet.operators.winograd.params import WORK_BYTES
from sparse_icnet.operators.winograd.transforms import (
    transform_bytes,
    transform_last,
    transform_pairs,
    transform_sums,
)
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_i32, get_i64, put_i32
from sparse_icnet.simd.tiles import (
    tile_dot_pairs,
    tile_load,
    tile_pairs,
    tile_store,
    tile_store_codes,
    tile_zero,
)
from sparse_icnet.simd.vectors import gather_lanes, load_f32, maximum, splat_f32, store
from sparse_icnet.sparse.winograd import ELEMENTS, INPUTS, INVERSE, OUTPUTS, SHIFT, A, B
from sparse_icnet.target import TARGET

_FEW, _MANY = TARGET.filtering.vectors
_NOTHING = np.int32(0)
_SUM_BYTES = 4 * 64  # of one place of a tile: four channels
_down_bytes, _across_pairs = transform_bytes(B), transform_pairs(B)
_down_sums, _across_sums = transform_sums(A), transform_last(A, INVERSE, SHIFT)


@njit(inline="always")
def _width(vectors):
    """Vectors of a register tile of a task with so many."""
    return _FEW if _FEW == _MANY or vectors % _MANY else _MANY


def _product(width: int) -> Any:
    @jit
    def product(pairs, elements, weights, out, row):
        """out[o, t] = sum over pairs k of dot2(elements[k, t], weights[k, o]): four output channels, a register tile."""
        tile = tile_zero(4, width)
        for k in range(pairs):
            tile = tile_dot_pairs(tile, elements + 64 * width * k, weights + 16 * k)
        tile_store(out, row, tile)

    return product


_product_few, _product_many = _product(_FEW), _product(_MANY)


@jit
def _products(step, first, groups, elements, sums):
    """The products of every element, for `groups` groups of output channels from `first` on.

    Register tile by register tile, so that its elements stay in the first-level cache for all groups.
    """
    pairs, vectors = 2 * step.inputs.groups, step.inputs.vectors_per_task
    width, row, channels = _width(vectors), 64 * vectors, 16 * pairs  # bytes of the weights of four outputs
    weights = step.weights + first * ELEMENTS * channels
    for _ in range(ELEMENTS):
        block = elements
        for t in range(0, row, 64 * width):
            for group in range(groups):
                place, out = weights + channels * group, sums + t + 4 * row * group
                if _FEW == _MANY or width == _FEW:
                    _product_few(pairs, block, place, out, row)
                else:
                    _product_many(pairs, block, place, out, row)
            block += 64 * width * pairs
        weights += channels * groups
        elements += step.inputs.element_bytes
        sums += step.sums_element_bytes


@jit
def _scatter(offsets, source, target):
    """16 lanes, each to target + its offset; those with a negative offset belong to no pixel."""
    for lane in range(0, 64, 4):
        offset = get_i32(offsets + lane)
        if offset >= 0:
            put_i32(target + offset, get_i32(source + lane))


@njit(inline="always")
def _has_copies(output, plane):
    """Whether a plane of the output has shifted copies: most have none, and a call for each vector would cost as much."""
    table = output.copies.entries
    return table != 0 and get_i64(table + 8 * plane) < get_i64(table + 8 * plane + 8)


@jit
def _finish_scattered(step, group, start, sums, scratch):
    """The epilogue of 4 x 4 places of 16 tiles that lie where tables say."""
    output, scattered = step.epilogue.output, step.scattered
    out = output.map.address + group * output.map.stride * (4 if output.real else 1)
    for i in range(OUTPUTS * OUTPUTS):
        x = tile_load(4, 1, sums + _SUM_BYTES * i, 64)
        x = rescale(step.epilogue, x, 4 * group, group, 0, start, 0, scratch)
        offsets = scattered + i * step.scattered_bytes + 64 * start
        if output.real:
            tile_store(scratch, TILE_ROW_BYTES, x)
            for r in range(4):
                row = scratch + r * TILE_ROW_BYTES
                if output.relu:
                    store(row, maximum(load_f32(row), splat_f32(np.float32(0))))
                _scatter(offsets, row, out + r * output.map.stride)
        else:
            if output.saturates:
                tile_store_codes(scratch, tile_pairs(x))
            else:
                tile_store(scratch, TILE_ROW_BYTES, x)
                store(scratch, pack_row(output.rounding, scratch))
            _scatter(offsets, scratch, out)


@jit
def _finish(step, group, phase, start, sums, scratch):
    """The epilogue (Q4), (Q5), (Q1) of 4 x 4 places of 16 tiles, four output channels of sums each."""
    output = step.epilogue.output
    saturates = output.saturates
    out = output.map.address + group * output.map.stride * (4 if output.real else 1)
    columns = step.columns
    tiles = columns // OUTPUTS
    plane = (phase // tiles * columns + phase % tiles) * OUTPUTS
    for _ in range(OUTPUTS):
        for _ in range(OUTPUTS):
            x = tile_load(4, 1, sums, 64)
            x = rescale(step.epilogue, x, 4 * group, group, plane, start, 0, scratch)
            place = out + get_i64(output.map.planes + 8 * plane)
            if start == 0 and output.padding.entries:
                pad(output.padding, plane, place)
            place += 64 * start
            if saturates:
                tile_store_codes(place, tile_pairs(x))
                if _has_copies(output, plane):
                    finish_codes(output, plane, start, np.int64(1), place, place)
            else:
                tile_store(scratch, TILE_ROW_BYTES, x)
                finish_real(output, plane, start, np.int64(1), scratch, place)
            sums += _SUM_BYTES
            plane += 1
        plane += columns - OUTPUTS


_DOWN_PAIRS = 64 * INPUTS * INPUTS  # bytes of one parity of the channels between the two transforms of inputs


@jit
def _transform(inputs, group, phase, start, elements, scratch):
    """The elements of the two pairs of a group of four input channels, for all vectors of a task.

    Of each of the ELEMENTS: (register tile, pair, vector of the tile), in the order in which products read them.
    """
    base = inputs.source + group * inputs.source_stride
    vectors, stride, gathered = inputs.vectors_per_task, inputs.element_bytes, inputs.gathered
    width = _width(vectors)
    codes = scratch + SCRATCH_BYTES
    down = codes + 64 * ELEMENTS
    for t in range(vectors):
        source, offsets = base + 64 * (start + t), inputs.offsets + phase * inputs.offsets_phase
        if gathered:
            offsets += 64 * (start + t)
            for i in range(ELEMENTS):
                store(codes + 64 * i, gather_lanes(base, offsets + i * gathered))
            source, offsets = codes, inputs.in_order
        for v in range(INPUTS):
            _down_bytes(source, offsets + 4 * v, 4 * INPUTS, down + 64 * v, 64 * INPUTS, _DOWN_PAIRS)
        target = elements + 64 * (2 * width * (t // width * inputs.groups + group) + t % width)
        for u in range(INPUTS):
            row = down + 64 * INPUTS * u
            _across_pairs(row, 64, target, stride, _NOTHING)
            _across_pairs(row + _DOWN_PAIRS, 64, target + 64 * width, stride, _NOTHING)
            target += INPUTS * stride


@jit
def _outputs(step, group, phase, start, sums, scratch):
    """The outputs of 16 tiles in four channels from their sums of products."""
    stride, row = step.sums_element_bytes, 64 * step.inputs.vectors_per_task
    down = scratch + SCRATCH_BYTES
    finished = down + 64 * OUTPUTS * INPUTS
    for r in range(4):
        for v in range(INPUTS):
            _down_sums(sums + r * row + v * stride, INPUTS * stride, down + 64 * v, 64 * INPUTS, _NOTHING)
        initial = get_i32(step.epilogue.initial + 16 * group + 4 * r)
        for i in range(OUTPUTS):
            place = finished + 64 * r + OUTPUTS * _SUM_BYTES * i
            _across_sums(down + 64 * INPUTS * i, 64, place, _SUM_BYTES, initial)
    if step.scattered:
        _finish_scattered(step, group, start, finished, scratch)
    else:
        _finish(step, group, phase, start, finished, scratch)


@jit
def winograd_input(inputs, task, scratch):
    """One task: the elements of one group of four input channels, for a few vectors of tiles of one phase of tiles."""
    groups, chunks = inputs.groups, inputs.chunks
    group, chunk = task % groups, task // groups
    elements = inputs.address + chunk * ELEMENTS * inputs.element_bytes
    start = chunk % chunks * inputs.vectors_per_task
    _transform(inputs, group, chunk // chunks, start, elements, scratch)


@jit
def winograd(step, task, scratch):
    """One task: a few vectors of tiles of one phase of tiles, for a range of groups of four output channels.

    With many tiles a task transforms its own inputs and computes all output channels; with few, all inputs were
    transformed before, and tasks divide the output channels.
    """
    inputs, groups, at_once = step.inputs, step.groups, step.groups_at_once
    vectors, chunks, elements = inputs.vectors_per_task, inputs.chunks, inputs.address
    first, last, chunk = 0, groups, task
    if elements:
        parts = (groups + at_once - 1) // at_once
        first, chunk = task % parts * at_once, task // parts
        last = min(first + at_once, groups)
        elements += chunk * ELEMENTS * inputs.element_bytes
    phase, start = chunk // chunks, chunk % chunks * vectors
    if not elements:
        elements = scratch + SCRATCH_BYTES + WORK_BYTES
        for group in range(inputs.groups):
            _transform(inputs, group, phase, start, elements, scratch)
    sums = scratch + step.sums
    for begin in range(first, last, at_once):
        end = min(begin + at_once, last)
        _products(step, begin, end - begin, elements, sums)
        for group in range(begin, end):
            for t in range(min(vectors, step.vectors - start)):
                place = sums + 64 * (4 * (group - begin) * vectors + t)
                _outputs(step, group, phase, start + t, place, scratch)
