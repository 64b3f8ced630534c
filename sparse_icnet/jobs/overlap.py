"""Work on a sequence by threads: items made ahead, items worked on at the same time; always in order."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from typing import TypeVar, cast

from sparse_icnet.processes import default_threads

Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()
_NAP = 0.5  # seconds


class StoppedError(Exception):
    """Raised within work that nobody waits for any more."""


class Room:
    """Room for so much at a time; more than there is waits until nobody else is in, and then gets it."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait until there is room for `amount`, and have it."""
        amount = min(amount, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + amount <= self._size)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


def _pool(workers: int) -> ThreadPoolExecutor | None:
    """`workers` threads, or as many of them as the system lets start; None if it lets none."""
    while workers:
        pool, go = ThreadPoolExecutor(workers), threading.Event()
        started = 0
        try:
            for started in range(workers):  # noqa: B007
                pool.submit(go.wait)  # keeps its thread, so that the next needs another one
            return pool
        except RuntimeError:  # "can't start new thread"
            go.set()
            pool.shutdown(cancel_futures=True)
            workers = started
        finally:
            go.set()
    return None


def ahead(items: Iterator[Item], depth: int = 3) -> Generator[Item]:
    """The same items in the same order; up to `depth` are made before they are asked for, by a thread.

    Errors come at the place of the item that could not be made.  When the caller stops, so does the thread.
    """
    pool = _pool(1)
    if pool is None:
        yield from items
        return
    try:
        pending = deque(pool.submit(next, items, _END) for _ in range(depth))
        while (item := pending.popleft().result()) is not _END:
            pending.append(pool.submit(next, items, _END))
            yield cast(Item, item)
    finally:
        pool.shutdown(cancel_futures=True)


def _awaited(future: Future[Result]) -> Result:
    """The result of `future`.  The system may give Ctrl-C to any thread; the main thread sees it when it wakes."""
    while True:
        try:
            return future.result(_NAP)
        except TimeoutError:
            if future.done():
                return future.result()


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    stop: threading.Event | None = None,
    taken: int | None = None,
) -> Generator[Result]:
    """`map` on a few threads: some decode or encode while others compute.  Stops when the caller does.

    workers  None: one for each core, at least 2 and at most 8: what Python itself does for a picture, which only one
             thread at a time can, takes a tenth of a small inference
    stop     set when no more results are wanted, for a `function` that takes long
    taken    items at most whose result the caller does not have yet; None: two for each worker
    """
    workers = workers or min(8, max(2, default_threads()))
    taken = taken or 2 * workers
    pool = _pool(workers)
    try:
        if pool is None:
            yield from map(function, items)
            return
        remaining = iter(items)
        running = deque(pool.submit(function, item) for item in itertools.islice(remaining, taken))
        while running:
            result = _awaited(running.popleft())
            running.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
            yield result
    finally:
        if stop is not None:
            stop.set()
        if pool is not None:
            pool.shutdown(cancel_futures=True)
