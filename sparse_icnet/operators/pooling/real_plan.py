"""Max and average pooling of real values in a program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import MaxPool, Size
from sparse_icnet.network.shapes import pool_windows
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Plain
from sparse_icnet.operators.pooling.params import RealAveragePoolParams, RealMaxPoolParams
from sparse_icnet.operators.storage import Block, Grid, SizeError, Storage, View
from sparse_icnet.operators.taps import int32_table, taps_of


@dataclass(frozen=True, eq=False)
class RealMaxPoolStep(Plain):
    """`op` from the real values of `source` to the map of `target`."""

    op: MaxPool
    source: View
    target: View
    taps: NDArray[np.int64]

    @classmethod
    def of(cls, op: MaxPool, source: View, target: View) -> RealMaxPoolStep:
        """Raises SizeError if the kernel cannot compute it."""
        phases = target.phases
        if source.phases != (phases[0] * op.stride[0], phases[1] * op.stride[1]):
            raise SizeError(f"max pool {op.name!r}: input must be stride {op.stride} times the output")
        return cls(op, source, target, taps_of(op, source, phases))

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def masks_bytes(self) -> int:
        """Bytes of the masks of its record."""
        return 2 * len(np.unique(self.taps[..., 2])) * self.source.map.grid.pitch

    @property
    def tasks(self) -> int:
        return self.target.map.channels * math.prod(self.target.phases)

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    def params(self, memory: Memory) -> RealMaxPoolParams:
        layout, grid = memory.layout(self.source.map), self.source.map.grid
        shifts, which = np.unique(self.taps[..., 2], return_inverse=True)
        masks = _masks(grid, shifts)
        planes = layout.plane_offsets()[self.taps[..., 0]]
        places = which.reshape(planes.shape) * masks[0].nbytes
        table = np.stack([planes, self.taps[..., 1], 4 * self.taps[..., 2], places], -1)
        return RealMaxPoolParams(
            phases=math.prod(self.target.phases),
            rows=grid.rows,
            pitch=grid.pitch,
            taps=self.taps.shape[1],
            source=memory.start(self.source.map),
            source_stride=layout.stride,
            table=np.ascontiguousarray(table, np.int64),
            masks=masks,
            output=memory.map(self.target),
        )


def _masks(grid: Grid, shifts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """uint32 (shifts, 2, pitch in pixels): all bits and 0 where a shifted column lies in the map, else 0 and -infinity."""
    columns = np.arange(grid.pitch_pixels)[None] + shifts[:, None]
    inside = (columns >= 0) & (columns < grid.columns)
    lowest = np.float32(-np.inf).view(np.uint32)
    keep, others = np.where(inside, np.uint32(0xFFFFFFFF), 0), np.where(inside, 0, lowest)
    return np.ascontiguousarray(np.stack([keep, others], 1), np.uint32)


@dataclass(frozen=True, eq=False)
class RealAveragePoolStep(Plain):
    """Means of `bins` of a map of real values of `size`, float32 (C, rows, columns) in `target`."""

    name: str
    source: View
    size: Size
    bins: Size
    target: Block

    @property
    def tasks(self) -> int:
        return self.source.map.channels

    @property
    def scratch(self) -> int:
        return 4 * self.size[1]

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target,)

    def params(self, memory: Memory) -> RealAveragePoolParams:
        (ky, kx), grid = self.source.phases, self.source.map.grid
        windows = [np.array(pool_windows(n, b)) for n, b in zip(self.size, self.bins, strict=True)]
        counts = np.outer(*(ends - starts for starts, ends in (w.T for w in windows)))
        multipliers = [arithmetic.real_mean_multiplier(int(count)) for count in counts.reshape(-1)]
        return RealAveragePoolParams(
            source=memory.map(self.source),
            phases_y=ky,
            phases_x=kx,
            pitch=grid.pitch,
            width=grid.columns,
            rows=self.bins[0],
            columns=self.bins[1],
            windows=int32_table(np.concatenate(windows), "average pool"),
            multipliers=np.array(multipliers, np.float32),
            out=memory.block(self.target),
        )
