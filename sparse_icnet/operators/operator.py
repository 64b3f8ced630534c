"""What every operator of a program says of itself; the planner knows no more of any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sparse_icnet.network.graph import Shape
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.storage import Demand, Storage


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel that could compute a convolution.

    cost  the time that the policy expects of it, in dot products of the first micro-kernel of the CPU: of a row of a
          single block with a vector
    """

    kernel: str
    cost: float


@dataclass(frozen=True, slots=True)
class Report:
    """A convolution as it is computed.

    kernel         name of the micro-kernel, of the filtering or of the kernel of float32; reason: why that one
    candidates     what the policy compared, best first; empty where it compared nothing
    macs           multiply-accumulates executed; dense_macs: those of all weights
    sparsity       share of zero weights; block_density: of blocks that hold a non-zero, 1 of filtered weights; a block of
                   float32 is four output channels of one input channel at one tap
    shape          of the weights (O, I, kh, kw); weight_bytes: as packed
    filtered       computed by Winograd's filtering
    block          (output, input) channels of a block; the last of a layer is filled up
    """

    name: str
    kernel: str
    reason: str
    macs: int
    dense_macs: int
    sparsity: float
    block_density: float
    shape: tuple[int, ...]
    weight_bytes: int
    filtered: bool = False
    block: tuple[int, int] = (4, 4)
    candidates: tuple[Candidate, ...] = ()

    @property
    def filled_macs(self) -> int:
        """`dense_macs` with output and input channels filled up to whole blocks."""
        channels = self.shape[:2]
        filled = (count + -count % whole for count, whole in zip(channels, self.block, strict=True))
        return self.dense_macs * math.prod(filled) // math.prod(channels)


class Operator(Protocol):
    """One step of a program: a frozen dataclass for each kernel, complete when it is made, before memory is laid out."""

    @property
    def name(self) -> str:
        """In reports and in the errors of its demands."""

    @property
    def tasks(self) -> int:
        """Pieces of work that threads take."""

    @property
    def scratch(self) -> int:
        """Bytes of memory of its own that each thread needs."""

    @property
    def reads(self) -> Sequence[Storage]: ...

    @property
    def writes(self) -> Sequence[Storage]: ...

    def demands(self) -> Sequence[Demand]:
        """What it reads around its inputs."""

    def params(self, memory: Memory) -> Any:
        """The record that its kernel reads; a pure function."""

    def reports(self) -> Sequence[Report]:
        """Of the convolutions that it computes."""


class Plain:
    """What most operators have none of: demands on their inputs, convolutions to report."""

    __slots__ = ()

    def demands(self) -> Sequence[Demand]:
        return ()

    def reports(self) -> Sequence[Report]:
        return ()


__all__ = ["Candidate", "Operator", "Plain", "Report", "Shape"]
