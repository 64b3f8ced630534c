"""Every buffer of a plan ends at a page that nobody may touch, then begins at one: sizes, operators, graphs, code paths.

    python -m tests.guard --record FILE              all sizes, 150 random graphs, every code path that this CPU can run
    python -m tests.guard --paths sse2 --largest 192x288 --graphs 20
    python -m tests.guard --paths avx2 --only 17     one case again, in this process

A case is a network at a size with its memory at one end of its pages (`cases`): ICNet and a graph with every operator at
each multiple of 96 in both directions, with the kernels that the planner chooses, with filtering wherever it is possible
and with each micro-kernel, in turn; and random graphs.  Every tensor, table and record, scratch memory, what comes in and
what goes out has pages of its own; the slack around tensors is the least that the proof of bounds accepts.

Of random graphs the plan is damaged as well, a field of a record or an entry of a table at a time.  What the proof accepts
is run like the others.  What it refuses is run too, in a forked process: many of these die at a forbidden page, which shows
that pages and damages mean something, and that the proof came first.

Cases run in a process of its own for each code path; one that dies is a fault, and the process goes on behind it.  The
results of a case must be those of the same network on the first path.  Needs Linux.
"""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
for _folder in (_TESTS, _TESTS / "helpers"):
    if str(_folder) not in sys.path:  # as pytest does
        sys.path.insert(0, str(_folder))
