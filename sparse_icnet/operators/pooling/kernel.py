"""Max pooling, average pooling and the pyramid of ICNet, on maps of u8 x 4 lanes."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.operators.epilogue import clip_round, pack
from sparse_icnet.operators.pooling.params import CELL, MAX_BINS, PyramidStage, line_bytes
from sparse_icnet.operators.record import dtype_of
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.record import at
from sparse_icnet.simd.scalars import get_f32, get_i32, get_i64, put_f32
from sparse_icnet.simd.vectors import (
    load_f32,
    load_i32,
    load_u8,
    maximum_u8,
    splat_f32,
    splat_i32,
    store,
    to_f32,
)

_line_bytes = njit(inline="always")(line_bytes)
_as_stage = at(PyramidStage)
_STAGE_BYTES = dtype_of(PyramidStage).itemsize


@jit
def max_pool(step, task, scratch):
    """One task: one phase of one group of four channels; the largest of all taps, stored codes compare as codes."""
    phases, output = step.phases, step.output
    group, phase = task // phases, task % phases
    source = step.source + group * step.source_stride
    out = output.address + group * output.stride + get_i64(output.planes + 8 * phase)
    taps = step.taps
    offsets = step.offsets + phase * step.offsets_phase
    for p in range(step.vectors):
        best = load_i32(source + get_i32(offsets) + 64 * p)
        for tap in range(1, taps):
            best = maximum_u8(best, load_i32(source + get_i32(offsets + 4 * tap) + 64 * p))
        store(out + 64 * p, best)


@jit
def _column_sums(plane, rows, pitch, out):
    """Sums of `rows` rows of u8 x 4 pixels: int32 (pitch / 4, 4)."""
    for first in range(0, pitch, 16):
        x = min(first, pitch - 16)  # the last vector may overlap the one before
        total = splat_i32(np.int32(0))
        for y in range(rows):
            total = total + load_u8(plane + y * pitch + x)
        store(out + 4 * x, total)


@jit
def _bin_sums(source, group, bins, lines, sums):
    """Sums of stored codes over every bin: int32 (rows, columns, 16) at `sums`, of which four channels count.

    lines    memory for the sums of the columns of a plane in every bin row
    """
    ky, kx = source.phases_y, source.phases_x
    rows, columns, windows = bins.rows, bins.columns, bins.windows
    first_plane, planes, pitch = (
        source.map.address + group * source.map.stride,
        source.map.planes,
        source.pitch,
    )
    line_bytes = _line_bytes(4 * pitch)
    for cell in range(rows * columns):
        store(sums + CELL * cell, splat_i32(np.int32(0)))
    for py in range(ky):
        for px in range(kx):
            plane = first_plane + get_i64(planes + 8 * (py * kx + px))
            # First all columns, then all bins: a load waits long for two stores that overlap it.
            for i in range(rows):
                window = windows + 8 * (py * rows + i)
                first, end = np.int64(get_i32(window)), np.int64(get_i32(window + 4))
                _column_sums(plane + first * pitch, end - first, pitch, lines + line_bytes * i)
            for i in range(rows):
                line, cells = lines + line_bytes * i, sums + CELL * i * columns
                for j in range(columns):
                    window = windows + 8 * (ky * rows + px * columns + j)
                    total = load_i32(cells + CELL * j)
                    for x in range(np.int64(get_i32(window)), np.int64(get_i32(window + 4))):
                        total = total + load_i32(line + 16 * x)
                    store(cells + CELL * j, total)


@njit(inline="always")
def _means(total, bins, at, zero):
    """Means of bin `at` (Q6) from the sums of its stored codes."""
    count = get_i32(bins.counts + 4 * at)
    return to_f32(total - splat_i32(np.int32(count * zero))) * splat_f32(get_f32(bins.multipliers + 4 * at))


@jit
def average_pool(step, task, scratch):
    """One task: the bins of one group, as float32 (C, rows, columns)."""
    source, bins = step.source, step.bins
    count = bins.rows * bins.columns
    out = step.out + task * 16 * count
    sums = scratch + _line_bytes(4 * source.pitch) * bins.rows
    _bin_sums(source, task, bins, scratch, sums)
    for bin in range(count):
        store(scratch, _means(load_i32(sums + CELL * bin), bins, bin, source.zero))
        for r in range(4):
            put_f32(out + 4 * (r * count + bin), get_f32(scratch + 4 * r))


@jit
def _spread_stage(stage, sums, fine_rows, fine_columns, zero, pitch, values, out):
    """Means of the bins of one stage, each spread to the columns that it covers: float32 (rows, 4, pitch / 4).

    Every bin is a whole number of the finer bins in `sums`: integer sums do not depend on their order.
    Each line has room for a vector behind its last bin; values is memory for a vector.
    """
    bins, quantizer, starts = stage.bins, stage.quantizer, stage.spread
    rows, columns = bins.rows, bins.columns
    high, wide = fine_rows // rows, fine_columns // columns
    quantized = stage.quantized
    lowest, highest = splat_f32(quantizer.low), splat_f32(quantizer.high)
    scale = splat_f32(quantizer.scale)
    for i in range(rows):
        line = out + 4 * i * pitch
        for j in range(columns):
            total = splat_i32(np.int32(0))
            for y in range(i * high, (i + 1) * high):
                for x in range(j * wide, (j + 1) * wide):
                    total = total + load_i32(sums + CELL * (y * fine_columns + x))
            means = _means(total, bins, i * columns + j, zero)
            if quantized:
                means = clip_round(means, lowest, highest) * scale
            store(values, means)
            a, b = splat_f32(get_f32(values)), splat_f32(get_f32(values + 4))
            c, d = splat_f32(get_f32(values + 8)), splat_f32(get_f32(values + 12))
            # In whole vectors: what is too much the next bin overwrites.
            for x in range(np.int64(get_i32(starts + 4 * j)), np.int64(get_i32(starts + 4 * j + 4)), 16):
                store(line + 4 * x, a)
                store(line + pitch + 4 * x, b)
                store(line + 2 * pitch + 4 * x, c)
                store(line + 3 * pitch + 4 * x, d)


@jit
def pyramid(step, task, scratch):
    """One task: one group of x + sum over stages of nearest-up(mean over bins), with optional quantizers.

    Stage i adds its pooled value to the running sum in the unit of stage i; where the file has a quantizer on
    the pooled value or on the running sum, it rounds there and rescales into the next unit.
    """
    stages, count, lines = step.stages, step.count, step.lines
    pitch, zero = step.source.pitch, step.source.zero
    source = step.source.map.address + task * step.source.map.stride + get_i64(step.source.map.planes)
    out = step.output.address + task * step.output.stride + get_i64(step.output.planes)
    # scratch: sums of columns, sums of the finest bins, sums of the bins of one stage, lines of every stage
    fine = scratch + _line_bytes(4 * pitch) * MAX_BINS
    own = fine + CELL * MAX_BINS * MAX_BINS
    spread = own + CELL * MAX_BINS * MAX_BINS
    line_pitch = _line_bytes(pitch)
    # For stages whose bins are whole numbers of the finest ones, one pass over the map serves all.
    finest, fine_rows, fine_columns = step.finest, np.int64(0), np.int64(0)
    if finest >= 0:
        bins = _as_stage(stages + _STAGE_BYTES * finest).bins
        fine_rows, fine_columns = bins.rows, bins.columns
        _bin_sums(step.source, task, bins, scratch, fine)
    place = spread
    for i in range(count):
        stage = _as_stage(stages + _STAGE_BYTES * i)
        rows, columns = stage.bins.rows, stage.bins.columns
        if stage.of_finest:
            _spread_stage(stage, fine, fine_rows, fine_columns, zero, line_pitch, scratch, place)
        else:
            _bin_sums(step.source, task, stage.bins, scratch, own)
            _spread_stage(stage, own, rows, columns, zero, line_pitch, scratch, place)
        place += 4 * rows * line_pitch
    first = splat_f32(step.scale)
    zeros, byte = splat_i32(np.int32(zero)), splat_i32(np.int32(255))
    low, high = splat_f32(step.rounding.low), splat_f32(step.rounding.high)
    constant = splat_i32(np.int32(step.rounding.pack))
    for _ in range(step.height):
        for first_byte in range(0, pitch, 64):
            # Rows without a gap end with a vector that overlaps the one before.
            x = min(first_byte, pitch - 64)
            lanes = load_i32(source + x)
            a = to_f32((lanes & byte) - zeros) * first
            b = to_f32(((lanes >> splat_i32(np.int32(8))) & byte) - zeros) * first
            c = to_f32(((lanes >> splat_i32(np.int32(16))) & byte) - zeros) * first
            d = to_f32((lanes >> splat_i32(np.int32(24))) - zeros) * first
            for i in range(count):
                stage = _as_stage(stages + _STAGE_BYTES * i)
                line = spread + np.int64(get_i32(lines + 4 * i)) + x
                a = a + load_f32(line)
                b = b + load_f32(line + line_pitch)
                c = c + load_f32(line + 2 * line_pitch)
                d = d + load_f32(line + 3 * line_pitch)
                if stage.running:
                    running = stage.running_quantizer
                    inner_low, inner_high = splat_f32(running.low), splat_f32(running.high)
                    scale = splat_f32(running.scale)
                    a = clip_round(a, inner_low, inner_high) * scale
                    b = clip_round(b, inner_low, inner_high) * scale
                    c = clip_round(c, inner_low, inner_high) * scale
                    d = clip_round(d, inner_low, inner_high) * scale
            store(out + x, pack(a, b, c, d, low, high, constant))
        source += pitch
        out += pitch
        lines += 4 * count
