"""A SIMD vector type for Numba: kernels stay plain Python over `load`, `splat`, `dot4`, `store`.

One source serves every CPU.  A vector has 16 lanes of 32 bits; LLVM splits it into two AVX registers or
four SSE or NEON ones where the CPU has no wider.  Only the dot product differs between CPUs, and which one is
compiled in `sparse_icnet.target` decides once, from the CPU that Numba compiles for.

A *tile* is a block of R x P vectors that lives in registers: R output channels x 16 * P pixels.
Addresses are plain integers (``array.ctypes.data`` plus byte offsets).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from sparse_icnet.network.arithmetic import ROUNDING
from sparse_icnet.target import TARGET, Dot, is_x86

LANES = 16
VECTOR_BYTES = 64

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_I32X16 = ir.VectorType(_I32, LANES)
_F32X16 = ir.VectorType(_F32, LANES)
_I16X32 = ir.VectorType(_I16, 2 * LANES)
_PARTS = TARGET.x86_registers


# --- types ---------------------------------------------------------------------------------------------------------


class _Vector(types.Type):
    def __init__(self, name: str, llvm: ir.Type) -> None:
        self.llvm = llvm
        super().__init__(name)


class _Tile(types.Type):
    """rows x vectors registers of int32 or float32."""

    def __init__(self, rows: int, vectors: int, real: bool = False) -> None:
        self.rows, self.vectors, self.real = rows, vectors, real
        super().__init__(f"{'f32' if real else 'i32'}tile{rows}x{vectors}")


i32x16 = _Vector("i32x16", _I32X16)
f32x16 = _Vector("f32x16", _F32X16)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: _Vector) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


@register_model(_Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: _Tile) -> None:
        vector = _F32X16 if fe_type.real else _I32X16
        super().__init__(manager, fe_type, ir.ArrayType(vector, fe_type.rows * fe_type.vectors))


# --- building blocks of code generation ------------------------------------------------------------------------------


def _pointer(builder: ir.IRBuilder, address: ir.Value, pointee: ir.Type, offset: int = 0) -> ir.Value:
    base = builder.inttoptr(address, ir.PointerType(_I8))
    if offset:
        base = builder.gep(base, [ir.Constant(_I64, offset)])
    return builder.bitcast(base, ir.PointerType(pointee))


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    return builder.load(_pointer(builder, address, kind, offset), align=1)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), None)
    return builder.shuffle_vector(first, undefined, zeros)


def _constant(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _slices(builder: ir.IRBuilder, vector: ir.Value, parts: int) -> list[ir.Value]:
    """`vector` cut into `parts` equal vectors."""
    if parts == 1:
        return [vector]
    count = vector.type.count // parts
    return [
        builder.shuffle_vector(
            vector,
            ir.Constant(vector.type, ir.Undefined),
            ir.Constant(ir.VectorType(_I32, count), list(range(i * count, (i + 1) * count))),
        )
        for i in range(parts)
    ]


def _join(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        count = parts[0].type.count
        mask = ir.Constant(ir.VectorType(_I32, 2 * count), list(range(2 * count)))
        parts = [builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _multiply_add_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """<32 x i16> x <32 x i16> -> <16 x i32>: a[2i] * b[2i] + a[2i+1] * b[2i+1], exact."""
    # With VNNI, LLVM merges the addition that follows into one instruction (vpdpwssd).
    names = {1: "llvm.x86.avx512.pmaddw.d.512", 2: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}
    if _PARTS:
        name, parts = names[_PARTS], _PARTS
        kind = ir.VectorType(_I32, LANES // parts)
        pairs = zip(_slices(builder, a, parts), _slices(builder, b, parts), strict=True)
        return _join(builder, [_call(builder, name, kind, [x, y]) for x, y in pairs])
    total = None
    for first in (0, 1):
        mask = ir.Constant(_I32X16, list(range(first, 2 * LANES, 2)))
        x, y = (
            builder.sext(builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), mask), _I32X16)
            for v in (a, b)
        )
        product = builder.mul(x, y)
        total = product if total is None else builder.add(total, product)
    return total


def _multiply_add_bytes(builder: ir.IRBuilder, u8: ir.Value, s8: ir.Value) -> ir.Value:
    """u8 x 64 times s8 x 64, both <16 x i32> -> <32 x i16>: neighbouring products added, saturating."""
    name, parts = {1: "llvm.x86.avx512.pmaddubs.w.512", 2: "llvm.x86.avx2.pmadd.ub.sw"}[_PARTS], _PARTS
    bytes_, words = ir.VectorType(_I8, VECTOR_BYTES // parts), ir.VectorType(_I16, 2 * LANES // parts)
    operands = [[builder.bitcast(x, bytes_) for x in _slices(builder, v, parts)] for v in (u8, s8)]
    return _join(builder, [_call(builder, name, words, [x, y]) for x, y in zip(*operands, strict=True)])


# Names of the instructions below on vectors of 512, 256 and 128 bits, by `_PARTS`.
_CONVERT = {1: "avx512.mask.cvtps2dq.512", 2: "avx.cvt.ps2dq.256", 4: "sse2.cvtps2dq"}
_NARROW = {1: "avx512.packssdw.512", 2: "avx2.packssdw", 4: "sse2.packssdw.128"}
_NARROWER = {1: "avx512.packuswb.512", 2: "avx2.packuswb", 4: "sse2.packuswb.128"}
# Both narrowing instructions work within 128 bits: 4 pixels of one vector, then the same 4 pixels of the other.
_SIDE_BY_SIDE = [place + lane + i for lane in range(0, 16, 4) for place in (0, 16) for i in range(4)]
_WORDS_SIDE_BY_SIDE = [place + lane + i for lane in range(0, 32, 8) for place in (0, 32) for i in range(8)]
_INTERLEAVED = [lane + 4 * row + i for lane in range(0, 64, 16) for i in range(4) for row in range(4)]


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
    """The lanes of a and b, numbered through, that `order` names."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(order)), order))


