"""What the kernels without weights read: sums of two maps, shifted copies, spreading of small maps."""

from __future__ import annotations

from sparse_icnet.operators.params import Map, Operand, Output, Padding
from sparse_icnet.operators.record import Table, record


@record
class CombineParams:
    """A task is one phase of one group of [relu](left [+ right]).

    phases  of the output; vectors: of 16 pixels in one of its planes
    """

    phases: int
    vectors: int
    left: Operand
    right: Operand
    output: Output


@record
class ShiftParams:
    """A task is the shifted copies of one group of codes or one channel of real values, and its padding.

    address  of the map; stride: bytes from one group (channel) to the next
    copies   int64 (count, 3): byte offset of the plane, byte offset of the copy, d in pixels (positive or negative)
    height   rows of a plane; width: columns; pitch: bytes of a row
    zero     four stored zeros, or the real value 0
    """

    address: int
    stride: int
    copies: Table
    count: int
    height: int
    width: int
    pitch: int
    zero: int
    padding: Padding


@record
class ExpandParams:
    """A task is one channel of float32 (C, rows, columns) at `source`, nearest (Q7), to a real map of height x width.

    phases_y, phases_x  of the output; pitch: bytes of a row of its planes
    """

    source: int
    rows: int
    columns: int
    height: int
    width: int
    phases_y: int
    phases_x: int
    pitch: int
    output: Map
