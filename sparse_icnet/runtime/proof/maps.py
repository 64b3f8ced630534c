"""What the kernels without windows touch: `kernels/elementwise.py` and `kernels/quantize.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.runtime.proof.access import HERE, Access, Span, proves, steps, values

VECTOR = 64  # bytes of 16 pixels


def planes_at(a: Access, what: str, address: int, phases: int) -> NDArray[np.int64]:
    """A plane table."""
    return a.table(f"planes of the {what}", address, np.int64, (phases,))


def row_bytes(a: Access) -> int:
    """PITCH: bytes of a row of a plane, which kernels walk in whole vectors."""
    pitch = a.count(f.PITCH, "bytes of a row")
    a.require(pitch >= VECTOR, f"expected rows of at least {VECTOR} bytes, found {pitch}")
    return pitch


def ranged(a: Access, what: str, address: int, phases: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The entries int64 (n, 2) of a table with a range for each phase, and the phase of each entry."""
    ranges = a.table(what, address, np.int64, (phases + 1,))
    counts = np.diff(ranges)
    a.require(bool(ranges[0] >= 0 and (counts >= 0).all()), f"its {what}: expected ascending ranges")
    last = int(ranges[-1])
    if not last:
        return np.zeros(0, np.intp), np.zeros((0, 2), np.int64)
    a.positive(f"entries of {what}", last)
    entries = a.table(what, address, np.int64, (last, 2), offset=8 * (phases + 1))
    return np.repeat(np.arange(phases), counts), entries[int(ranges[0]) :]


def padding(a: Access, address: int, planes: NDArray[np.int64], groups: Span) -> None:
    """`elementwise.pad` around each of `planes`, in all `groups`, of the tensor at `address`."""
    if not a[f.PADDING]:
        return
    phases = a.count(f.PHASES, "phases")
    a.require(phases == len(planes), f"its padding: expected {len(planes)} phases, found {phases}")
    owner, entries = ranged(a, "padding", a[f.PADDING], phases)
    if not len(entries):
        return
    a.modest("padding", entries)
    a.modest("padding", planes)
    a.require(int(entries[:, 1].min()) >= 0, "its padding: expected sizes of at least 0")
    starts = planes[owner] + entries[:, 0]
    ends = starts + (entries[:, 1] + 3) // 4 * 4
    span = Span(int(starts.min()), int(ends.max()))
    a.writes("padding", address, span + groups, 0)


@proves(Kind.COMBINE)
def combine(a: Access) -> None:
    """Task: one phase of one group; whole vectors of both operands and of the result."""
    phases, vectors = a.count(f.PHASES, "phases"), a.count(f.VECTORS, "vectors")
    groups = (a.tasks - 1) // phases + 1
    line = steps(vectors, VECTOR)
    operands = [("first operand", a[f.IN_KIND], f.IN, f.IN_GROUP, f.IN_PLANES)]
    if a[f.RESIDUAL_KIND]:
        fields = f.RESIDUAL, f.RESIDUAL_GROUP, f.RESIDUAL_PLANES
        operands.append(("second operand", a[f.RESIDUAL_KIND], *fields))
    for what, kind, address, stride, planes in operands:
        a.require(kind in (f.CODES, f.REAL), f"its {what}: expected codes or real values, found kind {kind}")
        channels = steps(4 * groups, a[stride]) if kind == f.REAL else steps(groups, a[stride])
        offsets = values(planes_at(a, what, a[planes], phases))
        a.reads(what, a[address], offsets + channels + line, VECTOR)
    result = values(planes_at(a, "result", a[f.OUT_PLANES], phases))
    a.writes("result", a[f.OUT], result + output_groups(a, groups) + line, VECTOR)


def output_groups(a: Access, groups: int) -> Span:
    """Of the result: groups of codes, or the four channels of each group of real values."""
    return steps(4 * groups, a[f.OUT_GROUP]) if a[f.OUT_REAL] else steps(groups, a[f.OUT_GROUP])