def _round_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Two vectors of real values, |x| < 2**31 -> <32 x i16>: round half to even, saturate.

    x86 rounds in the direction that is set for all float32 arithmetic: half to even, unless someone changed it.
    Elsewhere the sum x + 1.5 * 2**23 of a clipped x has no fraction bits left: the addition itself rounds x, and the
    low bits of the sum hold the integer.
    """
    if not _PARTS:
        low, high, magic = (_constant(_F32X16, value) for value in (-(2.0**15), 2.0**15 - 1, _ROUNDING))
        words = [builder.bitcast(builder.fadd(_clip(builder, x, low, high), magic), _I32X16) for x in (a, b)]
        a, b = (builder.trunc(word, ir.VectorType(_I16, LANES)) for word in words)
        return _shuffle(builder, a, b, _SIDE_BY_SIDE)
    integers = ir.VectorType(_I32, LANES // _PARTS)
    # AVX-512: what to give for masked lanes, no lane masked, no rounding direction of its own
    masked = [ir.Constant(integers, ir.Undefined), ir.Constant(_I16, -1), ir.Constant(_I32, 4)]
    parts = []
    for pair in zip(_slices(builder, a, _PARTS), _slices(builder, b, _PARTS), strict=True):
        rounded = [
            _call(builder, f"llvm.x86.{_CONVERT[_PARTS]}", integers, [x, *(masked if _PARTS == 1 else [])])
            for x in pair
        ]
        kind = ir.VectorType(_I16, 2 * LANES // _PARTS)
        parts.append(_call(builder, f"llvm.x86.{_NARROW[_PARTS]}", kind, rounded))
    return _join(builder, parts)


def _interleave_codes(builder: ir.IRBuilder, ab: ir.Value, cd: ir.Value) -> ir.Value:
    """The <32 x i16> of rows a, b and of rows c, d -> <64 x i8>: saturated to 0..255, lanes of four bytes a, b, c, d."""
    if _PARTS:
        kind = ir.VectorType(_I8, VECTOR_BYTES // _PARTS)
        pairs = zip(_slices(builder, ab, _PARTS), _slices(builder, cd, _PARTS), strict=True)
        parts = [_call(builder, f"llvm.x86.{_NARROWER[_PARTS]}", kind, list(pair)) for pair in pairs]
        codes = _join(builder, parts)
    else:
        narrow = []
        for x in (ab, cd):
            for predicate, bound in ((">", 0), ("<", 255)):
                limit = _constant(_I16X32, bound)
                x = builder.select(builder.icmp_signed(predicate, x, limit), x, limit)
            narrow.append(builder.trunc(x, ir.VectorType(_I8, 2 * LANES)))
        codes = _shuffle(builder, *narrow, _WORDS_SIDE_BY_SIDE)
    return _shuffle(builder, codes, ir.Constant(codes.type, ir.Undefined), _INTERLEAVED)


def _even_odd(builder: ir.IRBuilder, u8: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Bytes 0, 2 and bytes 1, 3 of every lane as <32 x i16>."""
    even = builder.and_(u8, _constant(_I32X16, 0x00FF00FF))
    odd = builder.lshr(builder.bitcast(u8, _I16X32), _constant(_I16X32, 8))
    return builder.bitcast(even, _I16X32), odd


