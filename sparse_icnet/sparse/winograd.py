"""Winograd's minimal filtering, exact in integers: a 3x3 convolution with a quarter of the products.

m outputs of a filter of r taps are m + r - 1 products of transformed inputs and transformed weights (Winograd 1980;
Lavin and Gray, arXiv 1509.09308), derived from the interpolation of a polynomial at m + r - 2 points and at infinity.
Usually the transforms divide, and results are rounded.  Here every matrix is of integers and what is computed is a
known multiple of the sum: with the matrices B, G, A below, for any inputs d and taps g,

    sum_e A[i, e] * (G g)[e] * (B d)[e] = SCALE * sum_t g[t] * d[i + t]                                          (W1)

in one dimension, and SCALE**2 times the sum in two.  Inputs are u8 and weights s8, so `B d B'` and `G g G'` fit int16
(checked below for the extremes), their products are added in int32, and overflow does no harm: all is a sum of products
modulo 2**32.  With SCALE**2 = odd * 2**SHIFT and odd * INVERSE = 1 modulo 2**32,

    ((SCALE**2 * a) * INVERSE mod 2**32) >> SHIFT = (2**SHIFT * a mod 2**32) >> SHIFT = a   if |a| < 2**(31 - SHIFT)  (W2)

which the plan proves for each layer from its weights.  So the result is that of the direct convolution, to the bit.

A stride of two would halve the gain (81 products for 144) and double the transforms: with the 32 channels of ICNet's
strided layers the direct convolution is as fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OUTPUTS, TAPS = 4, 3  # of a tile, and of a filter, in each dimension
INPUTS = OUTPUTS + TAPS - 1  # of a tile in each dimension, and as many products
ELEMENTS = INPUTS**2  # products of a tile
LARGEST_CODE, LARGEST_WEIGHT = 255, 128
_INT16 = 2**15 - 1
_POINTS = (0, 1, -1, 2, -2)  # and infinity


def _matrices() -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """SCALE, B (INPUTS, INPUTS), G (INPUTS, TAPS) and A (OUTPUTS, INPUTS).

    With N(p) the product of p - q over the other points q: row p of G is p**t * SCALE / N(p), column p of A is p**i, row
    p of B holds the coefficients of the product of x - q.  Infinity has the last tap, the last output, and the product
    over all points.
    """
    others = [[q for q in _POINTS if q != p] for p in _POINTS]
    norms = [math.prod(p - q for q in rest) for p, rest in zip(_POINTS, others, strict=True)]
    scale = math.lcm(*norms)
    b = np.array([_coefficients(roots) for roots in (*others, _POINTS)])
    g = np.array(
        [[scale // n * p**t for t in range(TAPS)] for p, n in zip(_POINTS, norms, strict=True)]
        + [[0] * (TAPS - 1) + [scale]]
    )
    a = np.array([[p**i for p in _POINTS] + [int(i == OUTPUTS - 1)] for i in range(OUTPUTS)])
    for row, column in zip(g, a.T, strict=True):
        while np.abs(row).sum() ** 2 * LARGEST_WEIGHT > _INT16:  # a factor that int16 has no room for
            row //= 2
            column *= 2
    return scale, b, g, a


def _coefficients(roots: Sequence[int]) -> list[int]:
    """INPUTS coefficients of the product of x - q over `roots`, the constant first."""
    coefficients = [1]
    for q in roots:
        coefficients = [a - q * b for a, b in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients + [0] * (INPUTS - len(coefficients))


SCALE, B, G, A = _matrices()
SHIFT = (SCALE**2 & -(SCALE**2)).bit_length() - 1
INVERSE = pow(SCALE**2 >> SHIFT, -1, 1 << 32)
SUM_LIMIT = 1 << (31 - SHIFT)  # (W2): what |a| must stay below


def _check() -> None:
    """(W1) for every output, tap and input, and that int16 holds both factors of every product."""
    found = np.einsum("ie,et,eu->itu", A, G, B)
    expected = np.zeros_like(found)
    for i in range(OUTPUTS):
        for t in range(TAPS):
            expected[i, t, i + t] = SCALE
    inputs, weights = (int(np.abs(matrix).sum(1).max()) ** 2 for matrix in (B, G))
    if (found != expected).any() or max(inputs * LARGEST_CODE, weights * LARGEST_WEIGHT) > _INT16:
        raise AssertionError("the matrices of Winograd's filtering are wrong")


_check()


def transformed(taps: NDArray[np.int8]) -> NDArray[np.int16]:
    """G g G' of every filter g: int8 (3, 3, ...) -> int16 (ELEMENTS, ...)."""
    down = _product(G, taps.astype(np.int16)).swapaxes(0, 1)  # (tap across, element down, ...)
    both = _product(G, down).swapaxes(0, 1)
    return both.reshape(ELEMENTS, *taps.shape[2:])


def _product(matrix: NDArray[np.int64], x: NDArray[np.int16]) -> NDArray[np.int16]:
    """y[i] = sum_j matrix[i, j] * x[j]: NumPy's product of matrices of integers is a slow loop."""
    result = np.zeros((len(matrix), *x.shape[1:]), np.int16)
    for row, y in zip(matrix.tolist(), result, strict=True):
        for factor, term in zip(row, x, strict=True):
            if factor:
                y += np.int16(factor) * term
    return result


def largest_sum(weight: NDArray[np.int8]) -> int:
    """The largest |sum of w * x| of any output channel of int8 weights (O, ...), for u8 codes x."""
    w = weight.reshape(weight.shape[0], -1)
    positive, negative = (part.sum(1, dtype=np.int64) for part in (np.maximum(w, 0), np.minimum(w, 0)))
    return LARGEST_CODE * int(np.maximum(positive, -negative).max(initial=0))
