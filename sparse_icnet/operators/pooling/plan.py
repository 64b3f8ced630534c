"""Max pooling, average pooling and the pyramid in a program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import MaxPool, Size
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Plain
from sparse_icnet.operators.outputs import rounding
from sparse_icnet.operators.pooling.pack import (
    average_pool_scratch_bytes,
    bins_of,
    pyramid_line_offsets,
    pyramid_scratch_bytes,
    pyramid_stages,
)
from sparse_icnet.operators.pooling.params import AveragePoolParams, MaxPoolParams, Pooled, PyramidParams
from sparse_icnet.operators.pooling.stages import Stage
from sparse_icnet.operators.storage import Block, CodesMap, Demand, PlanError, SizeError, Storage, View
from sparse_icnet.operators.taps import demand_of, int32_table, tap_offsets, taps_of


@dataclass(frozen=True, eq=False)
class MaxPoolStep(Plain):
    """`op` from the codes of `source` to the map of `target`."""

    op: MaxPool
    source: View
    target: View

    @classmethod
    def of(cls, op: MaxPool, source: View, target: View) -> MaxPoolStep:
        """Raises PlanError if the kernel cannot compute it."""
        codes, phases = source.codes, target.phases
        if codes.stored_zero and any(op.padding):
            raise PlanError(
                f"max pool {op.name!r}: with padding its input must have the zero point as its lowest code, found "
                f"zero point {codes.quantizer.zero_point} in {codes.quantizer.low}..{codes.quantizer.high}"
            )
        if source.phases != (phases[0] * op.stride[0], phases[1] * op.stride[1]):
            raise SizeError(f"max pool {op.name!r}: input must be stride {op.stride} times the output")
        return cls(op, source, target)

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def tasks(self) -> int:
        return self.target.map.groups * math.prod(self.target.phases)

    @property
    def scratch(self) -> int:
        return 0

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    @cached_property
    def _taps(self) -> NDArray[np.int64]:
        return taps_of(self.op, self.source, self.target.phases)

    def demands(self) -> Sequence[Demand]:
        return (demand_of(self.name, self.source, self._taps),)

    def params(self, memory: Memory) -> MaxPoolParams:
        source = memory.layout(self.source.map)
        offsets = int32_table(tap_offsets(source, self._taps), f"max pool {self.op.name!r}")
        return MaxPoolParams(
            phases=math.prod(self.target.phases),
            vectors=self.target.map.grid.vectors,
            taps=self._taps.shape[1],
            source=memory.start(self.source.map),
            source_stride=source.stride,
            offsets=offsets,
            offsets_phase=offsets.strides[0],
            output=memory.map(self.target),
        )


def _pooled(source: View, memory: Memory) -> Pooled:
    ky, kx = source.phases
    return Pooled(memory.map(source), ky, kx, source.map.grid.pitch, source.codes.stored_zero)


@dataclass(frozen=True, eq=False)
class AveragePoolStep(Plain):
    """Means of `bins` of a map of codes of `size`, as values in `unit`, float32 (C, rows, columns) in `target`."""

    name: str
    source: View
    size: Size
    bins: Size
    unit: float
    target: Block

    @staticmethod
    def block(name: str, channels: int, bins: Size) -> Block:
        """Memory for the means: channels are computed by fours."""
        return Block(name, 4 * (channels + 3) * math.prod(bins))

    @property
    def tasks(self) -> int:
        return self.source.map.groups

    @property
    def scratch(self) -> int:
        return average_pool_scratch_bytes(self.source.map.grid.pitch, *self.bins)

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target,)

    def params(self, memory: Memory) -> AveragePoolParams:
        quantizer = self.source.codes.quantizer
        bins = bins_of(quantizer, self.size, self.bins, self.unit, self.source.phases)
        return AveragePoolParams(_pooled(self.source, memory), bins, memory.block(self.target))


@dataclass(frozen=True, eq=False)
class PyramidStep(Plain):
    """The sum of a map of codes of `size`, one phase, and of its pooled `stages`, to the codes of `target`."""

    name: str
    source: View
    size: Size
    stages: Sequence[Stage]
    target: View

    @property
    def tasks(self) -> int:
        return self.target.map.groups

    @property
    def _bin_rows(self) -> list[int]:
        return [pool.bins[0] for pool, _, _ in self.stages]

    @property
    def scratch(self) -> int:
        return pyramid_scratch_bytes(self.source.map.grid.pitch, sum(self._bin_rows))

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    def params(self, memory: Memory) -> PyramidParams:
        quantizer, target = self.source.codes.quantizer, self.target.map
        assert isinstance(target, CodesMap)
        stages, finest, unit = pyramid_stages(quantizer, self.size, list(self.stages), target.quantizer)
        height = self.size[0]
        return PyramidParams(
            source=_pooled(self.source, memory),
            count=len(stages),
            stages=stages,
            finest=finest,
            height=height,
            lines=pyramid_line_offsets(target.grid.pitch, height, self._bin_rows),
            scale=float(arithmetic.dequantize_multiplier(quantizer, unit)),
            output=memory.map(self.target),
            rounding=rounding(target.quantizer),
        )