def _dot4(builder: ir.IRBuilder, accumulator: ir.Value, codes: ir.Value, s8: ir.Value) -> ir.Value:
    """accumulator + the four products of each lane; codes are u8, with a code shift s8 already."""
    # The all-i32 signatures of x86 verify on LLVM 20 and are upgraded on LLVM 22.
    dot = TARGET.byte_dot
    sums = ir.VectorType(_I32, dot.lanes)
    operands = sums if dot.operands == "i32" else ir.VectorType(_I8, 4 * dot.lanes)
    slices = zip(*(_slices(builder, v, LANES // dot.lanes) for v in (accumulator, codes, s8)), strict=True)
    parts = [
        _call(builder, dot.name, sums, [total, builder.bitcast(x, operands), builder.bitcast(y, operands)])
        for total, x, y in slices
    ]
    return _join(builder, parts)


# --- tiles -----------------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def tile_start(typing, rows, vectors, initial):
    """A tile whose row r holds the int32 at address initial + 4 * r in every lane."""
    tile = _Tile(rows.literal_value, vectors.literal_value)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for r in range(tile.rows):
            row = _splat(builder, _load(builder, arguments[2], _I32, 4 * r), _I32X16)
            for p in range(tile.vectors):
                result = builder.insert_value(result, row, r * tile.vectors + p)
        return result

    return tile(rows, vectors, types.intp), emit


@intrinsic(prefer_literal=True)
def tile_zero(typing, rows, vectors):
    """A tile of zeros."""
    tile = _Tile(rows.literal_value, vectors.literal_value)

    def emit(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(rows, vectors), emit


@intrinsic(prefer_literal=True)
def tile_load(typing, rows, vectors, address, stride):
    """The tile whose vector (r, p) lies at address + r * stride + 64 * p."""
    tile = _Tile(rows.literal_value, vectors.literal_value)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for r in range(tile.rows):
            row = builder.add(arguments[2], builder.mul(arguments[3], ir.Constant(_I64, r)))
            for p in range(tile.vectors):
                vector = _load(builder, row, _I32X16, VECTOR_BYTES * p)
                result = builder.insert_value(result, vector, r * tile.vectors + p)
        return result

    return tile(rows, vectors, types.intp, types.intp), emit


@intrinsic
def tile_dot_pairs(typing, tile, pairs, weights):
    """tile[r, p] += dot2(pairs[p], weights[r]): P vectors of int16 x 2, R words of int16 x 2, at two addresses."""
    if not isinstance(tile, _Tile):
        return None

    def emit(context, builder, signature, arguments):
        result, pairs, weights = arguments
        words = [
            builder.bitcast(_splat(builder, _load(builder, weights, _I32, 4 * r), _I32X16), _I16X32)
            for r in range(tile.rows)
        ]
        for p in range(tile.vectors):
            x = _load(builder, pairs, _I16X32, VECTOR_BYTES * p)
            for r in range(tile.rows):
                index = r * tile.vectors + p
                product = _multiply_add_pairs(builder, x, words[r])
                total = builder.add(builder.extract_value(result, index), product)
                result = builder.insert_value(result, total, index)
        return result

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def tile_dot(typing, tile, activations, weights):
    """tile[r, p] += dot4(activations[p] - TARGET.code_shift, weights[r]).

    P vectors of u8 x 4 and R words of s8 x 4, at two addresses.  Without an instruction for four products the weights
    are 2 R words: even pairs of all rows, then odd pairs, as int16.
    """
    if not isinstance(tile, _Tile):
        return None

    def emit(context, builder, signature, arguments):
        result, activations, weights = arguments
        rows, vectors = tile.rows, tile.vectors
        words = [
            _splat(builder, _load(builder, weights, _I32, 4 * i), _I32X16)
            for i in range(rows * TARGET.words_per_row)
        ]
        for p in range(vectors):
            x = _load(builder, activations, _I32X16, VECTOR_BYTES * p)
            pairs = None if TARGET.dot is Dot.BYTES else _even_odd(builder, x)
            if TARGET.code_shift:  # of 128: the sign bit of each byte
                x = builder.xor(x, _constant(_I32X16, 0x80808080))
            for r in range(rows):
                index = r * vectors + p
                accumulator = builder.extract_value(result, index)
                if pairs is None:
                    accumulator = _dot4(builder, accumulator, x, words[r])
                else:
                    for pair, word in zip(pairs, (words[r], words[rows + r]), strict=True):
                        product = _multiply_add_pairs(builder, pair, builder.bitcast(word, _I16X32))
                        accumulator = builder.add(accumulator, product)
                result = builder.insert_value(result, accumulator, index)
        return result

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def tile_dot_couple(typing, tile, first, second, weights):
    """tile[r, p] += dot4(first[p], weights[r]) + dot4(second[p], weights[R + r]): two blocks, R words of s8 x 4 each.

    Exact only for a couple of `sparse_icnet.sparse.couples`: both products are added in int16.
    """
    if not isinstance(tile, _Tile):
        return None

    def emit(context, builder, signature, arguments):
        result, first, second, weights = arguments
        rows, vectors = tile.rows, tile.vectors
        words = [_splat(builder, _load(builder, weights, _I32, 4 * i), _I32X16) for i in range(2 * rows)]
        ones = _constant(_I16X32, 1)
        for p in range(vectors):
            x, y = (_load(builder, block, _I32X16, VECTOR_BYTES * p) for block in (first, second))
            for r in range(rows):
                index = r * vectors + p
                pairs = builder.add(
                    _multiply_add_bytes(builder, x, words[r]),
                    _multiply_add_bytes(builder, y, words[rows + r]),
                )
                widened = _multiply_add_pairs(builder, pairs, ones)
                total = builder.add(builder.extract_value(result, index), widened)
                result = builder.insert_value(result, total, index)
        return result

    return tile(tile, types.intp, types.intp, types.intp), emit


def _map_tile(
    context: Any,
    builder: ir.IRBuilder,
    source: _Tile,
    target: _Tile,
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


def _clip(builder: ir.IRBuilder, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """min(max(x, low), high); a NaN gives low."""
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


_ROUNDING = float(ROUNDING)


@intrinsic
def tile_scale(typing, tile, multipliers, biases):
    """f32(f32(x) * multipliers[r]) + biases[r] for every row r (Q4): two float32 arrays at addresses."""

    def emit(context, builder, signature, arguments):
        rows = [
            tuple(_splat(builder, _load(builder, a, _F32, 4 * r), _F32X16) for a in arguments[1:])
            for r in range(tile.rows)
        ]

        def scale(x, r, p):
            return builder.fadd(builder.fmul(builder.sitofp(x, _F32X16), rows[r][0]), rows[r][1])

        return _map_tile(context, builder, tile, signature.return_type, arguments[0], scale)

    return _Tile(tile.rows, tile.vectors, True)(tile, types.intp, types.intp), emit


@intrinsic
def tile_requantize(typing, tile, low, high, scale):
    """Clip, round half to even, times scale: an inner quantizer (Q1) and its (Q2)."""

    def emit(context, builder, signature, arguments):
        low, high, scale = (_splat(builder, a, _F32X16) for a in arguments[1:])
        magic = _constant(_F32X16, _ROUNDING)

        def requantize(x, r, p):
            rounded = builder.fsub(builder.fadd(_clip(builder, x, low, high), magic), magic)
            return builder.fmul(rounded, scale)

        return _map_tile(context, builder, tile, tile, arguments[0], requantize)

    return tile(tile, types.float32, types.float32, types.float32), emit


@intrinsic(prefer_literal=True)
def tile_add_codes(typing, tile, address, first, zero, scale):
    """x[r, p] += f32(code - zero) * scale, codes in byte first + r of the lanes at address + 64 * p (Q2), (Q5)."""

    def emit(context, builder, signature, arguments):
        zero = _splat(builder, arguments[3], _I32X16)
        scale = _splat(builder, arguments[4], _F32X16)
        words = [_load(builder, arguments[1], _I32X16, VECTOR_BYTES * p) for p in range(tile.vectors)]

        def add(x, r, p):
            code, byte = words[p], first.literal_value + r
            if byte:
                code = builder.lshr(code, _constant(_I32X16, 8 * byte))
            if byte < 3:
                code = builder.and_(code, _constant(_I32X16, 255))
            real = builder.fmul(builder.sitofp(builder.sub(code, zero), _F32X16), scale)
            return builder.fadd(x, real)

        return _map_tile(context, builder, tile, tile, arguments[0], add)

    return tile(tile, types.intp, first, types.int32, types.float32), emit


@intrinsic
def tile_add_real(typing, tile, address, stride):
    """x[r, p] += float32 vector at address + r * stride + 64 * p."""

    def emit(context, builder, signature, arguments):
        rows = [
            builder.add(arguments[1], builder.mul(arguments[2], ir.Constant(_I64, r)))
            for r in range(tile.rows)
        ]

        def add(x, r, p):
            return builder.fadd(x, _load(builder, rows[r], _F32X16, VECTOR_BYTES * p))

        return _map_tile(context, builder, tile, tile, arguments[0], add)

    return tile(tile, types.intp, types.intp), emit


@intrinsic
def tile_pairs(typing, tile):
    """Round half to even and saturate to int16, |x| < 2**31: rows 2 i and 2 i + 1 share row i of the result."""
    target = _Tile(tile.rows // 2, tile.vectors)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(target), ir.Undefined)
        for p in range(tile.vectors):
            for row in range(target.rows):
                places = (2 * row * tile.vectors + p, (2 * row + 1) * tile.vectors + p)
                pairs = _round_pairs(builder, *(builder.extract_value(arguments[0], i) for i in places))
                word = builder.bitcast(pairs, _I32X16)
                result = builder.insert_value(result, word, row * tile.vectors + p)
        return result

    return target(tile), emit


@intrinsic
def tile_under(typing, address, tile):
    """`tile` of one row as the second of two; vector p of the first lies at address + 64 * p."""
    target = _Tile(2, tile.vectors)

    def emit(context, builder, signature, arguments):
        result = ir.Constant(context.get_value_type(target), ir.Undefined)
        for p in range(tile.vectors):
            above = _load(builder, arguments[0], _I32X16, VECTOR_BYTES * p)
            result = builder.insert_value(result, above, p)
            result = builder.insert_value(result, builder.extract_value(arguments[1], p), tile.vectors + p)
        return result

    return target(types.intp, tile), emit


@intrinsic
def tile_store(typing, address, stride, tile):
    """Store vector (r, p) at address + r * stride + 64 * p."""

    def emit(context, builder, signature, arguments):
        for r in range(tile.rows):
            row = builder.add(arguments[0], builder.mul(arguments[1], ir.Constant(_I64, r)))
            for p in range(tile.vectors):
                vector = builder.extract_value(arguments[2], r * tile.vectors + p)
                builder.store(vector, _pointer(builder, row, vector.type, VECTOR_BYTES * p), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, tile), emit


@intrinsic
def tile_store_codes(typing, address, pairs):
    """Saturate two rows of pairs to 0..255 and store them as lanes of four codes at address + 64 * p."""

    def emit(context, builder, signature, arguments):
        for p in range(pairs.vectors):
            rows = (builder.extract_value(arguments[1], row * pairs.vectors + p) for row in (0, 1))
            codes = _interleave_codes(builder, *(builder.bitcast(row, _I16X32) for row in rows))
            builder.store(codes, _pointer(builder, arguments[0], codes.type, VECTOR_BYTES * p), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, pairs), emit


# --- vectors ---------------------------------------------------------------------------------------------------------


def _vector_load(vector: _Vector) -> Any:
    @intrinsic
    def load(typing, address):
        def emit(context, builder, signature, arguments):
            return _load(builder, arguments[0], vector.llvm)

        return vector(types.intp), emit

    return load


def _vector_splat(vector: _Vector, scalar: types.Type) -> Any:
    @intrinsic
    def splat(typing, value):
        def emit(context, builder, signature, arguments):
            return _splat(builder, arguments[0], vector.llvm)

        return vector(scalar), emit

    return splat


load_i32 = _vector_load(i32x16)  # 16 int32 at an address
load_f32 = _vector_load(f32x16)  # 16 float32 at an address
splat_i32 = _vector_splat(i32x16, types.int32)
splat_f32 = _vector_splat(f32x16, types.float32)


@intrinsic
def gather_words(typing, base, offsets):
    """16 words, each at base + its int32 of the 16 at address `offsets`."""
    quarter = ir.VectorType(_I32, 4)

    def emit(context, builder, signature, arguments):
        base, offsets = arguments
        quarters = []
        for first in range(0, LANES, 4):
            part = ir.Constant(quarter, ir.Undefined)
            for i in range(4):
                offset = builder.sext(_load(builder, offsets, _I32, 4 * (first + i)), _I64)
                word = _load(builder, builder.add(base, offset), _I32)
                part = builder.insert_element(part, word, ir.Constant(_I32, i))
            quarters.append(part)
        return _join(builder, quarters)

    return i32x16(types.intp, types.intp), emit


@intrinsic
def store(typing, address, vector):
    """Write a vector to an address."""
    if not isinstance(vector, _Vector):
        return None

    def emit(context, builder, signature, arguments):
        builder.store(arguments[1], _pointer(builder, arguments[0], arguments[1].type), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, vector), emit


@intrinsic
def store_streaming(typing, address, vector):
    """Write a vector past the caches; the address must be a multiple of 64."""
    if not isinstance(vector, _Vector):
        return None

    def emit(context, builder, signature, arguments):
        pointer = _pointer(builder, arguments[0], arguments[1].type)
        instruction = builder.store(arguments[1], pointer, align=VECTOR_BYTES)
        one = builder.module.add_metadata([ir.Constant(_I32, 1)])
        instruction.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(types.intp, vector), emit


def _unary(name: str, source: _Vector, target: _Vector, generate: Any) -> Any:
    @intrinsic
    def operation(typing, x):
        def emit(context, builder, signature, arguments):
            return generate(builder, arguments[0])

        return target(source), emit

    operation.__name__ = name
    return operation


to_f32 = _unary(
    "to_f32", i32x16, f32x16, lambda b, x: b.sitofp(x, _F32X16)
)  # exact below 2**24, else rounded
bits_to_i32 = _unary("bits_to_i32", f32x16, i32x16, lambda b, x: b.bitcast(x, _I32X16))
bits_to_f32 = _unary("bits_to_f32", i32x16, f32x16, lambda b, x: b.bitcast(x, _F32X16))


def _binary(vector: _Vector, generate: Any) -> Any:
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
    bytes_ = ir.VectorType(_I8, VECTOR_BYTES)
    a, b = builder.bitcast(x, bytes_), builder.bitcast(y, bytes_)
    return builder.bitcast(builder.select(builder.icmp_unsigned(">", a, b), a, b), _I32X16)


# x where x > y, else y: a NaN in x gives y, on every CPU.
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


@intrinsic
def pack_codes(typing, a, b, c, d, pair):
    """rint(x) + the int16 in each half of `pair`, saturated to 0..255, of four channels: lanes of four bytes.

    Each |x| < 2**15 - 256, so that the sum is exact.
    """

    def emit(context, builder, signature, arguments):
        *rows, pair = arguments
        pair = builder.bitcast(pair, _I16X32)
        pairs = [builder.add(_round_pairs(builder, *rows[i : i + 2]), pair) for i in (0, 2)]
        return builder.bitcast(_interleave_codes(builder, *pairs), _I32X16)

    return i32x16(f32x16, f32x16, f32x16, f32x16, i32x16), emit


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
        return builder.zext(_load(builder, arguments[0], ir.VectorType(_I8, LANES)), _I32X16)

    return i32x16(types.intp), emit


@intrinsic
def store_u8(typing, address, x):
    """The low byte of each lane of an int32 vector, 16 bytes, to an address."""
    if x != i32x16:
        return None

    def emit(context, builder, signature, arguments):
        codes = builder.trunc(arguments[1], ir.VectorType(_I8, LANES))
        builder.store(codes, _pointer(builder, arguments[0], codes.type), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, i32x16), emit


def _prefetch(builder: ir.IRBuilder, address: ir.Value, write: int) -> None:
    """Ask for the cache line at `address`, which need not exist."""
    flags = [ir.Constant(_I32, flag) for flag in (write, 3, 1)]
    place = builder.inttoptr(address, ir.PointerType(_I8))
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *flags])


@intrinsic
def prefetch(typing, address):
    """Ask for the cache line at `address`, which need not exist, to read it soon."""

    def emit(context, builder, signature, arguments):
        _prefetch(builder, arguments[0], 0)
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def scatter_16x16(typing, source, stride, target, planes):
    """Transpose 16 x 16 words: word (i, j) at source + i * stride + 4 * j goes to target + planes[j] + 4 * i.

    planes  address of 16 int64 byte offsets
    Sixteen places at once are more than a CPU foresees: asks for the lines of the vectors to come behind each.
    """
    quarter = ir.VectorType(_I32, 4)
    pair = [
        [lane + i for lane in range(0, LANES, 4) for i in (k, k + LANES, k + 1, k + 1 + LANES)]
        for k in (0, 2)
    ]
    half = [
        [lane + i for lane in range(0, LANES, 4) for i in (k, k + 1, k + LANES, k + 1 + LANES)]
        for k in (0, 2)
    ]

    def emit(context, builder, signature, arguments):
        source, stride, target, planes = arguments
        rows = [builder.add(source, builder.mul(stride, ir.Constant(_I64, i))) for i in range(LANES)]
        for j in range(0, LANES, 4):
            # Quarter q of vector i: row i + 4q, columns j to j + 3.  Then each quarter is a 4 x 4 transposition.
            a, b, c, d = (
                _join(builder, [_load(builder, row, quarter, 4 * j) for row in rows[i::4]]) for i in range(4)
            )
            for first in (0, 1):
                x, y = _shuffle(builder, a, b, pair[first]), _shuffle(builder, c, d, pair[first])
                for second in (0, 1):
                    offset = _load(builder, planes, _I64, 8 * (j + 2 * first + second))
                    place = builder.add(target, offset)
                    vector = _shuffle(builder, x, y, half[second])
                    builder.store(vector, _pointer(builder, place, _I32X16), align=1)
                    _prefetch(builder, builder.add(place, ir.Constant(_I64, 2 * VECTOR_BYTES)), 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), emit


_BYTES = ir.VectorType(_I8, VECTOR_BYTES)


@intrinsic
def put_rgb_codes(typing, source, table, target):
    """64 pixels u8 (R, G, B) at `source` to 64 words at `target`: bytes table[0][R], table[1][G], table[2][B], 0.

    table  address of u8 (3, 256).  Only where HAS_BYTE_TABLES.
    """
    double = list(range(VECTOR_BYTES))

    def emit(context, builder, signature, arguments):
        source, table, target = arguments
        image = [_load(builder, source, _BYTES, VECTOR_BYTES * i) for i in range(3)]
        codes = []
        for channel in range(3):
            # Byte 3i + channel of 192: those of the first two vectors, then those of the third.
            lanes = [min(3 * i + channel, 2 * VECTOR_BYTES - 1) for i in double]
            pixels = _shuffle(builder, image[0], image[1], lanes)
            lanes = [
                i if 3 * i + channel < 2 * VECTOR_BYTES else 3 * i + channel - VECTOR_BYTES for i in double
            ]
            pixels = _shuffle(builder, pixels, image[2], lanes)
            quarters = [_load(builder, table, _BYTES, 256 * channel + VECTOR_BYTES * i) for i in range(4)]
            low, high = (
                _call(builder, "llvm.x86.avx512.vpermi2var.qi.512", _BYTES, [a, pixels, b])
                for a, b in (quarters[:2], quarters[2:])
            )
            upper = builder.icmp_signed("<", pixels, ir.Constant(_BYTES, None))
            codes.append(builder.select(upper, high, low))
        codes.append(ir.Constant(_BYTES, None))
        for i in range(4):
            quarter = range(16 * i, 16 * i + 16)
            red_green = _shuffle(builder, codes[0], codes[1], [k + 64 * c for k in quarter for c in (0, 1)])
            blue = _shuffle(builder, codes[2], codes[3], [k + 64 * c for k in quarter for c in (0, 1)])
            words = ir.VectorType(_I16, LANES)
            red_green, blue = builder.bitcast(red_green, words), builder.bitcast(blue, words)
            pixel = _shuffle(builder, red_green, blue, [k + LANES * c for k in range(LANES) for c in (0, 1)])
            builder.store(
                builder.bitcast(pixel, _I32X16), _pointer(builder, target, _I32X16, VECTOR_BYTES * i), align=1
            )
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), emit


# --- scalars in memory, atomics ----------------------------------------------------------------------------------------


def _scalar_load(kind: types.Type, llvm: ir.Type) -> Any:
    @intrinsic
    def load(typing, address):
        def emit(context, builder, signature, arguments):
            return _load(builder, arguments[0], llvm)

        return kind(types.intp), emit

    return load


def _scalar_store(kind: types.Type, llvm: ir.Type) -> Any:
    @intrinsic
    def put(typing, address, value):
        def emit(context, builder, signature, arguments):
            builder.store(arguments[1], _pointer(builder, arguments[0], llvm), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, kind), emit

    return put


get_u8 = _scalar_load(types.uint8, _I8)
get_i32 = _scalar_load(types.int32, _I32)
get_i64 = _scalar_load(types.int64, _I64)
get_f32 = _scalar_load(types.float32, _F32)
put_u8 = _scalar_store(types.uint8, _I8)
put_i32 = _scalar_store(types.int32, _I32)
put_i64 = _scalar_store(types.int64, _I64)
put_f32 = _scalar_store(types.float32, _F32)


@intrinsic
def atomic_add(typing, address, value):
    """Add to the int64 at `address`, return what it held before; sequentially consistent."""

    def emit(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _pointer(builder, arguments[0], _I64), arguments[1], "seq_cst")

    return types.int64(types.intp, types.int64), emit


@intrinsic
def atomic_load(typing, address):
    """The int64 at `address`; acquire."""

    def emit(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0], _I64), "acquire", 8)

    return types.int64(types.intp), emit


_YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"


@intrinsic
def yield_processor(typing):
    """Let another thread of the operating system run."""

    def emit(context, builder, signature, arguments):
        return _call(builder, _YIELD, _I32, [])

    return types.int32(), emit


@intrinsic
def fence(typing):
    """Order streaming stores before whatever the caller does next."""

    def emit(context, builder, signature, arguments):
        builder.fence("seq_cst")
        if is_x86():
            _call(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), emit
