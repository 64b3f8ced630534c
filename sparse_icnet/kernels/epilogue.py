"""From four rows of values to stored codes: clip, round half to even, pack four channels into each lane."""

from __future__ import annotations

from numba import njit

from sparse_icnet.kernels.fields import MAGIC
from sparse_icnet.simd.codes import pack_codes
from sparse_icnet.simd.vectors import maximum, minimum, splat_f32


@njit(inline="always")
def clip_round(x, low, high):
    """clip and rint of (Q1) on 16 float32: low and high are integers, so clipping first changes nothing.

    With |x| < 2**22 the sum x + 1.5 * 2**23 has no fraction bits left: the addition itself rounds, half to even.
    """
    magic = splat_f32(MAGIC)
    return (minimum(maximum(x, low), high) + magic) - magic


@njit(inline="always")
def pack(a, b, c, d, low, high, constant):
    """Codes of four channels, 16 pixels each, from real values in units of the quantizer: one vector of u8 x 4."""
    a, b = minimum(maximum(a, low), high), minimum(maximum(b, low), high)
    c, d = minimum(maximum(c, low), high), minimum(maximum(d, low), high)
    return pack_codes(a, b, c, d, constant)
