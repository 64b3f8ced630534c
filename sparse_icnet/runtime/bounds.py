"""How large the real values of a graph can become, from its weights and quantizers alone."""

from __future__ import annotations

import math

import numpy as np

from sparse_icnet.network.graph import (
    Add,
    AveragePool,
    Bilinear,
    Convolution,
    Graph,
    MaxPool,
    Quantize,
    Relu,
    Resize,
)


def largest_values(graph: Graph) -> dict[str, float]:
    """Bound of |x| over the elements of each tensor, for any input; infinity where there is none.

    In exact arithmetic.  In float32 each operation adds at most a 2**-24th of its result, so values computed by fewer
    than 2**23 of them stay below twice the bound.
    """
    largest: dict[str, float] = {}
    for op in graph:
        match op:
            case Quantize(quantizer=q):
                bound = max(q.zero_point - q.low, q.high - q.zero_point) * q.scale
            case Convolution():
                sums = np.abs(op.weight.astype(np.float64)).sum((1, 2, 3)) * largest[op.input]
                bound = float((sums * np.abs(op.weight_scale) + np.abs(op.bias)).max())
            case Add():
                bound = largest[op.left] + largest[op.right]
            case Relu() | Resize() | Bilinear() | MaxPool() | AveragePool():
                bound = largest[op.input]
            case _:
                bound = math.inf
        largest[op.name] = bound
    return largest
