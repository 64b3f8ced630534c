"""One inference as trace events: what Perfetto (https://ui.perfetto.dev) and chrome://tracing show.

The file is JSON in the Trace Event Format: every event is complete ("ph": "X") with its begin `ts` and duration `dur` in
microseconds, to the nanosecond.  The first track holds the steps of the inference, from the end of the step before to the
end of their last task, without a gap.  Each thread has a track: a slice for each step that it took part in, in it the tasks
that it ran and, at the end, "wait" until the others were done.  Arguments are the function and the kernel, products, bytes.

Times are read from the system's monotonic clock (`sparse_icnet.simd.tracing`), before and after each task; that and the
call in between take some 0.15 us a task, which the slices of steps contain and those of tasks hardly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_icnet.bundled import short_name
from sparse_icnet.files import replacing
from sparse_icnet.operators import kernel_name
from sparse_icnet.plan.program import Step
from sparse_icnet.run.tracing import Recording
from sparse_icnet.study.measure import storage_bytes

if TYPE_CHECKING:
    from sparse_icnet.image import ImageLike
    from sparse_icnet.model import Model


def trace(
    net: Model, image: ImageLike, file: str | os.PathLike[str] | None = None, smooth: bool = True
) -> Recording:
    """Record image -> class map of one picture after one unrecorded run, and write it as trace events into `file`.

    image   whatever `Model.segment` takes, one of them
    file    JSON, written whole or not at all; None: nothing is written
    smooth  as for `Model.segment`

    Raises OSError where the file cannot be written, ValueError for what is no picture.
    """
    from sparse_icnet.image import fitted

    pixels, size = fitted(image, net.size)
    wanted = size if smooth else None
    net.session.record(pixels, wanted)
    recording = net.session.record(pixels, wanted, each_task=True)
    if file is not None:
        (height, width), threads = net.size, f"threads: {net.session.threads}"
        write(
            recording,
            Path(file),
            f"sparse-icnet, {short_name(net.path, net.graph.meta.name)} at {height}x{width}, {threads}",
        )
    return recording


def write(recording: Recording, path: Path, title: str) -> None:
    """The trace events of `recording` into a file, whole or not at all; `title` names the process in the picture."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(trace_events(recording, title), file, separators=(",", ":"), allow_nan=False)
        file.write("\n")


def trace_events(recording: Recording, title: str) -> dict[str, Any]:
    """The object that the file holds."""
    return {
        "traceEvents": [*_names(recording, title), *_steps(recording), *_threads(recording)],
        "displayTimeUnit": "ns",
        "otherData": {
            "clock": "monotonic, to the nanosecond",
            "seconds": float(recording.seconds().sum()),
            "steps": len(recording.steps),
            "tasks": len(recording.tasks),
        },
    }


# Viewers take thread 0 for the idle one.
_PROCESS, _STEPS = 1, 1


def _names(recording: Recording, title: str) -> Iterator[dict[str, Any]]:
    threads = recording.taken.shape[1]
    names = ["steps", *(f"thread {number}" for number in range(threads))]
    yield {"ph": "M", "name": "process_name", "pid": _PROCESS, "tid": _STEPS, "args": {"name": title}}
    for track, name in enumerate(names, _STEPS):
        place = {"ph": "M", "pid": _PROCESS, "tid": track}
        yield {**place, "name": "thread_name", "args": {"name": name}}
        yield {**place, "name": "thread_sort_index", "args": {"sort_index": track}}


def _slice(
    name: str, category: str, track: int, begin: float, end: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    """An event from `begin` to `end`, seconds."""
    first, last = round(1e9 * begin), round(1e9 * end)
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "pid": _PROCESS,
        "tid": track,
        "ts": first / 1000,
        "dur": (last - first) / 1000,
        "args": arguments,
    }


def _arguments(step: Step) -> dict[str, Any]:
    storages = {*step.reads, *step.writes}
    return {
        "function": kernel_name(step.kind),
        "kernel": step.kernel,
        "products": sum(report.macs for report in step.reports),
        "products_with_zeros": sum(report.dense_macs for report in step.reports),
        "bytes": sum(map(storage_bytes, storages)) + sum(report.weight_bytes for report in step.reports),
        "tasks": step.tasks,
    }


def _steps(recording: Recording) -> Iterator[dict[str, Any]]:
    ends = recording.ends()
    begins = np.concatenate([[0.0], ends[:-1]])
    for number, step in enumerate(recording.steps):
        arguments = {"step": number, **_arguments(step)}
        yield _slice(step.name, "step", _STEPS, float(begins[number]), float(ends[number]), arguments)


def _threads(recording: Recording) -> Iterator[dict[str, Any]]:
    for number, step in enumerate(recording.steps):
        for thread in range(recording.taken.shape[1]):
            arrived, finished, left = map(float, recording.visits[number, thread])
            if np.isnan(arrived):
                continue
            ran = {"step": number, "ran": int(recording.taken[number, thread])}
            yield _slice(step.name, "thread", _STEPS + 1 + thread, arrived, left, ran)
            yield _slice("wait", "wait", _STEPS + 1 + thread, finished, left, {"step": number})
    arguments = [_arguments(step) for step in recording.steps]
    for thread, number, task, begin, end in recording.tasks:
        of = arguments[int(number)]
        share = {
            "function": of["function"],
            "kernel": of["kernel"],
            "step": int(number),
            "task": int(task),
            # Of an average task: the last ones of a layer may be smaller.
            "products": round(of["products"] / of["tasks"]),
            "bytes": round(of["bytes"] / of["tasks"]),
        }
        name = f"{recording.steps[int(number)].name} {int(task)}"
        yield _slice(name, "task", _STEPS + 1 + int(thread), float(begin), float(end), share)
