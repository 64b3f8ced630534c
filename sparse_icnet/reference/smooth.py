"""Smooth class maps (Q11) in plain NumPy: what their kernel must equal bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.bilinear import bilinear
from sparse_icnet.network.graph import Size

BAND_VALUES = 1 << 24  # values, of all classes together, that are computed at a time


def unbeaten(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool (C, cells down, cells across): which classes are not beaten in each cell of the grid of float32 (C, h, w)."""
    channels, height, width = x.shape
    number = np.arange(channels)[:, None, None]
    best = x.argmax(0)
    rows, columns = (np.arange(max(n - 1, 1)) for n in (height, width))
    corners = [
        (np.minimum(rows + i, height - 1)[:, None], np.minimum(columns + j, width - 1)[None])
        for i in (0, 1)
        for j in (0, 1)
    ]
    result = np.ones((channels, rows.size, columns.size), bool)
    for corner in corners:
        winner = best[corner]  # (cells down, cells across)
        beats = np.ones_like(result)
        for at in corners:
            values = x[(slice(None), *at)]
            own = np.take_along_axis(values, winner[None], 0)
            beats &= (own > values) | ((own == values) & (winner[None] < number))
        result &= ~beats
    return result


def smooth_class_map(x: NDArray[np.float32], size: Size, align_corners: bool = False) -> NDArray[np.uint8]:
    """The smooth class map of (Q11): logits float32 (C, h, w), C <= 256 -> class of each pixel, uint8 of `size`."""
    candidates = unbeaten(x)
    cells, _, _ = arithmetic.interpolation(x.shape[2], size[1], np.arange(size[1]), align_corners)
    result = np.empty(size, np.uint8)
    band = max(1, BAND_VALUES // (x.shape[0] * size[1]))
    for first in range(0, size[0], band):
        rows = np.arange(first, min(first + band, size[0]))
        values = bilinear(x, size, align_corners, rows)
        above, _, _ = arithmetic.interpolation(x.shape[1], size[0], rows, align_corners)
        values[~candidates[:, above[:, None], cells[None]]] = -np.inf
        result[rows] = values.argmax(0)
    return result
