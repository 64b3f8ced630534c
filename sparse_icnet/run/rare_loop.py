# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Kernels that few models need, compiled by themselves when the first plan has a step of theirs.

`sparse_icnet.run.loop` calls `run_rare` by its address; the models that are bundled never wait for its compilation.
"""

from __future__ import annotations

from sparse_icnet.operators import COMMON_KERNELS, RARE_KERNELS
from sparse_icnet.run.dispatch import dispatch
from sparse_icnet.simd.jit import jit

_task = dispatch(RARE_KERNELS, len(COMMON_KERNELS))


@jit
def run_rare(kernel, params, task, scratch, unused):
    """One task of the kernel of that number; 0."""
    _task(kernel, params, task, scratch)
    return 0
