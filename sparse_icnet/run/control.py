"""The words through which the threads of one session meet: int64 in memory of their own.  Does not import Numba.

    STATE      1 while an inference is open, plus 2 for each helper that is inside
    TURN       1 while a caller is inside `run` or, in its place, inside `run_traced`
    SLOTS      threads that take part: the caller is 0, each helper takes the next number
    ANNOUNCED  the latest ticket that a caller drew before it asked for helpers (written by Python)
    OPENED     the latest ticket whose inference was opened
    STEPS, FIRST, LAST
               what to run: address of the rows, numbers of steps
    THREADS, SCRATCH, SCRATCH_BYTES, PATIENCE
               fixed: threads at most, address of the scratch memory of the first and bytes to that of the next, and
               how often a helper that came before its inference looks again
    SYNC       from here on the counters of each step: tasks taken and, a cache line later, tasks complete

Words that several threads write lie in different cache lines.  Whoever holds this memory may call `run` as a helper at
any time, for an inference long over or one that never began: without STATE saying so, nothing else is read.
"""

from __future__ import annotations

from sparse_icnet.operators.params import LINE

SYNC_BYTES = 2 * LINE  # of the counters of a step: tasks taken, tasks complete
_WORDS = LINE // 8
STATE, TURN, SLOTS, ANNOUNCED, OPENED, STEPS = (i * _WORDS for i in range(6))
FIRST, LAST, THREADS, SCRATCH, SCRATCH_BYTES, PATIENCE = range(STEPS + 1, STEPS + 7)
SYNC = STEPS + _WORDS

# What `run` returns: done, or nothing done because another caller is inside.
DONE, BUSY = 0, 1


def control_words(steps: int) -> int:
    """int64 words for programs of at most `steps` steps."""
    return SYNC + SYNC_BYTES // 8 * steps
