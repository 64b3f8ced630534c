"""The memory of a plan: few large mappings, page-aligned, and what was taken from them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.params import LINE


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """uint8 memory that was taken from an arena, or a part of it; `constant` if no kernel may write it."""

    memory: NDArray[np.uint8]
    constant: bool
    address: int = field(init=False)
    bytes: int = field(init=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        address, size = int(self.memory.ctypes.data), self.memory.size
        for name, value in (("address", address), ("bytes", size), ("end", address + size)):
            object.__setattr__(self, name, value)


class Arena:
    """Hands out memory, with huge pages where the system has them; `pieces` is all that was taken, `bytes` its size."""

    CHUNK = 1 << 25

    def __init__(self, shared: Iterable[Piece] = ()) -> None:
        """Memory of its own, and `shared` pieces of another arena, which `bytes` leaves out."""
        self._chunks: list[mmap.mmap] = []
        self._free: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.pieces: list[Piece] = list(shared)
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

    def put(self, array: NDArray[Any]) -> int:
        """Copy `array` into the arena, as a constant; its address."""
        array = np.ascontiguousarray(array)
        memory = self._take(max(array.nbytes, 1))
        self.pieces.append(Piece(memory, True))
        memory[: array.nbytes] = array.reshape(-1).view(np.uint8)
        return memory.ctypes.data


def memory_at(address: int, size: int) -> NDArray[np.uint8]:
    """uint8 view of memory that the caller keeps alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _private_memory(size: int) -> mmap.mmap:
    """Zeros of this process alone: by default Python maps memory that a forked child shares with its parent.

    Shared memory also gets no huge pages from most systems.
    """
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)
