"""The compiled side of `sparse_icnet.floats`: `run` calculates with the standard settings on every thread."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparse_icnet.floats import FPCR_STANDARD, MXCSR_STANDARD
from sparse_icnet.simd.llvm import I32, I64, call
from sparse_icnet.target import is_arm64, is_x86

_VOID = ir.VoidType()

# LLVM marks the functions below as having side effects: they and the atomic operations of `run` beside them do not change
# places, and no load, store or calculation with what was loaded moves across the latter.


def read_mxcsr(builder: ir.IRBuilder) -> ir.Value:
    """The settings of this thread on x86, int64."""
    word = cgutils.alloca_once(builder, I32)
    call(builder, "llvm.x86.sse.stmxcsr", _VOID, [builder.bitcast(word, cgutils.voidptr_t)])
    return builder.zext(builder.load(word), I64)


def write_mxcsr(builder: ir.IRBuilder, settings: ir.Value) -> None:
    """Set them; the upper half of the int64 is not looked at."""
    word = cgutils.alloca_once(builder, I32)
    builder.store(builder.trunc(settings, I32), word)
    call(builder, "llvm.x86.sse.ldmxcsr", _VOID, [builder.bitcast(word, cgutils.voidptr_t)])


def read_fpcr(builder: ir.IRBuilder) -> ir.Value:
    """The settings of this thread on 64-bit Arm, int64."""
    return call(builder, "llvm.aarch64.get.fpcr", I64, [])


def write_fpcr(builder: ir.IRBuilder, settings: ir.Value) -> None:
    """Set them."""
    call(builder, "llvm.aarch64.set.fpcr", _VOID, [settings])


@intrinsic
def standard_environment(typing):
    """Set the standard settings of this thread; returns what was set before, int64, for `restore_environment`."""

    def emit(context, builder, signature, arguments):
        if is_x86():
            before = read_mxcsr(builder)
            write_mxcsr(builder, ir.Constant(I64, MXCSR_STANDARD))
            return before
        if is_arm64():
            before = read_fpcr(builder)
            write_fpcr(builder, ir.Constant(I64, FPCR_STANDARD))
            return before
        return ir.Constant(I64, 0)

    return types.int64(), emit


@intrinsic
def restore_environment(typing, before):
    """Set what `standard_environment` found."""

    def emit(context, builder, signature, arguments):
        if is_x86():
            write_mxcsr(builder, arguments[0])
        elif is_arm64():
            write_fpcr(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit
