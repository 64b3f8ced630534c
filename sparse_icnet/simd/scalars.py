"""Numbers in memory, atomic counters, and what one thread tells another."""

from __future__ import annotations

import os
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sparse_icnet.simd import llvm
from sparse_icnet.target import is_x86


def _scalar_load(kind: types.Type, memory: ir.Type) -> Any:
    @intrinsic
    def load(typing, address):
        def emit(context, builder, signature, arguments):
            return llvm.load(builder, arguments[0], memory)

        return kind(types.intp), emit

    return load


def _scalar_store(kind: types.Type, memory: ir.Type) -> Any:
    @intrinsic
    def put(typing, address, value):
        def emit(context, builder, signature, arguments):
            builder.store(arguments[1], llvm.pointer(builder, arguments[0], memory), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, kind), emit

    return put


get_u8 = _scalar_load(types.uint8, llvm.I8)
get_i32 = _scalar_load(types.int32, llvm.I32)
get_i64 = _scalar_load(types.int64, llvm.I64)
get_f32 = _scalar_load(types.float32, llvm.F32)
put_u8 = _scalar_store(types.uint8, llvm.I8)
put_i32 = _scalar_store(types.int32, llvm.I32)
put_i64 = _scalar_store(types.int64, llvm.I64)
put_f32 = _scalar_store(types.float32, llvm.F32)


@intrinsic
def atomic_add(typing, address, value):
    """Add to the int64 at `address`, return what it held before; sequentially consistent."""

    def emit(context, builder, signature, arguments):
        return builder.atomic_rmw(
            "add", llvm.pointer(builder, arguments[0], llvm.I64), arguments[1], "seq_cst"
        )

    return types.int64(types.intp, types.int64), emit


@intrinsic
def atomic_load(typing, address):
    """The int64 at `address`; acquire."""

    def emit(context, builder, signature, arguments):
        return builder.load_atomic(llvm.pointer(builder, arguments[0], llvm.I64), "acquire", 8)

    return types.int64(types.intp), emit


@intrinsic
def atomic_store(typing, address, value):
    """Set the int64 at `address`; release."""

    def emit(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], llvm.pointer(builder, arguments[0], llvm.I64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), emit


@intrinsic
def atomic_claim(typing, address):
    """Set the int64 at `address` from 0 to 1; whether this call did it; sequentially consistent."""

    def emit(context, builder, signature, arguments):
        zero, one = (ir.Constant(llvm.I64, value) for value in (0, 1))
        place = llvm.pointer(builder, arguments[0], llvm.I64)
        return builder.extract_value(builder.cmpxchg(place, zero, one, "seq_cst", "seq_cst"), 1)

    return types.boolean(types.intp), emit


_YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"


@intrinsic
def yield_processor(typing):
    """Let another thread of the operating system run."""

    def emit(context, builder, signature, arguments):
        return llvm.call(builder, _YIELD, llvm.I32, [])

    return types.int32(), emit


@intrinsic
def fence(typing):
    """Order streaming stores before whatever the caller does next."""

    def emit(context, builder, signature, arguments):
        builder.fence("seq_cst")
        if is_x86():
            llvm.call(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), emit
