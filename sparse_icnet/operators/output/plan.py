"""The ends of a program behind the logits: probabilities, the class of each grid point, the logits themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparse_icnet.network.graph import Shape, Size
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Plain
from sparse_icnet.operators.output.params import (
    ArgmaxParams,
    GridPoints,
    LogitsParams,
    SoftmaxParams,
    UpsampleParams,
)
from sparse_icnet.operators.storage import Block, Storage, View
from sparse_icnet.operators.taps import int32_table


def grid_points(logits: View, shape: Shape, memory: Memory) -> GridPoints:
    """The logits of `shape` as points of their grid."""
    (ky, kx), layout, grid = logits.phases, memory.layout(logits.map), logits.map.grid
    planes = layout.plane_offsets()[logits.planes]
    channels, height, width = shape
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    places = planes[rows % ky, columns % kx] + rows // ky * grid.pitch + columns // kx * 4
    offsets = int32_table(places, "the logits")
    return GridPoints(memory.start(logits.map), layout.stride, offsets, channels, height, width)


@dataclass(frozen=True, eq=False)
class SoftmaxStep(Plain):
    """Logits of `channels` classes -> probabilities in `target`, phase by phase."""

    channels: int
    logits: View
    target: Block
    name: str = "softmax"

    @staticmethod
    def block(channels: int, logits: View) -> Block:
        """Memory for the probabilities."""
        return Block("probabilities", channels * SoftmaxStep.channel_bytes(logits))

    @staticmethod
    def channel_bytes(logits: View) -> int:
        """Bytes of the probabilities of one class."""
        return 64 * logits.map.grid.vectors * math.prod(logits.phases)

    @property
    def tasks(self) -> int:
        return math.prod(self.logits.phases)

    @property
    def scratch(self) -> int:
        return 64 * self.channels

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.logits.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target,)

    def params(self, memory: Memory) -> SoftmaxParams:
        return SoftmaxParams(
            channels=self.channels,
            vectors=self.logits.map.grid.vectors,
            logits=memory.map(self.logits),
            out=memory.block(self.target),
            out_stride=self.channel_bytes(self.logits),
        )


@dataclass(frozen=True, eq=False)
class UpsampleStep(Plain):
    """The probabilities of a `SoftmaxStep`, of `shape`, enlarged by whole numbers (nearest)."""

    shape: Shape
    enlarged: Size
    logits: View
    source: Block
    threads: int
    name: str = "upsample"

    @property
    def _rows_per_task(self) -> int:
        """Few tasks: between two, the streaming stores must have reached the memory."""
        return max(1, self.shape[0] * self.shape[1] // (16 * self.threads))

    @property
    def tasks(self) -> int:
        return -(-self.shape[0] * self.shape[1] // self._rows_per_task)

    @property
    def scratch(self) -> int:
        return 4 * self.shape[2] * self.enlarged[1] + 64

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source,)

    @property
    def writes(self) -> Sequence[Storage]:
        return ()

    def params(self, memory: Memory) -> UpsampleParams:
        channels, height, width = self.shape
        grid = self.logits.map.grid
        return UpsampleParams(
            source=memory.block(self.source),
            source_stride=SoftmaxStep.channel_bytes(self.logits),
            channels=channels,
            height=height,
            width=width,
            phases=math.prod(self.logits.phases),
            phases_x=self.logits.phases[1],
            vectors=grid.vectors,
            pitch=grid.pitch,
            enlarged_y=self.enlarged[0],
            enlarged_x=self.enlarged[1],
            rows_per_task=self._rows_per_task,
            out=0,
        )


@dataclass(frozen=True, eq=False)
class ArgmaxStep(Plain):
    """Logits of `shape` -> the class of each grid point, in `target` if it is not the end of the network."""

    shape: Shape
    logits: View
    target: Block | None = None
    name: str = "argmax"

    @property
    def tasks(self) -> int:
        return math.prod(self.logits.phases)

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.logits.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return () if self.target is None else (self.target,)

    def params(self, memory: Memory) -> ArgmaxParams:
        channels, height, width = self.shape
        ky, kx = self.logits.phases
        return ArgmaxParams(
            channels=channels,
            height=height,
            width=width,
            phases_y=ky,
            phases_x=kx,
            pitch=self.logits.map.grid.pitch,
            logits=memory.map(self.logits),
            out=0 if self.target is None else memory.block(self.target),
        )


@dataclass(frozen=True, eq=False)
class LogitsStep(Plain):
    """Logits of `shape` -> float32 (C, h, w) in scan order."""

    shape: Shape
    logits: View
    name: str = "logits"

    @property
    def tasks(self) -> int:
        return self.shape[0]

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.logits.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return ()

    def params(self, memory: Memory) -> LogitsParams:
        return LogitsParams(grid_points(self.logits, self.shape, memory), 0)
