"""Calls of functions that were compiled by themselves, by their addresses."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparse_icnet.simd import llvm


def _call(builder, address, arguments):
    """Result of the function of int64 at `address`, an int64; of one that returns nothing whatever stood there."""
    result = cgutils.alloca_once(builder, llvm.I64)
    exception = cgutils.alloca_once(builder, cgutils.voidptr_t)
    # Numba's calling convention: status = f(&result, &exception, arguments...).
    kind = ir.FunctionType(llvm.I32, [result.type, exception.type, *[llvm.I64] * len(arguments)])
    place = builder.inttoptr(address, ir.PointerType(kind))
    builder.call(place, [result, exception, *arguments])
    return builder.load(result)


@intrinsic
def call_kernel(typing, function, params, task, scratch):
    """One task of the kernel that begins at the address `function`, with the record at `params`."""

    def emit(context, builder, signature, arguments):
        _call(builder, arguments[0], arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@intrinsic
def call_as_helper(typing, function, control):
    """Call `sparse_icnet.run.loop.run`, which begins at the address `function`, as a helper of `control`."""

    def emit(context, builder, signature, arguments):
        return _call(builder, arguments[0], [arguments[1], *[ir.Constant(llvm.I64, 0)] * 4])

    return types.int64(types.int64, types.int64), emit
