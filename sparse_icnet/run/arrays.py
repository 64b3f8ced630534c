"""Arrays that a session makes for its callers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.params import LINE

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Size


def nearest(x: NDArray[Any], size: Size) -> NDArray[Any]:
    """(Q7): (..., h, w) -> (..., *size)."""
    rows, columns = (
        np.arange(n, dtype=np.int64) * old // n for n, old in zip(size, x.shape[-2:], strict=True)
    )
    enlarged: NDArray[Any] = x.take(columns, -1).take(rows, -2)
    return enlarged


def aligned_empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uninitialised float32 array that begins at a cache line, so that whole lines can be streamed into it."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    aligned: NDArray[np.float32] = memory[start : start + size].view(np.float32).reshape(shape)
    return aligned
