"""Compile several entries at once: in this process and, where it may use further CPUs, in extra processes.

This process takes entries from the front of the list, extra processes from its end, until none is left: neighbours share
what they call, and Numba infers the types of that once in each process.  An extra process only helps: whatever is wrong
with it (it cannot be started, it dies, it hangs, it would compile for another CPU or from other sources), this process
compiles what it did not bring.

An extra process is another Python, not a fork: the threads of this one hold locks.  It imports this package from the same
places, runs nothing of the user's, and hands over what it compiled through its pipe.  It ends when the other end of its
standard input is closed, so also when this process is killed; Ctrl-C of a terminal reaches this process alone.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from sparse_icnet.processes import default_threads
from sparse_icnet.run import compiler
from sparse_icnet.run.code_files import Entry, key

MOST = 3  # extra processes: from the fourth process on the longest kernel decides
# Seconds that this process waits for the last object of an extra process, at least: else as long as it has compiled itself.
PATIENCE = 5.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline());"
    "from sparse_icnet.run.compiling import serve; serve()"
)
# Of the garbage collector meanwhile: Numba allocates much and leaves few cycles, the search for which would take a sixth of
# the time.
_COLLECTIONS = (100_000, 50, 1000)
_DIGEST = hashlib.sha256().digest_size
_log = logging.getLogger("sparse_icnet")


def compile_all(entries: Sequence[Entry], take: Callable[[Entry, bytes], None]) -> None:
    """Compile the entries; `take` gets each with its machine code as soon as that is there, from any thread."""
    left, done = deque(entries), set[Entry]()

    def made(entry: Entry, code: bytes) -> None:
        take(entry, code)
        done.add(entry)

    extras: list[_Extra] = []
    with _few_collections():
        try:
            for _ in range(_extra_processes(len(entries))):
                extras.append(_Extra(left, made))
            start = time.monotonic()
            while left:
                try:
                    entry = left.popleft()
                except IndexError:  # an extra process was faster
                    break
                made(entry, compiler.compiled(entry))
            until = time.monotonic() + max(PATIENCE, time.monotonic() - start)
            for extra in extras:
                extra.wait(until - time.monotonic())
        finally:
            for extra in extras:
                extra.end()
        for entry in entries:
            if entry not in done:
                made(entry, compiler.compiled(entry))


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    usual = gc.get_threshold()
    if usual[0]:  # 0: there are none
        gc.set_threshold(*_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _extra_processes(entries: int) -> int:
    """How many to start for so many entries."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return 0
    # Inside another program that is its name, and nobody knows what starting it does.
    if not re.fullmatch(
        r"(python|pypy)[\d.]*[dtw]*(\.exe)?", os.path.basename(sys.executable), re.IGNORECASE
    ):
        return 0
    return max(0, min(default_threads() - 1, MOST, entries - 1))


class _Extra:
    """An extra process, and the thread of this one that gives it entries and takes what it made of them."""

    def __init__(self, left: deque[Entry], made: Callable[[Entry, bytes], None]) -> None:
        self._left, self._made = left, made
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._give, daemon=True)
        flags = ["-I", *(["-B"] if sys.dont_write_bytecode else [])]
        if sys.pycache_prefix is not None:
            flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
        own: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            own = {"creationflags": 0x08000200}  # no window; a group of its own, which Ctrl-C does not reach
        try:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                **own,
            )
            self._thread.start()
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            _log.info("no extra process compiles: %s", error)
            self.end()

    def wait(self, seconds: float) -> None:
        """Until it has nothing left to do, or so long."""
        if self._thread.is_alive():
            self._thread.join(max(seconds, 0.0))

    def end(self) -> None:
        """End it, whatever it does."""
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()

    def _give(self) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        if hasattr(signal, "pthread_sigmask"):
            # A program may have set SIGPIPE to end it: an extra process that dies would, when this writes to it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        entry = None
        try:
            with process.stdin as to, process.stdout as back:
                _send(to, _places())
                while True:
                    try:
                        entry = self._left.pop()
                    except IndexError:
                        return
                    _send(to, [*astuple(entry), key(entry)])
                    self._made(entry, _received(back))
        except Exception as error:
            # It died, or was ended; this process compiles the entry.
            _log.debug("an extra process did not compile %s: %s", entry, error)
            if entry is not None:
                self._left.append(entry)


def _places() -> list[str]:
    """Where an extra process imports from: where this one does, this package from where it came from.

    Nothing that depends on the current folder, which may be another one by now: what lies there is not this program's.
    """
    places = [one for one in sys.path if isinstance(one, str) and os.path.isabs(one)]
    own = str(Path(__file__).parents[2])
    return places if own in places else [own, *places]


def _send(to: IO[bytes], value: Any) -> None:
    to.write(json.dumps(value).encode() + b"\n")
    to.flush()


def _received(back: IO[bytes]) -> bytes:
    """One object: its digest, its size, its bytes.  Raises ValueError for anything else."""
    head = back.read(_DIGEST + 8)
    code = back.read(int.from_bytes(head[_DIGEST:], "little"))
    if not code or hashlib.sha256(code).digest() != head[:_DIGEST]:
        raise ValueError("it sent no object")
    return code


def serve() -> None:
    """What an extra process does: compile what it is told, one line of JSON each, until its input ends."""
    back = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what Numba may be asked to print
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory is short, this process goes first
    gc.disable()
    told: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    while True:
        module, function, record, sources, wanted = json.loads(told.get())
        entry = Entry(module, function, record, tuple(sources))
        if key(entry) != wanted:
            os._exit(1)  # another CPU, other settings or sources than those of who asks
        code = compiler.compiled(entry)
        back.write(hashlib.sha256(code).digest() + len(code).to_bytes(8, "little") + code)
        back.flush()


def _listen(told: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        told.put(line)
    os._exit(0)
