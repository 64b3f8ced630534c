"""What the kernels of `operators/pooling` that read codes touch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.pooling.params import (
    CELL,
    MAX_BINS,
    AveragePoolParams,
    MaxPoolParams,
    PyramidParams,
    PyramidStage,
    line_bytes,
)
from sparse_icnet.plan.proof.access import HERE, Access, Span, proves, steps, values
from sparse_icnet.plan.proof.maps import VECTOR, planes_at, row_bytes


@proves(MaxPoolParams)
def max_pool(a: Access) -> None:
    """Task: one phase of one group; whole vectors of every tap."""
    phases, vectors = a.count("phases", "phases"), a.count("vectors", "vectors")
    groups = (a.tasks - 1) // phases + 1
    taps = a.table("taps", a["offsets"], np.int32, (phases, a.count("taps", "taps")), (a["offsets_phase"], 4))
    line = steps(vectors, VECTOR)
    a.reads("taps", a["source"], values(taps) + steps(groups, a["source_stride"]) + line, VECTOR)
    output = a.inside("output")
    planes = values(planes_at(output, "result", output["planes"], phases))
    a.writes("result", output["address"], planes + steps(groups, output["stride"]) + line, VECTOR)


@proves(AveragePoolParams)
def average_pool(a: Access) -> None:
    """Task: all bins of one group."""
    source, bins = a.inside("source"), a.inside("bins")
    rows, columns = _bins(bins, 1 << 30)
    sums = line_bytes(4 * source.count("pitch", "bytes of a row")) * rows
    _bin_sums(source, bins, rows, columns, sums)
    a.scratch("means", HERE, VECTOR)
    count = rows * columns
    a.writes("means", a["out"], steps(a.tasks, 16 * count) + steps(4 * count, 4), 4)


def _bins(bins: Access, most: int) -> tuple[int, int]:
    """Rows and columns of bins, whose multipliers and counts are read."""
    rows, columns = bins.count("rows", "rows of bins"), bins.count("columns", "columns of bins")
    bins.require(
        rows <= most and columns <= most,
        f"expected 1 to {most} rows and columns of bins, found {rows}x{columns}",
    )
    bins.constant("multipliers", bins["multipliers"], 4 * rows * columns)
    bins.constant("counts", bins["counts"], 4 * rows * columns)
    return rows, columns


def _bin_sums(source: Access, bins: Access, rows: int, columns: int, sums: int) -> None:
    """`_bin_sums`: rows of columns' sums from the start of scratch on, the sums of the bins from `sums` on."""
    ky, kx, pitch = source.count("phases_y", "phases"), source.count("phases_x", "phases"), row_bytes(source)
    map = source.inside("map")
    planes = values(planes_at(map, "input", map["planes"], ky * kx))
    windows = bins.table("windows", bins["windows"], np.int32, (ky * rows + kx * columns, 2))
    across, along = windows[: ky * rows], windows[ky * rows :]
    line = line_bytes(4 * pitch)
    read = _covered(across)
    if read is not None:
        place = planes + steps(source.tasks, map["stride"]) + Span(read.low * pitch, read.high * pitch)
        source.reads("input", map["address"], place, pitch)
    source.scratch("sums of columns", steps(rows, line), 4 * pitch)
    taken = _covered(along)
    if taken is not None:
        source.scratch("sums of columns", steps(rows, line) + Span(16 * taken.low, 16 * taken.high), VECTOR)
        # A row of sums ends before the next begins, the last one before the sums of the bins.
        inside = taken.low >= 0 and 16 * taken.high + VECTOR <= line and rows * line <= sums
        source.require(inside, "its windows: expected columns within a row of sums")
    source.scratch("sums of bins", steps(rows * columns, CELL) + sums, VECTOR)


def _covered(windows: NDArray[Any]) -> Span | None:
    """First and last index in any window int (n, 2) of (first, end); None if all are empty."""
    some = windows[windows[:, 0] < windows[:, 1]].astype(np.int64)
    return Span(int(some[:, 0].min()), int(some[:, 1].max()) - 1) if len(some) else None


@proves(PyramidParams)
def pyramid(a: Access) -> None:
    """Task: one group.  Scratch: sums of columns, of the finest bins, of the bins of one stage, lines of every stage."""
    source, output = a.inside("source"), a.inside("output")
    count, height, pitch = a.count("count", "stages"), a.count("height", "rows"), row_bytes(source)
    stages = a.records_at("stages", a["stages"], PyramidStage, count)
    fine = line_bytes(4 * pitch) * MAX_BINS
    own = fine + CELL * MAX_BINS**2
    place = spread = own + CELL * MAX_BINS**2
    line = line_bytes(pitch)
    finest = a["finest"]
    a.require(finest < count, f"expected the finest of {count} stages, found {finest}")
    if finest >= 0:
        bins = stages[finest].inside("bins")
        _bin_sums(source, bins, *_bins(bins, MAX_BINS), fine)
    for stage in stages:
        bins = stage.inside("bins")
        rows, columns = _bins(bins, MAX_BINS)
        if stage["of_finest"]:
            # Bin (i, j) adds fine_rows // rows x fine_columns // columns fine ones: never beyond the last.
            a.require(finest >= 0, "expected a finest stage")
        else:
            _bin_sums(source, bins, rows, columns, own)
        starts = stage.table("columns of bins", stage["spread"], np.int32, (columns + 1,)).astype(np.int64)
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
    offsets = values(a.table("lines", a["lines"], np.int32, (height, count)))
    a.scratch("lines", offsets + spread + steps(4, line) + vectors, VECTOR)
    rows_of_plane = steps(height, pitch)
    for what, verb, map in (("input", a.reads, source.inside("map")), ("result", a.writes, output)):
        plane = int(planes_at(map, what, map["planes"], 1)[0])
        verb(what, map["address"], steps(a.tasks, map["stride"]) + rows_of_plane + vectors + plane, VECTOR)
