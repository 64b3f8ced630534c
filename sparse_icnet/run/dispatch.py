# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""From the number of a kernel to its function, as compiled code: one comparison a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.record import at


def dispatch(kernels: Mapping[type, str], first: int = 0) -> Any:
    """f(kernel, params, task, scratch): one task of the kernel of that number, `kernels` being those from `first` on."""
    return _chain(list(kernels.items()), first)


def _chain(kernels: Sequence[tuple[type, str]], number: int) -> Any:
    (record, place), *others = kernels
    module, _, name = place.partition(":")
    as_record, run_kernel = at(record), getattr(import_module(f"sparse_icnet.operators.{module}"), name)
    if not others:

        @jit
        def last(kernel, params, task, scratch):
            run_kernel(as_record(params), task, scratch)

        return last

    run_other = _chain(others, number + 1)

    @jit
    def one(kernel, params, task, scratch):
        if kernel == number:
            run_kernel(as_record(params), task, scratch)
        else:
            run_other(kernel, params, task, scratch)

    return one
