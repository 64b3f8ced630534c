"""How tensors lie in memory: interleaved planes on one common grid.

Every map of ICNet is a whole multiple of the smallest one (H/32 x W/32), the *grid*.  A map of k times the grid
size is stored as k x k *phases* (a polyphase decomposition): phase (i, j) holds the pixels (k*y + i, k*x + j).  Then

* a convolution of stride s from s*k phases to k phases reads whole planes, shifted by whole grid rows and columns:
  no stride, no dilation and no resize is left in the inner loop, only byte offsets;
* nearest upsampling by f is a view in which f x f phases name the same plane, downsampling by f a view of every f-th
  phase: both cost nothing;
* rows are whole 64-byte vectors and every load is aligned, unless unaligned loads cost nothing: then rows may lie without
  a gap (`Grid.for_size`).  A tap that needs a column shift reads a *shifted copy* of its
  plane, which also holds the padding at the left and right edge; rows of padding lie above and below each plane.

Codes are u8, four channels in a 32-bit lane: [channel / 4][plane][row][column][4].  Real maps are float32,
[channel][plane][row][column].  One row of either takes the same number of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Quantizer, Size
from sparse_icnet.operators.params import LINE
from sparse_icnet.target import FREE_UNALIGNED_LOADS

VECTOR_PIXELS = 16
# A load may run past the last row of a map by a tile of vectors, a shifted load before the first row.
SLACK = 4096


class PlanError(ValueError):
    """A valid graph that this engine cannot run; says which operation and why."""


class SizeError(PlanError):
    """A PlanError that the same network might not raise at another input size."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The common grid: rows and columns of every plane.

    pitch_pixels  columns of storage in one row, at least 16 and at least `columns`
    """

    rows: int
    columns: int
    pitch_pixels: int

    @classmethod
    def for_size(cls, rows: int, columns: int, dense: bool | None = None) -> Grid:
        """Grid with rows padded to whole vectors, or `dense`: row after row without a gap.

        Dense rows waste no arithmetic on padding but make taps of other rows read unaligned.  They need planes
        of whole vectors.  By default they are used where `sparse_icnet.target` says that unaligned loads cost nothing.
        """
        padded = -(-columns // VECTOR_PIXELS) * VECTOR_PIXELS
        if dense is None:
            dense = FREE_UNALIGNED_LOADS
        fits = columns >= VECTOR_PIXELS and rows * columns % VECTOR_PIXELS == 0
        return cls(rows, columns, columns if dense and fits else padded)

    @property
    def pitch(self) -> int:
        """Bytes of one row of a plane."""
        return 4 * self.pitch_pixels

    @property
    def vectors(self) -> int:
        """Vectors of 16 pixels in one plane."""
        return self.rows * self.pitch_pixels // VECTOR_PIXELS

    def phases(self, height: int, width: int) -> Size | None:
        """(vertical, horizontal) phases of a map of height x width, or None if it is no multiple of the grid."""
        if height % self.rows or width % self.columns:
            return None
        return height // self.rows, width // self.columns


@dataclass(frozen=True, slots=True, eq=False)
class CodesMap:
    """Memory of a quantized tensor: channels x phases planes of codes."""

    name: str
    channels: int
    phases: Size
    grid: Grid
    quantizer: Quantizer

    @property
    def stored_zero(self) -> int:
        """The stored u8 of the real value 0: codes are stored as code - low."""
        return self.quantizer.zero_point - self.quantizer.low

    @property
    def zero_pixel(self) -> int:
        """Four stored zeros, a pixel of padding, as an int32."""
        return int(np.uint32(self.stored_zero * 0x01010101).view(np.int32))

    @property
    def groups(self) -> int:
        return -(-self.channels // 4)


@dataclass(frozen=True, slots=True, eq=False)
class RealMap:
    """Memory of a tensor of float32: channels, filled up to fours, x phases planes."""

    name: str
    channels: int
    phases: Size
    grid: Grid

    @property
    def zero_pixel(self) -> int:
        """The real value 0, a pixel of padding, as an int32."""
        return 0

    @property
    def groups(self) -> int:
        return -(-self.channels // 4)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Memory that is no map: `size` bytes between the operator that writes and those that read it."""

    name: str
    size: int


