"""Vectors of 16 lanes as types of Numba: load, store, arithmetic, comparison."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import LANES, VECTOR_BYTES


class Vector(types.Type):
    """A vector of 16 lanes of 32 bits as a type of Numba."""

    def __init__(self, name: str, llvm: ir.Type) -> None:
        self.llvm = llvm
        super().__init__(name)


i32x16 = Vector("i32x16", llvm.I32X16)
f32x16 = Vector("f32x16", llvm.F32X16)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


def _vector_load(vector: Vector) -> Any:
    @intrinsic
    def load(typing, address):
        def emit(context, builder, signature, arguments):
            return llvm.load(builder, arguments[0], vector.llvm)

        return vector(types.intp), emit

    return load


def _vector_splat(vector: Vector, scalar: types.Type) -> Any:
    @intrinsic
    def splat(typing, value):
        def emit(context, builder, signature, arguments):
            return llvm.splat(builder, arguments[0], vector.llvm)

        return vector(scalar), emit

    return splat


load_i32 = _vector_load(i32x16)  # 16 int32 at an address
load_f32 = _vector_load(f32x16)  # 16 float32 at an address
splat_i32 = _vector_splat(i32x16, types.int32)
splat_f32 = _vector_splat(f32x16, types.float32)


@intrinsic
def gather_lanes(typing, base, offsets):
    """16 lanes, each at base + its int32 of the 16 at address `offsets`."""
    quarter = ir.VectorType(llvm.I32, 4)

    def emit(context, builder, signature, arguments):
        base, offsets = arguments
        quarters = []
        for first in range(0, LANES, 4):
            part = ir.Constant(quarter, ir.Undefined)
            for i in range(4):
                offset = builder.sext(llvm.load(builder, offsets, llvm.I32, 4 * (first + i)), llvm.I64)
                lane = llvm.load(builder, builder.add(base, offset), llvm.I32)
                part = builder.insert_element(part, lane, ir.Constant(llvm.I32, i))
            quarters.append(part)
        return llvm.join(builder, quarters)

    return i32x16(types.intp, types.intp), emit


@intrinsic
def store(typing, address, vector):
    """Write a vector to an address."""
    if not isinstance(vector, Vector):
        return None

    def emit(context, builder, signature, arguments):
        builder.store(arguments[1], llvm.pointer(builder, arguments[0], arguments[1].type), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, vector), emit


@intrinsic
def store_streaming(typing, address, vector):
    """Write a vector past the caches; the address must be a multiple of 64."""
    if not isinstance(vector, Vector):
        return None

    def emit(context, builder, signature, arguments):
        pointer = llvm.pointer(builder, arguments[0], arguments[1].type)
        instruction = builder.store(arguments[1], pointer, align=VECTOR_BYTES)
        one = builder.module.add_metadata([ir.Constant(llvm.I32, 1)])
        instruction.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(types.intp, vector), emit


def _unary(name: str, source: Vector, target: Vector, generate: Any) -> Any:
    @intrinsic
    def operation(typing, x):
        def emit(context, builder, signature, arguments):
            return generate(builder, arguments[0])

        return target(source), emit

    operation.__name__ = name
    return operation


to_f32 = _unary(
    "to_f32", i32x16, f32x16, lambda b, x: b.sitofp(x, llvm.F32X16)
)  # exact below 2**24, else rounded


# The same 32 bits of each lane.
bits_to_i32 = _unary("bits_to_i32", f32x16, i32x16, lambda b, x: b.bitcast(x, llvm.I32X16))
bits_to_f32 = _unary("bits_to_f32", i32x16, f32x16, lambda b, x: b.bitcast(x, llvm.F32X16))


def _binary(vector: Vector, generate: Any) -> Any:
    @intrinsic
    def operation(typing, x, y):
        def emit(context, builder, signature, arguments):
            return generate(builder, *arguments)

        return vector(vector, vector), emit

    return operation


def _select(predicate: str) -> Any:
    def generate(builder, x, y):
        return builder.select(builder.fcmp_ordered(predicate, x, y), x, y)

    return generate


def _select_u8(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    bytes_ = ir.VectorType(llvm.I8, VECTOR_BYTES)
    a, b = builder.bitcast(x, bytes_), builder.bitcast(y, bytes_)
    return builder.bitcast(builder.select(builder.icmp_unsigned(">", a, b), a, b), llvm.I32X16)


# x where x > y (x < y), else y: a NaN in x gives y, on every CPU.
maximum = _binary(f32x16, _select(">"))
minimum = _binary(f32x16, _select("<"))
maximum_u8 = _binary(i32x16, _select_u8)  # of each of the 64 bytes


@intrinsic
def where_greater(typing, x, y, a, b):
    """Lane by lane a where x > y, else b: x and y float32, a and b int32."""
    if not (x == y == f32x16 and a == b == i32x16):
        return None

    def emit(context, builder, signature, arguments):
        x, y, a, b = arguments
        return builder.select(builder.fcmp_ordered(">", x, y), a, b)

    return i32x16(f32x16, f32x16, i32x16, i32x16), emit


_OPERATORS = {
    operator.add: (_binary(i32x16, ir.IRBuilder.add), _binary(f32x16, ir.IRBuilder.fadd)),
    operator.sub: (_binary(i32x16, ir.IRBuilder.sub), _binary(f32x16, ir.IRBuilder.fsub)),
    operator.mul: (_binary(i32x16, ir.IRBuilder.mul), _binary(f32x16, ir.IRBuilder.fmul)),
    operator.truediv: (None, _binary(f32x16, ir.IRBuilder.fdiv)),
    operator.and_: (_binary(i32x16, ir.IRBuilder.and_), None),
    operator.or_: (_binary(i32x16, ir.IRBuilder.or_), None),
    operator.lshift: (_binary(i32x16, ir.IRBuilder.shl), None),
    operator.rshift: (_binary(i32x16, ir.IRBuilder.lshr), None),  # logical
}


def _register(symbol: Any, integer: Any, real: Any) -> None:
    @overload(symbol)
    def choose(x, y):
        if x == i32x16 and y == i32x16 and integer is not None:
            return lambda x, y: integer(x, y)
        if x == f32x16 and y == f32x16 and real is not None:
            return lambda x, y: real(x, y)
        return None


for _symbol, (_integer, _real) in _OPERATORS.items():
    _register(_symbol, _integer, _real)


@intrinsic
def load_u8(typing, address):
    """16 u8 at an address as 16 int32."""

    def emit(context, builder, signature, arguments):
        return builder.zext(llvm.load(builder, arguments[0], ir.VectorType(llvm.I8, LANES)), llvm.I32X16)

    return i32x16(types.intp), emit


@intrinsic
def store_u8(typing, address, x):
    """The low byte of each lane of an int32 vector, 16 bytes, to an address."""
    if x != i32x16:
        return None

    def emit(context, builder, signature, arguments):
        codes = builder.trunc(arguments[1], ir.VectorType(llvm.I8, LANES))
        builder.store(codes, llvm.pointer(builder, arguments[0], codes.type), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, i32x16), emit
