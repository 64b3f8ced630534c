"""Equations in plain NumPy, one function each: integers where they are integers, real values in the dtype that comes in.

Bilinear upsampling and smooth class maps (Q11) are in `sparse_icnet.network.bilinear` and `sparse_icnet.reference.smooth`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Convolution, MaxPool, Quantizer
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
    top, left, bottom, right = op.padding
    zero_based = codes.astype(np.float64) - quantizer.zero_point
    padded = np.pad(zero_based, ((0, 0), (top, bottom), (left, right)))
    outputs, inputs, kernel_height, kernel_width = op.weight.shape
    span_y, span_x = op.dilation[0] * (kernel_height - 1), op.dilation[1] * (kernel_width - 1)
    rows = (padded.shape[1] - span_y - 1) // op.stride[0] + 1
    columns = (padded.shape[2] - span_x - 1) // op.stride[1] + 1
    total = np.zeros((outputs, rows * columns))
    for y in range(kernel_height):
        for x in range(kernel_width):
            top_y, left_x = y * op.dilation[0], x * op.dilation[1]
            window = padded[
                :,
                top_y : top_y + op.stride[0] * (rows - 1) + 1 : op.stride[0],
                left_x : left_x + op.stride[1] * (columns - 1) + 1 : op.stride[1],
            ]
            total += op.weight[:, :, y, x].astype(np.float64) @ window.reshape(inputs, -1)
    return total.astype(np.int32).reshape(outputs, rows, columns)


def nearest(x: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(Q7): (C, H, W) -> (C, *size)."""
    rows = np.arange(size[0]) * x.shape[1] // size[0]
    columns = np.arange(size[1]) * x.shape[2] // size[1]
    return x[:, rows[:, None], columns[None, :]]


def max_pool(x: NDArray[Any], op: MaxPool) -> NDArray[Any]:
    """Largest value of each window; padding holds the lowest value of the dtype, which never wins."""
    top, left, bottom, right = op.padding
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=lowest)
    windows = np.lib.stride_tricks.sliding_window_view(padded, op.kernel, (1, 2))
    largest: NDArray[Any] = windows[:, :: op.stride[0], :: op.stride[1]].max((3, 4))
    return largest


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q8): (C, H, W) float32 -> probabilities over axis 0, summed in ascending channel order."""
    exponentials = arithmetic.exp(x - x.max(0))
    total = exponentials[0].copy()
    for row in exponentials[1:]:
        total = total + row
    shares: NDArray[np.float32] = exponentials * (np.float32(1.0) / total)
    return shares
