"""Products of a small constant matrix of integers with vectors in memory, as intrinsics made from the matrix.

What Winograd's transforms consist of (`sparse_icnet.sparse.winograd`): for each lane y[i] = sum_j matrix[i, j] * x[j],
modulo 2**16 or 2**32.  Sums that several rows share are computed once, and each instruction works on one register of
the CPU from its loads to its stores, so that a whole column stays in registers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from math import gcd
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import VECTOR_BYTES

# Registers that a vector of 64 bytes takes.
_PARTS = llvm.REGISTERS or 1
_PART_BYTES = VECTOR_BYTES // _PARTS
_WORDS = ir.VectorType(ir.IntType(32), _PART_BYTES // 4)
_HALVES = ir.VectorType(ir.IntType(16), _PART_BYTES // 2)

# A sum of terms: number of an input, or of a shared sum after all inputs -> coefficient.
Terms = dict[int, int]


def shared_sums(matrix: NDArray[np.int64]) -> tuple[list[Terms], list[Terms]]:
    """(shared sums of two terms, rows): the rows of `matrix` with the sums that rows have in common taken out.

    Greedy: as long as two rows hold a multiple of the same sum of two terms, the most frequent becomes a term itself.
    """
    rows = [{int(j): int(row[j]) for j in np.flatnonzero(row)} for row in matrix]
    sums: list[Terms] = []
    while True:
        found = Counter(
            _normal(i, row[i], j, row[j]) for row in rows for i, j in combinations(sorted(row), 2)
        )
        best, count = max(found.items(), key=lambda item: (item[1], item[0]), default=((0, 0, 0, 0), 0))
        if count < 2:
            return sums, rows
        i, a, j, b = best
        number = matrix.shape[1] + len(sums)
        sums.append({i: a, j: b})
        for row in rows:
            if i in row and j in row and _normal(i, row[i], j, row[j]) == best:
                row[number] = row[i] // a
                del row[i], row[j]


def _normal(i: int, a: int, j: int, b: int) -> tuple[int, int, int, int]:
    """a * x[i] + b * x[j] without its common factor, a positive."""
    factor = gcd(a, b) * (1 if a > 0 else -1)
    return i, a // factor, j, b // factor


def _sum(builder: ir.IRBuilder, terms: Terms, values: Sequence[ir.Value]) -> ir.Value:
    """The sum of coefficient * values[number]; powers of two are shifts."""
    total = None
    for number, coefficient in sorted(terms.items(), key=lambda term: (term[1] < 0, term[0])):
        x, size = values[number], abs(coefficient)
        if size != 1:
            shift = size.bit_length() - 1
            x = (
                builder.shl(x, llvm.constant(x.type, shift))
                if size == 1 << shift
                else builder.mul(x, llvm.constant(x.type, size))
            )
        if total is None:
            total = builder.neg(x) if coefficient < 0 else x
        else:
            total = (builder.sub if coefficient < 0 else builder.add)(total, x)
    return total


def _product(builder: ir.IRBuilder, matrix: NDArray[np.int64], inputs: Sequence[ir.Value]) -> list[ir.Value]:
    sums, rows = shared_sums(matrix)
    values = list(inputs)
    for terms in sums:
        values.append(_sum(builder, terms, values))
    return [_sum(builder, terms, values) for terms in rows]


def _places(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, count: int) -> list[ir.Value]:
    return [builder.add(address, builder.mul(stride, ir.Constant(stride.type, i))) for i in range(count)]


def _put(builder: ir.IRBuilder, value: ir.Value, place: ir.Value, offset: int) -> None:
    builder.store(value, llvm.pointer(builder, place, value.type, offset), align=1)


def _transform(
    matrix: NDArray[np.int64],
    kind: ir.VectorType,
    finish: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value] | None = None,
) -> Any:
    @intrinsic
    def transform(typing, source, source_stride, target, target_stride, extra):
        def emit(context, builder, signature, arguments):
            source, source_stride, target, target_stride, extra = arguments
            sources = _places(builder, source, source_stride, matrix.shape[1])
            targets = _places(builder, target, target_stride, matrix.shape[0])
            for part in range(0, VECTOR_BYTES, _PART_BYTES):
                inputs = [llvm.load(builder, place, kind, part) for place in sources]
                for y, place in zip(_product(builder, matrix, inputs), targets, strict=True):
                    _put(builder, finish(builder, y, extra) if finish else y, place, part)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 4, types.int32), emit

    return transform


def transform_pairs(matrix: NDArray[np.int64]) -> Any:
    """f(source, source_stride, target, target_stride, 0): vectors of 32 int16, one stride (in bytes) after the other."""
    return _transform(matrix, _HALVES)


def transform_sums(matrix: NDArray[np.int64]) -> Any:
    """The same of vectors of 16 int32."""
    return _transform(matrix, _WORDS)


def transform_last(matrix: NDArray[np.int64], inverse: int, shift: int) -> Any:
    """The same, then (W2) of `sparse_icnet.sparse.winograd`, then plus the int32 `extra`."""

    def finish(builder: ir.IRBuilder, y: ir.Value, extra: ir.Value) -> ir.Value:
        if inverse != 1:
            y = builder.mul(y, llvm.constant(y.type, inverse))
        if shift:
            y = builder.ashr(y, llvm.constant(y.type, shift))
        return builder.add(y, llvm.splat(builder, extra, y.type))

    return _transform(matrix, _WORDS, finish)


def transform_bytes(matrix: NDArray[np.int64]) -> Any:
    """f(base, offsets, step, target, target_stride, odd): from vectors of codes to vectors of 32 int16.

    Vector i lies at base + the int32 at offsets + i * step; its bytes 0, 2 of each lane make vector i of the input whose
    product goes to target, its bytes 1, 3 that whose product goes to target + odd.
    """

    @intrinsic
    def transform(typing, base, offsets, step, target, target_stride, odd):
        def emit(context, builder, signature, arguments):
            base, offsets, step, target, target_stride, odd = arguments
            sources = [
                builder.add(base, builder.sext(llvm.load(builder, place, ir.IntType(32)), base.type))
                for place in _places(builder, offsets, step, matrix.shape[1])
            ]
            even_targets = _places(builder, target, target_stride, matrix.shape[0])
            odd_targets = [builder.add(place, odd) for place in even_targets]
            low = llvm.constant(_HALVES, 255)
            eight = llvm.constant(_HALVES, 8)
            for part in range(0, VECTOR_BYTES, _PART_BYTES):
                for targets, half in ((even_targets, 0), (odd_targets, 1)):
                    codes = [llvm.load(builder, place, _HALVES, part) for place in sources]
                    inputs = [builder.lshr(x, eight) if half else builder.and_(x, low) for x in codes]
                    for y, place in zip(_product(builder, matrix, inputs), targets, strict=True):
                        _put(builder, y, place, part)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 6), emit

    return transform
