"""Bilinear interpolation of the logits in a program: smooth class maps, and probabilities at full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_icnet.network.graph import Shape
from sparse_icnet.operators.interpolation.pack import Stretch
from sparse_icnet.operators.interpolation.params import (
    AT_ONCE,
    NO_STRETCH,
    VECTOR_SLACK,
    BilinearSoftmaxParams,
    SmoothClassesParams,
    line_bytes,
)
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Plain
from sparse_icnet.operators.output.plan import grid_points
from sparse_icnet.operators.storage import Block, Storage, View


@dataclass(frozen=True, eq=False)
class SmoothClassesStep(Plain):
    """Logits of `shape` and the class of each grid point -> class map of any size, or of that of `stretch`."""

    shape: Shape
    logits: View
    classes: Block
    stretch: Stretch | None
    name: str = "smooth classes"

    @property
    def tasks(self) -> int:
        return max(self.shape[1] - 1, 1)

    @property
    def scratch(self) -> int:
        """For one cell: of each class four corners, two ends of a row and its number; and a vector."""
        return (16 + 8 + 4) * self.shape[0] + 64

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.logits.map, self.classes)

    @property
    def writes(self) -> Sequence[Storage]:
        return ()

    def params(self, memory: Memory) -> SmoothClassesParams:
        return SmoothClassesParams(
            points=grid_points(self.logits, self.shape, memory),
            classes=memory.block(self.classes),
            stretch=self.stretch.params() if self.stretch else NO_STRETCH,
            out=0,
        )


@dataclass(frozen=True, eq=False)
class BilinearSoftmaxStep(Plain):
    """Logits of `shape` -> probabilities of the size of `stretch`."""

    shape: Shape
    logits: View
    stretch: Stretch
    name: str = "bilinear softmax"

    @property
    def tasks(self) -> int:
        return max(self.shape[1] - 1, 1)

    @property
    def scratch(self) -> int:
        """Of each class two rows of the grid, one between, and pixels."""
        channels, _, width = self.shape
        return channels * (3 * line_bytes(width) + 4 * (AT_ONCE + VECTOR_SLACK))

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.logits.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return ()

    def params(self, memory: Memory) -> BilinearSoftmaxParams:
        return BilinearSoftmaxParams(
            points=grid_points(self.logits, self.shape, memory), stretch=self.stretch.params(), out=0
        )
