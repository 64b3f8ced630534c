"""The steps behind the logits that interpolate them (Q11), and the tables of the pixels of a picture along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.kernels.sizes import VECTOR_SLACK
from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Shape, Size
from sparse_icnet.runtime.layout import Arena, View
from sparse_icnet.runtime.proof.ends import prove_axis
from sparse_icnet.runtime.steps import Step, int32_table

LONGEST = 1 << 30  # pixels of an axis: what `arithmetic.interpolation` computes exactly
KEPT_LENGTH = 1 << 16  # of axes whose tables are kept for the next picture
AT_ONCE = 1 << 20


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
    starts = np.concatenate([[0], np.cumsum(counts)])
    prove_axis(points, length, starts, weights)
    return Axis(starts, weights)


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

    def fields(self, arena: Arena | None = None) -> dict[int, int]:
        """Valid as long as `arena`, into which the tables are copied, or without one as long as this object."""
        rows, columns = self.rows, self.columns
        addresses = (
            a.ctypes.data if arena is None else arena.put(a)
            for a in (rows.starts, rows.weights, columns.starts, columns.weights)
        )
        names = (f.ROW_STARTS, f.ROW_WEIGHTS, f.COLUMN_STARTS, f.COLUMN_WEIGHTS)
        tables = dict(zip(names, addresses, strict=True))
        return {f.OUT_HEIGHT: self.size[0], f.OUT_WIDTH: self.size[1]} | tables


def grid_points(view: View, size: Size) -> NDArray[np.int32]:
    """int32 `size`: byte offset of each pixel of a map within one of its channels."""
    (ky, kx), grid = view.phases, view.buffer.grid
    offsets = view.table().reshape(ky, kx)
    rows, columns = np.arange(size[0])[:, None], np.arange(size[1])[None]
    places = offsets[rows % ky, columns % kx] + rows // ky * grid.pitch + columns // kx * 4
    return int32_table(places, "logits")


def argmax_step(logits: View, shape: Shape) -> Step:
    """Real map of logits -> the class of each grid point, uint8 (h, w) in scan order."""
    channels, height, width = shape
    step = Step("argmax", Kind.ARGMAX, logits.planes.size, reads=[logits.buffer])

    def fill(step: Step, arena: Arena) -> None:
        step.fields |= {
            f.IN: logits.buffer.address,
            f.IN_GROUP: logits.buffer.stride,
            f.IN_PLANES: arena.put(logits.table()),
            f.PITCH: logits.buffer.grid.pitch,
            f.STEP_Y: logits.phases[0],
            f.STEP_X: logits.phases[1],
            f.CHANNELS: channels,
            f.HEIGHT: height,
            f.WIDTH: width,
        }

    step.fill = fill
    return step


def smooth_tail(logits: View, shape: Shape, stretch: Stretch | None = None) -> list[Step]:
    """Real map of logits -> class map of any size: first that of the grid, then the pixels between its points.

    stretch  to the one size that it is for; without, its fields are bound when it runs
    """
    _, height, width = shape
    argmax = argmax_step(logits, shape)
    step = Step("smooth classes", Kind.SMOOTH_CLASSES, max(height - 1, 1), reads=[logits.buffer, argmax])

    def fill(step: Step, arena: Arena) -> None:
        argmax.fields[f.OUT] = arena.take(height * width).ctypes.data
        step.fields |= _fields(logits, shape, arena) | {f.CLASSES: argmax.fields[f.OUT]}
        if stretch is not None:
            step.fields |= stretch.fields(arena)

    step.fill = fill
    return [argmax, step]


def bilinear_tail(logits: View, shape: Shape, stretch: Stretch) -> list[Step]:
    """Real map of logits -> probabilities float32 (C, *stretch.size) of the logits interpolated."""
    step = Step("bilinear softmax", Kind.BILINEAR_SOFTMAX, max(shape[1] - 1, 1), reads=[logits.buffer])

    def fill(step: Step, arena: Arena) -> None:
        step.fields |= _fields(logits, shape, arena) | stretch.fields(arena)

    step.fill = fill
    return [step]


def logits_tail(logits: View, shape: Shape) -> list[Step]:
    """Real map of logits -> float32 (C, h, w) in scan order."""
    step = Step("logits", Kind.LOGITS, shape[0], reads=[logits.buffer])

    def fill(step: Step, arena: Arena) -> None:
        step.fields |= _fields(logits, shape, arena)

    step.fill = fill
    return [step]


def _fields(logits: View, shape: Shape, arena: Arena) -> dict[int, int]:
    return {
        f.IN: logits.buffer.address,
        f.IN_GROUP: logits.buffer.stride,
        f.OFFSETS: arena.put(grid_points(logits, shape[1:])),
        f.CHANNELS: shape[0],
        f.HEIGHT: shape[1],
        f.WIDTH: shape[2],
    }
