"""The dot products of each class of CPUs (`sparse_icnet.target`): what the intrinsics of tiles emit."""

from __future__ import annotations

from llvmlite import ir

from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import LANES, VECTOR_BYTES
from sparse_icnet.target import TARGET


def multiply_add_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """<32 x i16> x <32 x i16> -> <16 x i32>: a[2i] * b[2i] + a[2i+1] * b[2i+1], exact."""
    # With VNNI, LLVM merges the addition that follows into one instruction (vpdpwssd).
    names = {1: "llvm.x86.avx512.pmaddw.d.512", 2: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}
    if llvm.REGISTERS:
        name, parts = names[llvm.REGISTERS], llvm.REGISTERS
        kind = ir.VectorType(llvm.I32, LANES // parts)
        pairs = zip(llvm.slices(builder, a, parts), llvm.slices(builder, b, parts), strict=True)
        return llvm.join(builder, [llvm.call(builder, name, kind, [x, y]) for x, y in pairs])
    total = None
    for first in (0, 1):
        mask = ir.Constant(llvm.I32X16, list(range(first, 2 * LANES, 2)))
        x, y = (
            builder.sext(builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), mask), llvm.I32X16)
            for v in (a, b)
        )
        product = builder.mul(x, y)
        total = product if total is None else builder.add(total, product)
    return total


def multiply_add_bytes(builder: ir.IRBuilder, u8: ir.Value, s8: ir.Value) -> ir.Value:
    """u8 x 64 times s8 x 64, both <16 x i32> -> <32 x i16>: neighbouring products added, saturating."""
    parts = llvm.REGISTERS
    name = {1: "llvm.x86.avx512.pmaddubs.w.512", 2: "llvm.x86.avx2.pmadd.ub.sw"}[parts]
    bytes_, halves = (
        ir.VectorType(llvm.I8, VECTOR_BYTES // parts),
        ir.VectorType(llvm.I16, 2 * LANES // parts),
    )
    operands = [[builder.bitcast(x, bytes_) for x in llvm.slices(builder, v, parts)] for v in (u8, s8)]
    return llvm.join(
        builder, [llvm.call(builder, name, halves, [x, y]) for x, y in zip(*operands, strict=True)]
    )


def even_odd(builder: ir.IRBuilder, u8: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Bytes 0, 2 and bytes 1, 3 of every lane as <32 x i16>."""
    even = builder.and_(u8, llvm.constant(llvm.I32X16, 0x00FF00FF))
    odd = builder.lshr(builder.bitcast(u8, llvm.I16X32), llvm.constant(llvm.I16X32, 8))
    return builder.bitcast(even, llvm.I16X32), odd


def dot4(builder: ir.IRBuilder, accumulator: ir.Value, codes: ir.Value, s8: ir.Value) -> ir.Value:
    """accumulator + the four products of each lane; codes are u8, with a code shift s8 already."""
    # The all-i32 signatures of x86 verify on LLVM 20 and are upgraded on LLVM 22.
    dot = TARGET.byte_dot
    assert dot is not None
    sums = ir.VectorType(llvm.I32, dot.lanes)
    operands = sums if dot.operands == "i32" else ir.VectorType(llvm.I8, 4 * dot.lanes)
    slices = zip(
        *(llvm.slices(builder, v, LANES // dot.lanes) for v in (accumulator, codes, s8)), strict=True
    )
    parts = [
        llvm.call(
            builder, dot.name, sums, [total, builder.bitcast(x, operands), builder.bitcast(y, operands)]
        )
        for total, x, y in slices
    ]
    return llvm.join(builder, parts)
