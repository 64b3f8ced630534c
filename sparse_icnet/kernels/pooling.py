"""Max pooling, average pooling and the pyramid of ICNet, on maps of u8 x 4 lanes."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.epilogue import clip_round, pack
from sparse_icnet.kernels.simd import (
    get_f32,
    get_i32,
    get_i64,
    load_f32,
    load_i32,
    maximum_u8,
    put_f32,
    put_i64,
    splat_f32,
    splat_i32,
    store,
    to_f32,
)
from sparse_icnet.kernels.sizes import MAX_BINS, STAGE_WORDS
from sparse_icnet.kernels.step import field, field_f32


@njit
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


@njit
def _window_sums(row, pitch, step_x, y0, y1, x0, x1, sums):
    """Add the u8 x 4 pixels in rows y0..y1, columns x0..x1 of a plane to int64 (4,) at `sums`, two channels to an add."""
    a = b = c = d = np.int64(0)
    even = odd = np.uint32(0)
    pending = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            word = np.uint32(get_i32(row + y * pitch + x * step_x))
            even += word & np.uint32(0x00FF00FF)
            odd += (word >> np.uint32(8)) & np.uint32(0x00FF00FF)
            pending += 1
            if pending == 256:  # 256 * 255 < 2**16
                a += np.int64(even & np.uint32(0xFFFF))
                c += np.int64(even >> np.uint32(16))
                b += np.int64(odd & np.uint32(0xFFFF))
                d += np.int64(odd >> np.uint32(16))
                even = odd = np.uint32(0)
                pending = 0
    put_i64(sums, get_i64(sums) + a + np.int64(even & np.uint32(0xFFFF)))
    put_i64(sums + 8, get_i64(sums + 8) + b + np.int64(odd & np.uint32(0xFFFF)))
    put_i64(sums + 16, get_i64(sums + 16) + c + np.int64(even >> np.uint32(16)))
    put_i64(sums + 24, get_i64(sums + 24) + d + np.int64(odd >> np.uint32(16)))


@njit
def _bin_sums(step, group, rows, columns, sums):
    """Sums of stored codes over every bin for four channels: int64 (rows, columns, 4) at `sums`."""
    height, width = field(step, f.HEIGHT), field(step, f.WIDTH)  # of the whole map
    ky, kx = field(step, f.STEP_Y), field(step, f.STEP_X)  # phases of the input
    source = field(step, f.IN) + group * field(step, f.IN_GROUP)
    planes, pitch = field(step, f.IN_PLANES), field(step, f.PITCH)
    for i in range(rows):
        for j in range(columns):
            y0, y1 = i * height // rows, ((i + 1) * height + rows - 1) // rows
            x0, x1 = j * width // columns, ((j + 1) * width + columns - 1) // columns
            cell = sums + 32 * (i * columns + j)
            for r in range(4):
                put_i64(cell + 8 * r, np.int64(0))
            for py in range(ky):
                for px in range(kx):
                    plane = source + get_i64(planes + 8 * (py * kx + px))
                    # rows y with y % ky == py of y0..y1, as rows of the plane; columns likewise
                    _window_sums(
                        plane,
                        pitch,
                        4,
                        (y0 - py + ky - 1) // ky,
                        (y1 - py + ky - 1) // ky,
                        (x0 - px + kx - 1) // kx,
                        (x1 - px + kx - 1) // kx,
                        cell,
                    )


@njit
def _means(fine, fine_rows, fine_columns, rows, columns, multipliers, counts, zero, out):
    """Mean of every bin (Q6) from the sums of finer bins: out float32 (4, rows, columns).

    Every bin is a whole number of finer ones, and integer sums do not depend on their order.
    fine         int64 (fine_rows, fine_columns, 4)
    multipliers  float32 (rows, columns), counts int32 (rows, columns): pixels of the window of each bin
    """
    high, wide = fine_rows // rows, fine_columns // columns
    for i in range(rows):
        for j in range(columns):
            multiplier = get_f32(multipliers + 4 * (i * columns + j))
            offset = np.int64(get_i32(counts + 4 * (i * columns + j))) * zero
            for r in range(4):
                total = np.int64(0)
                for y in range(i * high, (i + 1) * high):
                    for x in range(j * wide, (j + 1) * wide):
                        total += get_i64(fine + 8 * ((y * fine_columns + x) * 4 + r))
                mean = np.float32(total - offset) * multiplier
                put_f32(out + 4 * ((r * rows + i) * columns + j), mean)


@njit
def average_pool(step, task, scratch):
    """One task: the bins of one group, as float32 (C, rows, columns).

    TABLE  float32 multipliers (rows, columns), then int32 counts (rows, columns)
    """
    rows, columns = field(step, f.COUNT), field(step, f.EXTRA)
    table, out = field(step, f.TABLE), field(step, f.OUT) + task * 16 * rows * columns
    _bin_sums(step, task, rows, columns, scratch)
    counts = table + 4 * rows * columns
    _means(scratch, rows, columns, rows, columns, table, counts, field(step, f.IN_ZERO), out)


@njit(inline="always")
def _round_scalar(x, low, high):
    """clip and rint of (Q1) for one float32, half to even by the addition of 1.5 * 2**23."""
    if not x > low:
        x = low
    if x > high:
        x = high
    return np.float32(np.float32(x + f.MAGIC) - f.MAGIC)


@njit
def pyramid(step, task, scratch):
    """One task: one group of x + sum over stages of nearest-up(mean over bins), with optional quantizers.

    Stage i adds its pooled value to the running sum in the unit of stage i; where the file has a quantizer on
    the pooled value or on the running sum, it rounds there and rescales into the next unit.
    """
    stages, table = field(step, f.COUNT), field(step, f.TABLE)
    height, width, pitch = field(step, f.HEIGHT), field(step, f.WIDTH), field(step, f.PITCH)
    zero = field(step, f.IN_ZERO)
    source = field(step, f.IN) + task * field(step, f.IN_GROUP) + get_i64(field(step, f.IN_PLANES))
    out = field(step, f.OUT) + task * field(step, f.OUT_GROUP) + get_i64(field(step, f.OUT_PLANES))
    row_floats = pitch  # bytes of a row of pixels = bytes of u8 x 4 pixels = bytes of float32
    # scratch: sums of the finest bins, sums and values of the bins of a stage, then for each stage and channel its
    # bin rows spread to whole rows
    sums = scratch
    own = sums + 32 * MAX_BINS * MAX_BINS
    values = own + 32 * MAX_BINS * MAX_BINS
    spread = values + 16 * MAX_BINS * MAX_BINS
    place = spread
    # Sums of the finest bins: for a stage whose bins are whole numbers of them, one pass over the map serves both.
    fine_rows, fine_columns = field(step, f.CHANNELS), field(step, f.EXTRA)
    _bin_sums(step, task, fine_rows, fine_columns, sums)
    for i in range(stages):
        stage = table + 4 * STAGE_WORDS * i
        rows, columns = np.int64(get_i32(stage)), np.int64(get_i32(stage + 4))
        multipliers = table + np.int64(get_i32(stage + 8))
        counts = multipliers + 4 * rows * columns
        if get_i32(stage + 44):
            _means(sums, fine_rows, fine_columns, rows, columns, multipliers, counts, zero, values)
        else:
            _bin_sums(step, task, rows, columns, own)
            _means(own, rows, columns, rows, columns, multipliers, counts, zero, values)
        quantized = get_i32(stage + 12)
        low, high, scale = get_f32(stage + 16), get_f32(stage + 20), get_f32(stage + 24)
        for line in range(4 * rows):
            for j in range(columns):
                value = get_f32(values + 4 * (line * columns + j))
                if quantized:
                    value = np.float32(_round_scalar(value, low, high) * scale)
                # Pixels x with x * columns // width == j (Q7), in whole vectors: what is too much the next bin overwrites.
                vector = splat_f32(value)
                first_x = (j * width + columns - 1) // columns
                for x in range(first_x, ((j + 1) * width + columns - 1) // columns, 16):
                    store(place + 4 * x, vector)
            place += row_floats
    first = splat_f32(field_f32(step, f.IN_SCALE))
    zeros, byte = splat_i32(np.int32(zero)), splat_i32(np.int32(255))
    low, high = splat_f32(field_f32(step, f.LOW)), splat_f32(field_f32(step, f.HIGH))
    constant = splat_i32(np.int32(field(step, f.PACK)))
    for y in range(height):
        for first_byte in range(0, pitch, 64):
            x = min(
                first_byte, pitch - 64
            )  # rows without a gap end with a vector that overlaps the one before
            word = load_i32(source + y * pitch + x)
            a = to_f32((word & byte) - zeros) * first
            b = to_f32(((word >> splat_i32(np.int32(8))) & byte) - zeros) * first
            c = to_f32(((word >> splat_i32(np.int32(16))) & byte) - zeros) * first
            d = to_f32((word >> splat_i32(np.int32(24))) - zeros) * first
            place = spread
            for i in range(stages):
                stage = table + 4 * STAGE_WORDS * i
                rows = np.int64(get_i32(stage))
                line = place + (y * rows // height) * row_floats + x
                a = a + load_f32(line)
                b = b + load_f32(line + rows * row_floats)
                c = c + load_f32(line + 2 * rows * row_floats)
                d = d + load_f32(line + 3 * rows * row_floats)
                place += 4 * rows * row_floats
                if get_i32(stage + 28):
                    inner_low, inner_high = splat_f32(get_f32(stage + 32)), splat_f32(get_f32(stage + 36))
                    scale = splat_f32(get_f32(stage + 40))
                    a = clip_round(a, inner_low, inner_high) * scale
                    b = clip_round(b, inner_low, inner_high) * scale
                    c = clip_round(c, inner_low, inner_high) * scale
                    d = clip_round(d, inner_low, inner_high) * scale
            store(out + y * pitch + x, pack(a, b, c, d, low, high, constant))
