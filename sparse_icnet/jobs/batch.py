"""One run over many sources on an executor: tasks out, records in; what `sparse_icnet.batch` and `segment` call."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparse_icnet import files, video
from sparse_icnet.jobs import films, tasks
from sparse_icnet.jobs.manifest import NAME, Manifest
from sparse_icnet.jobs.sources import Source, folders_of
from sparse_icnet.jobs.work import HOPELESS, Options, Record
from sparse_icnet.model import Model
from sparse_icnet.processes import default_threads
from sparse_icnet.run import machine_code

STRETCH = 8 * video.GROUP  # frames of a film that are one task: a minute or two of work
AT_ONCE = 256  # tasks given to an executor whose size is not known
_NAP = 0.5  # seconds
_MOST_BREAKS = 3  # processes that may die of one task

OnRecords = Callable[[Source, list[Record]], None]


@dataclass(slots=True)
class Summary:
    """What came of a batch.

    sources   how many there were
    pictures  segmented, frames of animations included
    frames    of films segmented
    skipped   pictures and films whose results were there
    lost      frames of films that could not be decoded
    failures  (source, what went wrong) of each that is of no use
    """

    sources: int = 0
    pictures: int = 0
    frames: int = 0
    skipped: int = 0
    lost: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Sources without a failure."""
        return self.sources - len({source for source, _ in self.failures})

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.error:
                self.failures.append((record.source, record.error))
            elif record.skipped:
                self.skipped += 1
            elif record.frames is not None:
                self.frames += record.frames - (record.unreadable or 0)
                self.lost += record.unreadable or 0
            else:
                self.pictures += 1


def shard_of(found: Sequence[Source], shard: tuple[int, int] | None) -> list[Source]:
    """The i-th of n parts, each n-th source from the i-th on, counted from 1.  Raises ValueError for no such part."""
    if shard is None:
        return list(found)
    part, parts = shard
    if not 1 <= part <= parts:
        raise ValueError(f"shard: expected (i, n) with 1 <= i <= n, found ({part}, {parts})")
    return list(found[part - 1 :: parts])


def manifest_name(shard: tuple[int, int] | None) -> str:
    """manifest.jsonl, of a part manifest-I-of-N.jsonl."""
    return NAME if shard is None else f"manifest-{shard[0]}-of-{shard[1]}.jsonl"