@proves(Kind.SHIFT)
def shift(a: Access) -> None:
    """Task: the copies of one group, row by row in whole vectors, the last of which may overlap the one before."""
    groups = steps(a.tasks, a[f.IN_GROUP])
    padding(a, a[f.IN], np.zeros(1, np.int64), groups)
    if not a[f.COUNT]:
        return
    height, width = a.count(f.HEIGHT, "rows"), a.count(f.WIDTH, "columns")
    pitch = row_bytes(a)
    copies = a.table("copies", a[f.TABLE], np.int64, (a.count(f.COUNT, "copies"), 3))
    a.modest("copies", copies)
    rows = steps(height, pitch)
    vectors = Span(0, pitch - VECTOR)
    a.reads(
        "copied planes", a[f.IN], values(copies[:, 0] + 4 * copies[:, 2]) + groups + rows + vectors, VECTOR
    )
    targets = values(copies[:, 1]) + groups + rows
    a.writes("copies", a[f.IN], targets + vectors, VECTOR)
    if copies[:, 2].any():
        a.writes("edges of copies", a[f.IN], targets + steps(width, 4), 4)


@proves(Kind.EXPAND)
def expand(a: Access) -> None:
    """Task: one channel, pixel by pixel."""
    bins = a.count(f.COUNT, "rows of bins") * a.count(f.EXTRA, "columns of bins")
    ky, kx = a.count(f.STEP_Y, "phases"), a.count(f.STEP_X, "phases")
    rows, columns = (a.count(f.HEIGHT, "rows") - 1) // ky + 1, (a.count(f.WIDTH, "columns") - 1) // kx + 1
    a.reads("bins", a[f.IN], steps(a.tasks, 4 * bins) + steps(bins, 4), 4)
    planes = values(planes_at(a, "result", a[f.OUT_PLANES], ky * kx))
    pixels = steps(rows, a[f.PITCH]) + steps(columns, 4)
    a.writes("result", a[f.OUT], planes + steps(a.tasks, a[f.OUT_GROUP]) + pixels, 4)


@proves(Kind.QUANTIZE_IMAGE)
def quantize_image(a: Access) -> None:
    """Task: one row of phases of an image u8 (HEIGHT, WIDTH, 3).  Prefetched lines need not exist."""
    a.constant("table", a[f.TABLE], 3 * 256)
    pixels = a.count(f.HEIGHT, "rows") * a.count(f.WIDTH, "columns")
    a.reads_source(steps(pixels, 3), 3)
    _scattered_rows(a)


@proves(Kind.QUANTIZE_BLOB)
def quantize_blob(a: Access) -> None:
    """Task: one row of phases of a blob float32 (CHANNELS, HEIGHT, WIDTH), in vectors that may overlap."""
    a.constant("table", a[f.TABLE], 2 * 4 * 4)
    height, width = a.count(f.HEIGHT, "rows"), a.count(f.WIDTH, "columns")
    a.require(width >= 16, f"expected at least 16 columns, found {width}")
    channels = min(a.count(f.CHANNELS, "channels"), 4)
    place = steps(channels, 4 * width * height) + steps(height, 4 * width) + Span(0, 4 * (width - 16))
    a.reads_source(place, VECTOR)
    _scattered_rows(a)


def _scattered_rows(a: Access) -> None:
    """A row of words in scratch, and `_scatter_row` to the planes of the task's row of phases."""
    height, width = a.count(f.HEIGHT, "rows"), a.count(f.WIDTH, "columns")
    ky, kx = a.count(f.STEP_Y, "phases"), a.count(f.STEP_X, "phases")
    columns = max(width // kx, 16) if kx % 16 == 0 else width // kx
    a.scratch("row of codes", HERE, 4 * max(width, columns * kx))
    if not columns:
        return
    planes = values(planes_at(a, "result", a[f.OUT_PLANES], a.tasks * kx))
    rows = steps((height - 1) // ky + 1, a[f.PITCH])
    a.writes("result", a[f.OUT], planes + rows + steps(columns, 4), 4)
