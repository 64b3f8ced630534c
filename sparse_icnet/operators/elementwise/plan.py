"""Sums of two maps, shifted copies and the spreading of small maps in a program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparse_icnet.network.graph import Shape, Size
from sparse_icnet.operators.elementwise.params import CombineParams, ExpandParams, ShiftParams
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Operator, Plain
from sparse_icnet.operators.outputs import Addend, operand, output, padding
from sparse_icnet.operators.pooling.plan import AveragePoolStep
from sparse_icnet.operators.pooling.real_plan import RealAveragePoolStep
from sparse_icnet.operators.storage import AnyMap, Block, CodesMap, RealMap, Storage, View


@dataclass(frozen=True, eq=False)
class CombineStep(Plain):
    """[relu](left [+ right]) to the map of `target`: requantization, or a sum without a convolution in it."""

    name: str
    left: Addend
    right: Addend | None
    target: View
    relu: bool

    @property
    def tasks(self) -> int:
        return self.target.map.groups * math.prod(self.target.phases)

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return tuple(side.view.map for side in (self.left, self.right) if side is not None)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    def params(self, memory: Memory) -> CombineParams:
        return CombineParams(
            phases=math.prod(self.target.phases),
            vectors=self.target.map.grid.vectors,
            left=self.left.operand(memory),
            right=operand(self.right, memory),
            output=output(self.target, memory, self.relu),
        )


@dataclass(frozen=True, eq=False)
class ShiftStep(Plain):
    """Makes the shifted copies and the padding of `map`, where the step that fills it does not."""

    map: AnyMap

    @property
    def name(self) -> str:
        return f"{self.map.name}/shift"

    @property
    def tasks(self) -> int:
        return self.map.groups if isinstance(self.map, CodesMap) else self.map.channels

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.map,)

    def params(self, memory: Memory) -> ShiftParams:
        layout, grid = memory.layout(self.map), self.map.grid
        copies = [
            (layout.plane_offset(plane), layout.plane_offset(plane, shift), shift)
            for plane, shift in layout.shifts
        ]
        return ShiftParams(
            address=memory.start(self.map),
            stride=layout.stride,
            copies=np.array(copies, np.int64).reshape(-1, 3),
            count=len(copies),
            height=grid.rows,
            width=grid.columns,
            pitch=grid.pitch,
            zero=self.map.zero_pixel,
            padding=padding(layout),
        )


@dataclass(frozen=True, eq=False)
class ExpandStep(Plain):
    """Nearest resize of small maps, float32 (C, rows, columns) in `source`, to the real map of `target`."""

    name: str
    source: Block
    size: Size
    target: View

    @property
    def tasks(self) -> int:
        return self.target.map.channels

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    def params(self, memory: Memory) -> ExpandParams:
        (ky, kx), grid = self.target.phases, self.target.map.grid
        return ExpandParams(
            source=memory.block(self.source),
            rows=self.size[0],
            columns=self.size[1],
            height=ky * grid.rows,
            width=kx * grid.columns,
            phases_y=ky,
            phases_x=kx,
            pitch=grid.pitch,
            output=memory.map(self.target),
        )


def spread(
    name: str, source: View, pooled: Shape, shape: Shape, phases: Size, unit: float
) -> tuple[list[Operator], View]:
    """The steps that average `source`, a map of `shape`, to `pooled` and spread the means, and their result.

    source  codes, or real values in `unit`
    phases  of the result, a real map; unit: of its values
    """
    channels, *bins = pooled
    size, grid = (bins[0], bins[1]), source.map.grid
    means = AveragePoolStep.block(f"{name}/mean", channels, size)
    pool: Operator
    if isinstance(source.map, CodesMap):
        pool = AveragePoolStep(name, source, (shape[1], shape[2]), size, unit, means)
    else:
        pool = RealAveragePoolStep(name, source, (shape[1], shape[2]), size, means)
    out = View.of(RealMap(f"{name}/spread", channels, phases, grid))
    return [pool, ExpandStep(f"{name}/spread", means, size, out)], out
