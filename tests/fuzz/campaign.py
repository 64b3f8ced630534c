"""Many files in processes of their own: limits on memory, a clock for each file, faults kept."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from . import mutate_ir, mutate_npz, mutate_onnx
from .bases import READERS, bases, saved, written
from .check import Verdict, check
from .random_graph import random_graph
from .values import Files, pick

MUTATE = {"npz": mutate_npz.mutate, "ir": mutate_ir.mutate, "onnx": mutate_onnx.mutate}
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

    def add(self, case: Case, verdict: Verdict) -> None:
        self.counts[verdict.kind] += 1
        if verdict.kind == "refused":
            self.reasons[_reason(verdict.message)] += 1
        if not verdict.good:
            self.faults.append((case, verdict))

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())


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
) -> dict[str, Summary]:
    """Check every case; faults are kept in `failures`.  `seconds` is the time of one file."""
    summaries = {reader: Summary() for reader in dict.fromkeys(case.reader for case in cases)}
    for case, verdict in verdicts(cases, workers, seconds, gigabytes):
        summaries[case.reader].add(case, verdict)
        if failures is not None and not verdict.good:
            failures.mkdir(parents=True, exist_ok=True)
            written(case.files(), failures / case.name)
            (failures / f"{case.name}.txt").write_text(f"{verdict.kind}: {verdict.message}\n", "utf-8")
    return summaries


def verdicts(
    cases: Sequence[Item], workers: int, seconds: float, gigabytes: float
) -> Iterator[tuple[Item, Verdict]]:
    """(case, verdict), as they come."""
    todo = list(reversed(cases))
    readers = tuple(dict.fromkeys(case.reader for case in cases if isinstance(case, Case)))
    pool: list[_Worker[Item]] = [_Worker(readers, gigabytes) for _ in range(max(1, min(workers, len(todo))))]
    try:
        while True:
            for worker in pool:
                if worker.case is None and todo:
                    worker.give(todo.pop(), seconds)
            busy = [worker.connection for worker in pool if worker.case is not None]
            if not busy:
                return
            wait(busy, timeout=0.5)
            for worker in pool:
                if worker.case is not None and (verdict := worker.verdict()) is not None:
                    case, worker.case = worker.case, None
                    yield case, verdict
    finally:
        for worker in pool:
            worker.stop()


class _Worker(Generic[Item]):
    """A process that checks one file after the other; started anew after a crash or a hang."""

    def __init__(self, readers: Sequence[str], gigabytes: float) -> None:
        self.readers, self.gigabytes = tuple(readers), gigabytes
        self.case: Item | None = None
        self.deadline = 0.0
        self.connection: Connection
        self.process: BaseProcess
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        arguments = (other, self.readers, self.gigabytes)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        other.close()
        message = self.connection.recv() if self.connection.poll(START_SECONDS) else "no answer"
        if message is not None:
            self.stop()
            raise RuntimeError(f"a model without changes does not pass: {message}")

    def give(self, case: Item, seconds: float) -> None:
        self.case, self.deadline = case, time.monotonic() + seconds
        self.connection.send(case)

    def verdict(self) -> Verdict | None:
        """The verdict of the case, if there is one."""
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll():
                found: Verdict = self.connection.recv()
                return found
            if self.process.is_alive() and time.monotonic() < self.deadline:
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


def _work(connection: Connection, readers: Sequence[str], gigabytes: float) -> None:
    """The process: says None when the models without changes pass, then a verdict for each case."""
    _limit_memory(gigabytes)
    with tempfile.TemporaryDirectory() as folder:
        connection.send(_unchanged(readers, Path(folder)))
        while True:
            try:
                case = connection.recv()
            except (EOFError, OSError, KeyboardInterrupt):
                return
            path = case if isinstance(case, Path) else written(case.files(), Path(folder) / "m")
            connection.send(check(path))


def _unchanged(readers: Sequence[str], folder: Path) -> str | None:
    for reader in readers:
        for name, files in bases(reader).items():
            verdict = check(written(files, folder / "m"))
            if verdict.kind != "equal":
                return f"{reader} {name}: {verdict.kind} {verdict.message}"
    return None


def _limit_memory(gigabytes: float) -> None:
    with contextlib.suppress(ImportError):  # not POSIX
        import resource

        size = int(gigabytes * (1 << 30))
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
