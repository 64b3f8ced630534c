"""From four rows of values to stored codes: clip, round half to even, pack four channels into each lane.

With |x| < 2**22 the sum x + 1.5 * 2**23 has no fraction bits left, so the float32 addition itself rounds x to the
nearest integer, half to even, and the low bits of the sum hold that integer.  No conversion instruction is needed,
and none whose rounding differs between CPUs.  Four such sums, shifted by 0, 8, 16 and 24 bits and added modulo 2**32,
hold the four codes plus a constant, which `sparse_icnet.kernels.sizes.pack_constant` gives.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.kernels.fields import MAGIC
from sparse_icnet.kernels.simd import bits_to_i32, maximum, minimum, splat_f32, splat_i32


@njit(inline="always")
def clip_round(x, low, high):
    """clip and rint of (Q1) on 16 float32: low and high are integers, so clipping first changes nothing."""
    magic = splat_f32(MAGIC)
    return (minimum(maximum(x, low), high) + magic) - magic


@njit(inline="always")
def pack(a, b, c, d, low, high, constant):
    """Codes of four channels, 16 pixels each, from real values in units of the quantizer: one vector of u8 x 4."""
    magic = splat_f32(MAGIC)
    a = bits_to_i32(minimum(maximum(a, low), high) + magic)
    b = bits_to_i32(minimum(maximum(b, low), high) + magic)
    c = bits_to_i32(minimum(maximum(c, low), high) + magic)
    d = bits_to_i32(minimum(maximum(d, low), high) + magic)
    pair = a + (b << splat_i32(np.int32(8)))
    other = (c << splat_i32(np.int32(16))) + (d << splat_i32(np.int32(24)))
    return (pair + other) - constant
