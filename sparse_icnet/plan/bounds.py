"""How large the real values of a graph can become, from its weights and quantizers alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Quantize,
    Relu,
    Resize,
    Softmax,
    assert_never,
)
from sparse_icnet.operators.storage import PlanError

LARGEST_CONVERTED = 2.0**30  # of a real value that the CPU converts to int32 unclipped
LARGEST_VALUE = 1e36  # of a real value in the unit of its reader: a sum of a hundred stays finite in float32


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
                sums = _magnitudes(op.weight) * largest[op.input]
                bound = float((sums * np.abs(op.weight_scale) + np.abs(op.bias)).max())
            case FloatConvolution():
                # A channel without weights is its bias, whatever the bound of its input.
                sums = np.abs(op.weight.astype(np.float64)).sum((1, 2, 3))
                products = np.where(sums == 0, 0.0, np.where(sums == 0, 1.0, sums) * largest[op.input])
                bound = float((products + np.abs(op.bias)).max())
            case Add():
                bound = largest[op.left] + largest[op.right]
            case Relu() | Resize() | Bilinear() | MaxPool() | AveragePool():
                bound = largest[op.input]
            case Input() | Affine() | Softmax() | Argmax():
                bound = math.inf
            case _:
                assert_never(op)
        largest[op.name] = bound
    return largest


def _magnitudes(weight: NDArray[np.int8]) -> NDArray[np.float64]:
    """(O,): of int8 weights (O, ...) the sum of |w| in each channel, exact."""
    sizes = np.abs(weight).view(np.uint8)  # as a byte |-128| is 128
    sums: NDArray[np.int64] = sizes.reshape(len(sizes), -1).sum(1, dtype=np.int64)
    return sums.astype(np.float64)


def check_magnitudes(graph: Graph, known: dict[str, float]) -> None:
    """Raise PlanError for real values that could leave float32 in a unit in which a quantizer reads them.

    known  bounds of all tensors.  Where a convolution of float32 reads a tensor without one, such as the network input,
           its values have no bound either: whether they stay finite depends on the input

    Infinities would make NaN in sums, and what maxima do with NaN differs between instructions.
    """
    scales = [op.quantizer.scale for op in graph if isinstance(op, Quantize)]
    unit, scale = min([1.0, *scales]), max([1.0, *scales])
    largest, name = 255 * scale / unit, "any quantizer"
    for op in graph.layers:
        if isinstance(op, FloatConvolution):
            bound = known[op.name] / unit
            if bound < math.inf:
                largest, name = max((largest, name), (bound, f"convolution {op.name!r}"))
            continue
        weight_scale, bias = (float(np.abs(x).max()) for x in (op.weight_scale, op.bias))
        bound = 255 * 128 * op.weight[0].size * weight_scale * scale / unit + bias / unit
        largest, name = max((largest, name), (bound, f"convolution {op.name!r}"))
    if largest > LARGEST_VALUE:
        raise PlanError(
            f"{name}: its scales allow values of {largest:.1e} units of a quantizer, expected at most {LARGEST_VALUE:.0e}"
        )


def saturates_as_bytes(quantize: Quantize, largest: dict[str, float]) -> bool:
    """Whether clip(rint(x) + z, low, high) - low of (Q1) is rint(x) saturated to 0..255, and no x overflows int32.

    Saturating to int16 first changes nothing, since 0..255 lies within it.
    largest  bounds of all tensors
    """
    q = quantize.quantizer
    whole = (q.zero_point, q.levels) == (q.low, 256)
    return whole and largest[quantize.input] / q.scale <= LARGEST_CONVERTED
