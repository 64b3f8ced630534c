"""Whether every float32 constant of an evaluation is finite.

The weights, scales and normalization of a graph may be finite as they stand and still overflow in the unit in which they
are read: (Q2), (Q4), (Q6), (Q9), (Q10) and (Q12) of `sparse_icnet.network.operations` divide them by the scale u of the
quantizer that reads the expression.  With an infinite constant, sums become NaN, and instructions for maxima differ in
what they make of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    GraphError,
    Input,
    MaxPool,
    Normalization,
    Quantize,
    Relu,
    Resize,
    Softmax,
    assert_never,
)

OVERFLOW = 2.0**128 - 2.0**103  # the least float64 that float32 rounds to infinity


def check_constants(graph: Graph) -> None:
    """GraphError, naming the operation, unless every constant of `graph` is a finite float32 in the unit of each reader.

    Among the constants are the 256 inputs that an image can give to each channel.
    """
    units = smallest_units(graph)
    pixel = _largest_pixel(graph.normalization)
    for op in graph.ops:
        unit = units[op.name]
        if unit == math.inf:
            continue
        quantizer = graph.quantizer(op.name)
        if quantizer is not None:
            largest, what = quantizer.scale, "the scale of its codes"
        elif isinstance(op, Convolution):
            source = graph.quantizer(op.input)
            assert source is not None
            scale = source.scale * float(np.abs(op.weight_scale).max())
            largest, what = max(scale, float(np.abs(op.bias).max())), "scales and biases"
        elif isinstance(op, FloatConvolution):
            largest, what = max(1.0, float(np.abs(op.bias).max())), "biases"
        elif isinstance(op, AveragePool) and (source := graph.quantizer(op.input)) is not None:
            largest, what = source.scale, "the scale of its codes"
        elif isinstance(op, Affine):
            scale, shift = float(np.abs(op.scale).max()), float(np.abs(op.shift).max())
            largest, what = max(scale, scale * pixel + shift), "scale, shift and the values of an image"
        elif isinstance(op, Input):
            largest, what = pixel, "the values of an image"
        else:
            continue
        if not largest / unit < OVERFLOW:
            raise GraphError(
                f"operation {op.name!r} ({type(op).__name__}): expected {what} to be finite in float32 in the unit of "
                f"each reader, found {largest:.6g} in units of {unit:.6g}"
            )


def _largest_pixel(normalization: Normalization) -> float:
    """The largest magnitude in the table of `normalization`."""
    with np.errstate(all="ignore"):
        divisors = np.array([normalization.divisor, *normalization.std], np.float64).astype(np.float32)
        means = np.array(normalization.mean, np.float64).astype(np.float32)
        table = normalization.table()
    if not (np.isfinite(divisors).all() and divisors.all() and np.isfinite(means).all()):
        raise GraphError(f"expected a normalization that float32 can hold, found {normalization}")
    if not np.isfinite(table).all():
        raise GraphError(f"expected a normalization that gives finite values, found {normalization}")
    return float(np.abs(table).max(initial=0.0))


def smallest_units(graph: Graph) -> Mapping[str, float]:
    """Name -> the smallest unit in which the real value of the operation is read, infinity where nothing reads it so.

    Finite in the smallest unit is finite in every other.
    """
    units = dict.fromkeys((op.name for op in graph.ops), math.inf)
    units[graph.output] = 1.0
    for op in reversed(graph.ops):
        match op:
            case Quantize(input=source, quantizer=quantizer):
                units[source] = min(units[source], quantizer.scale)
            case Softmax(input=source) | Argmax(input=source) | FloatConvolution(input=source):
                units[source] = min(units[source], 1.0)
            case Add() | Relu() | MaxPool() | AveragePool() | Resize() | Bilinear():
                for source in op.inputs:
                    units[source] = min(units[source], units[op.name])
            case Input() | Affine() | Convolution():
                pass
            case _:
                assert_never(op)
    return units
