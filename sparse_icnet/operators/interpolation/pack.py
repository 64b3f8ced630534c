"""The tables of the pixels of a picture along each axis, as the kernels of (Q11) read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.operators.interpolation.params import VECTOR_SLACK, StretchParams

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Size

LONGEST = 1 << 30  # pixels of an axis: what `arithmetic.interpolation` computes exactly
KEPT_LENGTH = 1 << 16  # of axes whose tables are kept for the next picture
AT_ONCE = 1 << 20  # pixels of an axis whose weights are computed at a time


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """The pixels along one axis, as the kernels read them.

    starts   int64 (cells + 1,): the first pixel of each cell of the grid, and the length
    weights  float32 (2, length + VECTOR_SLACK): near and far of each pixel, then zeros
    """

    starts: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, points: int, length: int, align_corners: bool = False) -> Axis:
        """`points` grid points stretched over `length` pixels; the tables of short axes are made once."""
        return (_kept if length <= KEPT_LENGTH else _made)(points, length, align_corners)


def _made(points: int, length: int, align_corners: bool) -> Axis:
    counts = np.zeros(max(points - 1, 1), np.int64)
    weights = np.zeros((2, length + VECTOR_SLACK), np.float32)
    for first in range(0, length, AT_ONCE):
        pixels = np.arange(first, min(first + AT_ONCE, length))
        cells, near, far = arithmetic.interpolation(points, length, pixels, align_corners)
        weights[:, first : first + AT_ONCE][:, : pixels.size] = near, far
        counts += np.bincount(cells, minlength=counts.size)
    return Axis(np.concatenate([[0], np.cumsum(counts)]), weights)


_kept = lru_cache(maxsize=64)(_made)


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """A grid stretched over a picture of `size`: the fields of a step, and the tables that they point to."""

    size: Size
    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, grid: Size, size: Size, align_corners: bool = False) -> Stretch:
        """Raises ValueError for a size that no picture has."""
        if not all(1 <= n <= LONGEST for n in size):
            raise ValueError(f"the size of a picture must lie within 1..{LONGEST}, found {size[0]}x{size[1]}")
        rows, columns = (Axis.of(n, length, align_corners) for n, length in zip(grid, size, strict=True))
        return cls(size, rows, columns)

    def params(self) -> StretchParams:
        """As the kernels read it: its tables are those of this object."""
        rows, columns = self.rows, self.columns
        return StretchParams(*self.size, rows.starts, rows.weights, columns.starts, columns.weights)
