"""What runs: the steps of a plan with their records, and what a session must know of a plan beside them.

This module and `kept` are all of `plan` that a process imports which runs a plan that was made before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators import kernel_name
from sparse_icnet.operators.record import dtype_of
from sparse_icnet.operators.step import StepRow

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Shape, Size
    from sparse_icnet.operators.operator import Report
    from sparse_icnet.operators.storage import Storage
    from sparse_icnet.plan.arena import Arena
    from sparse_icnet.plan.program import Plan

# How often each thread goes back to the counter of a step for tasks, at least: each time costs the threads some 0.1 us,
# and at the end of the step all wait for the last tasks taken.
TURNS = 64


class Start(Enum):
    """What an inference begins with."""

    IMAGE = 0
    BLOB = 1


class End(Enum):
    """What an inference ends in."""

    PROBABILITIES = 0
    CLASSES = 1
    SMOOTH_CLASSES = 2
    LOGITS = 3


@dataclass(frozen=True, eq=False)
class Step:
    """One operator with its record, as the compiled code runs it.

    record  (1,) of the dtype of `kind`, in memory of its own
    behind  the records that it leads to, among the constants of the plan; each before those that lead to it
    """

    name: str
    kind: type
    record: NDArray[np.void]
    tasks: int
    reads: Sequence[Storage]
    writes: Sequence[Storage]
    reports: Sequence[Report]
    behind: Sequence[NDArray[np.void]] = ()

    @property
    def kernel(self) -> str:
        """Name of the kernel of the convolution that the step computes; empty if it is none."""
        return self.reports[-1].kernel if self.reports else ""

    def __repr__(self) -> str:
        kernel = f", {self.kernel}" if self.kernel else ""
        return f"Step({self.name!r}, {kernel_name(self.kind)}{kernel}, {self.tasks} tasks)"


class Upsampling(Protocol):
    """Between the logits and the softmax or argmax, equation (Q11): to `size` (height, width)."""

    @property
    def size(self) -> Size: ...

    @property
    def align_corners(self) -> bool: ...


class Runnable(Protocol):
    """What a session needs: a `Plan`, or one that was kept by an earlier process.

    input_shape     (3, H, W) of a blob
    returned_shape  (C, H, W) of what the network returns; returns_classes, returns_logits: what that is, else probabilities
    logits_shape    (C, h, w); upsampling: between the logits and the softmax or argmax
    output_shape    of the probabilities
    class_map_size  of End.CLASSES
    scratch_bytes   scratch memory that each thread needs
    arena           what holds the memory of the plan, and gives more
    shared          uint8, of it the memory of tensors that others use before or after them
    keeps_tensors   whether every tensor can be read after an inference
    """

    @property
    def input_shape(self) -> Shape: ...
    @property
    def returned_shape(self) -> Shape: ...
    @property
    def returns_classes(self) -> bool: ...
    @property
    def returns_logits(self) -> bool: ...
    @property
    def logits_shape(self) -> Shape: ...
    @property
    def upsampling(self) -> Upsampling | None: ...
    @property
    def output_shape(self) -> Shape: ...
    @property
    def class_map_size(self) -> Size: ...
    @property
    def scratch_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def arena(self) -> Arena: ...
    @property
    def shared(self) -> NDArray[np.uint8]: ...
    @property
    def keeps_tensors(self) -> bool: ...
    @property
    def input_steps(self) -> Mapping[Start, Sequence[Step]]: ...
    @property
    def body(self) -> Sequence[Step]: ...
    @property
    def output_steps(self) -> Mapping[End, Sequence[Step]]: ...

    def whole(self) -> Plan:
        """The plan with all that it says of its graph, its storages and its steps; of a kept one, planned anew."""


def programs(
    plan: Runnable, ends: Sequence[tuple[End, ...]]
) -> dict[tuple[Start, tuple[End, ...]], list[Step]]:
    """The steps of every inference, from each start to one or several of `ends`."""
    return {
        (start, last): [*first, *plan.body, *(step for end in last for step in plan.output_steps[end])]
        for start, first in plan.input_steps.items()
        for last in ends
    }


def step_rows(steps: Sequence[Step], threads: int, kernels: Mapping[type, int]) -> NDArray[np.void]:
    """The rows (n,) of `StepRow` that the compiled code goes through; they name the records of `steps`.

    kernels  address of the machine code of each kernel, by the record that it reads
    """
    rows = np.zeros(len(steps), dtype_of(StepRow))
    for row, step in zip(rows, steps, strict=True):
        row["kernel"], row["tasks"] = kernels[step.kind], step.tasks
        row["grain"] = max(1, step.tasks // (TURNS * threads))
        row["params"] = step.record.ctypes.data
    return rows
