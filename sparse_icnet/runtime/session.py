"""Runs a plan on threads: one call of a compiled function for each thread and inference."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.machine_code import run_function
from sparse_icnet.network.graph import Graph, Size
from sparse_icnet.processes import PerProcess
from sparse_icnet.runtime.crew import Crew
from sparse_icnet.runtime.layout import LINE
from sparse_icnet.runtime.plan import plan_for
from sparse_icnet.runtime.smooth import Stretch
from sparse_icnet.runtime.steps import Plan, Step, step_rows

# How often each thread goes back to the counter of a step for tasks, at least: each time costs the threads some 0.1 us,
# and at the end of the step all wait for the last tasks taken.
TURNS = 64


def default_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class StepTime:
    """One row of a profile: median seconds of one step, and the products it executed and would have, dense."""

    name: str
    kind: str
    kernel: str
    seconds: float
    macs: int
    dense_macs: int
    block_density: float


class _End(Enum):
    """What a run of the network ends in."""

    PROBABILITIES = 0
    CLASSES = 1
    SMOOTH_CLASSES = 2
    LOGITS = 3
    LOGITS_AND_CLASSES = 4
    LOGITS_AND_SMOOTH_CLASSES = 5


class Session:
    """A graph, planned once and run many times.  Calls from several Python threads take turns.

    graph         any graph that ends in Softmax (or Argmax); it is optimized here
    threads       CPU threads of one inference, by default all that the process may use
    keep_tensors  make `tensor` possible: every tensor gets memory of its own, which takes more and is slower
    plan          what `plan_for` makes of these, if it is there already; its memory serves this session alone
    """

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        keep_tensors: bool = False,
        plan: Plan | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, found {threads}")
        self.threads = threads or default_threads()
        if plan is None:
            plan = plan_for(graph, self.threads, keep_tensors)
        self.plan: Plan = plan
        self.graph = plan.graph
        self.keep_tensors = keep_tensors
        tails = {
            _End.PROBABILITIES: plan.probabilities_tail,
            _End.CLASSES: plan.classes_tail,
            _End.SMOOTH_CLASSES: plan.smooth_tail,
            _End.LOGITS: plan.logits_tail,
            _End.LOGITS_AND_CLASSES: [*plan.logits_tail, *plan.classes_tail],
            _End.LOGITS_AND_SMOOTH_CLASSES: [*plan.logits_tail, *plan.smooth_tail],
        }
        self._programs: dict[tuple[bool, _End], list[Step]] = {
            (image, end): [plan.image_head if image else plan.blob_head, *plan.body, *tail]
            for image in (False, True)
            for end, tail in tails.items()
        }
        self._tables = {key: _table(steps, self.threads) for key, steps in self._programs.items()}
        scratch_bytes = -(-max(plan.scratch_bytes, 1) // LINE) * LINE
        scratch = plan.arena.take(self.threads * scratch_bytes).reshape(self.threads, scratch_bytes)
        longest = max(map(len, self._tables.values()))
        # A forked process has none of the workers, and maybe an inference half done in its memory.
        self._crew = PerProcess(partial(Crew, run_function(), self.threads, longest, scratch))

    def __repr__(self) -> str:
        kept = ", keep_tensors=True" if self.keep_tensors else ""
        return f"Session({self.plan!r}{kept})"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of a blob."""
        return self.graph.input.shape

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network returns: C classes, or 1 for a class map."""
        return self.graph.shape(self.graph.output)

    @property
    def output_dtype(self) -> np.dtype[np.float32] | np.dtype[np.uint8]:
        """float32 of probabilities, uint8 of a class map."""
        return np.dtype(np.uint8 if self.graph.returns_classes else np.float32)

    def output(
        self, blob: NDArray[np.float32], out: NDArray[np.float32 | np.uint8] | None = None
    ) -> NDArray[np.float32 | np.uint8]:
        """float32 (3, H, W) -> what the network returns, of `output_shape` and `output_dtype`; into `out` if given."""
        if not self.graph.returns_classes:
            return self.probabilities(blob, out)
        if out is None:
            out = np.empty(self.output_shape, np.uint8)
        self._checked(out, np.uint8, self.output_shape)
        out[0] = nearest(self.classes(blob), self.output_shape[1:])
        return out

    def probabilities(
        self, blob: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """float32 (3, H, W) -> float32 (C, H, W), written into `out` if given."""
        blob, out = self._checked(blob, np.float32, self.input_shape), self._checked_out(out)
        self._run(False, _End.PROBABILITIES, blob, out)
        return out

    def classes(self, blob: NDArray[np.float32]) -> NDArray[np.uint8]:
        """float32 (3, H, W) -> uint8 class indices (h, w) of `plan.classes_size`: on the grid of the logits, or what the
        network's own bilinear upsampling makes of it."""
        out = np.empty(self.plan.classes_size, np.uint8)
        self._run(False, _End.CLASSES, self._checked(blob, np.float32, self.input_shape), out)
        return out

    def classes_of_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) of the network's size -> uint8 class indices (h, w), as `classes`."""
        out = np.empty(self.plan.classes_size, np.uint8)
        self._run(True, _End.CLASSES, self._checked_image(image), out)
        return out

    def smooth_classes(self, blob: NDArray[np.float32], size: Size) -> NDArray[np.uint8]:
        """float32 (3, H, W) -> uint8 class of each pixel of a picture of `size` (height, width), equation (Q11).

        The logits are interpolated from their own grid straight to `size`, which may be any: with half-pixel centres, or
        corner on corner where the network itself has a bilinear upsampling that does so.
        """
        return self._smooth(False, self._checked(blob, np.float32, self.input_shape), size)

    def smooth_classes_of_image(self, image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) of the network's size -> the class map of `smooth_classes`."""
        return self._smooth(True, self._checked_image(image), size)

    def logits(self, blob: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (3, H, W) -> float32 (C, h, w): what goes into the softmax or argmax, at its own resolution."""
        return self._logits(False, self._checked(blob, np.float32, self.input_shape))

    def logits_of_image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB uint8 (H, W, 3) of the network's size -> the logits, as `logits`."""
        return self._logits(True, self._checked_image(image))

    def scores_of_image(
        self, image: NDArray[np.uint8], size: Size | None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """`logits_of_image` and, from the same run, `smooth_classes_of_image` of `size`; `classes_of_image` for None."""
        logits = np.empty(self.plan.logits_shape, np.float32)
        classes = np.empty(self.plan.classes_size if size is None else size, np.uint8)
        end = _End.LOGITS_AND_CLASSES if size is None else _End.LOGITS_AND_SMOOTH_CLASSES
        tail = self.plan.classes_tail if size is None else self.plan.smooth_tail
        stretch = None if size is None else self._stretch(size)
        fields = {-1 - len(tail): {f.OUT: logits.ctypes.data}, -1: stretch.fields() if stretch else {}}
        self._run(True, end, self._checked_image(image), classes, fields)
        return logits, classes

    def probabilities_of_image(
        self, image: NDArray[np.uint8], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """RGB uint8 (H, W, 3) of the network's size -> float32 (C, H, W), written into `out` if given."""
        image, out = self._checked_image(image), self._checked_out(out)
        self._run(True, _End.PROBABILITIES, image, out)
        return out

    def tensor(self, name: str) -> NDArray[np.int16]:
        """Codes (C, H, W) of a quantized tensor of `self.graph`, as the last inference left them.

        Raises ValueError for a session without `keep_tensors`: there, tensors share memory.
        """
        if not self.keep_tensors:
            raise ValueError(f"tensor {name!r} is not kept: make the session with keep_tensors=True")
        return self.plan.views[name].read(self.graph.shape(name))

    def tensors(self) -> tuple[str, ...]:
        """Names that `tensor` knows."""
        return tuple(self.plan.views) if self.keep_tensors else ()

    def profile(self, repeats: int = 20) -> list[StepTime]:
        """Median time of every step of image -> smooth class map, run one by one on all threads, on random pixels.

        The map is of the network's own size.
        """
        steps = self._programs[True, _End.SMOOTH_CLASSES]
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*self.input_shape[1:], 3), dtype=np.uint8)
        size = self.input_shape[1:]
        out, stretch = np.empty(size, np.uint8), self._stretch(size)
        seconds = np.empty((len(steps), repeats))
        table = self._bound(True, _End.SMOOTH_CLASSES, image, out, {-1: stretch.fields()})
        for repeat in range(repeats):
            for index in range(len(steps)):
                start = time.perf_counter()
                self._launch(table, index, index + 1)
                seconds[index, repeat] = time.perf_counter() - start
        return [
            StepTime(
                step.name,
                step.kind.name.lower(),
                step.kernel,
                float(np.median(times)),
                step.macs + (step.fused.macs if step.fused else 0),
                step.dense_macs + (step.fused.dense_macs if step.fused else 0),
                step.block_density,
            )
            for step, times in zip(steps, seconds, strict=True)
        ]

    # --- inside ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _checked(array: NDArray, dtype: type, shape: tuple[int, ...]) -> NDArray:
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"expected {np.dtype(dtype).name} of shape {shape}, found {found}")
        return np.ascontiguousarray(array)

    def _checked_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        channels, height, width = self.input_shape
        return self._checked(image, np.uint8, (height, width, channels))

    def _checked_out(self, out: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """`out` if the probabilities may be written into it, a new array for None."""
        shape = self.plan.output_shape
        if out is None:
            return _aligned_empty(shape)
        if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
            found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"out must be float32 of shape {shape}, found {found}")
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError("out must be C-contiguous and writeable")
        return out

    def _smooth(self, image: bool, source: NDArray, size: Size) -> NDArray[np.uint8]:
        stretch = self._stretch(size)
        out = np.empty(size, np.uint8)
        # `stretch` lives as long as this call, and so do the tables that the fields name.
        self._run(image, _End.SMOOTH_CLASSES, source, out, {-1: stretch.fields()})
        return out

    def _stretch(self, size: Size) -> Stretch:
        upsampling = self.plan.upsampling
        align_corners = upsampling is not None and upsampling.align_corners
        return Stretch.of(self.plan.logits_shape[1:], size, align_corners)

    def _logits(self, image: bool, source: NDArray) -> NDArray[np.float32]:
        out = np.empty(self.plan.logits_shape, np.float32)
        self._run(image, _End.LOGITS, source, out)
        return out

    def _run(
        self,
        image: bool,
        end: _End,
        source: NDArray,
        out: NDArray,
        fields: Mapping[int, Mapping[int, int]] = MappingProxyType({}),
    ) -> None:
        """Run a program for one call: see `_bound`."""
        table = self._bound(image, end, source, out, fields)
        self._launch(table, 0, len(table))

    def _bound(
        self, image: bool, end: _End, source: NDArray, out: NDArray, fields: Mapping[int, Mapping[int, int]]
    ) -> NDArray[np.int64]:
        """The rows of a program for one call, which reads `source` and writes `out`.

        fields  of this call: step (-1 is the last), field, value
        """
        table = self._tables[image, end].copy()
        for step, values in fields.items():
            for index, value in values.items():
                table[step, index] = value
        table[0, f.IN] = source.ctypes.data
        table[-1, f.OUT] = out.ctypes.data
        return table

    def _launch(self, table: NDArray[np.int64], first: int, last: int) -> None:
        """Run the steps first..last; no thread reads or writes memory of this session or call afterwards."""
        self._crew.get().run(table.ctypes.data, first, last)


def nearest(x: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """(Q7): (h, w) -> `size`."""
    rows, columns = (np.arange(n, dtype=np.int64) * old // n for n, old in zip(size, x.shape, strict=True))
    return x.take(columns, 1).take(rows, 0)


def _table(steps: list[Step], threads: int) -> NDArray[np.int64]:
    """The rows of a program, as `run` reads them."""
    rows = step_rows(steps)
    rows[:, f.GRAIN] = np.maximum(1, rows[:, f.TASKS] // (TURNS * threads))
    return rows


def _aligned_empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uninitialised float32 array that begins at a cache line, so that whole lines can be streamed into it."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(np.float32).reshape(shape)
