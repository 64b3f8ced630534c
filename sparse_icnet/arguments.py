"""What users hand to a model besides pictures, checked: sizes, threads, blobs, arrays for results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.limits import MAX_SIDE

if TYPE_CHECKING:
    from sparse_icnet.network.faces import InputFace
    from sparse_icnet.network.graph import Size

MAX_THREADS = 256


def checked_size(size: Size) -> Size:
    """(height, width) as two Python integers within 1..MAX_SIDE; TypeError or ValueError for anything else."""
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(isinstance(n, int | np.integer) for n in size)
    ):
        raise TypeError(f"size must be two integers (height, width), found {size!r}")
    height, width = (int(n) for n in size)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"size must be (height, width) within 1..{MAX_SIDE}, found {height}x{width}")
    return height, width


def checked_threads(threads: int | None) -> int | None:
    """A Python integer within 1..MAX_THREADS, or None; TypeError or ValueError for anything else."""
    if threads is None:
        return None
    if not isinstance(threads, int | np.integer) or isinstance(threads, bool):
        raise TypeError(f"threads must be an integer or None, found {threads!r}")
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads must lie in 1..{MAX_THREADS}, found {threads}")
    return int(threads)


def checked_blob(blob: NDArray[Any], face: InputFace, shape: tuple[int, ...]) -> NDArray[Any]:
    """`blob` as (N, *shape), if it has the type and axes of `face`; TypeError or ValueError if not.

    shape  of one input as the file takes it, without the axis N
    """
    batched = "N" in face.axes
    axes = ("N", *map(str, shape)) if batched else tuple(map(str, shape))
    expected = f"{face.dtype} of shape ({', '.join(axes)})"
    if not isinstance(blob, np.ndarray):
        raise TypeError(f"a blob must be a NumPy array, {expected}, found {type(blob).__name__}")
    if blob.dtype != face.dtype:
        raise TypeError(f"a blob must be {expected}, found {blob.dtype}; for a picture call segment()")
    if (blob.shape[1:] if batched else blob.shape) != shape or blob.ndim != len(axes):
        raise ValueError(f"a blob must be {expected}, found {blob.shape}")
    return blob if batched else blob[None]


def check_out(
    out: NDArray[Any],
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    blob: NDArray[Any],
) -> None:
    """TypeError or ValueError unless `out` can take a result of `shape` and `dtype` without touching `blob`."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise TypeError(f"out must be a {dtype} array, found {getattr(out, 'dtype', type(out).__name__)}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, found {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writable")
    if np.may_share_memory(out, blob):
        raise ValueError("out must not overlap the blob")
