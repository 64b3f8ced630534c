"""Runs a plan on threads: one call of a compiled function for each thread and inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.interpolation.pack import Stretch
from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import written
from sparse_icnet.plan.axis import prove_axis
from sparse_icnet.plan.steps import End, Runnable, Start, programs
from sparse_icnet.processes import PerProcess
from sparse_icnet.run.arrays import aligned_empty, nearest
from sparse_icnet.run.code_files import Entry
from sparse_icnet.run.crew import Crew
from sparse_icnet.run.machine_code import run_function
from sparse_icnet.run.programs import Programs

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Graph, Shape, Size
    from sparse_icnet.run.tracing import Recorder, Recording, StepTime


class Session:
    """A plan that runs.  Calls from several Python threads take turns.

    Arrays of another dtype or shape than stated are a ValueError that says what was expected and what came.

    plan     what `sparse_icnet.plan.plan_for` made of a graph, or an earlier process; its memory serves this session alone
    threads  CPU threads of one inference
    """

    def __init__(self, plan: Runnable) -> None:
        self.plan = plan
        self.threads = plan.threads
        self._programs = Programs(plan)
        scratch_bytes = -(-max(plan.scratch_bytes, 1) // LINE) * LINE
        scratch = plan.arena.take(self.threads * scratch_bytes).reshape(self.threads, scratch_bytes)
        # A forked process has none of the workers, and maybe an inference half done in its memory.
        self._crew = PerProcess(partial(_crew, self.threads, self._programs.longest, scratch))
        self._recorder = PerProcess(
            partial(_recorder, self._crew, self.threads, self._programs.longest, scratch)
        )

    def __repr__(self) -> str:
        return f"Session({self.plan!r})"

    @property
    def graph(self) -> Graph:
        """As it is run, after its rewrites."""
        return self.plan.whole().graph

    @property
    def input_shape(self) -> Shape:
        """(3, H, W) of a blob."""
        return self.plan.input_shape

    @property
    def output_shape(self) -> Shape:
        """(C, H, W) of what the network returns: C classes, or 1 for a class map."""
        return self.plan.returned_shape

    @property
    def output_dtype(self) -> np.dtype[np.float32] | np.dtype[np.uint8]:
        """float32 of probabilities or logits, uint8 of a class map."""
        return np.dtype(np.uint8) if self.plan.returns_classes else np.dtype(np.float32)

    def prepare(
        self,
        start: Start = Start.IMAGE,
        ends: tuple[End, ...] = (End.LOGITS, End.SMOOTH_CLASSES),
        compiling: Callable[[], object] | None = None,
    ) -> list[Entry]:
        """Load the machine code of a program, as its first inference does, or compile it (5 to 60 s); what it consists of.

        start, ends  what the inference begins with and ends in; by default what `Model.predict` runs
        compiling    is called before, if anything must be compiled
        """
        return self._programs.load(start, ends, compiling)

    def output(
        self, blob: NDArray[np.float32], out: NDArray[np.float32 | np.uint8] | None = None
    ) -> NDArray[np.float32 | np.uint8]:
        """float32 (3, H, W) -> what the network returns, of `output_shape` and `output_dtype`; into `out` if given."""
        if self.plan.returns_logits:
            return self._full_logits(blob, cast("NDArray[np.float32] | None", out))
        if not self.plan.returns_classes:
            return self.probabilities(
                blob, cast("NDArray[np.float32] | None", out)
            )  # which looks at its dtype
        if out is None:
            out = np.empty(self.output_shape, np.uint8)
        self._checked(out, np.uint8, self.output_shape)
        out[0] = nearest(self.class_map(blob), self.output_shape[1:])
        return out

    def _full_logits(self, blob: NDArray[np.float32], out: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The logits of `output_shape`, enlarged as the network does, in NumPy."""
        from sparse_icnet.network.bilinear import bilinear

        logits, upsampling = self.logits(blob), self.plan.upsampling
        if upsampling is not None:
            logits = bilinear(logits, upsampling.size, upsampling.align_corners)
        result = nearest(logits, self.output_shape[1:])
        if out is None:
            return result
        self._checked(out, np.float32, self.output_shape)
        out[...] = result
        return out

    def probabilities(
        self, blob: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """float32 (3, H, W) -> float32 (C, H, W), written into `out` if given."""
        blob, out = self._checked(blob, np.float32, self.input_shape), self._checked_out(out)
        self._run(Start.BLOB, blob, {End.PROBABILITIES: out})
        return out

    def class_map(self, blob: NDArray[np.float32]) -> NDArray[np.uint8]:
        """float32 (3, H, W) -> uint8 class indices (h, w) of `plan.class_map_size`: on the grid of the logits, or what the
        network's own bilinear upsampling makes of it."""
        out = np.empty(self.plan.class_map_size, np.uint8)
        self._run(Start.BLOB, self._checked(blob, np.float32, self.input_shape), {End.CLASSES: out})
        return out

    def class_map_of_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) of the network's size -> uint8 class indices (h, w), as `class_map`."""
        out = np.empty(self.plan.class_map_size, np.uint8)
        self._run(Start.IMAGE, self._checked_image(image), {End.CLASSES: out})
        return out

    def smooth_class_map(self, blob: NDArray[np.float32], size: Size) -> NDArray[np.uint8]:
        """float32 (3, H, W) -> uint8 class of each pixel of a picture of `size` (height, width), equation (Q11).

        The logits are interpolated from their own grid straight to `size`, which may be any: with half-pixel centres, or
        corner on corner where the network itself has a bilinear upsampling that does so.
        """
        return self._smooth(Start.BLOB, self._checked(blob, np.float32, self.input_shape), size)

    def smooth_class_map_of_image(self, image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) of the network's size -> the class map of `smooth_class_map`."""
        return self._smooth(Start.IMAGE, self._checked_image(image), size)

    def logits(self, blob: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (3, H, W) -> float32 (C, h, w): what goes into the softmax or argmax, at its own resolution."""
        return self._logits(Start.BLOB, self._checked(blob, np.float32, self.input_shape))

    def logits_of_image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB uint8 (H, W, 3) of the network's size -> the logits, as `logits`."""
        return self._logits(Start.IMAGE, self._checked_image(image))

    def scores_of_image(
        self, image: NDArray[np.uint8], size: Size | None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """`logits_of_image` and, of the same run, `smooth_class_map_of_image` of `size`; None: `class_map_of_image`."""
        logits = np.empty(self.plan.logits_shape, np.float32)
        class_map = np.empty(self.plan.class_map_size if size is None else size, np.uint8)
        end = End.CLASSES if size is None else End.SMOOTH_CLASSES
        stretch = None if size is None else self._stretch(size)
        self._run(Start.IMAGE, self._checked_image(image), {End.LOGITS: logits, end: class_map}, stretch)
        return logits, class_map

    def probabilities_of_image(
        self, image: NDArray[np.uint8], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """RGB uint8 (H, W, 3) of the network's size -> float32 (C, H, W), written into `out` if given."""
        image, out = self._checked_image(image), self._checked_out(out)
        self._run(Start.IMAGE, image, {End.PROBABILITIES: out})
        return out

    def tensor(self, name: str) -> NDArray[np.int16]:
        """int16 (C, H, W): the codes of a quantized tensor of `self.graph`, as the last inference left them.

        Raises ValueError of a plan without `keep_tensors`, whose tensors share memory, KeyError for another name.
        """
        if not self.plan.keeps_tensors:
            raise ValueError(f"tensor {name!r} is not kept: plan with keep_tensors=True")
        return self.plan.whole().tensor(name)

    def tensors(self) -> tuple[str, ...]:
        """Names that `tensor` knows."""
        return tuple(self.plan.whole().views) if self.plan.keeps_tensors else ()

    def record(
        self, image: NDArray[np.uint8], size: Size | None = None, each_task: bool = False
    ) -> Recording:
        """Run `smooth_class_map_of_image` of `size`, None: `class_map_of_image`, and write down when each thread did what.

        each_task  record every task as well, which takes some 0.15 us of each
        """
        out = np.empty(self.plan.class_map_size if size is None else size, np.uint8)
        end = End.CLASSES if size is None else End.SMOOTH_CLASSES
        stretch = None if size is None else self._stretch(size)
        call = self._call(Start.IMAGE, self._checked_image(image), {end: out}, stretch)
        steps = programs(self.plan.whole(), [(end,)])[
            Start.IMAGE, (end,)
        ]  # which know the layers that they compute
        return self._recorder.get().record(steps, call.rows, each_task)

    def profile(self, repeats: int = 20, image: NDArray[np.uint8] | None = None) -> list[StepTime]:
        """Times of every step of image -> smooth class map, of `repeats` inferences after one that warms the caches.

        The map is of the network's own size.

        image  as for `record`; None: random pixels
        """
        from sparse_icnet.run.tracing import step_times

        if image is None:
            pixels = np.random.default_rng(0).integers(0, 256, (*self.input_shape[1:], 3), dtype=np.uint8)
        else:
            pixels = image
        return step_times([self.record(pixels, self.input_shape[1:]) for _ in range(repeats + 1)][1:])

    # --- inside ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _checked(array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
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
            return aligned_empty(shape)
        if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
            found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(f"out must be float32 of shape {shape}, found {found}")
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError("out must be C-contiguous and writeable")
        return out

    def _smooth(self, start: Start, source: NDArray[Any], size: Size) -> NDArray[np.uint8]:
        stretch = self._stretch(size)
        out = np.empty(size, np.uint8)
        self._run(start, source, {End.SMOOTH_CLASSES: out}, stretch)
        return out

    def _stretch(self, size: Size) -> Stretch:
        """The tables for a picture of `size`, proven as those of the plan are."""
        upsampling, grid = self.plan.upsampling, self.plan.logits_shape[1:]
        align_corners = upsampling is not None and upsampling.align_corners
        stretch = Stretch.of(grid, size, align_corners)
        for points, length, axis in zip(grid, size, (stretch.rows, stretch.columns), strict=True):
            prove_axis(points, length, axis.starts, axis.weights)
        return stretch

    def _logits(self, start: Start, source: NDArray[Any]) -> NDArray[np.float32]:
        out = np.empty(self.plan.logits_shape, np.float32)
        self._run(start, source, {End.LOGITS: out})
        return out

    def _run(
        self,
        start: Start,
        source: NDArray[Any],
        results: Mapping[End, NDArray[Any]],
        stretch: Stretch | None = None,
    ) -> None:
        """Run the program from `start` to the ends of `results`, which it fills in this order.

        stretch  of a smooth class map
        """
        call = self._call(start, source, results, stretch)
        self._launch(call, 0, len(call.rows))

    def _call(
        self,
        start: Start,
        source: NDArray[Any],
        results: Mapping[End, NDArray[Any]],
        stretch: Stretch | None,
    ) -> _Call:
        """The rows of a program, and copies of the records that name what the caller passes in and gets."""
        rows = self._programs.rows(start, tuple(results)).copy()
        bound: dict[int, NDArray[np.void]] = {}
        for index, step in enumerate(self.plan.input_steps[start]):
            bound[index] = step.record.copy()
            bound[index]["source"] = source.ctypes.data
        index = len(bound) - 1 + len(self.plan.body)
        for end, result in results.items():
            steps = self.plan.output_steps[end]
            index += len(steps)
            last = steps[-1].record.copy()
            last["out"] = result.ctypes.data
            if end is End.SMOOTH_CLASSES and stretch is not None:
                last["stretch"] = written(stretch.params(), _address)
            bound[index] = last
        for index, record in bound.items():
            rows[index]["params"] = record.ctypes.data
        return _Call(rows, (*bound.values(), source, results, stretch))

    def _launch(self, call: _Call, first: int, last: int) -> None:
        """Run the steps first..last; no thread reads or writes memory of this session or call afterwards."""
        self._crew.get().run(call.rows.ctypes.data, first, last)


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """The rows (n,) of one call, and whatever they lead to that is not the plan's."""

    rows: NDArray[np.void]
    holds: tuple[Any, ...]


def session_beside(plan: Runnable, threads: int | None) -> Session:
    """A session of so many threads for inferences at the same time as those of a session of `plan`."""
    from sparse_icnet.plan.relocate import beside

    return Session(beside(plan, threads))


def _crew(threads: int, steps: int, scratch: NDArray[np.uint8]) -> Crew:
    return Crew(run_function(), threads, steps, scratch)


def _recorder(crew: PerProcess[Crew], threads: int, steps: int, scratch: NDArray[np.uint8]) -> Recorder:
    from sparse_icnet.run.tracing import Recorder

    return Recorder(crew.get(), threads, steps, scratch)


def _address(array: NDArray[Any]) -> int:
    """Of an array that is C-contiguous and that the caller holds."""
    return array.ctypes.data
