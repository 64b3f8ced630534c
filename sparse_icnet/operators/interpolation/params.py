"""What the kernels of bilinear interpolation (Q11) read: smooth class maps, and probabilities at full size."""

from __future__ import annotations

from sparse_icnet.operators.output.params import GridPoints
from sparse_icnet.operators.record import Table, record

VECTOR_SLACK = 16  # float32 behind a table of weights: the last vector of weights may run past its end
AT_ONCE = 256  # pixels of a row whose probabilities are computed at a time


def line_bytes(width: int) -> int:
    """Bytes of a row of `width` grid points of one class, whole vectors."""
    return (width + 15) // 16 * 64


@record
class StretchParams:
    """A grid stretched over a picture of height x width.

    row_starts, column_starts    int64 (cells + 1,): the first pixel of each cell, and the length
    row_weights, column_weights  float32 (2, length + VECTOR_SLACK): near and far of each pixel, then zeros
    """

    height: int
    width: int
    row_starts: Table
    row_weights: Table
    column_starts: Table
    column_weights: Table


@record
class SmoothClassesParams:
    """A task is the pixels of one row of cells, to their classes, u8 (stretch.height, stretch.width) at `out`.

    classes       address of the class of each grid point, u8 (points.height, points.width)
    stretch, out  set for each inference (the stretch unless the network itself interpolates)
    """

    points: GridPoints
    classes: int
    stretch: StretchParams
    out: int


@record
class BilinearSoftmaxParams:
    """A task is the pixels of one row of cells, to float32 (C, stretch.height, stretch.width) at `out`.

    out  set for each inference
    """

    points: GridPoints
    stretch: StretchParams
    out: int


NO_STRETCH = StretchParams(0, 0, None, None, None, None)
