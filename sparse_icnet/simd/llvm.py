"""LLVM's types and instructions as the vector language uses them: what an intrinsic emits.

A vector has 16 lanes of 32 bits; LLVM splits it into two AVX registers or four SSE or NEON ones where the CPU has no
wider.  Addresses are int64 (``array.ctypes.data`` plus byte offsets).
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from sparse_icnet.target import TARGET

LANES = 16
VECTOR_BYTES = 64

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
I32X16 = ir.VectorType(I32, LANES)
F32X16 = ir.VectorType(F32, LANES)
I16X32 = ir.VectorType(I16, 2 * LANES)
I8X64 = ir.VectorType(I8, VECTOR_BYTES)
# Registers of x86 that a vector takes; 0 on other CPUs.
REGISTERS = TARGET.x86_registers


def pointer(builder: ir.IRBuilder, address: ir.Value, pointee: ir.Type, offset: int = 0) -> ir.Value:
    """`address` + `offset` bytes as a pointer to `pointee`."""
    base = builder.inttoptr(address, ir.PointerType(I8))
    if offset:
        base = builder.gep(base, [ir.Constant(I64, offset)])
    return builder.bitcast(base, ir.PointerType(pointee))


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    """The value of type `kind` at `address` + `offset` bytes, aligned or not."""
    return builder.load(pointer(builder, address, kind, offset), align=1)


def splat(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """`scalar` in every lane of a `vector`."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), None)
    return builder.shuffle_vector(first, undefined, zeros)


def constant(vector: ir.VectorType, value: float) -> ir.Constant:
    """`value` in every lane of a `vector`."""
    return ir.Constant(vector, [value] * vector.count)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """The result of the function or LLVM intrinsic `name`."""
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def slices(builder: ir.IRBuilder, vector: ir.Value, parts: int) -> list[ir.Value]:
    """`vector` cut into `parts` equal vectors."""
    if parts == 1:
        return [vector]
    count = vector.type.count // parts
    return [
        builder.shuffle_vector(
            vector,
            ir.Constant(vector.type, ir.Undefined),
            ir.Constant(ir.VectorType(I32, count), list(range(i * count, (i + 1) * count))),
        )
        for i in range(parts)
    ]


def join(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """One vector of `parts`, equal vectors whose number is a power of two."""
    while len(parts) > 1:
        count = parts[0].type.count
        mask = ir.Constant(ir.VectorType(I32, 2 * count), list(range(2 * count)))
        parts = [builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
    """The lanes of a and b, numbered through, that `order` names."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), order))
