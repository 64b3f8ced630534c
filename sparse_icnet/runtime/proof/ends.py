"""What the kernels behind the logits touch: `kernels/softmax.py`, `kernels/smooth.py` and `kernels/bilinear.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.kernels.sizes import AT_ONCE, LINE, VECTOR_SLACK, bilinear_line_bytes
from sparse_icnet.runtime.proof.access import HERE, MOST, Access, ProofError, proves, steps, values
from sparse_icnet.runtime.proof.maps import VECTOR, planes_at


@proves(Kind.SOFTMAX)
def softmax(a: Access) -> None:
    """Task: one phase of all channels, whole vectors."""
    channels, vectors = a.count(f.CHANNELS, "channels"), a.count(f.VECTORS, "vectors")
    line = steps(vectors, VECTOR)
    planes = values(planes_at(a, "logits", a[f.IN_PLANES], a.tasks))
    a.reads("logits", a[f.IN], planes + steps(channels, a[f.IN_GROUP]) + line, VECTOR)
    phases = steps(a.tasks, VECTOR * vectors)
    a.writes("probabilities", a[f.OUT], phases + steps(channels, a[f.OUT_GROUP]) + line, VECTOR)
    a.scratch("exponentials", steps(channels, VECTOR), VECTOR)


@proves(Kind.ARGMAX)
def argmax(a: Access) -> None:
    """Task: one phase, pixel by pixel, to the class map u8 (HEIGHT, WIDTH): the result, or what the next step reads."""
    channels, width = a.count(f.CHANNELS, "channels"), a.count(f.WIDTH, "columns")
    ky, kx = a.count(f.STEP_Y, "phases"), a.count(f.STEP_X, "phases")
    rows, columns = a.count(f.HEIGHT, "rows") // ky, width // kx
    a.require(rows >= 1 and columns >= 1, "expected at least a pixel in each phase")
    planes = values(planes_at(a, "logits", a[f.IN_PLANES], a.tasks))
    pixels = steps(rows, a[f.PITCH]) + steps(columns, 4)
    a.reads("logits", a[f.IN], planes + steps(channels, a[f.IN_GROUP]) + pixels, 4)
    phase = steps((a.tasks - 1) // kx + 1, width) + steps(min(a.tasks, kx), 1)
    result = phase + steps(rows, ky * width) + steps(columns, kx)
    if a[f.OUT]:
        a.writes("classes", a[f.OUT], result, 1)
    else:
        a.writes_result(result, 1)


@proves(Kind.UPSAMPLE)
def upsample(a: Access) -> None:
    """Task: COUNT rows of the small maps; each row is spread in scratch, in whole vectors, then copied STEP_Y times."""
    ky, kx = a.count(f.STEP_Y, "rows a pixel"), a.count(f.STEP_X, "columns a pixel")
    channels, height = a.count(f.CHANNELS, "channels"), a.count(f.HEIGHT, "rows")
    width, across = a.count(f.WIDTH, "columns"), a.count(f.EXTRA, "phases side by side")
    phases, plane = a.count(f.PHASES, "phases"), VECTOR * a.count(f.VECTORS, "vectors")
    down, columns = phases // across, width // across
    a.require(down >= 1 and columns >= 1, "expected at least a pixel in each phase")
    a.count(f.COUNT, "rows of a task")
    pixels = steps(down * across, plane) + steps((height - 1) // down + 1, a[f.PITCH]) + steps(columns, 4)
    a.reads("probabilities", a[f.IN], steps(channels, a[f.IN_GROUP]) + pixels, 4)
    row = 4 * width * kx
    spread = steps(columns * across, 4 * kx) + steps(-(-kx // 16), LINE)
    a.scratch("row", spread, VECTOR)
    a.scratch("row", HERE, row)
    a.writes_result(steps(channels * height * ky, row), row)


@proves(Kind.SMOOTH_CLASSES)
def smooth_classes(a: Access) -> None:
    """Task: the pixels of one row of cells.

    The tables of the pixels along each axis, and with them the result, may come with a call: `prove_axis` has looked at
    them when they were made.
    """
    channels, points = a.count(f.CHANNELS, "channels"), _grid(a)
    if a.result_comes_with_a_call:
        _cells(a)
    else:
        height, width = _stretched(a)
        a.writes_result(steps(height, width), width)
    a.reads("classes", a[f.CLASSES], steps(points, 1), 1)
    # A class that was read names the corners of a class in scratch.
    writers = [step for step in a.earlier if step.kind == Kind.ARGMAX]
    known = any(
        step.fields.get(f.OUT) == a[f.CLASSES] and step.fields.get(f.CHANNELS, MOST) <= channels
        for step in writers
    )
    a.require(known, f"expected an argmax of at most {channels} classes as its classes")
    corners = steps(channels, 16)
    a.scratch("corners", corners, 16)
    a.scratch("ends of a row", steps(channels, 8) + 16 * channels, 8)
    a.scratch("classes", steps(channels, 4) + 24 * channels, 4)
    a.scratch("vector", HERE + 28 * channels, 16)


@proves(Kind.BILINEAR_SOFTMAX)
def bilinear_softmax(a: Access) -> None:
    """Task: the pixels of one row of cells, AT_ONCE of a row at a time; two rows of the grid and one between in scratch."""
    channels = a.count(f.CHANNELS, "channels")
    _grid(a)
    height, width = _stretched(a)
    rows = 3 * channels * bilinear_line_bytes(a[f.WIDTH])
    a.scratch("rows of the grid", HERE, rows)
    # The last vector of a cell may run past the pixels that are computed at a time, into the slack of a row.
    a.scratch("pixels", steps(channels, 4 * (AT_ONCE + VECTOR_SLACK)) + rows, 4 * (AT_ONCE + VECTOR_SLACK))
    a.writes_result(steps(channels * height, 4 * width), 4 * width)


def _cells(a: Access) -> tuple[int, int]:
    """Cells of the grid down and across."""
    down, across = (max(a.count(size, "grid points") - 1, 1) for size in (f.HEIGHT, f.WIDTH))
    a.require(a.tasks == down, f"expected a task for each of {down} rows of cells, found {a.tasks}")
    return down, across


def _stretched(a: Access) -> tuple[int, int]:
    """Size of the result, whose pixels along each axis the tables of the plan hold."""
    size = a.count(f.OUT_HEIGHT, "rows of pixels"), a.count(f.OUT_WIDTH, "columns of pixels")
    fields = (f.HEIGHT, f.ROW_STARTS, f.ROW_WEIGHTS), (f.WIDTH, f.COLUMN_STARTS, f.COLUMN_WEIGHTS)
    for cells, length, (points, starts, weights) in zip(_cells(a), size, fields, strict=True):
        pixels = a.table("first pixels of cells", a[starts], np.int64, (cells + 1,))
        shares = a.table("weights of pixels", a[weights], np.float32, (2, length + VECTOR_SLACK))
        prove_axis(a[points], length, pixels, shares)
    return size


def _grid(a: Access) -> int:
    """The number of grid points, whose logits are read in all channels."""
    points = a.count(f.HEIGHT, "rows") * a.count(f.WIDTH, "columns")
    offsets = values(a.table("grid points", a[f.OFFSETS], np.int32, (points,)))
    a.reads("logits", a[f.IN], offsets + steps(a.count(f.CHANNELS, "channels"), a[f.IN_GROUP]), 4)
    return points


@proves(Kind.LOGITS)
def logits(a: Access) -> None:
    """Task: one channel, pixel by pixel."""
    points = _grid(a)
    a.require(a.tasks <= a[f.CHANNELS], f"expected at most a task for each channel, found {a.tasks}")
    a.writes_result(steps(a.tasks * points, 4), 4)


def prove_axis(points: int, length: int, starts: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
    """Raise ProofError unless the tables of `length` pixels along an axis of `points` keep the kernels inside."""
    cells = max(points - 1, 1)
    whole = starts.shape == (cells + 1,) and starts[0] == 0 and starts[-1] == length
    room = weights.shape == (2, length + VECTOR_SLACK) and weights.flags.c_contiguous
    if not (whole and room and starts.flags.c_contiguous and (np.diff(starts) >= 0).all()):
        raise ProofError(f"the tables of {length} pixels over {points} grid points do not belong to them")
