"""Locks and threads that survive a fork and an interruption, and how many threads a process has use for.

A forked process has none of its parent's threads, and a lock that one of them held stays taken for ever.  Ctrl-C raises
KeyboardInterrupt between any two instructions of the main thread, also between taking a lock and noting so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_process = object()  # stands for this process; a process number may come again


def _forked() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def default_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PerProcess(Generic[T]):
    """A value that each process makes for itself, by `make`, when it first asks for it.

    Threads that ask at once may make several; all get the same one.  A process keeps those of the processes it was
    forked from: memory that threads knew there is not used again here.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[object, T] = {}

    def get(self) -> T:
        value = self._values.get(_process)
        return self._values.setdefault(_process, self._make()) if value is None else value


class Once(Generic[T]):
    """A value made by the first thread that asks; others wait for it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = PerProcess(threading.RLock)
        self._value: T | None = None

    @classmethod
    def of(cls, value: T) -> Once[T]:
        """One that is made already."""
        once = cls(lambda: value)
        once._value = value
        return once

    def get(self) -> T:
        if self._value is None:
            lock = self._lock.get()
            try:
                lock.acquire()
                if self._value is None:
                    self._value = self._make()
            finally:
                # Behind an interrupted `acquire` only the lock knows whether it was taken.
                try:  # noqa: SIM105  (one instruction, so that no interruption comes before it)
                    lock.release()
                except RuntimeError:  # it was not
                    pass
        return self._value
