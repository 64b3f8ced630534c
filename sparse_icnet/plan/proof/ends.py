"""What the kernels behind the logits touch: `operators/output` and `operators/interpolation`."""

from __future__ import annotations

import numpy as np

from sparse_icnet.operators.interpolation.params import (
    AT_ONCE,
    VECTOR_SLACK,
    BilinearSoftmaxParams,
    SmoothClassesParams,
    line_bytes,
)
from sparse_icnet.operators.output.params import ArgmaxParams, LogitsParams, SoftmaxParams, UpsampleParams
from sparse_icnet.operators.params import LINE
from sparse_icnet.plan.axis import prove_axis
from sparse_icnet.plan.proof.access import HERE, Access, proves, steps, values
from sparse_icnet.plan.proof.maps import VECTOR, planes_at


@proves(SoftmaxParams)
def softmax(a: Access) -> None:
    """Task: one phase of all channels, whole vectors."""
    channels, vectors, logits = (
        a.count("channels", "channels"),
        a.count("vectors", "vectors"),
        a.inside("logits"),
    )
    line = steps(vectors, VECTOR)
    planes = values(planes_at(logits, "logits", logits["planes"], a.tasks))
    a.reads("logits", logits["address"], planes + steps(channels, logits["stride"]) + line, VECTOR)
    phases = steps(a.tasks, VECTOR * vectors)
    a.writes("probabilities", a["out"], phases + steps(channels, a["out_stride"]) + line, VECTOR)
    a.scratch("exponentials", steps(channels, VECTOR), VECTOR)


@proves(ArgmaxParams)
def argmax(a: Access) -> None:
    """Task: one phase, pixel by pixel, to the class map u8 (height, width): the result, or what the next step reads."""
    channels, width = a.count("channels", "channels"), a.count("width", "columns")
    ky, kx, logits = a.count("phases_y", "phases"), a.count("phases_x", "phases"), a.inside("logits")
    rows, columns = a.count("height", "rows") // ky, width // kx
    a.require(rows >= 1 and columns >= 1, "expected at least a pixel in each phase")
    planes = values(planes_at(logits, "logits", logits["planes"], a.tasks))
    pixels = steps(rows, a["pitch"]) + steps(columns, 4)
    a.reads("logits", logits["address"], planes + steps(channels, logits["stride"]) + pixels, 4)
    phase = steps((a.tasks - 1) // kx + 1, width) + steps(min(a.tasks, kx), 1)
    result = phase + steps(rows, ky * width) + steps(columns, kx)
    if a["out"]:
        a.writes("classes", a["out"], result, 1)
    else:
        a.writes_result(result, 1)


@proves(UpsampleParams)
def upsample(a: Access) -> None:
    """Task: some rows of the small maps; each is spread in scratch, in whole vectors, then copied `enlarged_y` times."""
    ky, kx = a.count("enlarged_y", "rows a pixel"), a.count("enlarged_x", "columns a pixel")
    channels, height = a.count("channels", "channels"), a.count("height", "rows")
    width, across = a.count("width", "columns"), a.count("phases_x", "phases side by side")
    phases, plane = a.count("phases", "phases"), VECTOR * a.count("vectors", "vectors")
    down, columns = phases // across, width // across
    a.require(down >= 1 and columns >= 1, "expected at least a pixel in each phase")
    a.count("rows_per_task", "rows of a task")
    pixels = steps(down * across, plane) + steps((height - 1) // down + 1, a["pitch"]) + steps(columns, 4)
    a.reads("probabilities", a["source"], steps(channels, a["source_stride"]) + pixels, 4)
    row = 4 * width * kx
    spread = steps(columns * across, 4 * kx) + steps(-(-kx // 16), LINE)
    a.scratch("row", spread, VECTOR)
    a.scratch("row", HERE, row)
    a.writes_result(steps(channels * height * ky, row), row)


@proves(SmoothClassesParams)
def smooth_classes(a: Access) -> None:
    """Task: the pixels of one row of cells.

    The tables of the pixels along each axis, and with them the result, may come with a call: then the session proves them
    by `prove_axis` before it runs.
    """
    points = a.inside("points")
    channels, count = points.count("channels", "channels"), _grid(points)
    if a.result_comes_with_a_call:
        _cells(points)
    else:
        height, width = _stretched(a)
        a.writes_result(steps(height, width), width)
    a.reads("classes", a["classes"], steps(count, 1), 1)
    # A class that was read names the corners of a class in scratch.
    known = all(
        step.kind is ArgmaxParams and int(step.record[0]["channels"]) <= channels
        for step in a.writers(a["classes"])
    )
    a.require(known, f"expected an argmax of at most {channels} classes as its classes")
    corners = steps(channels, 16)
    a.scratch("corners", corners, 16)
    a.scratch("ends of a row", steps(channels, 8) + 16 * channels, 8)
    a.scratch("classes", steps(channels, 4) + 24 * channels, 4)
    a.scratch("vector", HERE + 28 * channels, 16)


@proves(BilinearSoftmaxParams)
def bilinear_softmax(a: Access) -> None:
    """Task: the pixels of one row of cells, AT_ONCE of a row at a time; two rows of the grid and one between in scratch."""
    points = a.inside("points")
    channels = points.count("channels", "channels")
    _grid(points)
    height, width = _stretched(a)
    rows = 3 * channels * line_bytes(points["width"])
    a.scratch("rows of the grid", HERE, rows)
    # The last vector of a cell may run past the pixels that are computed at a time, into the slack of a row.
    a.scratch("pixels", steps(channels, 4 * (AT_ONCE + VECTOR_SLACK)) + rows, 4 * (AT_ONCE + VECTOR_SLACK))
    a.writes_result(steps(channels * height, 4 * width), 4 * width)


def _cells(points: Access) -> tuple[int, int]:
    """Cells of the grid down and across."""
    down, across = (max(points.count(size, "grid points") - 1, 1) for size in ("height", "width"))
    points.require(
        points.tasks == down, f"expected a task for each of {down} rows of cells, found {points.tasks}"
    )
    return down, across


def _stretched(a: Access) -> tuple[int, int]:
    """Size of the result, whose pixels along each axis the tables of the plan hold."""
    stretch, points = a.inside("stretch"), a.inside("points")
    size = stretch.count("height", "rows of pixels"), stretch.count("width", "columns of pixels")
    axes = ("height", "row_starts", "row_weights"), ("width", "column_starts", "column_weights")
    for cells, length, (across, starts, weights) in zip(_cells(points), size, axes, strict=True):
        pixels = stretch.table("first pixels of cells", stretch[starts], np.int64, (cells + 1,))
        shares = stretch.table("weights of pixels", stretch[weights], np.float32, (2, length + VECTOR_SLACK))
        prove_axis(points[across], length, pixels, shares)
    return size


def _grid(points: Access) -> int:
    """The number of grid points, whose logits are read in all channels."""
    count = points.count("height", "rows") * points.count("width", "columns")
    offsets = values(points.table("grid points", points["offsets"], np.int32, (count,)))
    channels = steps(points.count("channels", "channels"), points["stride"])
    points.reads("logits", points["address"], offsets + channels, 4)
    return count


@proves(LogitsParams)
def logits(a: Access) -> None:
    """Task: one channel, pixel by pixel."""
    points = a.inside("points")
    count = _grid(points)
    a.require(a.tasks <= points["channels"], f"expected at most a task for each channel, found {a.tasks}")
    a.writes_result(steps(a.tasks * count, 4), 4)
