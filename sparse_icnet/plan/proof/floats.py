"""What the kernels of real values touch: `operators/float_convolution`, some of `operators/pooling` and `.../input`."""

from __future__ import annotations

import numpy as np

from sparse_icnet.operators.float_convolution.params import VECTORS, FloatConvolutionParams
from sparse_icnet.operators.input.params import RealBlobParams, RealImageParams
from sparse_icnet.operators.params import SCRATCH_BYTES
from sparse_icnet.operators.pooling.params import RealAveragePoolParams, RealMaxPoolParams
from sparse_icnet.plan.proof.access import HERE, Access, Span, proves, steps, values
from sparse_icnet.plan.proof.maps import VECTOR, output_groups, planes_at, row_bytes, scattered_rows


@proves(FloatConvolutionParams)
def float_convolution(a: Access) -> None:
    """Task: a tile of one phase, for a range of groups of four output channels; the last tile stores what there is."""
    phases, vectors = a.count("phases", "phases"), a.count("vectors", "vectors")
    groups, chunks = a.count("groups", "groups"), a.count("chunks", "chunks")
    a.count("groups_per_task", "groups of a task")
    a.require((chunks - 1) * VECTORS < vectors, "expected every chunk to begin within the plane")
    ranges = a.table("ranges", a["indptr"], np.int32, (groups + 1,)).astype(np.int64)
    a.require(bool(ranges[0] >= 0 and (np.diff(ranges) >= 0).all()), "its weights: expected ascending ranges")
    a.constant("biases", a["biases"], 16 * groups)
    first, end = int(ranges[0]), int(ranges[-1])
    if first < end:
        a.constant("weights", a["weights"], 16 * end)
        offsets = a.table("offsets", a["offsets"], np.int32, (phases, end), (a["offsets_phase"], 4))[
            :, first:
        ]
        a.reads("values", a["source"], values(offsets) + steps(chunks * VECTORS, VECTOR), VECTOR)
    a.scratch("tile", HERE, SCRATCH_BYTES)
    output = a.inside("output")
    map = output.inside("map")
    planes = values(planes_at(map, "result", map["planes"], phases))
    a.writes(
        "result", map["address"], planes + output_groups(output, groups) + steps(vectors, VECTOR), VECTOR
    )


@proves(RealMaxPoolParams)
def real_max_pool(a: Access) -> None:
    """Task: one phase of one channel; whole vectors of those rows of a tap that lie in the map."""
    phases, rows, taps = a.count("phases", "phases"), a.count("rows", "rows"), a.count("taps", "taps")
    pitch, channels = row_bytes(a), (a.tasks - 1) // phases + 1
    table = a.table("taps", a["table"], np.int64, (phases * taps, 4))
    a.modest("taps", table)
    line = Span(0, pitch - VECTOR)
    for offset in np.unique(table[:, 3]).tolist():
        a.constant("masks", a["masks"], 2 * pitch, offset)
    first, last = np.maximum(table[:, 1], 0), np.minimum(rows, rows + table[:, 1]) - 1  # rows that are read
    read = first <= last
    if read.any():
        start = (table[:, 0] + table[:, 2])[read]
        span = Span(int((start + first[read] * pitch).min()), int((start + last[read] * pitch).max()))
        a.reads("taps", a["source"], span + steps(channels, a["source_stride"]) + line, VECTOR)
    output = a.inside("output")
    planes = values(planes_at(output, "result", output["planes"], phases))
    place = planes + steps(channels, output["stride"]) + steps(rows, pitch) + line
    a.writes("result", output["address"], place, VECTOR)


@proves(RealAveragePoolParams)
def real_average_pool(a: Access) -> None:
    """Task: one channel; a row of sums in scratch."""
    ky, kx, width = a.count("phases_y", "phases"), a.count("phases_x", "phases"), a.count("width", "columns")
    rows, columns = a.count("rows", "rows of bins"), a.count("columns", "columns of bins")
    windows = a.table("windows", a["windows"], np.int32, (rows + columns, 2))
    a.require(bool((windows[:, 0] < windows[:, 1]).all()), "its windows: expected at least a pixel in each")
    low, high = windows[:, 0], windows[:, 1] - 1
    a.require(
        int(low.min()) >= 0 and int(high[rows:].max()) < width * kx,
        "its windows: expected rows and columns within the map",
    )
    a.constant("multipliers", a["multipliers"], 4 * rows * columns)
    source = a.inside("source")
    planes = values(planes_at(source, "input", source["planes"], ky * kx))
    lines = Span(int(low[:rows].min()) // ky * a["pitch"], int(high[:rows].max()) // ky * a["pitch"])
    place = planes + steps(a.tasks, source["stride"]) + lines + steps(width, 4)
    a.reads("input", source["address"], place, 4)
    a.scratch("sums of columns", steps(width * kx, 4), 4)
    a.writes("means", a["out"], steps(a.tasks * rows * columns, 4), 4)


@proves(RealImageParams)
def real_image(a: Access) -> None:
    """Task: one row of phases of an image u8 (height, width, 3)."""
    a.constant("values", a["table"], 3 * 256 * 4)
    a.reads_source(steps(a.count("height", "rows") * a.count("width", "columns"), 3), 3)
    scattered_rows(a, 3)


@proves(RealBlobParams)
def real_blob(a: Access) -> None:
    """Task: one row of phases of a blob float32 (channels, height, width), in vectors that may overlap."""
    height, width = a.count("height", "rows"), a.count("width", "columns")
    channels = a.count("channels", "channels")
    a.require(width >= 16, f"expected at least 16 columns, found {width}")
    a.require(channels <= 4, f"expected at most 4 channels, found {channels}")
    a.constant("constants", a["constants"], 2 * 4 * 4)
    place = steps(channels * height, 4 * width) + Span(0, 4 * (width - 16))
    a.reads_source(place, VECTOR)
    scattered_rows(a, channels)
