"""Equations in plain NumPy, one function each: integers where they are integers, real values in the dtype that comes in.

Bilinear upsampling and smooth class maps (Q11) are in `sparse_icnet.network.bilinear` and `sparse_icnet.reference.smooth`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import (
    AnyConvolution,
    Convolution,
    FloatConvolution,
    MaxPool,
    Quantizer,
    Size,
)
from sparse_icnet.network.shapes import pool_windows


def pooled_windows(x: NDArray[Any], bins: tuple[int, int]) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """(row, column, window (C, h, w)) of every bin of an average pool over (C, H, W)."""
    for i, (top, bottom) in enumerate(pool_windows(x.shape[1], bins[0])):
        for j, (left, right) in enumerate(pool_windows(x.shape[2], bins[1])):
            yield i, j, x[:, top:bottom, left:right]


def convolve(codes: NDArray[np.int16], op: Convolution, quantizer: Quantizer) -> NDArray[np.int32]:
    """(Q3): codes (I, H, W) -> exact int32 sums (O, H', W').

    Sums run as float64 matrix products, exact because every partial sum is an integer below 2**31.
    """
    zero_based = codes.astype(np.float64) - quantizer.zero_point
    return matrix_products(zero_based, op.weight.astype(np.float64), op).astype(np.int32)


def taps(x: NDArray[Any], op: AnyConvolution) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """(row, column, what it reads (I, H', W')) of each tap of `op` over (I, H, W), in order; padding holds 0."""
    top, left, bottom, right = op.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    kernel = op.weight.shape[2:]
    rows, columns = (
        (padded.shape[1 + i] - op.dilation[i] * (kernel[i] - 1) - 1) // op.stride[i] + 1 for i in (0, 1)
    )
    for y in range(kernel[0]):
        for x_tap in range(kernel[1]):
            first, left_x = y * op.dilation[0], x_tap * op.dilation[1]
            window = padded[
                :,
                first : first + op.stride[0] * (rows - 1) + 1 : op.stride[0],
                left_x : left_x + op.stride[1] * (columns - 1) + 1 : op.stride[1],
            ]
            yield y, x_tap, window


def matrix_products(x: NDArray[Any], weight: NDArray[Any], op: AnyConvolution) -> NDArray[Any]:
    """The sums of `op` with the weights `weight`, in their dtype: a matrix product for each tap."""
    total: Any = 0
    for y, x_tap, window in taps(x, op):
        total = total + weight[:, :, y, x_tap] @ window.reshape(len(window), -1)
    sums: NDArray[Any] = total.reshape(len(weight), *window.shape[1:])
    return sums


def float_sums(x: NDArray[np.float32], op: FloatConvolution) -> NDArray[np.float32]:
    """The sums a of (Q12): real values (I, H, W) in the unit 1 -> float32 (O, H', W'), each sum rounded in order."""
    groups = np.logical_or.reduceat(op.weight != 0, np.arange(0, len(op.weight), 4), axis=0)
    counts = np.repeat(groups, 4, axis=0)[: len(op.weight)]
    total: NDArray[np.float32] | None = None
    with np.errstate(over="ignore", invalid="ignore"):
        for y, x_tap, window in taps(x, op):
            if total is None:
                total = np.zeros((len(op.weight), *window.shape[1:]), np.float32)
            for channel, pixels in enumerate(window):
                (used,) = np.nonzero(counts[:, channel, y, x_tap])
                total[used] += op.weight[used, channel, y, x_tap, None, None] * pixels
    assert total is not None  # a kernel has a tap
    return total


def real_average_pool(x: NDArray[np.float32], bins: Size) -> NDArray[np.float32]:
    """(Q13): float32 (C, H, W) -> (C, *bins)."""
    result = np.empty((x.shape[0], *bins), np.float32)
    for i, j, window in pooled_windows(x, bins):
        columns = window[:, 0].copy()
        for row in range(1, window.shape[1]):
            columns += window[:, row]
        total = columns[:, 0].copy()
        for column in range(1, window.shape[2]):
            total += columns[:, column]
        count = window.shape[1] * window.shape[2]
        result[:, i, j] = total * arithmetic.real_mean_multiplier(count)
    return result


def nearest(x: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(Q7): (C, H, W) -> (C, *size)."""
    rows = np.arange(size[0]) * x.shape[1] // size[0]
    columns = np.arange(size[1]) * x.shape[2] // size[1]
    return x[:, rows[:, None], columns[None, :]]


def max_pool(x: NDArray[Any], op: MaxPool) -> NDArray[Any]:
    """(Q14): largest value of each window of (C, H, W); padding holds the lowest value of the dtype, which never wins."""
    top, left, bottom, right = op.padding
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=lowest)
    windows = np.lib.stride_tricks.sliding_window_view(padded, op.kernel, (1, 2))
    windows = windows[:, :: op.stride[0], :: op.stride[1]]
    if x.dtype.kind == "f":
        taps = (windows[..., i, j] for i in range(op.kernel[0]) for j in range(op.kernel[1]))
        return largest(taps, np.full(windows.shape[:3], -np.inf, x.dtype))
    result: NDArray[Any] = windows.max((3, 4))
    return result


def largest(rows: Iterable[NDArray[Any]], first: NDArray[Any]) -> NDArray[Any]:
    """The largest of `first` and `rows`, elementwise, a row taken where it is larger: a NaN in a row never is."""
    best = first
    for row in rows:
        best = np.where(row > best, row, best)
    return best


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q8): float32 (C, H, W) -> probabilities over axis 0, summed in ascending channel order."""
    exponentials = arithmetic.exp(x - largest(x[1:], x[0]))
    total = exponentials[0].copy()
    for row in exponentials[1:]:
        total = total + row
    shares: NDArray[np.float32] = exponentials * (np.float32(1.0) / total)
    return shares
