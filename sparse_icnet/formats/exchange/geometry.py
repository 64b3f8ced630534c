"""Geometry of layers: nearest resizing as index maps, bilinear resizing, automatic padding, windows of average pools.

The graph knows one nearest resize, index i * size_in // size_out (Q7).  Exporters name it in many ways; a
coordinate mode is honoured when its index map is this one for the sizes at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import Size
from sparse_icnet.network.limits import MAX_LENGTH
from sparse_icnet.network.shapes import pool_windows

SCALE_TOLERANCE = 1e-4  # of a pixel, between size_in * scale and a whole number


def nearest_indices(
    size_in: int, size_out: int, coordinate: str, nearest: str, where: str
) -> NDArray[np.int64]:
    """The input index that each output index reads, clipped to the map, in exact integer arithmetic."""
    i = np.arange(size_out, dtype=np.int64)
    match coordinate:
        case "asymmetric":
            numerator, denominator = i * size_in, size_out
        case "tf_half_pixel_for_nn":
            numerator, denominator = (2 * i + 1) * size_in, 2 * size_out
        case "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric":
            numerator, denominator = (2 * i + 1) * size_in - size_out, 2 * size_out
            if coordinate == "pytorch_half_pixel" and size_out == 1:
                numerator = i * 0
        case "align_corners":
            numerator, denominator = i * (size_in - 1), max(size_out - 1, 1)
        case _:
            raise FormatError(f"{where}: coordinate mode {coordinate!r} is not supported")
    floor = numerator // denominator
    ceil = -(-numerator // denominator)
    match nearest:
        case "floor":
            index = floor
        case "ceil":
            index = ceil
        case "round_prefer_floor":
            index = -((denominator - 2 * numerator) // (2 * denominator))
        case "round_prefer_ceil":
            index = (2 * numerator + denominator) // (2 * denominator)
        case "simple":
            index = ceil if size_out < size_in else floor
        case _:
            raise FormatError(f"{where}: nearest mode {nearest!r} is not supported")
    return np.clip(index, 0, size_in - 1)


def check_nearest(size_in: int, size_out: int, coordinate: str, nearest: str, where: str) -> None:
    """FormatError unless this mode reads index i * size_in // size_out for every i."""
    if size_in == size_out and coordinate != "tf_half_pixel_for_nn":
        return
    if coordinate == "asymmetric" and nearest == "floor":
        return
    found = nearest_indices(size_in, size_out, coordinate, nearest, where)
    expected = np.arange(size_out, dtype=np.int64) * size_in // size_out
    if (found != expected).any():
        at = int((found != expected).argmax())
        raise FormatError(
            f"{where}: expected a nearest resize that reads pixel i * {size_in} // {size_out}, but mode "
            f"{coordinate!r} with {nearest!r} reads {found[at]} in place of {expected[at]} at i = {at}"
        )


def aligns_corners(before: Size, after: Size, coordinate: str, where: str) -> bool:
    """Whether a bilinear resize puts corners on corners (true) or has half-pixel centres (false): the two of (Q11)."""
    if coordinate == "align_corners":
        return True
    single = any(
        new == 1 < old for old, new in zip(before, after, strict=True)
    )  # pytorch's rule for one pixel
    if coordinate == "half_pixel" or (coordinate == "pytorch_half_pixel" and not single):
        return False
    raise FormatError(
        f"{where}: expected a bilinear resize with half_pixel or align_corners, found {coordinate!r} "
        f"from {before[0]}x{before[1]} to {after[0]}x{after[1]}"
    )


def scaled_size(size_in: int, scale: float, where: str) -> int:
    """floor(size_in * scale), where that is a whole number of pixels up to float rounding."""
    exact = size_in * scale
    if not 0.5 <= exact <= MAX_LENGTH or abs(exact - round(exact)) > SCALE_TOLERANCE:
        raise FormatError(f"{where}: expected a scale that gives a whole size, found {size_in} * {scale:.7g}")
    return round(exact)


def automatic_padding(
    mode: str,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    where: str,
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a window over `sizes` (height, width)."""
    if mode in ("explicit", "notset"):
        if min(*begin, *end) < 0:
            raise FormatError(f"{where}: expected padding of at least 0, found {list(begin)} and {list(end)}")
        return (begin[0], begin[1], end[0], end[1])
    if mode == "valid":
        return (0, 0, 0, 0)
    if mode not in ("same_upper", "same_lower"):
        raise FormatError(
            f"{where}: auto_pad must be explicit, same_upper, same_lower or valid, found {mode!r}"
        )
    low, high = [], []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        low.append(large if mode == "same_lower" else small)
        high.append(small if mode == "same_lower" else large)
    return (low[0], low[1], high[0], high[1])


def mean_matrix(length: int, bins: int) -> NDArray[np.float32]:
    """float32 (bins, length): each row averages one window of `pool_windows`."""
    matrix = np.zeros((bins, length), np.float32)
    for row, (start, end) in zip(matrix, pool_windows(length, bins), strict=True):
        row[start:end] = 1 / (end - start)
    return matrix


def ceiled_padding(
    padding: tuple[int, int, int, int],
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    drop_last: bool,
) -> tuple[int, int, int, int]:
    """`padding` (top, left, bottom, right) with rows and columns added below and right, so that rounding down
    gives the size of rounding up.

    drop_last  whether a last window that would start in the added part is left out (PyTorch, ONNX)
    """
    result = list(padding)
    for axis in (0, 1):
        begin, end = padding[axis], padding[axis + 2]
        length = sizes[axis] + begin + end
        count = -(-(length - kernel[axis]) // stride[axis]) + 1
        if drop_last and (count - 1) * stride[axis] >= sizes[axis] + begin:
            count -= 1
        result[axis + 2] = end + max((count - 1) * stride[axis] + kernel[axis] - length, 0)
    return (result[0], result[1], result[2], result[3])
