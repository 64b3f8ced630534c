# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-warn-return-any
"""Bytes -> bits of their Huffman codes (RFC 1951), in one pass over memory; `sparse_icnet.deflate` makes the codes."""

from __future__ import annotations

import numpy as np

from sparse_icnet.deflate_symbols import BYTES, GROUP, LONGEST
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_i32, get_i64, get_u8, put_i64


@jit
def _repeats(place, end):
    """How many bytes from `place` on equal the one before it: a multiple of GROUP."""
    group = np.int32(np.int64(get_u8(place - 1)) * 0x01010101)
    size = 0
    while size < LONGEST and place + size + GROUP <= end and get_i32(place + size) == group:
        size += GROUP
    return size


@jit
def _count(symbol, counts):
    put_i64(counts + 8 * symbol, get_i64(counts + 8 * symbol) + 1)


@jit
def _count_all(source, end, counts):
    while source + GROUP <= end:
        size = _repeats(source, end)
        if size:
            _count(BYTES + size // GROUP, counts)
            source += size
        else:
            for i in range(GROUP):
                _count(np.int64(get_u8(source + i)), counts)
            source += GROUP
    while source < end:
        _count(np.int64(get_u8(source)), counts)
        source += 1


@jit
def pack(source, size, table, out, held):
    """Write the codes of `size` bytes behind each other; returns the address behind the last whole byte written.

    source  address of the bytes; the one before it is read as well
    table   int64 (SYMBOLS,): of each the bits of its code, and 2**32 times how many they are: of a byte at most MOST_BITS,
            of repeats 32
    out     has room for MOST_BITS / 8 of `size` and 8 bytes more; 0: nothing is written, but the symbols counted in `table`
    held    address of int64 (2,): bits that fill no byte yet, and how many these are
    """
    end = source + size
    if not out:
        _count_all(source, end, table)
        return 0
    bits, filled = get_i64(held), get_i64(held + 8)
    while source < end:
        repeated = _repeats(source, end) if source + GROUP <= end else 0
        if repeated:
            code = get_i64(table + 8 * (BYTES + repeated // GROUP))
            bits |= (code & 0xFFFFFFFF) << filled
            filled += code >> 32
            source += repeated
        else:
            for _ in range(min(GROUP, end - source)):
                code = get_i64(table + 8 * np.int64(get_u8(source)))
                bits |= (code & 0xFFFFFFFF) << filled
                filled += code >> 32
                source += 1
        put_i64(out, bits)
        out += filled >> 3
        bits = np.int64(np.uint64(bits) >> np.uint64(filled & 56))
        filled &= 7
    put_i64(held, bits)
    put_i64(held + 8, filled)
    return out
