"""The decorator of functions that other kernels call: Python never does, so Numba makes no entries for it."""

from __future__ import annotations

from numba import njit

# A kernel that raised (of all errors a division by zero alone is possible) would leave threads waiting: it gives 0.
jit = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
