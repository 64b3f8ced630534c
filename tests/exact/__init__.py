"""The same bits, exhaustively: requantization, the largest sums, threads and processes, digests, on every code path.

    python -m tests.exact --record FILE                   all parts, on every code path that this CPU can run
    python -m tests.exact --paths avx2 --parts sums       one part on one path
    python -m tests.exact --quick                         a little of everything, as the test suite runs it

Parts: `requantization` (from int32 sums to codes by the compiled epilogue, every tie and zero point, multipliers at the
edges of float32), `sums` (accumulators at the bound that the graph proves), `calls` (threads, processes, repetitions,
foreign float settings), `digests` (both bundled models).  Each part on each path is a process of its own, which prints how
many values it compared and every one that differed.
"""

from __future__ import annotations

import sys
from pathlib import Path

for _folder in ("helpers", "run"):
    _name = str(Path(__file__).resolve().parents[1] / _folder)
    if _name not in sys.path:  # as pytest does
        sys.path.insert(0, _name)
