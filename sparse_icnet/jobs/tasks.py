"""What a worker process calls: a source, a stretch of a film, the end of a film.  Arguments and results pickle.

A task leaves nothing behind but files that are whole, so it may run again wherever one was lost with its process.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparse_icnet import files, freed_memory
from sparse_icnet.files import replacing
from sparse_icnet.image import ImageError
from sparse_icnet.jobs import films
from sparse_icnet.jobs.overlap import StoppedError
from sparse_icnet.jobs.sources import Source
from sparse_icnet.jobs.work import Knowledge, Options, Record, segment_source
from sparse_icnet.model import Model
from sparse_icnet.processes import Once

_models: dict[bytes, Once[Model]] = {}
_stop: Any = None  # a ctypes bool in memory that is shared with the process that started this one


@contextmanager
def starting() -> Iterator[None]:
    """Around what may start processes of one's own pool: Ctrl-C waits, in them until `start`.

    A process begins with the signals held that were so where it was started.  While it imports its modules nothing in
    it could answer but the interpreter, by a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _TerminatedError(BaseException):
    """SIGTERM has come."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within, a SIGTERM that would end this process at once ends what it has begun first, as Ctrl-C does.

    Worker processes finish their picture, and what the system keeps for a pool is given back: else Python complains, when
    all is over, of semaphores that were lost.  Then the process dies of the signal.
    """
    mine = os.name == "posix" and threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the next one is obeyed at once
        raise _TerminatedError

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _TerminatedError as error:
        # A pool that was being made is held by the frames that made it alone.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def start(stop: Any) -> None:
    """Prepare a process of one's own pool.

    stop  shared memory, not 0 when no more results are wanted

    It ends with the process that started it, and leaves Ctrl-C, which reaches all processes of a terminal, to that one.
    """
    global _stop
    _stop = stop
    freed_memory.keep()
    warnings.filterwarnings("ignore", module=r"PIL\b")  # of damage that Pillow can live with
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # `starting` has held it up to here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _tick(done: int, total: int) -> None:
    if _stop is not None and _stop.value:
        raise StoppedError


def model_of(pickled: bytes) -> Model:
    """The model, made once in each process."""
    if pickled not in _models:
        _models.setdefault(pickled, Once(partial(pickle.loads, pickled)))
    return _models[pickled].get()


@dataclass(frozen=True, slots=True)
class Call:
    """What all tasks of a batch have in common.

    model    pickled
    stretch  frames of a film that are one task, a multiple of `video.GROUP`
    token    differs between calls, for schedulers that take equal tasks for one
    tag      of temporary files
    home     process number and host of the caller
    """

    model: bytes
    options: Options
    stretch: int
    token: str
    tag: str
    home: tuple[int, str]

    def begun(self) -> Model:
        """The model; from here on temporary files of this process can be told from others."""
        if self.home != here():
            files.tag(self.tag)
        _tick(0, 0)
        return model_of(self.model)


def here() -> tuple[int, str]:
    """Number and host of this process."""
    return os.getpid(), socket.gethostname()


def segment(call: Call, source: Source, known: Knowledge | None) -> list[Record] | films.Job:
    """A source, as `work.segment_source`; of a film that is longer than `call.stretch` only what there is to do."""
    model = call.begun()
    if not source.is_film:
        return list(segment_source(model, source, call.options, known))
    job = films.begin(model, source, call.options, known)
    if isinstance(job, Record):
        return [job]
    if job.film.times is not None and job.film.frames > call.stretch:
        return job
    return [films.segment(model, job, _tick)]


def segment_stretch(
    call: Call, job: films.Job, first: int, last: int, parts: Mapping[str, Path]
) -> films.Tally | Record:
    """Frames [first, last) of a film; a record where it is of no use."""
    try:
        with ExitStack() as stack:
            temporaries = {kind: stack.enter_context(replacing(path)) for kind, path in parts.items()}
            tally = films.segment_stretch(call.begun(), job, first, last, temporaries, _tick)
            if not tally.frames:
                for temporary in temporaries.values():
                    temporary.touch()
            return tally
    except (ImageError, OSError, MemoryError) as error:
        return films.failed(job.source, error, job.digest)


def finish(
    call: Call, job: films.Job, tally: films.Tally, parts: Mapping[str, Sequence[Path]]
) -> list[Record]:
    """Join the parts of a film."""
    return [films.finish(call.begun(), job, tally, parts)]
