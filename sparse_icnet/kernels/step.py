"""How kernels read the fields of a step (`sparse_icnet.kernels.fields`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparse_icnet.kernels.simd import bits_f32, get_i64


@njit(inline="always")
def field(step, index):
    """int64 field of the step at address `step`."""
    return get_i64(step + 8 * index)


@njit(inline="always")
def field_f32(step, index):
    """float32 field of the step at address `step`."""
    return bits_f32(np.int32(get_i64(step + 8 * index)))
