"""The most products a second that the dot-product instruction of this CPU can give, measured in registers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.run.code_files import Entry
from sparse_icnet.run.machine_code import function_of
from sparse_icnet.study.peak_shapes import PRODUCTS_OF_BYTES, PRODUCTS_OF_PAIRS

_SOURCES = ("study/peak_kernel.py", "study/peak_shapes.py")
BYTES = Entry("study.peak_kernel", "peak_of_bytes", sources=_SOURCES)
PAIRS = Entry("study.peak_kernel", "peak_of_pairs", sources=_SOURCES)
# Seconds of one turn, short enough to fall between two interruptions, and turns of one measurement.
TURN, TURNS = 0.004, 8


class Peak:
    """Measures the peak on a number of threads at once; `rates` collects products a second of all of them together.

    pairs  of products of int16 in place of bytes
    """

    def __init__(self, threads: int, pairs: bool = False) -> None:
        self.threads = threads
        self.rates: list[float] = []
        self._products = PRODUCTS_OF_PAIRS if pairs else PRODUCTS_OF_BYTES
        self._loop = function_of(PAIRS if pairs else BYTES)
        self._pool = ThreadPoolExecutor(threads)
        self._memory = [np.ones(1 << 12, np.uint8) for _ in range(threads)]
        self._count = 1000
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
        """Products a second of all threads together: of each the best of a few short turns, all at the same time."""
        best = self._pool.map(self._best, self._memory)
        self.rates.append(sum(self._count * self._products / seconds for seconds in best))
        return self.rates[-1]
