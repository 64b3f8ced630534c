"""What the stages of planning hand on: a `Program` (operators and storages), a `Placement` (memory), a `Plan` (records)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Bilinear, Graph, Shape, Size
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Operator, Report
from sparse_icnet.operators.storage import Grid, Storage, View
from sparse_icnet.plan.arena import Arena, Piece, memory_at
from sparse_icnet.plan.steps import End, Start, Step

__all__ = ["End", "Placement", "Plan", "Program", "Start", "Step"]


@dataclass(frozen=True, eq=False)
class Program:
    """A graph as operators, without an address: what every inference of any kind consists of.

    input_steps   the operators that take the network input; body: the network up to the logits; output_steps: behind
    views         the quantized tensors by name
    logits_shape  (C, h, w); upsampling: between the logits and the softmax or argmax
    output_shape  of the probabilities
    threads       of an inference that the work is divided for
    """

    graph: Graph
    grid: Grid
    input_steps: Mapping[Start, Sequence[Operator]]
    body: Sequence[Operator]
    output_steps: Mapping[End, Sequence[Operator]]
    views: Mapping[str, View]
    logits_shape: Shape
    upsampling: Bilinear | None
    output_shape: Shape
    threads: int

    def operators(self) -> list[Operator]:
        """All, in an order in which they may run."""
        last = [operator for end in self.output_steps.values() for operator in end]
        first = [operator for start in self.input_steps.values() for operator in start]
        return [*first, *self.body, *last]


@dataclass(frozen=True, eq=False)
class Placement:
    """A program in memory: every storage has its place.

    memory         layouts and addresses of the storages
    arena          what their memory and the constants of the plan are taken from
    pieces         memory of each storage
    shared         uint8, the memory of storages that others use before or after them
    keeps_tensors  whether every tensor has memory of its own
    """

    memory: Memory
    arena: Arena
    pieces: Mapping[Storage, Piece]
    shared: NDArray[np.uint8]
    keeps_tensors: bool


@dataclass(eq=False)
class Plan:
    """Everything that a session needs to run; what `Program` says of its parts holds of these.

    scratch_bytes  scratch memory that each thread needs
    """

    graph: Graph
    grid: Grid
    placement: Placement
    input_steps: Mapping[Start, Sequence[Step]]
    body: Sequence[Step]
    output_steps: Mapping[End, Sequence[Step]]
    views: Mapping[str, View]
    logits_shape: Shape
    upsampling: Bilinear | None
    output_shape: Shape
    scratch_bytes: int
    threads: int

    @property
    def input_shape(self) -> Shape:
        """(3, H, W) of a blob."""
        return self.graph.input.shape

    @property
    def returned_shape(self) -> Shape:
        """(C, H, W) of what the network returns: C classes, or 1 for a class map."""
        return self.graph.shape(self.graph.output)

    @property
    def returns_classes(self) -> bool:
        """Whether the network returns a class map."""
        return self.graph.returns_classes

    @property
    def returns_logits(self) -> bool:
        """Whether the network returns logits."""
        return self.graph.returns_logits

    @property
    def arena(self) -> Arena:
        """What holds the memory of the plan."""
        return self.placement.arena

    @property
    def shared(self) -> NDArray[np.uint8]:
        """Of it the memory of storages that others use before or after them."""
        return self.placement.shared

    def whole(self) -> Plan:
        """Itself: what is kept for other processes says less."""
        return self

    @property
    def keeps_tensors(self) -> bool:
        """Whether every tensor has memory of its own and can be read after an inference."""
        return self.placement.keeps_tensors

    @property
    def class_map_size(self) -> Size:
        """(height, width) of what End.CLASSES gives: that of the logits, or what the network enlarges them to."""
        return self.upsampling.size if self.upsampling else self.logits_shape[1:]

    def steps(self) -> Iterator[Step]:
        """All, in an order in which they may run."""
        for steps in self.input_steps.values():
            yield from steps
        yield from self.body
        for steps in self.output_steps.values():
            yield from steps

    def convolutions(self) -> list[Report]:
        """Of every convolution, those computed inside another step included."""
        return [report for step in self.body for report in step.reports]

    def tensor(self, name: str) -> NDArray[np.int16]:
        """Codes int16 (C, H, W) of a quantized tensor as the last inference left them, in a plan that keeps its tensors.

        Raises KeyError for a name that `views` lacks.
        """
        view, (channels, height, width) = self.views[name], self.graph.shape(name)
        source, (ky, kx) = view.codes, view.phases
        layout, address = self.placement.memory.layout(source), self.placement.memory.start(source)
        groups = memory_at(address, layout.stride * source.groups).reshape(source.groups, layout.stride)
        result = np.empty((4 * source.groups, height, width), np.int16)
        grid = source.grid
        for i in range(ky):
            for j in range(kx):
                start = layout.plane_offset(int(view.planes[i, j]))
                plane = groups[:, start : start + grid.rows * grid.pitch]
                pixels = plane.reshape(source.groups, grid.rows, -1, 4)[:, :, : grid.columns]
                result[:, i::ky, j::kx] = pixels.transpose(0, 3, 1, 2).reshape(-1, grid.rows, grid.columns)
        return result[:channels] + np.int16(source.quantizer.low)

    def __repr__(self) -> str:
        kernels = Counter(report.kernel for report in self.convolutions())
        kept = ", keeps its tensors" * self.keeps_tensors
        return (
            f"Plan({'x'.join(map(str, self.graph.input.shape))} -> {'x'.join(map(str, self.output_shape))}, "
            f"{len(self.body)} steps of the body, {self.threads} thread{'s' * (self.threads > 1)}, convolutions by "
            f"{', '.join(f'{count} {kernel}' for kernel, count in kernels.most_common())}{kept})"
        )
