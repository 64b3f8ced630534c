"""A second evaluation of a graph: real values, quantizers as FakeQuantize, in the arithmetic of another precision.

It shares windows, taps and nearest resizes with the oracle (`equations`), not its units, multipliers and roundings.  In
float64 it checks the oracle; the distance between its float64 and its float32 is the noise floor of any comparison with
another runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.bilinear import bilinear
from sparse_icnet.network.graph import (
    Add,
    Affine,
    AnyConvolution,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Relu,
    Resize,
    Softmax,
    assert_never,
)
from sparse_icnet.reference.equations import matrix_products, max_pool, nearest, pooled_windows


def evaluate_float(
    graph: Graph,
    blob: NDArray[Any],
    dtype: type[np.floating] = np.float64,
    keep: Collection[str] | None = None,
) -> dict[str, NDArray[np.floating]]:
    """Tensors of `graph` as real values, quantizers as FakeQuantize, in `dtype`: name -> (C, H, W), class maps in uint8.

    blob  (3, H, W), the network input
    keep  names to return, None for all; the others are dropped after their last reader, which saves gigabytes
    """
    values: dict[str, NDArray[Any]] = {}
    last_reader = {source: op.name for op in graph.ops for source in op.inputs}
    for op in graph.ops:
        values[op.name] = float_value(op, values, blob, dtype)
        if keep is not None:
            for source in {*op.inputs, op.name}.difference(keep):
                if last_reader.get(source, op.name) == op.name:
                    del values[source]
    return values


def float_value(
    op: Op, values: dict[str, NDArray[Any]], blob: NDArray[Any], dtype: type[np.floating]
) -> NDArray[Any]:
    """The value of `op`, (C, H, W), from those of its inputs in `values`."""
    match op:
        case Input():
            return blob.astype(dtype)
        case Affine(input=source, scale=scale, shift=shift):
            return values[source] * scale.astype(dtype)[:, None, None] + shift.astype(dtype)[:, None, None]
        case Quantize(input=source, quantizer=q):
            unit: Any = dtype(q.scale)
            code = np.clip(np.rint(values[source] / unit) + q.zero_point, q.low, q.high)
            real: NDArray[Any] = (code - dtype(q.zero_point)) * unit
            return real
        case Convolution(input=source) | FloatConvolution(input=source):
            return _float_convolution(values[source], op, dtype)
        case Add(left=left, right=right):
            total: NDArray[Any] = values[left] + values[right]
            return total
        case Relu(input=source):
            positive: NDArray[Any] = np.maximum(values[source], dtype(0))
            return positive
        case MaxPool(input=source):
            return max_pool(values[source], op)
        case AveragePool(input=source, bins=bins):
            result = np.empty((values[source].shape[0], *bins), dtype)
            for i, j, window in pooled_windows(values[source], bins):
                result[:, i, j] = window.mean((1, 2))
            return result
        case Resize(input=source, size=size):
            return nearest(values[source], size)
        case Bilinear(input=source, size=size, align_corners=align_corners):
            return bilinear(values[source], size, align_corners)
        case Softmax(input=source):
            e = np.exp(values[source] - values[source].max(0))
            shares: NDArray[Any] = e / e.sum(0)
            return shares
        case Argmax(input=source):
            best: NDArray[Any] = values[source].argmax(0).astype(np.uint8)[None]
            return best
        case _:
            assert_never(op)


def _float_convolution(x: NDArray[Any], op: AnyConvolution, dtype: type[np.floating]) -> NDArray[Any]:
    """Convolution of real values (I, H, W) in `dtype`: a matrix product for each tap, the bias last."""
    weight = op.weight.astype(dtype)
    if isinstance(op, Convolution):
        weight = weight * op.weight_scale.astype(dtype)[:, None, None, None]
    return matrix_products(x, weight, op) + op.bias.astype(dtype)[:, None, None]
