"""How tensors lie in memory: interleaved planes on one common grid.

Every map of ICNet is a whole multiple of the smallest one (H/32 x W/32), the *grid*.  A map of k times the grid
size is stored as k x k *phases* (a polyphase decomposition): phase (i, j) holds the pixels (k*y + i, k*x + j).  Then

* a convolution of stride s from s*k phases to k phases reads whole planes, shifted by whole grid rows and columns:
  no stride, no dilation and no resize is left in the inner loop, only byte offsets;
* nearest upsampling by f is a view in which f x f phases name the same plane, downsampling by f a view of every f-th
  phase: both cost nothing;
* rows are whole 64-byte vectors and every load is aligned.  A tap that needs a column shift reads a *shifted copy* of its
  plane, which also holds the padding at the left and right edge; rows of padding lie above and below each plane.

Codes are u8, four channels in a 32-bit lane: [channel / 4][plane][row][column][4].  Real maps are float32,
[channel][plane][row][column].  One row of either takes the same number of bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels.sizes import LINE
from sparse_icnet.network.graph import Quantizer, Shape
from sparse_icnet.target import FREE_UNALIGNED_LOADS

VECTOR_PIXELS = 16
# A load may run past the last row of a buffer by a tile of vectors, a shifted load before the first row.
SLACK = 4096


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
        of whole vectors.  By default they are used where unaligned loads were measured to cost nothing.
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

    def phases(self, height: int, width: int) -> tuple[int, int] | None:
        """(vertical, horizontal) phases of a map of height x width, or None if it is no multiple of the grid."""
        if height % self.rows or width % self.columns:
            return None
        return height // self.rows, width // self.columns


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Memory that was taken from an arena, or a part of it; `constant` if no kernel may write it."""

    memory: NDArray[np.uint8]
    constant: bool
    address: int = field(init=False)
    bytes: int = field(init=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        address, size = int(self.memory.ctypes.data), self.memory.size
        for name, value in (("address", address), ("bytes", size), ("end", address + size)):
            object.__setattr__(self, name, value)


NO_MEMORY = Piece(np.empty(0, np.uint8), True)


@dataclass(eq=False)
class Buffer:
    """Storage of one tensor.  `pad_rows`, `shifts` and `edges` grow as consumers ask; then `place` fixes the addresses.

    quantizer  of the codes, or None for a real map
    shifts     (plane, columns) -> number of the shifted copy
    edges      (plane, columns) -> rows of padding that are read above and below the plane or its shifted copy
    memory     where it lies; address: of its first group, behind the slack
    """

    name: str
    channels: int
    phases: tuple[int, int]
    quantizer: Quantizer | None
    grid: Grid
    pad_rows: int = 0
    shifts: dict[tuple[int, int], int] = field(default_factory=dict)
    edges: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    memory: Piece = NO_MEMORY
    address: int = 0

    def __repr__(self) -> str:
        kind = "codes" if self.quantizer else "real"
        return f"{type(self).__name__}({self.name!r}, {self.channels} channels, {kind}, phases {self.phases})"

    @property
    def stored_zero(self) -> int:
        """The stored u8 of the real value 0: codes are stored as code - low."""
        return self.quantizer.zero_point - self.quantizer.low if self.quantizer else 0

    @property
    def zero_pixel(self) -> int:
        """Four stored zeros, a pixel of padding, as an int32."""
        return int(np.uint32(self.stored_zero * 0x01010101).view(np.int32))

    @property
    def groups(self) -> int:
        return -(-self.channels // 4)

    @property
    def planes(self) -> int:
        return self.phases[0] * self.phases[1]

    @property
    def plane_bytes(self) -> int:
        """Bytes of a plane with its padding rows, whole cache lines: outputs are stored aligned."""
        return self._front + -(-(self.grid.rows + self.pad_rows) * self.grid.pitch // LINE) * LINE

    @property
    def _front(self) -> int:
        """Bytes of padding above a plane: its rows of padding, rounded up to whole cache lines."""
        return -(-self.pad_rows * self.grid.pitch // LINE) * LINE

    @property
    def stride(self) -> int:
        """Bytes from one group (codes) or channel (real) to the next: an odd number of cache lines.

        A power of two here would map the same tile of every group to the same few sets of the cache.
        """
        lines = -(-(self.planes + len(self.shifts)) * self.plane_bytes // LINE)
        return (lines | 1) * LINE

    @property
    def bytes(self) -> int:
        return self.stride * (self.groups if self.quantizer else 4 * self.groups) + 2 * SLACK

    def plane_offset(self, plane: int, shift: int = 0) -> int:
        """Bytes from the start of a group to the first grid row of a plane, or of its copy shifted by `shift` columns."""
        index = plane if shift == 0 else self.planes + self.shifts[plane, shift]
        return index * self.plane_bytes + self._front

    def padding(self, plane: int, shift: int = 0) -> list[tuple[int, int]]:
        """What is read around a plane, or its copy shifted by `shift` columns, but holds no pixel: (offset, bytes).

        Offsets are from the start of a group.  The pixels of a copy lie `shift` columns earlier: behind the last (or
        before the first) of them as many columns belong to no pixel.
        """
        above, below = self.edges.get((plane, shift), (0, 0))
        begin, rows = self.plane_offset(plane, shift), self.grid.rows
        head, tail = above * self.grid.pitch, below * self.grid.pitch
        regions = [
            (begin - head, head + 4 * max(0, -shift)),
            (begin + rows * self.grid.pitch - 4 * max(0, shift), tail + 4 * max(0, shift)),
        ]
        return [(offset, size) for offset, size in regions if size]

    def place(self, memory: NDArray[np.uint8], keep: bool) -> None:
        """Lie in `memory`; with `keep` it is the buffer's own, and the padding is written here, once and for ever."""
        if keep:
            memory.fill(self.stored_zero)
        self.memory = Piece(memory, False)
        self.address = memory.ctypes.data + SLACK


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor as its readers see it: which plane of a buffer each of its phases is.

    planes  int (ky, kx)
    """

    buffer: Buffer
    planes: NDArray[np.intp]

    def __repr__(self) -> str:
        return f"View({self.buffer!r} as phases {self.phases})"

    @classmethod
    def of(cls, buffer: Buffer) -> View:
        return cls(buffer, np.arange(buffer.planes).reshape(buffer.phases))

    @property
    def phases(self) -> tuple[int, int]:
        return self.planes.shape

    def resized(self, phases: tuple[int, int]) -> View:
        """Nearest resize (Q7) between whole multiples of the grid.

        Pixel k'*y + i of the result reads pixel (k'*y + i) * k // k' = k*y + i*k // k' of the source: phase
        i*k // k', the same grid row.
        """
        rows = np.arange(phases[0]) * self.phases[0] // phases[0]
        columns = np.arange(phases[1]) * self.phases[1] // phases[1]
        return View(self.buffer, self.planes[rows[:, None], columns[None, :]])

    def table(self) -> NDArray[np.int64]:
        """Plane table: byte offset of each phase's plane."""
        return np.array([self.buffer.plane_offset(int(p)) for p in self.planes.flat], np.int64)

    def read(self, shape: Shape) -> NDArray:
        """The tensor in plain order: int16 codes or float32, of `shape` (C, H, W).  For tests and reports."""
        buffer, grid = self.buffer, self.buffer.grid
        channels = shape[0]
        result = np.empty(shape, np.int16 if buffer.quantizer else np.float32)
        ky, kx = self.phases
        memory = memory_at(buffer.address, buffer.stride * (buffer.groups * (1 if buffer.quantizer else 4)))
        for i in range(ky):
            for j in range(kx):
                start = buffer.plane_offset(int(self.planes[i, j]))
                for c in range(channels):
                    if buffer.quantizer:
                        at = (c // 4) * buffer.stride + start
                        plane = memory[at : at + grid.rows * grid.pitch].reshape(grid.rows, grid.pitch)
                        pixels = plane[:, c % 4 :: 4][:, : grid.columns].astype(np.int16)
                        result[c, i::ky, j::kx] = pixels + buffer.quantizer.low
                    else:
                        at = c * buffer.stride + start
                        plane = memory[at : at + grid.rows * grid.pitch].view(np.float32)
                        result[c, i::ky, j::kx] = plane.reshape(grid.rows, -1)[:, : grid.columns]
        return result


def memory_at(address: int, size: int) -> NDArray[np.uint8]:
    """uint8 view of memory that the caller keeps alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Arena:
    """Page-aligned memory in few large mappings, with huge pages where the system has them."""

    CHUNK = 1 << 25

    def __init__(self) -> None:
        self._chunks: list[mmap.mmap] = []
        self._free: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.pieces: list[Piece] = []  # all that was taken
        self.bytes = 0

    def take(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of zeros, aligned to 64."""
        memory = self._take(size)
        self.pieces.append(Piece(memory, False))
        return memory

    def _take(self, wanted: int) -> NDArray[np.uint8]:
        size = -(-wanted // LINE) * LINE
        if size > self._free.size:
            chunk = _private_memory(max(size, self.CHUNK))
            if hasattr(mmap, "MADV_HUGEPAGE"):
                # Advice only: a kernel without huge pages refuses it, and nothing depends on it.
                with contextlib.suppress(OSError):
                    chunk.madvise(mmap.MADV_HUGEPAGE)
            self._chunks.append(chunk)
            self._free = np.frombuffer(chunk, np.uint8)
        taken, self._free = self._free[:size], self._free[size:]
        self.bytes += size
        return taken[:wanted]

    def put(self, array: NDArray) -> int:
        """Copy `array` into the arena, as a constant; its address."""
        array = np.ascontiguousarray(array)
        memory = self._take(max(array.nbytes, 1))
        self.pieces.append(Piece(memory, True))
        memory[: array.nbytes] = array.reshape(-1).view(np.uint8)
        return memory.ctypes.data


def _private_memory(size: int) -> mmap.mmap:
    """Zeros of this process alone: by default Python maps memory that a forked child shares with its parent.

    Shared memory also gets no huge pages from most systems.
    """
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)
