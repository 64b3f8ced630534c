"""The codes of an image by products, for CPUs that have no fast look-up of bytes in tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def factors_of(codes: NDArray[np.uint8]) -> NDArray[np.uint16] | None:
    """uint16 (6, 2) for `put_rgb_products` that turn each byte into its code of u8 (3, 256); None if there are none.

    A quantizer of an image is close to a line; all 256 values of each channel are compared.
    """
    found = [_line(row) for row in codes.astype(np.int64)]
    factors = np.zeros(
        (3, 2, 2), np.uint16
    )  # what is multiplied, added, taken away; for R and B, G and nothing
    for (row, half), line in zip(((0, 0), (1, 0), (0, 1)), found, strict=True):
        if line is None:
            return None
        multiplier, moved = line
        factors[:, row, half] = multiplier, max(moved, 0), max(-moved, 0)
    return factors.reshape(6, 2)


def _line(codes: NDArray[np.int64]) -> tuple[int, int] | None:
    """(multiplier, moved) with codes[x] = clip((256 * x * multiplier >> 16) + moved, 0, 65535) >> 8; None if there is none.

    Of all multipliers the one that leaves most room on both sides.
    """
    inner = np.flatnonzero((codes > 0) & (codes < 255))
    if inner.size < 2:
        return None
    first, last = inner[[0, -1]].tolist()
    slope, unsure = (codes[last] - codes[first]) / (last - first), 1 / (last - first)
    ends = np.clip(np.array([slope - unsure, slope + unsure]) * 65536, 1, 65535).astype(np.int64)
    multipliers = np.arange(ends[0], ends[1] + 1)
    products = (multipliers[:, None] * (256 * np.arange(256))) >> 16
    # Each code below 255 bounds what is added from above, each above 0 from below.
    lowest = (256 * codes - products)[:, codes > 0].max(1)
    highest = (256 * codes + 255 - products)[:, codes < 255].min(1)
    best = int((highest - lowest).argmax())
    moved = int(lowest[best] + highest[best]) // 2
    fits = lowest[best] <= highest[best] and abs(moved) <= 65535
    return (int(multipliers[best]), moved) if fits else None
