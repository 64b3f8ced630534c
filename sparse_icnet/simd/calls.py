"""Calls of functions that were compiled by themselves, by their addresses."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparse_icnet.simd import llvm


def _call(builder, address, arguments):
    """Result of the function of five int64 at `address`."""
    result = cgutils.alloca_once(builder, llvm.I64)
    exception = cgutils.alloca_once(builder, cgutils.voidptr_t)
    # Numba's calling convention: status = f(&result, &exception, arguments...).
    kind = ir.FunctionType(llvm.I32, [result.type, exception.type, *[llvm.I64] * 5])
    place = builder.inttoptr(address, ir.PointerType(kind))
    builder.call(place, [result, exception, *arguments])
    return builder.load(result)


@intrinsic
def call_rare(typing, function, kernel, params, task, scratch):
    """Call `sparse_icnet.run.rare_loop.run_rare`, which begins at the address `function`."""

    def emit(context, builder, signature, arguments):
        return _call(builder, arguments[0], [*arguments[1:], ir.Constant(llvm.I64, 0)])

    return types.int64(*[types.int64] * 5), emit


@intrinsic
def call_as_helper(typing, function, control):
    """Call `sparse_icnet.run.loop.run`, which begins at the address `function`, as a helper of `control`."""

    def emit(context, builder, signature, arguments):
        return _call(builder, arguments[0], [arguments[1], *[ir.Constant(llvm.I64, 0)] * 4])

    return types.int64(types.int64, types.int64), emit
