"""How a thread calculates with floats: rounding to nearest, subnormal numbers kept, no traps, whatever was set before.

Other libraries change these settings of a thread and forget to restore them (`-ffast-math`, audio, games); then float32
sums and the conversion to integers would give other bits.  x86 keeps them in MXCSR, 64-bit Arm in FPCR.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparse_icnet.simd.llvm import I32, I64, call
from sparse_icnet.target import is_arm64, is_x86

MXCSR_STANDARD = 0x1F80  # to nearest, all exceptions masked, neither flush-to-zero nor denormals-are-zero
FPCR_STANDARD = 0

_VOID = ir.VoidType()

# LLVM marks the functions below as having side effects: they and the atomic operations of `run` beside them do not change
# places, and no load, store or calculation with what was loaded moves across the latter.


@intrinsic
def standard_environment(typing):
    """Set the standard settings of this thread; what was set before, for `restore_environment`."""

    def emit(context, builder, signature, arguments):
        if is_arm64():
            before = call(builder, "llvm.aarch64.get.fpcr", I64, [])
            call(builder, "llvm.aarch64.set.fpcr", _VOID, [ir.Constant(I64, FPCR_STANDARD)])
            return before
        if is_x86():
            word = cgutils.alloca_once(builder, I32)
            place = builder.bitcast(word, cgutils.voidptr_t)
            call(builder, "llvm.x86.sse.stmxcsr", _VOID, [place])
            before = builder.zext(builder.load(word), I64)
            builder.store(ir.Constant(I32, MXCSR_STANDARD), word)
            call(builder, "llvm.x86.sse.ldmxcsr", _VOID, [place])
            return before
        return ir.Constant(I64, 0)

    return types.int64(), emit


@intrinsic
def restore_environment(typing, before):
    """Set what `standard_environment` found."""

    def emit(context, builder, signature, arguments):
        if is_arm64():
            call(builder, "llvm.aarch64.set.fpcr", _VOID, [arguments[0]])
        elif is_x86():
            word = cgutils.alloca_once_value(builder, builder.trunc(arguments[0], I32))
            call(builder, "llvm.x86.sse.ldmxcsr", _VOID, [builder.bitcast(word, cgutils.voidptr_t)])
        return context.get_dummy_value()

    return types.void(types.int64), emit
