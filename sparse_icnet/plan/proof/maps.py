"""What the kernels without windows touch: `operators/elementwise`, and `operators/input` where it makes codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.elementwise.params import CombineParams, ExpandParams, ShiftParams
from sparse_icnet.operators.input.params import BlobParams, ImageParams
from sparse_icnet.operators.params import CODES, NONE, REAL
from sparse_icnet.plan.proof.access import HERE, Access, Span, proves, steps, values

VECTOR = 64  # bytes of 16 pixels


def planes_at(a: Access, what: str, address: int, phases: int) -> NDArray[np.int64]:
    """A plane table."""
    return a.table(f"planes of the {what}", address, np.int64, (phases,))


def row_bytes(a: Access) -> int:
    """Bytes of a row of a plane, which kernels walk in whole vectors."""
    pitch = a.count("pitch", "bytes of a row")
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


def padding(padding: Access, address: int, planes: NDArray[np.int64], groups: Span) -> None:
    """`epilogue.pad` around each of `planes`, in all `groups`, of the tensor at `address`."""
    if not padding["entries"]:
        return
    parts = padding.count("parts", "parts")
    padding.require(parts == len(planes), f"its padding: expected {len(planes)} parts, found {parts}")
    owner, entries = ranged(padding, "padding", padding["entries"], parts)
    if not len(entries):
        return
    padding.modest("padding", entries)
    padding.modest("padding", planes)
    padding.require(int(entries[:, 1].min()) >= 0, "its padding: expected sizes of at least 0")
    starts = planes[owner] + entries[:, 0]
    ends = starts + (entries[:, 1] + 3) // 4 * 4
    span = Span(int(starts.min()), int(ends.max()))
    padding.writes("padding", address, span + groups, 0)


def operand(a: Access, what: str, groups: int, phases: int, line: Span) -> None:
    """Whole vectors of an operand, in all channels of `groups`; nothing if there is none."""
    kind, map = a["kind"], a.inside("map")
    if kind == NONE:
        return
    a.require(kind in (CODES, REAL), f"its {what}: expected codes or real values, found kind {kind}")
    channels = steps(groups * (4 if kind == REAL else 1), map["stride"])
    planes = values(planes_at(map, what, map["planes"], phases))
    a.reads(what, map["address"], planes + channels + line, VECTOR)


def output_groups(output: Access, groups: int) -> Span:
    """Of the result: groups of codes, or the four channels of each group of real values."""
    return steps(groups * (4 if output["real"] else 1), output.inside("map")["stride"])


@proves(CombineParams)
def combine(a: Access) -> None:
    """Task: one phase of one group; whole vectors of both operands and of the result."""
    phases, vectors = a.count("phases", "phases"), a.count("vectors", "vectors")
    groups = (a.tasks - 1) // phases + 1
    line = steps(vectors, VECTOR)
    left, output = a.inside("left"), a.inside("output")
    a.require(left["kind"] != NONE, "expected a first operand")
    operand(left, "first operand", groups, phases, line)
    operand(a.inside("right"), "second operand", groups, phases, line)
    map = output.inside("map")
    result = values(planes_at(map, "result", map["planes"], phases))
    a.writes("result", map["address"], result + output_groups(output, groups) + line, VECTOR)


@proves(ShiftParams)
def shift(a: Access) -> None:
    """Task: the copies of one group, row by row in whole vectors, the last of which may overlap the one before."""
    groups = steps(a.tasks, a["stride"])
    padding(a.inside("padding"), a["address"], np.zeros(1, np.int64), groups)
    if not a["count"]:
        return
    height, width = a.count("height", "rows"), a.count("width", "columns")
    pitch = row_bytes(a)
    copies = a.table("copies", a["copies"], np.int64, (a.count("count", "copies"), 3))
    a.modest("copies", copies)
    rows = steps(height, pitch)
    vectors = Span(0, pitch - VECTOR)
    planes = values(copies[:, 0] + 4 * copies[:, 2]) + groups
    a.reads("copied planes", a["address"], planes + rows + vectors, VECTOR)
    targets = values(copies[:, 1]) + groups + rows
    a.writes("copies", a["address"], targets + vectors, VECTOR)
    if copies[:, 2].any():
        a.writes("edges of copies", a["address"], targets + steps(width, 4), 4)


@proves(ExpandParams)
def expand(a: Access) -> None:
    """Task: one channel, pixel by pixel."""
    bins = a.count("rows", "rows of bins") * a.count("columns", "columns of bins")
    ky, kx = a.count("phases_y", "phases"), a.count("phases_x", "phases")
    rows, columns = (a.count("height", "rows") - 1) // ky + 1, (a.count("width", "columns") - 1) // kx + 1
    a.reads("bins", a["source"], steps(a.tasks, 4 * bins) + steps(bins, 4), 4)
    output = a.inside("output")
    planes = values(planes_at(output, "result", output["planes"], ky * kx))
    pixels = steps(rows, a["pitch"]) + steps(columns, 4)
    a.writes("result", output["address"], planes + steps(a.tasks, output["stride"]) + pixels, 4)


@proves(ImageParams)
def quantize_image(a: Access) -> None:
    """Task: one row of phases of an image u8 (height, width, 3).  Prefetched lines need not exist."""
    a.constant("codes", a["codes"], 3 * 256)
    if a["factors"]:
        a.constant("factors", a["factors"], 6 * 2 * 2)
    pixels = a.count("height", "rows") * a.count("width", "columns")
    a.reads_source(steps(pixels, 3), 3)
    scattered_rows(a, 1)


@proves(BlobParams)
def quantize_blob(a: Access) -> None:
    """Task: one row of phases of a blob float32 (channels, height, width), in vectors that may overlap."""
    a.constant("constants", a["constants"], 2 * 4 * 4)
    height, width = a.count("height", "rows"), a.count("width", "columns")
    a.require(width >= 16, f"expected at least 16 columns, found {width}")
    channels = min(a.count("channels", "channels"), 4)
    place = steps(channels, 4 * width * height) + steps(height, 4 * width) + Span(0, 4 * (width - 16))
    a.reads_source(place, VECTOR)
    scattered_rows(a, 1)


def scattered_rows(a: Access, channels: int) -> None:
    """A row of lanes in scratch, and `scatter_row` to the planes of the task's row of phases; of each channel by itself."""
    height, width = a.count("height", "rows"), a.count("width", "columns")
    ky, kx = a.count("phases_y", "phases"), a.count("phases_x", "phases")
    columns = max(width // kx, 16) if kx % 16 == 0 else width // kx
    a.scratch("row of codes", HERE, 4 * max(width, columns * kx))
    if not columns:
        return
    output = a.inside("output")
    planes = values(planes_at(output, "result", output["planes"], a.tasks * kx))
    rows = steps((height - 1) // ky + 1, a["pitch"])
    a.writes(
        "result", output["address"], planes + steps(channels, output["stride"]) + rows + steps(columns, 4), 4
    )
