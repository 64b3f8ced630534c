"""The most multiply-accumulates a second that the dot-product instruction of this CPU can give, measured.

A loop over a tile that never leaves the registers: no loads, no stores, enough independent sums to hide the
latency.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

from sparse_icnet.simd import dot, llvm
from sparse_icnet.simd.tiles import tile_dot, tile_scale, tile_start, tile_store
from sparse_icnet.target import TARGET, Dot

# Rows x vectors of 16 lanes: as many sums as fit beside the operands.
_SHAPES = {
    "avx512vnni": (4, 3),
    "avxvnni": (5, 1),
    "avx512bw": (4, 3),
    "avx2": (6, 1),
    "sse2": (3, 1),
    "dotprod": (4, 1),
    "generic": (4, 1),
}
ROWS, VECTORS = _SHAPES[TARGET.name]
# Seconds of one turn, short enough to fall between two interruptions, and turns of one measurement.
TURN, TURNS = 0.004, 8
# Products of one step of a vector of 16 lanes: four to a lane with VNNI or on Arm, twice as many of a couple, else those
# of one pair of int16.
MACS = ROWS * VECTORS * (64 if TARGET.dot is Dot.BYTES else 128 if TARGET.couples else 32)


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
def _tile_pairs(typing, tile):
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


def _loop(pairs: bool) -> Any:
    if TARGET.dot is Dot.BYTES and not pairs:
        # The addresses stay the same and nothing is stored: the operands are loaded once, before the loop.
        @njit(nogil=True)
        def loop(count, activations, weights, constants, out):
            tile = tile_start(ROWS, VECTORS, constants)
            for _ in range(count):
                tile = tile_dot(tile, activations, weights)
            tile_store(out, 64 * VECTORS, tile_scale(tile, constants, constants))

    else:
        step = _tile_words if pairs else _tile_pairs

        @njit(nogil=True)
        def loop(count, activations, weights, constants, out):
            tile = tile_start(ROWS, VECTORS, constants)
            for _ in range(count):
                tile = step(tile)
            tile_store(out, 64 * VECTORS, tile_scale(tile, constants, constants))

    return loop


class Peak:
    """Measures the peak on a number of threads at once; `rates` collects GMAC/s of all of them together.

    pairs  of products of int16 in place of bytes
    """

    def __init__(self, threads: int, pairs: bool = False) -> None:
        self.threads = threads
        self.rates: list[float] = []
        self._loop = _loop(pairs)
        self._macs = ROWS * VECTORS * 32 if pairs else MACS
        self._pool = ThreadPoolExecutor(threads)
        self._memory = [np.ones(1 << 12, np.uint8) for _ in range(threads)]
        self._count = 1000
        self._run(self._memory[0])  # compiles
        while (taken := self._run(self._memory[0])) < TURN:
            self._count = int(self._count * min(10.0, 1.2 * TURN / max(taken, 1e-6)) + 1)

    def _run(self, memory: NDArray[np.uint8]) -> float:
        base = -(-memory.ctypes.data // 64) * 64
        start = time.perf_counter()
        self._loop(self._count, base, base + 512, base + 1024, base + 2048)
        return time.perf_counter() - start

    def _best(self, memory: NDArray[np.uint8]) -> float:
        return min(self._run(memory) for _ in range(TURNS))

    def measure(self) -> float:
        """GMAC/s of all threads together: of each the best of a few short turns, all at the same time."""
        best = self._pool.map(self._best, self._memory)
        self.rates.append(sum(self._count * self._macs / seconds for seconds in best) / 1e9)
        return self.rates[-1]
