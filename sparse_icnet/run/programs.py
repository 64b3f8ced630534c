"""The programs of a plan, from each start to each end, each with the machine code of its own kernels once it is needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.plan.steps import End, Runnable, Start, programs, step_rows
from sparse_icnet.run.code_files import Entry
from sparse_icnet.run.machine_code import RUN, entry_of, load

# What an inference may end in: one end, or two in this order.
_ENDS: tuple[tuple[End, ...], ...] = (
    (End.PROBABILITIES,),
    (End.CLASSES,),
    (End.SMOOTH_CLASSES,),
    (End.LOGITS,),
    (End.LOGITS, End.CLASSES),
    (End.LOGITS, End.SMOOTH_CLASSES),
)


class Programs:
    """Those of `plan`; `longest`: steps of the longest."""

    def __init__(self, plan: Runnable) -> None:
        self._threads = plan.threads
        self._steps = programs(plan, _ENDS)
        self._rows: dict[tuple[Start, tuple[End, ...]], NDArray[np.void]] = {}
        self.longest = max(map(len, self._steps.values()))

    def load(
        self, start: Start, ends: tuple[End, ...], compiling: Callable[[], object] | None = None
    ) -> list[Entry]:
        """Load the machine code of a program, or compile it; what it consists of.

        compiling  is called before, if anything must be compiled
        """
        entries = [RUN, *dict.fromkeys(entry_of(step.kind) for step in self._steps[start, ends])]
        load(entries, compiling)
        return entries

    def rows(self, start: Start, ends: tuple[End, ...]) -> NDArray[np.void]:
        """The rows (n,) of a program, whose machine code is loaded then.  Not to be changed."""
        if (start, ends) not in self._rows:
            self.load(start, ends)
            steps = self._steps[start, ends]
            kernels = {kind: load([entry_of(kind)])[0].address for kind in {step.kind for step in steps}}
            self._rows[start, ends] = step_rows(steps, self._threads, kernels)
        return self._rows[start, ends]
