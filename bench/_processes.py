"""The parent's side: start workers, take turns, measure fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# ONNX Runtime's threads spin a while after an inference: whoever comes next must not pay for that.
PAUSE = 0.03


class WorkerError(RuntimeError):
    """A worker answered with an error, or died."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `extra`, and this checkout on the path of Python."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **extra}


class Worker:
    """One engine in a process of its own; see _worker.py for what it can be asked."""

    def __init__(self, engine: str, extra: Mapping[str, str]) -> None:
        self.engine = engine
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "_worker.py"), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(extra),
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the reply.  Raises WorkerError if it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(
                f"{self.engine}: the process ended with code {self._process.wait()} during {do!r}"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.engine}: {reply['error']}")
        return reply

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def alternate(
    workers: Mapping[str, Worker], rounds: int, seconds: float, least: int
) -> dict[str, list[list[float]]]:
    """Milliseconds of every run of every round of every engine: turns A B C, B C A, C A B, ...

    Noise that comes and goes on the machine then hits all engines alike.
    """
    names = list(workers)
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(workers[name].ask("run", seconds=seconds, least=least)["ms"])
            time.sleep(PAUSE)
    return times


def fresh(arguments: Sequence[str], extra: Mapping[str, str]) -> tuple[float, dict[str, Any]]:
    """Seconds from the start of a Python process to the first line it prints; all its lines, merged JSON.

    Raises WorkerError if it fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(extra),
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    seconds = time.perf_counter() - start
    rest, errors = process.communicate()
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise WorkerError(f"{' '.join(arguments[:2])} ended with code {process.returncode}: {last}")
    return seconds, json.loads(first or "{}") | json.loads(rest or "{}")
