"""Many files in processes of their own: limits on memory, a clock for each file, faults kept."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from . import mutate_ir, mutate_npz, mutate_onnx
from .bases import READERS, SUFFIXES, bases, saved, written
from .check import MEMORY, Cost, Verdict, check
from .random_graph import random_graph
from .values import Files, pick

MUTATE = {"npz": mutate_npz.mutate, "ir": mutate_ir.mutate, "onnx": mutate_onnx.mutate}
# What a worker's second process compiles for, on x86: what loads equals the oracle there as well.
SECOND_PATH = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
RANDOM = 0.25  # share of the files that start from a random network, of which most are not changed
START_SECONDS = 1200  # to import, to load machine code or to compile it, and to check the models as they are


@dataclass(frozen=True)
class Case:
    """File number `index` of a campaign."""

    reader: str
    seed: int
    index: int

    def files(self) -> Files:
        """The mutated files; always the same."""
        rng = np.random.default_rng([self.seed, READERS.index(self.reader), self.index])
        if rng.random() < RANDOM:
            files = saved(random_graph(rng), self.reader)
            return MUTATE[self.reader](files, rng) if rng.random() < 0.4 else files
        known = bases(self.reader)
        return MUTATE[self.reader](pick(rng, [known[name] for name in sorted(known)]), rng)

    @property
    def name(self) -> str:
        return f"{self.reader}-{self.seed}-{self.index}"


Item = TypeVar("Item", Case, Path)


@dataclass
class Summary:
    """Of one reader: how many files became what, and the faults by case."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[Case, Verdict]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)

    def add(self, case: Case, verdict: Verdict) -> None:
        self.counts[verdict.kind] += 1
        for name, value in _costs(verdict.cost).items():
            self.worst[name] = max(value, self.worst.get(name, value))
        if verdict.kind == "refused":
            self.reasons[_reason(verdict.message)] += 1
        if not verdict.good:
            self.faults.append((case, verdict))

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())


def _costs(cost: Cost) -> dict[str, float]:
    """What is worth a maximum over a campaign."""
    found = {"load_seconds": round(cost.seconds, 3), "read_bytes": cost.memory}
    found["read_bytes_beyond_file_and_weights"] = max(0, cost.memory - MEMORY * (cost.bytes + cost.weights))
    return found


def _reason(message: str) -> str:
    """A refusal without names and numbers."""
    text = message.split("expected", 1)[-1]
    return " ".join(word for word in text.split() if word.isalpha())[:60]


def run(
    cases: Sequence[Case],
    workers: int = 2,
    seconds: float = 30.0,
    gigabytes: float = 4.0,
    failures: Path | None = None,
    second_path: bool = False,
    seen: Callable[[Case, Verdict], None] = lambda case, verdict: None,
) -> dict[str, Summary]:
    """Check every case; faults are kept in `failures`.

    seconds      time of one file on one code path
    second_path  what equals the oracle must do so on SECOND_PATH as well
    seen         is told each verdict
    """
    summaries = {reader: Summary() for reader in dict.fromkeys(case.reader for case in cases)}
    for case, verdict in verdicts(cases, workers, seconds, gigabytes, second_path):
        summaries[case.reader].add(case, verdict)
        seen(case, verdict)
        if failures is not None and not verdict.good:
            failures.mkdir(parents=True, exist_ok=True)
            written(case.files(), failures / case.name)
            (failures / f"{case.name}.txt").write_text(f"{verdict.kind}: {verdict.message}\n", "utf-8")
    return summaries


def verdicts(
    cases: Sequence[Item], workers: int, seconds: float, gigabytes: float, second_path: bool = False
) -> Iterator[tuple[Item, Verdict]]:
    """(case, verdict), as they come."""
    todo = iter(cases)
    readers = tuple(dict.fromkeys(case.reader for case in cases if isinstance(case, Case)))
    pool: list[_Worker[Item]] = []
    try:
        for case in itertools.islice(todo, max(1, workers)):
            pool.append(_Worker(readers, gigabytes, second_path))
            pool[-1].give(case, seconds)
        while busy := [worker for worker in pool if worker.case is not None]:
            wait([worker.connection for worker in busy], timeout=0.5)
            for worker in busy:
                if (verdict := worker.verdict()) is not None:
                    case, worker.case = worker.case, None
                    assert case is not None
                    yield case, verdict
                    if (following := next(todo, None)) is not None:
                        worker.give(following, seconds)
    finally:
        for worker in pool:
            worker.stop()


