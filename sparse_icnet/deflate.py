"""zlib streams (RFC 1950, RFC 1951) of filtered pictures, in a third of the time of zlib's fastest strategy.

Such bytes have few matches that are worth their search.  So only those that repeat the one before are matches, as with
zlib's strategy Z_RLE, and only in fours: what is left to do for each byte is to look up its Huffman code, which
`sparse_icnet.deflate_kernel` does.  The streams are 5 to 8 % larger than with Z_RLE.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.deflate_symbols import BYTES, GROUP, LONGEST, MOST_BITS, SYMBOLS
from sparse_icnet.run import machine_code

BLOCK = 1 << 20  # bytes, or a little more, that have codes of their own

_END, _SYMBOLS = 256, 286  # of RFC 1951
_BASE = (
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    13,
    15,
    17,
    19,
    23,
    27,
    31,
    35,
    43,
    51,
    59,
    67,
    83,
    99,
    115,
    131,
    163,
    195,
    227,
)
# Of each length of a match that the kernel knows: symbol, extra bits, how many they are (RFC 1951, 3.2.5).
_LENGTHS = tuple(
    (257 + code, length - _BASE[code], max(0, code // 4 - 1))
    for length in range(GROUP, LONGEST + 1, GROUP)
    for code in [max(i for i, base in enumerate(_BASE) if base <= length)]
)
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


class Packer:
    """What `zlib.compressobj` is: bytes in parts -> their stream in parts."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._sum = 1  # Adler-32
        self._held = np.zeros(2, np.int64)  # bits that fill no byte yet
        self._out = [b"\x78\x01"]  # window of 32 KiB, fastest

    def compress(self, data: bytes) -> bytes:
        """Take `data`; what of the stream is ready."""
        self._sum = zlib.adler32(data, self._sum)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= BLOCK:
            self._pack()
        return self._ready()

    def flush(self) -> bytes:
        """The rest of the stream."""
        if self._size:
            self._pack()
        self._put(0b011, 10)  # the last block, of fixed codes, and its end
        self._put(0, -int(self._held[1]) % 8)
        self._out.append(self._sum.to_bytes(4, "big"))
        return self._ready()

    def _ready(self) -> bytes:
        ready = b"".join(self._out)
        self._out.clear()
        return ready

    def _put(self, bits: int, count: int) -> None:
        """Append `count` bits."""
        bits, count = int(self._held[0]) | bits << int(self._held[1]), count + int(self._held[1])
        whole = count // 8
        self._out.append((bits & ((1 << 8 * whole) - 1)).to_bytes(whole, "little"))
        self._held[:] = bits >> 8 * whole, count % 8

    def _pack(self) -> None:
        """A block of all that was taken."""
        data = np.frombuffer(b"".join(self._parts), np.uint8)
        self._parts.clear()
        self._size = 0
        pack = machine_code.function_of(machine_code.PACK)
        table = np.zeros(SYMBOLS, np.int64)
        source, size = (
            data.ctypes.data + 1,
            data.size - 1,
        )  # the first byte has none before it that it may repeat
        pack(source, size, table.ctypes.data, 0, 0)
        lengths = _code_lengths(_counts(table, int(data[0])), MOST_BITS)
        codes = _codes(lengths)
        self._put(*_head(lengths))
        self._put(codes[data[0]], lengths[data[0]])
        table[:BYTES] = [code | length << 32 for code, length in zip(codes[:BYTES], lengths, strict=False)]
        for entry, (symbol, extra, bits) in enumerate(_LENGTHS, BYTES + 1):
            # Behind it the distance 1, a code of one bit 0.
            table[entry] = codes[symbol] | extra << lengths[symbol] | (lengths[symbol] + bits + 1) << 32
        out = np.empty(size * MOST_BITS // 8 + 16, np.uint8)
        start = out.ctypes.data
        end = pack(source, size, table.ctypes.data, start, self._held.ctypes.data)
        self._out.append(out[: end - start].tobytes())
        self._put(codes[_END], lengths[_END])


def _counts(table: NDArray[np.int64], first: int) -> list[int]:
    """How often each symbol of RFC 1951 occurs, of what the kernel counted and the first byte."""
    counts = [*table[:BYTES].tolist(), 1, *[0] * (_SYMBOLS - BYTES - 1)]
    counts[first] += 1
    for entry, (symbol, _, _) in enumerate(_LENGTHS, BYTES + 1):
        counts[symbol] += int(table[entry])
    return counts


def _code_lengths(counts: Sequence[int], most: int) -> list[int]:
    """Bits of the Huffman code of each symbol, 0 of one that does not occur; nearly the best of at most `most` bits."""
    known = [symbol for symbol, count in enumerate(counts) if count]
    lengths = [0] * len(counts)
    if len(known) == 1:
        lengths[known[0]] = 1
        return lengths
    least = sum(counts) >> (most - 1)
    while True:
        # Nodes in the order in which they are made: parents behind their children.
        heap = [(max(counts[symbol], least), node) for node, symbol in enumerate(known)]
        heapq.heapify(heap)
        parents = [0] * (2 * len(known) - 1)
        for node in range(len(known), len(parents)):
            count, one = heapq.heappop(heap)
            more, other = heap[0]
            parents[one] = parents[other] = node
            heapq.heapreplace(heap, (count + more, node))
        depths = [0] * len(parents)
        for node in range(len(parents) - 2, -1, -1):
            depths[node] = depths[parents[node]] + 1
        if max(depths) <= most:
            for symbol, depth in zip(known, depths, strict=False):
                lengths[symbol] = depth
            return lengths
        least = 2 * least + 1  # rarer symbols count as if they were less rare


def _codes(lengths: Sequence[int]) -> list[int]:
    """The code of each symbol (RFC 1951, 3.2.2), its first bit the lowest."""
    codes, code, before = [0] * len(lengths), 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        codes[symbol] = int(f"{code:0{length}b}"[::-1], 2)
        code, before = code + 1, length
    return codes


def _head(lengths: Sequence[int]) -> tuple[int, int]:
    """(bits, how many) of the head of a block with codes of its own (RFC 1951, 3.2.7), not the last one."""
    all_lengths = [*lengths, 1]  # of a single distance
    counts = [all_lengths.count(length) for length in range(19)]
    of_lengths = _code_lengths(counts, 7)
    codes = _codes(of_lengths)
    used = max(4, max(place for place, length in enumerate(_ORDER, 1) if of_lengths[length]))
    fields = [(0, 1), (2, 2), (_SYMBOLS - 257, 5), (0, 5), (used - 4, 4)]
    fields += [(of_lengths[length], 3) for length in _ORDER[:used]]
    fields += [(codes[length], of_lengths[length]) for length in all_lengths]
    bits = size = 0
    for value, count in fields:
        bits |= value << size
        size += count
    return bits, size
