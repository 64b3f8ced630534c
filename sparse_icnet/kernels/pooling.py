"""Max pooling, average pooling and the pyramid of ICNet, on maps of u8 x 4 lanes."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.epilogue import clip_round, pack
from sparse_icnet.kernels.jit import jit
from sparse_icnet.kernels.sizes import CELL, MAX_BINS, STAGE_WORDS, line_bytes
from sparse_icnet.kernels.step import field, field_f32
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


@jit
def max_pool(step, task, scratch):
    """One task: one phase of one group of four channels; the largest of COUNT taps, stored codes compare as codes."""
    phases = field(step, f.PHASES)
    group, phase = task // phases, task % phases
    source = field(step, f.IN) + group * field(step, f.IN_GROUP)
    out = (
        field(step, f.OUT) + group * field(step, f.OUT_GROUP) + get_i64(field(step, f.OUT_PLANES) + 8 * phase)
    )
    taps = field(step, f.COUNT)
    offsets = field(step, f.OFFSETS) + phase * field(step, f.OFFSETS_PHASE)
    for p in range(field(step, f.VECTORS)):
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
def _bin_sums(step, group, rows, columns, windows, lines, sums):
    """Sums of stored codes over every bin: int32 (rows, columns, 16) at `sums`, four channels and twelve times nothing.

    windows  int32 (ky, rows, 2), then (kx, columns, 2): first and end of each bin in the planes of each phase
    lines    memory for the sums of the columns of a plane in every bin row
    """
    ky, kx = field(step, f.STEP_Y), field(step, f.STEP_X)  # phases of the input
    source = field(step, f.IN) + group * field(step, f.IN_GROUP)
    planes, pitch = field(step, f.IN_PLANES), field(step, f.PITCH)
    line_bytes = _line_bytes(4 * pitch)
    for cell in range(rows * columns):
        store(sums + CELL * cell, splat_i32(np.int32(0)))
    for py in range(ky):
        for px in range(kx):
            plane = source + get_i64(planes + 8 * (py * kx + px))
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
def _means(total, multipliers, bins, at, zero):
    """Means of bin `at` (Q6) from the sums of its stored codes; multipliers float32 (bins,), then counts int32."""
    count = get_i32(multipliers + 4 * (bins + at))
    return to_f32(total - splat_i32(np.int32(count * zero))) * splat_f32(get_f32(multipliers + 4 * at))


@jit
def average_pool(step, task, scratch):
    """One task: the bins of one group, as float32 (C, rows, columns).

    TABLE  float32 multipliers (rows, columns), then int32 counts (rows, columns), then windows
    """
    rows, columns = field(step, f.COUNT), field(step, f.EXTRA)
    bins = rows * columns
    table, out = field(step, f.TABLE), field(step, f.OUT) + task * 16 * bins
    sums = scratch + _line_bytes(4 * field(step, f.PITCH)) * rows
    _bin_sums(step, task, rows, columns, table + 8 * bins, scratch, sums)
    for at in range(bins):
        store(scratch, _means(load_i32(sums + CELL * at), table, bins, at, field(step, f.IN_ZERO)))
        for r in range(4):
            put_f32(out + 4 * (r * bins + at), get_f32(scratch + 4 * r))


@jit
def _spread_stage(stage, multipliers, sums, fine_rows, fine_columns, zero, pitch, values, out):
    """Means of the bins of one stage, each spread to the columns that it covers: float32 (rows, 4, pitch / 4).

    Every bin is a whole number of the finer bins in `sums`: integer sums do not depend on their order.
    Each line has room for a vector behind its last bin; values is memory for a vector.
    """
    rows, columns = np.int64(get_i32(stage)), np.int64(get_i32(stage + 4))
    high, wide = fine_rows // rows, fine_columns // columns
    quantized = get_i32(stage + 12)
    lowest, highest = splat_f32(get_f32(stage + 16)), splat_f32(get_f32(stage + 20))
    scale = splat_f32(get_f32(stage + 24))
    starts = multipliers + np.int64(get_i32(stage + 48))
    for i in range(rows):
        line = out + 4 * i * pitch
        for j in range(columns):
            total = splat_i32(np.int32(0))
            for y in range(i * high, (i + 1) * high):
                for x in range(j * wide, (j + 1) * wide):
                    total = total + load_i32(sums + CELL * (y * fine_columns + x))
            means = _means(total, multipliers, rows * columns, i * columns + j, zero)
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

    EXTRA    the stage with the finest bins if they divide the map, otherwise -1
    OFFSETS  int32 (HEIGHT, COUNT): byte offset, behind the sums in scratch, of the bin row of each stage
    """
    stages, table, lines = field(step, f.COUNT), field(step, f.TABLE), field(step, f.OFFSETS)
    pitch, zero = field(step, f.PITCH), field(step, f.IN_ZERO)
    source = field(step, f.IN) + task * field(step, f.IN_GROUP) + get_i64(field(step, f.IN_PLANES))
    out = field(step, f.OUT) + task * field(step, f.OUT_GROUP) + get_i64(field(step, f.OUT_PLANES))
    # scratch: sums of columns, sums of the finest bins, sums of the bins of one stage, lines of every stage
    fine = scratch + _line_bytes(4 * pitch) * MAX_BINS
    own = fine + CELL * MAX_BINS * MAX_BINS
    spread = own + CELL * MAX_BINS * MAX_BINS
    line_pitch = _line_bytes(pitch)
    # For stages whose bins are whole numbers of the finest ones, one pass over the map serves all.
    finest, fine_rows, fine_columns = field(step, f.EXTRA), np.int64(0), np.int64(0)
    if finest >= 0:
        stage = table + 4 * STAGE_WORDS * finest
        fine_rows, fine_columns = np.int64(get_i32(stage)), np.int64(get_i32(stage + 4))
        windows = table + np.int64(get_i32(stage + 8)) + 8 * fine_rows * fine_columns
        _bin_sums(step, task, fine_rows, fine_columns, windows, scratch, fine)
    place = spread
    for i in range(stages):
        stage = table + 4 * STAGE_WORDS * i
        rows, columns = np.int64(get_i32(stage)), np.int64(get_i32(stage + 4))
        multipliers = table + np.int64(get_i32(stage + 8))
        if get_i32(stage + 44):
            _spread_stage(stage, multipliers, fine, fine_rows, fine_columns, zero, line_pitch, scratch, place)
        else:
            _bin_sums(step, task, rows, columns, multipliers + 8 * rows * columns, scratch, own)
            _spread_stage(stage, multipliers, own, rows, columns, zero, line_pitch, scratch, place)
        place += 4 * rows * line_pitch
    first = splat_f32(field_f32(step, f.IN_SCALE))
    zeros, byte = splat_i32(np.int32(zero)), splat_i32(np.int32(255))
    low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
    constant = splat_i32(np.int32(field(step, f.PACK)))
    for _ in range(field(step, f.HEIGHT)):
        for first_byte in range(0, pitch, 64):
            # Rows without a gap end with a vector that overlaps the one before.
            x = min(first_byte, pitch - 64)
            word = load_i32(source + x)
            a = to_f32((word & byte) - zeros) * first
            b = to_f32(((word >> splat_i32(np.int32(8))) & byte) - zeros) * first
            c = to_f32(((word >> splat_i32(np.int32(16))) & byte) - zeros) * first
            d = to_f32((word >> splat_i32(np.int32(24))) - zeros) * first
            for i in range(stages):
                stage = table + 4 * STAGE_WORDS * i
                line = spread + np.int64(get_i32(lines + 4 * i)) + x
                a = a + load_f32(line)
                b = b + load_f32(line + line_pitch)
                c = c + load_f32(line + 2 * line_pitch)
                d = d + load_f32(line + 3 * line_pitch)
                if get_i32(stage + 28):
                    inner_low, inner_high = splat_f32(get_f32(stage + 32)), splat_f32(get_f32(stage + 36))
                    scale = splat_f32(get_f32(stage + 40))
                    a = clip_round(a, inner_low, inner_high) * scale
                    b = clip_round(b, inner_low, inner_high) * scale
                    c = clip_round(c, inner_low, inner_high) * scale
                    d = clip_round(d, inner_low, inner_high) * scale
            store(out + x, pack(a, b, c, d, low, high, constant))
        source += pitch
        out += pitch
        lines += 4 * stages
