"""Tiles: R x P vectors that live in registers, R output channels x 16 * P pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from sparse_icnet.simd import dot, llvm
from sparse_icnet.simd.codes import MAGIC, clip, interleave_codes, round_pairs
from sparse_icnet.simd.llvm import VECTOR_BYTES
from sparse_icnet.target import TARGET, Dot


class Tile(types.Type):
    """A tile of rows x vectors, each of 16 int32, or of 16 float32 if `real`."""

    def __init__(self, rows: int, vectors: int, real: bool = False) -> None:
        self.rows, self.vectors, self.real = rows, vectors, real
        super().__init__(f"{'f32' if real else 'i32'}tile{rows}x{vectors}")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Tile) -> None:
        vector = llvm.F32X16 if fe_type.real else llvm.I32X16
        super().__init__(manager, fe_type, ir.ArrayType(vector, fe_type.rows * fe_type.vectors))


@intrinsic(prefer_literal=True)
def tile_start(typing, rows, vectors, initial):
    """A tile whose row r holds the int32 at address initial + 4 * r in every lane."""
    tile = Tile(rows.literal_value, vectors.literal_value)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for r in range(tile.rows):
            row = llvm.splat(builder, llvm.load(builder, arguments[2], llvm.I32, 4 * r), llvm.I32X16)
            for p in range(tile.vectors):
                result = builder.insert_value(result, row, r * tile.vectors + p)
        return result

    return tile(rows, vectors, types.intp), emit


@intrinsic(prefer_literal=True)
def tile_zero(typing, rows, vectors):
    """A tile of zeros."""
    tile = Tile(rows.literal_value, vectors.literal_value)

    def emit(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(rows, vectors), emit


@intrinsic(prefer_literal=True)
def tile_load(typing, rows, vectors, address, stride):
    """The tile whose vector (r, p) lies at address + r * stride + 64 * p."""
    tile = Tile(rows.literal_value, vectors.literal_value)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for r in range(tile.rows):
            row = builder.add(arguments[2], builder.mul(arguments[3], ir.Constant(llvm.I64, r)))
            for p in range(tile.vectors):
                vector = llvm.load(builder, row, llvm.I32X16, VECTOR_BYTES * p)
                result = builder.insert_value(result, vector, r * tile.vectors + p)
        return result

    return tile(rows, vectors, types.intp, types.intp), emit


@intrinsic
def tile_dot_pairs(typing, tile, pairs, weights):
    """tile[r, p] += dot2(pairs[p], weights[r]): P vectors of int16 x 2, R lanes of int16 x 2, at two addresses."""
    if not isinstance(tile, Tile):
        return None

    def emit(context, builder, signature, arguments):
        result, pairs, weights = arguments
        broadcast = [
            builder.bitcast(
                llvm.splat(builder, llvm.load(builder, weights, llvm.I32, 4 * r), llvm.I32X16), llvm.I16X32
            )
            for r in range(tile.rows)
        ]
        for p in range(tile.vectors):
            x = llvm.load(builder, pairs, llvm.I16X32, VECTOR_BYTES * p)
            for r in range(tile.rows):
                index = r * tile.vectors + p
                product = dot.multiply_add_pairs(builder, x, broadcast[r])
                total = builder.add(builder.extract_value(result, index), product)
                result = builder.insert_value(result, total, index)
        return result

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def tile_dot(typing, tile, activations, weights):
    """tile[r, p] += dot4(activations[p] - TARGET.code_shift, weights[r]).

    P vectors of u8 x 4 and R lanes of s8 x 4, at two addresses.  Without an instruction for four products the weights
    are 2 R lanes: even pairs of all rows, then odd pairs, as int16.
    """
    if not isinstance(tile, Tile):
        return None

    def emit(context, builder, signature, arguments):
        result, activations, weights = arguments
        rows, vectors = tile.rows, tile.vectors
        broadcast = [
            llvm.splat(builder, llvm.load(builder, weights, llvm.I32, 4 * i), llvm.I32X16)
            for i in range(rows * TARGET.lanes_per_row)
        ]
        for p in range(vectors):
            x = llvm.load(builder, activations, llvm.I32X16, VECTOR_BYTES * p)
            pairs = None if TARGET.dot is Dot.BYTES else dot.even_odd(builder, x)
            if TARGET.code_shift:  # of 128: the sign bit of each byte
                x = builder.xor(x, llvm.constant(llvm.I32X16, 0x80808080))
            for r in range(rows):
                index = r * vectors + p
                accumulator = builder.extract_value(result, index)
                if pairs is None:
                    accumulator = dot.dot4(builder, accumulator, x, broadcast[r])
                else:
                    for pair, lanes in zip(pairs, (broadcast[r], broadcast[rows + r]), strict=True):
                        product = dot.multiply_add_pairs(builder, pair, builder.bitcast(lanes, llvm.I16X32))
                        accumulator = builder.add(accumulator, product)
                result = builder.insert_value(result, accumulator, index)
        return result

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def tile_dot_couple(typing, tile, first, second, weights):
    """tile[r, p] += dot4(first[p], weights[r]) + dot4(second[p], weights[R + r]): two blocks, R lanes of s8 x 4 each.

    Exact only for a couple of `sparse_icnet.sparse.couples`: both products are added in int16.
    """
    if not isinstance(tile, Tile):
        return None

    def emit(context, builder, signature, arguments):
        result, first, second, weights = arguments
        rows, vectors = tile.rows, tile.vectors
        broadcast = [
            llvm.splat(builder, llvm.load(builder, weights, llvm.I32, 4 * i), llvm.I32X16)
            for i in range(2 * rows)
        ]
        ones = llvm.constant(llvm.I16X32, 1)
        for p in range(vectors):
            x, y = (llvm.load(builder, block, llvm.I32X16, VECTOR_BYTES * p) for block in (first, second))
            for r in range(rows):
                index = r * vectors + p
                pairs = builder.add(
                    dot.multiply_add_bytes(builder, x, broadcast[r]),
                    dot.multiply_add_bytes(builder, y, broadcast[rows + r]),
                )
                widened = dot.multiply_add_pairs(builder, pairs, ones)
                total = builder.add(builder.extract_value(result, index), widened)
                result = builder.insert_value(result, total, index)
        return result

    return tile(tile, types.intp, types.intp, types.intp), emit


def _map_tile(
    context: Any,
    builder: ir.IRBuilder,
    source: Tile,
    target: Tile,
    tile: ir.Value,
    generate: Callable[[ir.Value, int, int], ir.Value],
) -> ir.Value:
    """The tile whose vector (r, p) is generate(vector (r, p) of `tile`, r, p)."""
    result = ir.Constant(context.get_value_type(target), ir.Undefined)
    for p in range(source.vectors):
        for r in range(source.rows):
            index = r * source.vectors + p
            result = builder.insert_value(result, generate(builder.extract_value(tile, index), r, p), index)
    return result


@intrinsic
def tile_scale(typing, tile, multipliers, biases):
    """f32(f32(x) * multipliers[r]) + biases[r] for every row r (Q4): two float32 arrays at addresses."""

    def emit(context, builder, signature, arguments):
        rows = [
            tuple(
                llvm.splat(builder, llvm.load(builder, a, llvm.F32, 4 * r), llvm.F32X16)
                for a in arguments[1:]
            )
            for r in range(tile.rows)
        ]

        def scale(x, r, p):
            return builder.fadd(builder.fmul(builder.sitofp(x, llvm.F32X16), rows[r][0]), rows[r][1])

        return _map_tile(context, builder, tile, signature.return_type, arguments[0], scale)

    return Tile(tile.rows, tile.vectors, True)(tile, types.intp, types.intp), emit


@intrinsic
def tile_requantize(typing, tile, low, high, scale):
    """Clip, round half to even, times scale: an inner quantizer (Q1) and its (Q2)."""

    def emit(context, builder, signature, arguments):
        low, high, scale = (llvm.splat(builder, a, llvm.F32X16) for a in arguments[1:])
        magic = llvm.constant(llvm.F32X16, MAGIC)

        def requantize(x, r, p):
            rounded = builder.fsub(builder.fadd(clip(builder, x, low, high), magic), magic)
            return builder.fmul(rounded, scale)

        return _map_tile(context, builder, tile, tile, arguments[0], requantize)

    return tile(tile, types.float32, types.float32, types.float32), emit


@intrinsic(prefer_literal=True)
def tile_add_codes(typing, tile, address, first, zero, scale):
    """x[r, p] += f32(code - zero) * scale, codes in byte first + r of the lanes at address + 64 * p (Q2), (Q5)."""

    def emit(context, builder, signature, arguments):
        zero = llvm.splat(builder, arguments[3], llvm.I32X16)
        scale = llvm.splat(builder, arguments[4], llvm.F32X16)
        loaded = [
            llvm.load(builder, arguments[1], llvm.I32X16, VECTOR_BYTES * p) for p in range(tile.vectors)
        ]

        def add(x, r, p):
            code, byte = loaded[p], first.literal_value + r
            if byte:
                code = builder.lshr(code, llvm.constant(llvm.I32X16, 8 * byte))
            if byte < 3:
                code = builder.and_(code, llvm.constant(llvm.I32X16, 255))
            real = builder.fmul(builder.sitofp(builder.sub(code, zero), llvm.F32X16), scale)
            return builder.fadd(x, real)

        return _map_tile(context, builder, tile, tile, arguments[0], add)

    return tile(tile, types.intp, first, types.int32, types.float32), emit


@intrinsic
def tile_add_real(typing, tile, address, stride):
    """x[r, p] += float32 vector at address + r * stride + 64 * p."""

    def emit(context, builder, signature, arguments):
        rows = [
            builder.add(arguments[1], builder.mul(arguments[2], ir.Constant(llvm.I64, r)))
            for r in range(tile.rows)
        ]

        def add(x, r, p):
            return builder.fadd(x, llvm.load(builder, rows[r], llvm.F32X16, VECTOR_BYTES * p))

        return _map_tile(context, builder, tile, tile, arguments[0], add)

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def tile_pairs(typing, tile):
    """Round half to even and saturate to int16, |x| < 2**31: rows 2 i and 2 i + 1 share row i of the result."""
    target = Tile(tile.rows // 2, tile.vectors)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(target), ir.Undefined)
        for p in range(tile.vectors):
            for row in range(target.rows):
                places = (2 * row * tile.vectors + p, (2 * row + 1) * tile.vectors + p)
                pairs = round_pairs(builder, *(builder.extract_value(arguments[0], i) for i in places))
                lanes = builder.bitcast(pairs, llvm.I32X16)
                result = builder.insert_value(result, lanes, row * tile.vectors + p)
        return result

    return target(tile), emit


@intrinsic
def tile_under(typing, address, tile):
    """`tile` of one row as the second of two; vector p of the first lies at address + 64 * p."""
    target = Tile(2, tile.vectors)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(target), ir.Undefined)
        for p in range(tile.vectors):
            above = llvm.load(builder, arguments[0], llvm.I32X16, VECTOR_BYTES * p)
            result = builder.insert_value(result, above, p)
            result = builder.insert_value(result, builder.extract_value(arguments[1], p), tile.vectors + p)
        return result

    return target(types.intp, tile), emit


@intrinsic
def tile_store(typing, address, stride, tile):
    """Store vector (r, p) at address + r * stride + 64 * p."""

    def emit(context, builder, signature, arguments):
        for r in range(tile.rows):
            row = builder.add(arguments[0], builder.mul(arguments[1], ir.Constant(llvm.I64, r)))
            for p in range(tile.vectors):
                vector = builder.extract_value(arguments[2], r * tile.vectors + p)
                builder.store(vector, llvm.pointer(builder, row, vector.type, VECTOR_BYTES * p), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, tile), emit


@intrinsic
def tile_store_codes(typing, address, pairs):
    """Saturate two rows of pairs to 0..255 and store them as lanes of four codes at address + 64 * p."""

    def emit(context, builder, signature, arguments):
        for p in range(pairs.vectors):
            rows = (builder.extract_value(arguments[1], row * pairs.vectors + p) for row in (0, 1))
            codes = interleave_codes(builder, *(builder.bitcast(row, llvm.I16X32) for row in rows))
            builder.store(codes, llvm.pointer(builder, arguments[0], codes.type, VECTOR_BYTES * p), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, pairs), emit
