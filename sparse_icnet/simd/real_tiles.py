"""Rows of vectors of float32 that live in registers: sums of products in a definite order."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import VECTOR_BYTES
from sparse_icnet.simd.tiles import Tile


@intrinsic(prefer_literal=True)
def real_zero(typing, vectors):
    """A row of `vectors` vectors of zeros."""
    tile = Tile(1, vectors.literal_value, True)

    def emit(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(vectors), emit


@intrinsic
def real_add_products(typing, tile, values, weight):
    """tile[p] + values[p] * weight: P vectors at an address; a multiplication, then an addition, each rounded."""

    def emit(context, builder, signature, arguments):
        result, values, weight = arguments
        factor = llvm.splat(builder, weight, llvm.F32X16)
        for p in range(tile.vectors):
            x = llvm.load(builder, values, llvm.F32X16, VECTOR_BYTES * p)
            total = builder.fadd(builder.extract_value(result, p), builder.fmul(x, factor))
            result = builder.insert_value(result, total, p)
        return result

    return tile(tile, types.intp, types.float32), emit


@intrinsic
def real_scale(typing, tile, multiplier, bias):
    """tile[p] * multiplier + bias, two roundings (Q12)."""

    def emit(context, builder, signature, arguments):
        result, *scalars = arguments
        multiplier, bias = (llvm.splat(builder, scalar, llvm.F32X16) for scalar in scalars)
        for p in range(tile.vectors):
            x = builder.fmul(builder.extract_value(result, p), multiplier)
            result = builder.insert_value(result, builder.fadd(x, bias), p)
        return result

    return tile(tile, types.float32, types.float32), emit