AnyMap: TypeAlias = CodesMap | RealMap
Storage: TypeAlias = CodesMap | RealMap | Block


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor as its readers see it: which plane of a map each of its phases is.

    planes  intp (ky, kx)
    """

    map: AnyMap
    planes: NDArray[np.intp]

    def __repr__(self) -> str:
        return f"View({self.map!r} as phases {self.phases})"

    @classmethod
    def of(cls, map: AnyMap) -> View:
        return cls(map, np.arange(map.phases[0] * map.phases[1]).reshape(map.phases))

    @property
    def phases(self) -> Size:
        ky, kx = self.planes.shape
        return ky, kx

    @property
    def codes(self) -> CodesMap:
        """The map, which holds codes."""
        assert isinstance(self.map, CodesMap)
        return self.map

    def resized(self, phases: Size) -> View:
        """Nearest resize (Q7) between whole multiples of the grid.

        Pixel k'*y + i of the result reads pixel (k'*y + i) * k // k' = k*y + i*k // k' of the source: phase
        i*k // k', the same grid row.
        """
        rows = np.arange(phases[0]) * self.phases[0] // phases[0]
        columns = np.arange(phases[1]) * self.phases[1] // phases[1]
        return View(self.map, self.planes[rows[:, None], columns[None, :]])


Edges: TypeAlias = Mapping[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What an operator reads of a map beyond its pixels.

    reader  its name
    rows    of padding above and below each plane
    edges   (plane, columns) -> rows of padding that are read above and below the plane, or its copy shifted by so many
            columns if that is not 0
    """

    reader: str
    map: AnyMap
    rows: int
    edges: Edges


@dataclass(frozen=True, eq=False)
class MapLayout:
    """Where the planes of a map, their copies and their padding lie, from the start of a group (channel).

    pad_rows  of padding above and below each plane
    shifts    (plane, columns) -> number of the shifted copy
    edges     (plane, columns) -> rows of padding that are read above and below the plane or its shifted copy
    """

    map: AnyMap
    pad_rows: int = 0
    shifts: Mapping[tuple[int, int], int] = field(default_factory=lambda: MappingProxyType({}))
    edges: Edges = field(default_factory=lambda: MappingProxyType({}))

    @property
    def planes(self) -> int:
        return self.map.phases[0] * self.map.phases[1]

    @cached_property
    def slack(self) -> int:
        """Bytes before the first group and behind the last."""
        return SLACK

    @cached_property
    def plane_bytes(self) -> int:
        """Bytes of a plane with its padding rows, whole cache lines: outputs are stored aligned."""
        grid = self.map.grid
        return self._front + -(-(grid.rows + self.pad_rows) * grid.pitch // LINE) * LINE

    @cached_property
    def _front(self) -> int:
        """Bytes of padding above a plane: its rows of padding, rounded up to whole cache lines."""
        return -(-self.pad_rows * self.map.grid.pitch // LINE) * LINE

    @cached_property
    def stride(self) -> int:
        """Bytes from one group (codes) or channel (real) to the next: an odd number of cache lines.

        A power of two here would map the same tile of every group to the same few sets of the cache.
        """
        lines = -(-(self.planes + len(self.shifts)) * self.plane_bytes // LINE)
        return (lines | 1) * LINE

    @cached_property
    def bytes(self) -> int:
        rows = self.map.groups if isinstance(self.map, CodesMap) else 4 * self.map.groups
        return self.stride * rows + 2 * self.slack

    def plane_offset(self, plane: int, shift: int = 0) -> int:
        """Bytes from the start of a group to the first grid row of a plane, or of its copy shifted by `shift` columns."""
        index = plane if shift == 0 else self.planes + self.shifts[plane, shift]
        return index * self.plane_bytes + self._front

    def plane_offsets(self) -> NDArray[np.int64]:
        """`plane_offset` of every plane."""
        return np.arange(self.planes, dtype=np.int64) * self.plane_bytes + self._front

    def padding(self, plane: int, shift: int = 0) -> list[tuple[int, int]]:
        """What is read around a plane, or its copy shifted by `shift` columns, but holds no pixel: (offset, bytes).

        Offsets are from the start of a group.  The pixels of a copy lie `shift` columns earlier: behind the last (or
        before the first) of them as many columns belong to no pixel.
        """
        above, below = self.edges.get((plane, shift), (0, 0))
        grid = self.map.grid
        begin = self.plane_offset(plane, shift)
        before, behind = above * grid.pitch, below * grid.pitch
        regions = [
            (begin - before, before + 4 * max(0, -shift)),
            (begin + grid.rows * grid.pitch - 4 * max(0, shift), behind + 4 * max(0, shift)),
        ]
        return [(offset, size) for offset, size in regions if size]
