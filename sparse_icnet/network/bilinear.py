"""Bilinear upsampling, (Q11), in NumPy: for the oracle, and for the enlarged logits that some networks return."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Size


def bilinear(
    x: NDArray[np.floating], size: Size, align_corners: bool = False, rows: NDArray[np.int64] | None = None
) -> NDArray[np.floating]:
    """(Q11): (C, h, w) -> (C, *size), or of that only `rows`; every step in the dtype of x, float32 as (Q11) rounds."""
    rows = np.arange(size[0]) if rows is None else rows
    upper, near, far = _weights(x, 1, size[0], rows, align_corners)
    lower = np.minimum(upper + 1, x.shape[1] - 1)
    lines = near[:, None] * x[:, upper] + far[:, None] * x[:, lower]
    left, near, far = _weights(x, 2, size[1], np.arange(size[1]), align_corners)
    right = np.minimum(left + 1, x.shape[2] - 1)
    result: NDArray[np.floating] = near * lines[:, :, left] + far * lines[:, :, right]
    return result


def _weights(
    x: NDArray[np.floating], axis: int, length: int, pixels: NDArray[np.int64], align_corners: bool
) -> tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.floating]]:
    """(cell, near, far) of `pixels` along an axis of x, in its precision."""
    cells, rest, whole = arithmetic.fractions(x.shape[axis], length, pixels, align_corners)
    return cells, ((whole - rest) / whole).astype(x.dtype), (rest / whole).astype(x.dtype)
