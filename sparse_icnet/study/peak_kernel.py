# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-warn-return-any
"""Loops over a tile that never leaves the registers: no loads, no stores, enough independent sums to hide the latency.

`sparse_icnet.study.peak` times them.
"""

from __future__ import annotations

from numba.extending import intrinsic

from sparse_icnet.simd import dot, llvm
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.tiles import tile_dot, tile_scale, tile_start, tile_store
from sparse_icnet.study.peak_shapes import ROWS, VECTORS
from sparse_icnet.target import TARGET, Dot


@intrinsic
def _tile_words(typing, tile):
    """tile[r, p] += products of the int16 of tile[r, p] with themselves, by the instruction of Winograd's filtering."""

    def emit(context, builder, signature, arguments):
        result = arguments[0]
        for index in range(tile.rows * tile.vectors):
            total = builder.extract_value(result, index)
            pairs = builder.bitcast(total, llvm.I16X32)
            product = dot.multiply_add_pairs(builder, pairs, pairs)
            result = builder.insert_value(result, builder.add(total, product), index)
        return result

    return tile(tile), emit


@intrinsic
def _tile_bytes(typing, tile):
    """tile[r, p] += products of tile[r, p] with itself, by the instructions of a couple of blocks, or of a pair of int16.

    The sums are their own operands, so that no product is the same twice and none moves out of the loop.
    """

    def emit(context, builder, signature, arguments):
        result = arguments[0]
        for index in range(tile.rows * tile.vectors):
            total = builder.extract_value(result, index)
            pairs = other = builder.bitcast(total, llvm.I16X32)
            if TARGET.couples:
                inverse = builder.not_(total)
                pairs = dot.multiply_add_bytes(builder, total, total)
                pairs = builder.add(pairs, dot.multiply_add_bytes(builder, total, inverse))
                other = llvm.constant(llvm.I16X32, 1)
            product = dot.multiply_add_pairs(builder, pairs, other)
            result = builder.insert_value(result, builder.add(total, product), index)
        return result

    return tile(tile), emit


if TARGET.dot is Dot.BYTES:
    # The addresses stay the same and nothing is stored: the operands are loaded once, before the loop.
    @jit
    def peak_of_bytes(count, activations, weights, constants, out):
        """`count` steps of products of bytes; 0."""
        tile = tile_start(ROWS, VECTORS, constants)
        for _ in range(count):
            tile = tile_dot(tile, activations, weights)
        tile_store(out, 64 * VECTORS, tile_scale(tile, constants, constants))
        return 0

else:

    @jit
    def peak_of_bytes(count, activations, weights, constants, out):
        """`count` steps of products of bytes; 0."""
        tile = tile_start(ROWS, VECTORS, constants)
        for _ in range(count):
            tile = _tile_bytes(tile)
        tile_store(out, 64 * VECTORS, tile_scale(tile, constants, constants))
        return 0


@jit
def peak_of_pairs(count, activations, weights, constants, out):
    """`count` steps of products of int16; 0."""
    tile = tile_start(ROWS, VECTORS, constants)
    for _ in range(count):
        tile = _tile_words(tile)
    tile_store(out, 64 * VECTORS, tile_scale(tile, constants, constants))
    return 0
