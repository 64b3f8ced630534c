"""Memory that can hold machine code: pages that are written first, then made executable and no longer writeable."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys

READ, WRITE, EXECUTE = 1, 2, 4  # PROT_READ, PROT_WRITE, PROT_EXEC: the same on all systems that have mprotect


def is_x86_64_linux() -> bool:
    """Whether this process runs 64-bit code of x86 under Linux: what `host` asks and `run/linking.py` links."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 1 << 32


class Pages:
    """Whole pages of zeros, readable and writeable, at `address`; they live as long as the process.

    Raises OSError where the system gives none.
    """

    def __init__(self, size: int) -> None:
        if os.name != "posix":
            raise OSError("no pages that can be protected on this system")
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(
            -1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._memory = memory
        _kept.append(self)

    def write(self, offset: int, content: bytes) -> None:
        """Write `content` at `offset`, before the pages are protected."""
        self._memory[offset : offset + len(content)] = content

    def protect(self, offset: int, size: int, access: int) -> None:
        """Allow nothing but `access`, of READ | WRITE | EXECUTE, on the pages from `offset`, a multiple of the page size.

        Raises OSError where the system refuses.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if size and libc.mprotect(self.address + offset, size, access):
            number = ctypes.get_errno()
            raise OSError(number, f"mprotect: {os.strerror(number)}")


_kept: list[Pages] = []
