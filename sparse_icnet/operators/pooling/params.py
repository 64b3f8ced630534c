"""What the kernels of max pooling, average pooling and of the pyramid read."""

from __future__ import annotations

from sparse_icnet.operators.params import Map, Requantize, Rounding
from sparse_icnet.operators.record import Table, record

MAX_BINS = 16  # rows or columns of bins in a pyramid stage
MAX_STAGES = 8
CELL = 64  # bytes of the sums of one bin: a vector, of which four lanes count


def line_bytes(size: int) -> int:
    """Bytes of a line of `size` bytes and of a vector behind it, whole cache lines."""
    return (size + 127) // 64 * 64


@record
class MaxPoolParams:
    """A task is one phase of one group of four channels.

    phases        of the output; vectors: of 16 pixels in one of its planes
    taps          of the window
    source        address of the codes; source_stride: bytes from one group to the next
    offsets       int32 (phases, taps): byte offset in a group of what each tap reads; offsets_phase: bytes from one phase
                  to the next
    """

    phases: int
    vectors: int
    taps: int
    source: int
    source_stride: int
    offsets: Table
    offsets_phase: int
    output: Map


@record
class Pooled:
    """A map of codes whose bins are summed: its phases, the bytes of a row, the stored code of the real value 0."""

    map: Map
    phases_y: int
    phases_x: int
    pitch: int
    zero: int


@record
class Bins:
    """The windows of an average pooling (Q6).

    multipliers  float32 (bins,); counts: int32 (bins,) pixels of each
    windows      int32 (phases_y, rows, 2), then (phases_x, columns, 2): first and end of each bin in the planes of a phase
    """

    rows: int
    columns: int
    multipliers: Table
    counts: Table
    windows: Table


@record
class AveragePoolParams:
    """A task is one group of four channels; out: address of float32 (C, rows, columns)."""

    source: Pooled
    bins: Bins
    out: int


@record
class PyramidStage:
    """One pooling of a pyramid.

    spread            int32 (columns + 1,): first column of the map that each bin is spread to (Q7), and the end
    quantized         whether `quantizer` rounds the pooled value
    running           whether `running_quantizer` rounds the sum up to this stage
    of_finest         whether its bins are whole numbers of the finest ones
    """

    bins: Bins
    spread: Table
    quantized: int
    quantizer: Requantize
    running: int
    running_quantizer: Requantize
    of_finest: int


@record
class PyramidParams:
    """A task is one group of four channels of x + sum over stages of nearest-up(mean over bins).

    stages   (count,) `PyramidStage`
    finest   number of the stage with the finest bins, -1 if they do not divide the map
    height   rows of the map
    lines    int32 (height, count): byte offset, behind the sums in scratch, of the bin row of each stage
    scale    of the codes of the source, in the unit of the first stage
    """

    source: Pooled
    count: int
    stages: Table
    finest: int
    height: int
    lines: Table
    scale: float
    output: Map
    rounding: Rounding


@record
class RealMaxPoolParams:
    """A task is one phase of one channel of real values (Q14).

    phases        of the output; rows: of one of its planes; pitch: bytes of a row
    taps          of the window
    source        address of the real values; source_stride: bytes from one channel to the next
    table         int64 (phases, taps, 4): of what each tap reads the byte offset of the plane in a channel, the row shift,
                  the column shift in bytes, and the byte offset of its masks
    masks         uint32 (n, 2, pitch / 4): bits of a value to keep, where the column lies in the map, and those it gets
    """

    phases: int
    rows: int
    pitch: int
    taps: int
    source: int
    source_stride: int
    table: Table
    masks: Table
    output: Map


@record
class RealAveragePoolParams:
    """A task is one channel of real values (Q13); out: address of float32 (C, rows, columns).

    phases_y, phases_x  of the source; pitch: bytes of a row of its planes; width: columns of one
    rows, columns       of bins
    windows             int32 (rows, 2), then (columns, 2): first and end of each bin in the map
    multipliers         float32 (rows, columns)
    """

    source: Map
    phases_y: int
    phases_x: int
    pitch: int
    width: int
    rows: int
    columns: int
    windows: Table
    multipliers: Table
    out: int
