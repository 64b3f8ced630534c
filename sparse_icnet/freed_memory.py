"""Memory that was freed is kept for the next picture, by the C library of a process that is this program's own.

glibc gives blocks as large as a picture back to the system when they are freed and takes them anew for the next one, where
each page costs a fault: of a folder of pictures a tenth of all time.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Of glibc's malloc.h, with the values from which on blocks are given back: each of so many bytes, or as many at the end.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_BYTES = {_TRIM_THRESHOLD: 1 << 26, _MMAP_THRESHOLD: 1 << 25}


def keep() -> bool:
    """Let freed blocks of less than 32 MiB stay in this process, 64 MiB at most; whether there is such a setting.

    What the environment says of it (mallopt(3)) stays as it is.
    """
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    if sys.platform != "linux" or any(name in os.environ for name in own):
        return False
    if "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    setting = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return setting is not None and all(setting(which, size) for which, size in _BYTES.items())
