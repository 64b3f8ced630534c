"""The threads of a session: whoever calls runs the plan, workers help.

Nothing that Python does here must be undone, so that an exception may come between any two of its instructions
(KeyboardInterrupt does): an inference is opened, closed and left by all threads within one compiled call
(`sparse_icnet.run.loop`).  Python only asks for help, and neither help that never comes nor help that nobody
wants any more does harm.  For the same reason there is no lock: compiled calls exclude each other by themselves, and
queues of CPython's (`SimpleQueue`, one instruction each) carry hints that may get lost.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import logging
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.params import LINE
from sparse_icnet.run import control as c
from sparse_icnet.run.control import BUSY, control_words

_log = logging.getLogger("sparse_icnet")

# How often a helper that came before its inference looks again, each time after other threads of the system: some 0.5 ms.
PATIENCE = 1000
# Seconds after which a caller that waits for another looks by itself, should the hint have been lost.
LOOK = 0.02


class Crew:
    """A caller's thread and up to threads - 1 workers, which start when first needed and end with this object.

    call           `run` as `sparse_icnet.run.machine_code.run_function` gives it
    threads        that take part in one inference at most, that of the caller among them
    steps          of the longest program
    scratch        memory of all threads, (threads, bytes), which outlives the calls of `run`
    """

    def __init__(
        self, call: Callable[..., int], threads: int, steps: int, scratch: NDArray[np.uint8]
    ) -> None:
        self.threads = threads
        self._call = call
        memory = np.zeros(control_words(steps) + LINE // 8, np.int64)
        start = -memory.ctypes.data % LINE // 8
        self._control = memory[start : start + control_words(steps)]
        self._address = self._control.ctypes.data
        self._control[c.THREADS] = threads
        self._scratch = scratch
        self._control[c.SCRATCH] = scratch.ctypes.data
        self._control[c.SCRATCH_BYTES] = scratch.strides[0]
        self._control[c.PATIENCE] = PATIENCE
        self._tickets = itertools.count(1)
        self._started = 0  # workers, or less after an interruption
        self._vacant = list(range(1, threads))  # places: each worker takes one, and goes if there is none
        self._wake: SimpleQueue[Any] = SimpleQueue()
        self._free: SimpleQueue[None] = SimpleQueue()  # a hint that another caller may enter
        self._short = False

    @property
    def turn(self) -> int:
        """Address of the word that a caller inside `run` holds: whoever holds it instead keeps callers out."""
        return self._address + 8 * c.TURN

    def run(self, steps: int, first: int, last: int) -> None:
        """Run the steps first..last of the rows at address `steps`; callers from several threads take turns."""
        while True:
            ticket = next(self._tickets)
            if not self._control[c.TURN]:
                if self.threads > 1:
                    self._ask_for_help(ticket)
                try:
                    if self._call(self._address, ticket, steps, first, last) != BUSY:
                        return
                finally:
                    if self._free.empty():
                        self._free.put(None)
            with contextlib.suppress(Empty):
                self._free.get(timeout=LOOK)

    def _ask_for_help(self, ticket: int) -> None:
        self._control[c.ANNOUNCED] = ticket
        ready = self.threads - 1 - len(self._vacant)
        for _ in range(ready - self._wake.qsize()):
            self._wake.put(None)
        while self._started < self.threads - 1:
            end = weakref.ref(self, self._wake.put)
            try:
                _thread.start_new_thread(_work, (self._call, self._control, self._wake, self._vacant, end))
            except (RuntimeError, MemoryError) as error:
                self._complain(error)
                break
            self._started += 1

    def _complain(self, error: Exception) -> None:
        """The inference is the same with fewer threads, and slower; the next one tries again."""
        if not self._short:
            self._short = True
            _log.warning("%d of %d threads run: %s", 1 + self._started, self.threads, error)


def _work(
    call: Callable[..., int],
    control: NDArray[np.int64],
    wake: SimpleQueue[Any],
    vacant: list[int],
    end: weakref.ref[Crew],
) -> None:
    """What a worker does until the crew is gone: then the callback of `end` puts it into `wake`.

    It holds the control words and nothing else of the session; whatever they lead to is held by the caller inside.
    """
    try:
        vacant.pop()
    except IndexError:  # an interrupted caller, or two at once, have started more than were needed
        return
    address = control.ctypes.data
    while True:
        call(address, 0, 0, 0, 0)
        if wake.get() is not None:
            return
