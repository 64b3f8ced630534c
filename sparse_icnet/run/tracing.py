"""When each thread did what in an inference: recorded by a loop of its own, so that the usual one costs what it did.

`Recorder` runs an inference by `sparse_icnet.run.traced_loop`, on threads of its own but in the memory of the session;
a `Recording` is what it wrote down.  Everything that tells times of steps comes from here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators import kernel_name
from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import written
from sparse_icnet.plan.program import Step
from sparse_icnet.run import control as c
from sparse_icnet.run.code_files import Entry
from sparse_icnet.run.crew import Crew
from sparse_icnet.run.machine_code import function_of, run_function
from sparse_icnet.run.trace_record import DESK_BYTES, ROW, TraceParams

RUN_TRACED = Entry("run.traced_loop", "run_traced", sources=("run/traced_loop.py", "run/trace_record.py"))


def tick() -> float:
    """Seconds of a tick of `sparse_icnet.simd.tracing.clock`."""
    if os.name != "nt":
        return 1e-9
    import ctypes

    rate = ctypes.c_int64()
    ctypes.windll.kernel32.QueryPerformanceFrequency(ctypes.byref(rate))  # type: ignore[attr-defined]
    return 1 / rate.value


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One inference.  Times are seconds from its first moment.

    steps     that it ran
    visits    float64 (steps, threads, 3): when a thread arrived at a step, finished its last task there, left for the next;
              NaN of a thread that came when the step was over, or not at all
    taken     int64 (steps, threads): tasks that a thread ran
    tasks     float64 (n, 5), sorted by begin: thread, step, task, begin, end of every task; (0, 5) unless asked for
    """

    steps: tuple[Step, ...]
    visits: NDArray[np.float64]
    taken: NDArray[np.int64]
    tasks: NDArray[np.float64]

    def ends(self) -> NDArray[np.float64]:
        """(steps,): when the last task of each step was complete."""
        finished = np.where(self.taken > 0, self.visits[..., 1], -np.inf)
        ends: NDArray[np.float64] = finished.max(axis=1)
        return ends

    def seconds(self) -> NDArray[np.float64]:
        """(steps,): from the end of the step before to the end of each; their sum is the time of the inference."""
        return np.diff(self.ends(), prepend=0.0)

    def busy(self) -> NDArray[np.float64]:
        """(steps,): seconds that threads worked, all of them together."""
        worked = np.where(self.taken > 0, self.visits[..., 1] - self.visits[..., 0], 0.0)
        busy: NDArray[np.float64] = worked.sum(axis=1)
        return busy


@dataclass(frozen=True, slots=True)
class StepTime:
    """One row of a profile.

    seconds      median of the runs; low, high: their quartiles
    waiting      median share of the threads' time in which they had nothing to do
    macs         products executed; dense_macs: those of all weights
    """

    name: str
    kind: str
    kernel: str
    seconds: float
    low: float
    high: float
    waiting: float
    macs: int
    dense_macs: int
    block_density: float


def step_times(recordings: Sequence[Recording]) -> list[StepTime]:
    """The profile of inferences that ran the same steps."""
    seconds = np.array([one.seconds() for one in recordings])
    threads = recordings[0].taken.shape[1]
    idle = 1 - np.array([one.busy() for one in recordings]) / (threads * np.maximum(seconds, 1e-12))
    waiting = np.median(np.clip(idle, 0.0, 1.0), axis=0)
    low, median, high = np.percentile(seconds, (25, 50, 75), axis=0)
    return [
        StepTime(
            step.name,
            kernel_name(step.kind),
            step.kernel,
            float(median[i]),
            float(low[i]),
            float(high[i]),
            float(waiting[i]),
            sum(report.macs for report in step.reports),
            sum(report.dense_macs for report in step.reports),
            step.reports[-1].block_density if step.reports else 0.0,
        )
        for i, step in enumerate(recordings[0].steps)
    ]


class Recorder:
    """Runs inferences of a session and records them; calls take turns with all others of the session.

    crew     that of the session
    threads  that take part; steps: of the longest program; scratch: memory of all threads, (threads, bytes)
    """

    def __init__(self, crew: Crew, threads: int, steps: int, scratch: NDArray[np.uint8]) -> None:
        self.threads = threads
        self._session_crew = crew
        self._run = run_function().address  # type: ignore[attr-defined]
        self._crew = Crew(function_of(RUN_TRACED), threads, steps, scratch)
        memory = np.zeros(threads * DESK_BYTES + LINE, np.uint8)
        start = -memory.ctypes.data % LINE
        self._desks = memory[start : start + threads * DESK_BYTES].reshape(threads, DESK_BYTES)
        for desk, own_scratch in zip(self._desks, scratch, strict=True):
            words = desk[:ROW].view(np.int64)
            # An inference of one step that is open for one helper, whose number 1 leads to the scratch memory.
            words[c.STATE], words[c.THREADS] = 1, 2
            words[c.STEPS], words[c.FIRST], words[c.LAST] = desk[ROW:].ctypes.data, 0, 1
            words[c.SCRATCH], words[c.SCRATCH_BYTES] = own_scratch.ctypes.data, 0

    def record(self, steps: Sequence[Step], rows: NDArray[np.void], each_task: bool) -> Recording:
        """Run the `rows` of `steps`, whose records the caller holds.

        each_task  record every task, which takes some 0.15 us of each; else what each thread did in each step
        """
        count = sum(step.tasks for step in steps) if each_task else 0
        visits = np.zeros((len(steps), self.threads, 4), np.int64)
        events = np.zeros((self.threads, 1 + 4 * count), np.int64)
        params = TraceParams(
            rows=rows.ctypes.data,
            run=self._run,
            turn=self._session_crew.turn,
            desks=self._desks.ctypes.data,
            visits=visits.ctypes.data,
            events=events.ctypes.data,
            event_bytes=events.strides[0],
            each_task=each_task,
        )
        record = written(params, lambda array: array.ctypes.data)
        self._crew.run(record.ctypes.data, 0, len(steps))
        return _recording(tuple(steps), visits, events)


def _recording(steps: tuple[Step, ...], visits: NDArray[np.int64], events: NDArray[np.int64]) -> Recording:
    first = visits[0, :, 0]
    # The first moment: of the caller, or of a helper that saw the inference open before the caller went on.
    begin, seconds = (
        first[first > 0].min(),
        tick(),
    )
    taken = visits[..., 3]
    done = np.where(taken > 0, visits[..., 1], 0).max(axis=1)
    times = (visits[..., :3] - begin) * seconds
    absent = (visits[..., 0] == 0) | ((taken == 0) & (visits[..., 0] >= done[:, None]))
    times[absent] = np.nan
    rows = []
    for thread, own in enumerate(events):
        these = own[1 : 1 + 4 * own[0]].reshape(-1, 4)
        spans = (these[:, 2:] - begin) * seconds
        rows.append(np.concatenate([np.full((len(these), 1), thread), these[:, :2], spans], axis=1))
    tasks = np.concatenate(rows).astype(np.float64)
    return Recording(steps, times, taken, tasks[np.argsort(tasks[:, 3], kind="stable")])
