"""Tiles of float32 that live in registers: sums of products in the order of (Q12)."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import VECTOR_BYTES
from sparse_icnet.simd.tiles import Tile


@intrinsic(prefer_literal=True)
def real_zero(typing, rows, vectors):
    """A tile of zeros."""
    tile = Tile(rows.literal_value, vectors.literal_value, True)

    def emit(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(rows, vectors), emit


@intrinsic
def real_add_products(typing, tile, values, weights):
    """tile[r, p] + values[p] * weights[r]: P vectors and R float32 at two addresses; two roundings, never fused."""

    def emit(context, builder, signature, arguments):
        result, values, weights = arguments
        factors = [
            llvm.splat(builder, llvm.load(builder, weights, llvm.F32, 4 * r), llvm.F32X16)
            for r in range(tile.rows)
        ]
        for p in range(tile.vectors):
            x = llvm.load(builder, values, llvm.F32X16, VECTOR_BYTES * p)
            for r, factor in enumerate(factors):
                index = r * tile.vectors + p
                total = builder.fadd(builder.extract_value(result, index), builder.fmul(x, factor))
                result = builder.insert_value(result, total, index)
        return result

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def real_scale(typing, tile, multiplier, biases):
    """tile[r, p] * multiplier + biases[r], two roundings (Q12): R float32 at an address."""

    def emit(context, builder, signature, arguments):
        result, multiplier, biases = arguments
        multiplier = llvm.splat(builder, multiplier, llvm.F32X16)
        for r in range(tile.rows):
            bias = llvm.splat(builder, llvm.load(builder, biases, llvm.F32, 4 * r), llvm.F32X16)
            for index in range(r * tile.vectors, (r + 1) * tile.vectors):
                x = builder.fmul(builder.extract_value(result, index), multiplier)
                result = builder.insert_value(result, builder.fadd(x, bias), index)
        return result

    return tile(tile, types.float32, types.intp), emit
