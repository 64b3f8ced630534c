"""The bundled models called in every way that programs call them: the stored digests of `tests/run/test_digest.py`."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from test_digest import DIGESTS, picture

import sparse_icnet
from sparse_icnet import floats

NAMES = tuple(sorted(DIGESTS))
SIZE = (192, 192)
# MXCSR of x86: rounding up, down, to zero; flush to zero with denormals are zero; all at once.
SETTINGS = {"up": 0x5F80, "down": 0x3F80, "to zero": 0x7F80, "flush to zero": 0x9FC0, "all at once": 0xFFC0}
FPCR = {"up": 1 << 22, "down": 2 << 22, "to zero": 3 << 22, "flush to zero": 1 << 24}


class _Model:
    def __init__(self, name: str, threads: int) -> None:
        self.net = sparse_icnet.load(name, size=SIZE, threads=threads)
        self.wanted = DIGESTS[name][SIZE][1:]

    def right(self) -> bool:
        """One inference to classes and one to probabilities."""
        results = (
            self.net.session.class_map_of_image(picture(SIZE)),
            self.net.session.probabilities_of_image(picture(SIZE)),
        )
        return tuple(hashlib.sha256(r.tobytes()).hexdigest()[:16] for r in results) == self.wanted

    def wrong_of(self, count: int) -> int:
        return sum(not self.right() for _ in range(count))


def _in_threads(functions: Iterable[Callable[[], int]]) -> int:
    """What they return when each runs in a Python thread, added up; a thread that raises counts as 1."""
    found: list[int] = []

    def call(function: Callable[[], int]) -> None:
        place = len(found)
        found.append(1)
        found[place] = function()

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)


def _child(name: str, threads: int, count: int, cpus: set[int] | None, connection: Any) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)
    connection.send(_Model(name, threads).wrong_of(count))


def _in_process(method: str, threads: int, count: int, cpus: set[int] | None = None) -> int:
    """Wrong inferences of a process of its own; all of them if it dies."""
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(NAMES[0], threads, count, cpus, there))
    process.start()
    there.close()
    try:
        wrong: int = here.recv()
    except EOFError:
        wrong = count
    process.join()
    return wrong


def _forked(model: _Model, count: int) -> int:
    """Wrong inferences of a child that uses the model of its parent, whose other threads infer meanwhile."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = min(model.wrong_of(count), 98)
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else count


def run(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    """`counts` of inferences by what was done, two for each comparison; `faults` in words."""
    few, some, many = (1, 2, 4) if quick else (25, 50, 1000)

    def say(what: str, comparisons: int, wrong: int) -> None:
        counts[what] += 2 * comparisons
        if wrong:
            faults.append(f"{what}: {wrong} of {comparisons} comparisons differ")

    for threads in range(1, 9, 3 if quick else 1):
        say(f"{threads} threads", few, _Model(NAMES[threads % 2], threads).wrong_of(few))
    shared = _Model(NAMES[0], 2)
    say("repeated", many, shared.wrong_of(many))
    say("64 threads", few, _Model(NAMES[1], 64).wrong_of(few))
    models = [_Model(name, 2) for name in NAMES]
    say("two models at once", 2 * some, _in_threads([lambda m=m: m.wrong_of(some) for m in models]))  # type: ignore[misc]
    say("8 Python threads, one model", 8 * few, _in_threads([lambda: shared.wrong_of(few)] * 8))
    alike = [_Model(NAMES[i % 2], 1) for i in range(8)]
    say("8 Python threads, 8 models", 8 * few, _in_threads([lambda m=m: m.wrong_of(few) for m in alike]))  # type: ignore[misc]
    _settings(few, say)
    _processes(quick, few, shared, say)


def _settings(few: int, say: Callable[[str, int, int], None]) -> None:
    settings = SETTINGS if floats.is_x86() else FPCR if floats.is_arm64() else {}
    for name, value in settings.items():
        for threads in (1, 2):
            model = _Model(NAMES[0], threads)
            before = floats.exchange()(value)
            try:
                wrong = model.wrong_of(few)
                loaded = _Model(NAMES[1], threads).wrong_of(1)  # read and planned in that setting as well
            finally:
                floats.exchange()(before)
            say(f"floats set to {name}", few + 1, wrong + loaded)


def _processes(quick: bool, few: int, shared: _Model, say: Callable[[str, int, int], None]) -> None:
    stop: list[bool] = []

    def beside() -> int:
        wrong = 0
        while not stop:
            wrong += not shared.right()
        return wrong

    def forks() -> int:
        try:
            return sum(_forked(shared, 2) for _ in range(few))
        finally:
            stop.append(True)

    say("forked while another thread infers", 2 * few, _in_threads([beside, forks]))
    for method in ("spawn", "forkserver"):
        for _ in range(1 if quick else 4):
            say(method, few, _in_process(method, 2, few))
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        for threads in (2,) if quick else (1, 2, 8, 64):
            say(f"on one CPU, {threads} threads", few, _in_process("spawn", threads, few, {cpus[-1]}))
