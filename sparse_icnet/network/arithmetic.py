"""Constants and scalar functions of the arithmetic in `sparse_icnet.network.operations`, in one place.

The oracle and the engine both take their float32 multipliers from here, so equality of their results
tests the kernels and not two derivations of the same constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sparse_icnet.network.graph import AnyConvolution, Convolution, Quantizer

Array32 = NDArray[np.float32]


@overload
def f32(value: float) -> np.float32: ...
@overload
def f32(value: NDArray[np.float64]) -> Array32: ...
def f32(value: float | NDArray[np.float64]) -> np.float32 | Array32:
    """Round a float64 to float32, half to even."""
    rounded: np.float32 | Array32 = np.asarray(value, np.float64).astype(np.float32)[()]
    return rounded


def dequantize_multiplier(quantizer: Quantizer, unit: float) -> np.float32:
    """f32(s / u) of (Q2)."""
    return f32(quantizer.scale / unit)


def convolution_multiplier(op: Convolution, quantizer: Quantizer, unit: float) -> Array32:
    """f32(s_in * s_w / u) of (Q4): (O,) for input codes of `quantizer`."""
    return f32(quantizer.scale * op.weight_scale.astype(np.float64) / unit)


def convolution_bias(op: AnyConvolution, unit: float) -> Array32:
    """f32(b / u) of (Q4) and (Q12): (O,)."""
    return f32(op.bias.astype(np.float64) / unit)


def unit_multiplier(unit: float) -> np.float32:
    """f32(1 / u) of (Q12)."""
    return f32(1 / unit)


def real_mean_multiplier(count: int) -> np.float32:
    """f32(1 / n) of (Q13)."""
    return f32(1 / count)


def mean_multiplier(quantizer: Quantizer, count: int, unit: float) -> np.float32:
    """f32(s / (n * u)) of (Q6)."""
    return f32(quantizer.scale / (count * unit))


# exp on [-87, 0] as 2**k * (1 + r + r**2 * p(r)) with r = x - k * ln 2, where ln 2 is a sum of two parts (Cody and
# Waite); p is the polynomial of degree 5 of Cephes' expf.  Plain float32 multiplications and additions: the same bits on
# every CPU.
EXP_LOWEST = np.float32(-87.0)
LOG2_E = np.float32(1.44269504088896341)
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
EXP_POLYNOMIAL = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
# Adding and subtracting 1.5 * 2**23 rounds |x| < 2**22 to the nearest integer, half to even.
ROUNDING = np.float32(12582912.0)


def exp(x: Array32) -> Array32:
    """exp of (Q8) for x <= 0, float32; arguments below -87 count as -87."""
    x = np.where(x > EXP_LOWEST, x, EXP_LOWEST)  # NaN counts as lowest too
    k = (x * LOG2_E + ROUNDING) - ROUNDING
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = np.full_like(x, EXP_POLYNOMIAL[0])
    for c in EXP_POLYNOMIAL[1:]:
        p = p * r + c
    p = (p * (r * r) + r) + np.float32(1.0)
    power: Array32 = ((k.astype(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    result: Array32 = p * power
    return result


def interpolation(
    points: int, length: int, pixels: NDArray[np.int64], align_corners: bool = False
) -> tuple[NDArray[np.int64], Array32, Array32]:
    """(cell k int64, near and far float32) of (Q11) of each of `pixels`: `points` grid points over `length` pixels."""
    cells, rest, denominator = fractions(points, length, pixels, align_corners)
    return (
        cells,
        ((denominator - rest) / denominator).astype(np.float32),
        (rest / denominator).astype(np.float32),
    )


def fractions(
    points: int, length: int, pixels: NDArray[np.int64], align_corners: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(cell k, n, d) of (Q11) with p - k = n / d, of each of `pixels`; `points` and `length` as for `interpolation`.

    Numerators stay below 2**53 for lengths up to 2**31 of up to 2**16 points: float64 holds them exactly.
    """
    if align_corners:
        numerator, denominator = pixels * (points - 1), max(length - 1, 1)
    else:
        numerator, denominator = (2 * pixels + 1) * points - length, 2 * length
    numerator = np.clip(numerator, 0, (points - 1) * denominator)
    cells = np.minimum(numerator // denominator, max(points - 2, 0))
    return cells, numerator - cells * denominator, denominator
