"""What a plan consists of: steps, rows of one table that the kernels read.

`sparse_icnet.runtime.plan` makes them, `sparse_icnet.runtime.session` runs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import ROW_FIELDS, Kind
from sparse_icnet.network.graph import Bilinear, Graph, Size
from sparse_icnet.runtime.layout import Arena, Buffer, Grid, View


class PlanError(ValueError):
    """A valid graph that this engine cannot run; says which operation and why."""


@dataclass(eq=False)
class Step:
    """One row of the step table, before addresses are known.

    fill   writes the fields that depend on addresses, once all buffers are placed
    reads  the buffers that it reads, and steps whose results it reads from where only they keep them
    """

    name: str
    kind: Kind
    tasks: int
    fields: dict[int, int] = field(default_factory=dict)
    fill: Callable[[Step, Arena], None] | None = None
    output: View | None = None
    macs: int = 0
    dense_macs: int = 0
    kernel: str = ""
    reason: str = ""
    sparsity: float = 0.0
    block_density: float = 0.0
    shape: tuple[int, ...] = ()
    weight_bytes: int = 0
    fused: Step | None = None  # a residual convolution computed inside this step
    reads: list[Buffer | Step] = field(default_factory=list)

    def __repr__(self) -> str:
        kernel = f", {self.kernel}" if self.kernel else ""
        return f"Step({self.name!r}, {self.kind.name}{kernel}, {self.tasks} tasks)"


@dataclass(frozen=True, slots=True)
class Operand:
    """One side of a sum: codes (with zero and multiplier in the unit of the sum) or real values."""

    kind: int
    view: View
    scale: float = 0.0
    zero: int = 0


@dataclass(eq=False)
class Plan:
    """Everything that a session needs to run; steps between `head` and `tail` are common to all ways to call it.

    image_head, blob_head    quantize an image or a blob
    body                     the network up to the logits
    threads                  of an inference that it divides the work for
    probabilities_tail       softmax and upsampling; classes_tail: argmax
    smooth_tail              argmax and smooth class map (Q11); logits_tail: the logits themselves
    """

    graph: Graph
    grid: Grid
    arena: Arena
    views: dict[str, View]
    image_head: Step
    blob_head: Step
    body: list[Step]
    probabilities_tail: list[Step]
    classes_tail: list[Step]
    smooth_tail: list[Step]
    logits_tail: list[Step]
    logits_shape: tuple[int, int, int]
    upsampling: Bilinear | None  # between the logits and the softmax or argmax
    output_shape: tuple[int, int, int]
    scratch_bytes: int
    threads: int
    shared: NDArray[np.uint8]  # the memory of tensors that others use before or after them

    @property
    def classes_size(self) -> Size:
        """(height, width) of what the classes' tail writes: that of the logits, or what the network enlarges them to."""
        return self.upsampling.size if self.upsampling else self.logits_shape[1:]

    def __repr__(self) -> str:
        kernels = Counter(step.kernel for step in self.convolutions())
        return (
            f"Plan({'x'.join(map(str, self.graph.input.shape))} -> {'x'.join(map(str, self.output_shape))}, "
            f"{len(self.body)} steps of the body, {self.threads} thread{'s' * (self.threads > 1)}, convolutions by "
            f"{', '.join(f'{count} {kernel}' for kernel, count in kernels.most_common())})"
        )

    def convolutions(self) -> list[Step]:
        """The step of every convolution, those computed inside another step included."""
        steps = [step for step in self.body if step.kind in (Kind.CONVOLUTION, Kind.WINOGRAD)]
        return [s for step in steps for s in ((step.fused, step) if step.fused else (step,))]


def step_rows(steps: list[Step]) -> NDArray[np.int64]:
    """The int64 rows (n, ROW_FIELDS) of `steps`, as the kernels read them."""
    rows = np.zeros((len(steps), ROW_FIELDS), np.int64)
    for row, step in zip(rows, steps, strict=True):
        row[f.KIND], row[f.TASKS] = int(step.kind), step.tasks
        for index, value in step.fields.items():
            row[index] = value
    return rows


def int32_table(values: NDArray[np.int64], what: str) -> NDArray[np.int32]:
    """`values` as int32, C-contiguous, for a kernel that reads them from a table; PlanError if one does not fit.

    what  whose table it is, for the error
    """
    if values.size:
        low, high = int(values.min()), int(values.max())
        if low < -(1 << 31) or high >= 1 << 31:
            raise PlanError(f"{what}: its maps are too large for 32-bit offsets, found {low}..{high}")
    return np.ascontiguousarray(values, np.int32)


def f32_bits(value: float) -> int:
    """The bits of float32(value), as the signed integer that fits an int64 field."""
    return int(np.float32(value).view(np.int32))