@dataclass(slots=True, eq=False)
class _Film:
    """A film that is done in stretches.

    folder  of its parts
    left    stretches that are not done
    """

    job: films.Job
    folder: Path
    left: int
    tally: films.Tally = field(default_factory=films.Tally)
    parts: dict[int, dict[str, Path]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Task:
    """`function(call, *arguments)`: a source, or for the film `film` the stretch from `first` on.

    breaks  processes that died while it ran
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    source: Source
    film: _Film | None = None
    first: int | None = None
    breaks: int = 0


class Batch:
    """One run over many sources: gives tasks to an executor and takes down what comes back."""

    def __init__(
        self,
        model: Model,
        options: Options,
        manifest: Manifest,
        on_records: OnRecords | None = None,
        stretch: int = STRETCH,
        tick: Callable[[int, int], None] | None = None,
    ) -> None:
        """Prepare a run.

        stretch  frames of a film that are one task
        tick     called with (frames done, frames of the film) when a stretch is done
        """
        self._model, self._options, self._manifest = model, options, manifest
        self._on_records = on_records or (lambda source, records: None)
        self._tick = tick or (lambda done, total: None)
        rounded = max(1, -(-stretch // video.GROUP)) * video.GROUP
        self._call = tasks.Call(pickle.dumps(model), options, rounded, "", secrets.token_hex(8), tasks.here())
        self._coming: Iterator[Source] = iter(())
        self._next: deque[_Task] = deque()  # before those of `_coming`
        self._running: dict[Future[Any], _Task] = {}
        self._alone: deque[_Task] = deque()  # may have broken a pool: run one at a time
        self._open: list[_Film] = []
        self._summary = Summary()
        self._broken = False

    def run(
        self,
        found: Sequence[Source],
        executor: Executor | None = None,
        workers: int | None = None,
        at_once: int = AT_ONCE,
    ) -> Summary:
        """Segment the sources; the arguments are those of `sparse_icnet.batch.segment_files`."""
        with tasks.ending_in_order() if executor is None else nullcontext():
            return self._run(found, executor, workers, at_once)

    def _run(
        self, found: Sequence[Source], executor: Executor | None, workers: int | None, at_once: int
    ) -> Summary:
        self._summary.sources = len(found)
        try:
            if executor is None:
                self._coming = iter(found)
                self._run_here(
                    min(workers or max(1, default_threads() // (self._model.threads or 1)), len(found) or 1)
                )
            else:
                # Workers elsewhere have another current folder.
                self._call = replace(
                    self._call, options=replace(self._options, output=self._options.output.absolute())
                )
                self._coming = (Source(os.path.abspath(one.path), one.name) for one in found)
                try:
                    self._run_on(executor, at_once)
                finally:
                    for future in self._running:
                        future.cancel()
        finally:
            for film in self._open:
                shutil.rmtree(film.folder, ignore_errors=True)
            if self._broken or executor is not None:
                for folder in folders_of(found, self._options.output):
                    files.remove_temporary(folder, self._call.tag)
        return self._summary

    def _run_here(self, workers: int) -> None:
        """By a pool of processes; by a new one where one has died."""
        if not machine_code.is_cached():
            machine_code.warm_up()
        context = multiprocessing.get_context("spawn")
        stop = context.RawValue("b", 0)
        while True:
            pool = ProcessPoolExecutor(workers, context, tasks.start, (stop,))
            try:
                self._run_on(pool, 2 * workers)
                return
            except BrokenExecutor:
                self._sort_out()
            except BaseException:
                stop.value = 1
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def _sort_out(self) -> None:
        """Of the tasks that a pool had when it broke, each may be the reason: they run again, one at a time."""
        self._broken = True
        for task in self._running.values():
            task.breaks += 1
            if task.breaks < _MOST_BREAKS:
                self._alone.append(task)
            else:
                message = f"{task.source.path}: {_MOST_BREAKS} worker processes died of it"
                self._close(task, [Record(task.source.path, task.source.name, error=message)])
        self._running.clear()

    def _run_on(self, executor: Executor, at_once: int) -> None:
        """All tasks.  Raises BrokenExecutor when all that were finished are taken down."""
        while self._fill(executor, at_once):
            # The system may give Ctrl-C to any thread; the main thread sees it when it wakes.
            finished, _ = wait(self._running, _NAP, FIRST_COMPLETED)
            broken: BrokenExecutor | None = None
            for future in finished:
                if future.cancelled():  # not by us: a scheduler that went away
                    broken = BrokenExecutor(f"the executor gave up {self._running[future].source.path}")
                elif isinstance(error := future.exception(), BrokenExecutor):
                    broken = error
                else:
                    self._take(self._running.pop(future), future)
            if broken is not None:
                raise broken

    def _fill(self, executor: Executor, at_once: int) -> bool:
        """Submit what there is room for; whether anything runs."""
        while len(self._running) < (1 if self._alone or self._is_alone() else at_once):
            if self._alone:
                task = self._alone.popleft()
            elif self._next:
                task = self._next.popleft()
            elif (source := next(self._coming, None)) is not None:
                task = _Task(tasks.segment, (source, self._manifest.known(source.name)), source)
            else:
                break
            if task.film is not None and task.film not in self._open:
                continue  # the film has failed
            call = replace(self._call, token=secrets.token_hex(8))
            try:
                with tasks.starting():
                    future = executor.submit(task.function, call, *task.arguments)
            except BrokenExecutor:
                (self._alone if task.breaks else self._next).appendleft(task)
                raise
            self._running[future] = task
        return bool(self._running)

    def _is_alone(self) -> bool:
        return any(task.breaks for task in self._running.values())

    def _take(self, task: _Task, future: Future[Any]) -> None:
        """Take down the result of a task, and what it gives to do."""
        try:
            result = future.result()
        except OSError as error:
            if error.errno in HOPELESS:
                raise
            result = _failure(task.source, error)
        except Exception as error:  # of a scheduler that gave up, or of a program at fault: the others go on
            result = _failure(task.source, error)
        film = task.film
        if isinstance(result, films.Job):
            self._split(task.source, result)
        elif isinstance(result, films.Tally) and film is not None and task.first is not None:
            film.left -= 1
            film.tally.add(result)
            self._tick(film.tally.frames, film.job.film.frames)
            if not result.frames:
                del film.parts[task.first]
            if not film.left:
                parts = {
                    kind: [film.parts[first][kind] for first in sorted(film.parts)]
                    for kind in film.job.films()
                }
                self._next.append(_Task(tasks.finish, (film.job, film.tally, parts), task.source, film))
        else:
            self._close(task, [result] if isinstance(result, Record) else result)

    def _split(self, source: Source, job: films.Job) -> None:
        """Tasks for the stretches of a film."""
        folder = files.temporary_folder(job.options.output, "film")
        firsts = range(0, job.film.frames, self._call.stretch)
        film = _Film(job, folder, len(firsts))
        self._open.append(film)
        for first in firsts:
            film.parts[first] = {kind: folder / f"{first}.{kind}.nut" for kind in job.films()}
            last = min(first + self._call.stretch, job.film.frames)
            arguments = (job, first, last, film.parts[first])
            self._next.append(_Task(tasks.segment_stretch, arguments, source, film, first))

    def _close(self, task: _Task, records: list[Record]) -> None:
        """A source is done, or of no use."""
        if task.film is not None:
            if task.film not in self._open:
                return  # it had failed before
            self._open.remove(task.film)
            shutil.rmtree(task.film.folder, ignore_errors=True)
        for line in filter(None, (record.line() for record in records)):
            self._manifest.append(line)
        self._summary.add(records)
        self._on_records(task.source, records)


def _failure(source: Source, error: Exception) -> Record:
    message = " ".join(str(error).split()) or "no reason given"
    return Record(source.path, source.name, error=f"{source.path}: {type(error).__name__}: {message}")