class _Worker(Generic[Item]):
    """A process for each code path, which check one file after the other; started anew after a crash or a hang."""

    def __init__(self, readers: Sequence[str], gigabytes: float, second_path: bool = False) -> None:
        self.case: Item | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._seconds = 0.0
        self._first: Verdict | None = None
        environments: list[dict[str, str]] = [{}, SECOND_PATH] if second_path else [{}]
        folder = Path(self._folder.name)
        self._processes = [_Process(tuple(readers), folder, gigabytes, e) for e in environments]
        self._at = self._processes[0]

    @property
    def connection(self) -> Connection:
        return self._at.connection

    @property
    def process(self) -> BaseProcess:
        return self._at.process

    def give(self, case: Item, seconds: float) -> None:
        self.case, self._first, self._seconds, self._at = case, None, seconds, self._processes[0]
        self._at.give(case, None, seconds)

    def verdict(self) -> Verdict | None:
        """The verdict of the case, if there is one."""
        verdict = self._at.verdict()
        if verdict is None:
            return None
        if self._first is None and verdict.digest and len(self._processes) > 1:
            assert self.case is not None
            self._first, self._at = verdict, self._processes[1]
            self._at.give(self.case, verdict.digest, self._seconds)
            return None
        if self._first is None:
            return verdict
        if verdict.good and verdict.kind != "equal":
            verdict = Verdict(
                "differs", f"equal on one code path, {verdict.kind} on another: {verdict.message}"
            )
        return replace(verdict, cost=self._first.cost)

    def stop(self) -> None:
        for process in self._processes:
            process.stop()
        self._folder.cleanup()


class _Process:
    """Checks one file after the other.  `environment` of its own decides which code it runs."""

    def __init__(
        self, readers: tuple[str, ...], folder: Path, gigabytes: float, environment: dict[str, str]
    ) -> None:
        self._start_with = readers, folder, gigabytes
        self._environment = environment
        self._deadline = 0.0
        self.connection: Connection
        self.process: BaseProcess
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, *self._start_with), daemon=True)
        before = dict(os.environ)
        os.environ.update(self._environment)
        try:
            self.process.start()
        finally:
            for name in self._environment.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
        other.close()
        message = self.connection.recv() if self.connection.poll(START_SECONDS) else "no answer"
        if message is not None:
            self.stop()
            raise RuntimeError(f"a model without changes does not pass: {message}")

    def give(self, case: Case | Path, expected: str | None, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):  # it has crashed already: see `verdict`
            self.connection.send((case, expected))

    def verdict(self) -> Verdict | None:
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll():
                found: Verdict = self.connection.recv()
                return found
            if self.process.is_alive() and time.monotonic() < self._deadline:
                return None
        self.process.join(0.2)  # an end of file may come before the end of the process
        crashed = not self.process.is_alive()
        verdict = Verdict("crash", f"exit code {self.process.exitcode}") if crashed else Verdict("hang")
        self.stop()
        self._start()
        return verdict

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _work(connection: Connection, readers: Sequence[str], folder: Path, gigabytes: float) -> None:
    """The process: says None when the models without changes pass, then a verdict for each case."""
    _limit_memory(gigabytes)
    connection.send(_unchanged(readers, folder))
    while True:
        try:
            case, expected = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        if isinstance(case, Path):
            path = case
        elif expected is None:
            path = written(case.files(), folder / "m")
        else:  # the first code path left it there
            path = folder / f"m{SUFFIXES[case.reader]}"
        connection.send(check(path, expected))


def _unchanged(readers: Sequence[str], folder: Path) -> str | None:
    for reader in readers:
        for name, files in bases(reader).items():
            verdict = check(written(files, folder / "unchanged"))
            if verdict.kind != "equal":
                return f"{reader} {name}: {verdict.kind} {verdict.message}"
    return None


def _limit_memory(gigabytes: float) -> None:
    with contextlib.suppress(ImportError):  # not POSIX
        import resource

        size = int(gigabytes * (1 << 30))
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
