"""The decorator of functions that other kernels call: Python never does, so Numba makes no entries for it."""

from __future__ import annotations

from numba import njit

jit = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
