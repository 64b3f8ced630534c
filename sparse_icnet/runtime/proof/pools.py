"""What the kernels of `kernels/pooling.py` touch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.kernels.sizes import CELL, MAX_BINS, STAGE_WORDS, line_bytes
from sparse_icnet.runtime.proof.access import HERE, Access, Span, proves, steps, values
from sparse_icnet.runtime.proof.maps import VECTOR, planes_at, row_bytes

# Words of a stage of the pyramid (`kernels/sizes.py`): bin rows and columns, byte offset of its tables, whether it adds up
# the sums of the finest bins, byte offset in its tables of the columns that each bin covers.
_ROWS, _COLUMNS, _TABLES, _FROM_FINEST, _STARTS = 0, 1, 2, 11, 12


@proves(Kind.MAX_POOL)
def max_pool(a: Access) -> None:
    """Task: one phase of one group; whole vectors of every tap."""
    phases, vectors = a.count(f.PHASES, "phases"), a.count(f.VECTORS, "vectors")
    groups = (a.tasks - 1) // phases + 1
    taps = a.table(
        "taps", a[f.OFFSETS], np.int32, (phases, a.count(f.COUNT, "taps")), (a[f.OFFSETS_PHASE], 4)
    )
    line = steps(vectors, VECTOR)
    a.reads("taps", a[f.IN], values(taps) + steps(groups, a[f.IN_GROUP]) + line, VECTOR)
    planes = values(planes_at(a, "result", a[f.OUT_PLANES], phases))
    a.writes("result", a[f.OUT], planes + steps(groups, a[f.OUT_GROUP]) + line, VECTOR)


@proves(Kind.AVERAGE_POOL)
def average_pool(a: Access) -> None:
    """Task: all bins of one group."""
    rows, columns = a.count(f.COUNT, "rows of bins"), a.count(f.EXTRA, "columns of bins")
    bins = rows * columns
    a.constant("multipliers and counts", a[f.TABLE], 8 * bins)
    sums = line_bytes(4 * a.count(f.PITCH, "bytes of a row")) * rows
    _bin_sums(a, 8 * bins, rows, columns, sums)
    a.scratch("means", HERE, VECTOR)
    a.writes("means", a[f.OUT], steps(a.tasks, 16 * bins) + steps(4 * bins, 4), 4)


def _bin_sums(a: Access, windows: int, rows: int, columns: int, sums: int) -> None:
    """`_bin_sums`: rows of columns' sums from the start of scratch on, the sums of the bins from `sums` on.

    windows  byte offset in TABLE
    """
    ky, kx, pitch = a.count(f.STEP_Y, "phases"), a.count(f.STEP_X, "phases"), row_bytes(a)
    planes = values(planes_at(a, "input", a[f.IN_PLANES], ky * kx))
    across = a.table("windows", a[f.TABLE], np.int32, (ky * rows, 2), offset=windows)
    along = a.table("windows", a[f.TABLE], np.int32, (kx * columns, 2), offset=windows + 8 * ky * rows)
    line = line_bytes(4 * pitch)
    read = _covered(across)
    if read is not None:
        place = planes + steps(a.tasks, a[f.IN_GROUP]) + Span(read.low * pitch, read.high * pitch)
        a.reads("input", a[f.IN], place, pitch)
    a.scratch("sums of columns", steps(rows, line), 4 * pitch)
    taken = _covered(along)
    if taken is not None:
        a.scratch("sums of columns", steps(rows, line) + Span(16 * taken.low, 16 * taken.high), VECTOR)
        # A row of sums ends before the next begins, the last one before the sums of the bins.
        inside = taken.low >= 0 and 16 * taken.high + VECTOR <= line and rows * line <= sums
        a.require(inside, "its windows: expected columns within a row of sums")
    a.scratch("sums of bins", steps(rows * columns, CELL) + sums, VECTOR)


def _covered(windows: NDArray[Any]) -> Span | None:
    """First and last index in any window int (n, 2) of (first, end); None if all are empty."""
    some = windows[windows[:, 0] < windows[:, 1]].astype(np.int64)
    return Span(int(some[:, 0].min()), int(some[:, 1].max()) - 1) if len(some) else None


@proves(Kind.PYRAMID)
def pyramid(a: Access) -> None:
    """Task: one group.  Scratch: sums of columns, of the finest bins, of the bins of one stage, lines of every stage."""
    count, height, pitch = a.count(f.COUNT, "stages"), a.count(f.HEIGHT, "rows"), row_bytes(a)
    stages = a.table("stages", a[f.TABLE], np.int32, (count, STAGE_WORDS)).tolist()
    fine = line_bytes(4 * pitch) * MAX_BINS
    own = fine + CELL * MAX_BINS**2
    place = spread = own + CELL * MAX_BINS**2
    line = line_bytes(pitch)
    finest = a[f.EXTRA]
    fine_bins = 0, 0
    a.require(finest < count, f"expected the finest of {count} stages, found {finest}")
    if finest >= 0:
        fine_bins = _bins(a, stages[finest])
        _bin_sums(a, stages[finest][_TABLES] + 8 * fine_bins[0] * fine_bins[1], *fine_bins, fine)
    for stage in stages:
        rows, columns = _bins(a, stage)
        tables = stage[_TABLES]
        a.constant("multipliers and counts", a[f.TABLE], 8 * rows * columns, tables)
        if stage[_FROM_FINEST]:
            # Bin (i, j) adds fine_rows // rows x fine_columns // columns fine ones: never beyond the last.
            a.require(finest >= 0, "expected a finest stage")
        else:
            _bin_sums(a, tables + 8 * rows * columns, rows, columns, own)
        columns_of = tables + stage[_STARTS]
        starts = a.table("columns of bins", a[f.TABLE], np.int32, (columns + 1,), offset=columns_of)
        starts = starts.astype(np.int64)
        filled = starts[:-1] < starts[1:]
        if filled.any():
            whole = starts[:-1] + (starts[1:] - starts[:-1] + 15) // 16 * 16  # in whole vectors
            first, end = int(starts[:-1][filled].min()), int(whole[filled].max())
            lines = steps(4 * rows, line) + place
            a.scratch("lines", lines + 4 * first, 4 * (end - first))
            a.require(first >= 0 and 4 * end <= line, "its columns of bins: expected them within a line")
        place += 4 * rows * line
    a.scratch("means", HERE, VECTOR)
    vectors = Span(0, pitch - VECTOR)
    offsets = values(a.table("lines", a[f.OFFSETS], np.int32, (height, count)))
    a.scratch("lines", offsets + spread + steps(4, line) + vectors, VECTOR)
    groups, rows_of_plane = a.tasks, steps(height, pitch)
    for what, verb, address, stride, planes in (
        ("input", a.reads, f.IN, f.IN_GROUP, f.IN_PLANES),
        ("result", a.writes, f.OUT, f.OUT_GROUP, f.OUT_PLANES),
    ):
        plane = int(planes_at(a, what, a[planes], 1)[0])
        verb(what, a[address], steps(groups, a[stride]) + rows_of_plane + vectors + plane, VECTOR)


def _bins(a: Access, stage: list[int]) -> tuple[int, int]:
    rows, columns = stage[_ROWS], stage[_COLUMNS]
    a.require(
        1 <= rows <= MAX_BINS and 1 <= columns <= MAX_BINS,
        f"expected 1 to {MAX_BINS} rows and columns of bins, found {rows}x{columns}",
    )
    return rows, columns
