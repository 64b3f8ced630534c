"""The decorator of functions that other kernels call: Python never does, so Numba makes no entries for it."""

from __future__ import annotations

from numba import njit

# A kernel that raised would leave threads waiting.  Of all errors the division of an integer by 0 alone is possible: it
# gives 0.
jit = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
