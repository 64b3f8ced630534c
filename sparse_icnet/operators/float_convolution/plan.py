"""A convolution of float32 in a program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import FloatConvolution, Size
from sparse_icnet.operators.float_convolution.pack import Weights
from sparse_icnet.operators.float_convolution.params import VECTORS, FloatConvolutionParams
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Report
from sparse_icnet.operators.outputs import output
from sparse_icnet.operators.params import SCRATCH_BYTES
from sparse_icnet.operators.storage import Demand, Storage, View
from sparse_icnet.operators.taps import demand_of, taps_of
from sparse_icnet.target import TARGET

REASON = "float32 in the file"
# The work of the kernel; no other computes such a layer, so nothing depends on it.
COST = "4 * blocks * computed"
COST_WORDS = "blocks of 4 output channels; computed: vectors of a plane in whole tiles"


@dataclass(frozen=True, eq=False)
class FloatConvolutionStep:
    """`op` of the real values of `source`, in the unit 1, to the map of `target`: codes, or real values in `unit`.

    size  (height, width) of the output
    """

    op: FloatConvolution
    source: View
    size: Size
    unit: float
    target: View
    relu: bool
    threads: int
    taps: NDArray[np.int64]
    weights: Weights

    @classmethod
    def of(
        cls,
        op: FloatConvolution,
        source: View,
        size: Size,
        unit: float,
        target: View,
        relu: bool,
        threads: int,
    ) -> FloatConvolutionStep:
        """The step with its taps, and its weights packed."""
        taps = taps_of(op, source, target.phases)
        return cls(op, source, size, unit, target, relu, threads, taps, Weights.of(op))

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def _groups(self) -> int:
        return self.target.map.groups

    @property
    def _chunks(self) -> int:
        return -(-self.target.map.grid.vectors // VECTORS)

    @property
    def _groups_per_task(self) -> int:
        """So few that every thread finds work until the end, whatever the size of the map."""
        tiles = self._chunks * math.prod(self.target.phases)
        parts = min(self._groups, max(1, -(-8 * self.threads // tiles)))
        return -(-self._groups // parts)

    @property
    def tasks(self) -> int:
        return self._chunks * math.prod(self.target.phases) * -(-self._groups // self._groups_per_task)

    @property
    def scratch(self) -> int:
        return SCRATCH_BYTES

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    def demands(self) -> Sequence[Demand]:
        return (demand_of(self.name, self.source, self.taps),)

    def params(self, memory: Memory) -> FloatConvolutionParams:
        offsets = self.weights.offsets(self.name, memory.layout(self.source.map), self.taps)
        biases = np.zeros(4 * self._groups, np.float32)
        biases[: len(self.op.bias)] = arithmetic.convolution_bias(self.op, self.unit)
        return FloatConvolutionParams(
            phases=math.prod(self.target.phases),
            vectors=self.target.map.grid.vectors,
            chunks=self._chunks,
            groups=self._groups,
            groups_per_task=self._groups_per_task,
            source=memory.start(self.source.map),
            offsets=offsets,
            offsets_phase=offsets.strides[0],
            indptr=self.weights.indptr,
            weights=self.weights.values,
            multiplier=float(arithmetic.unit_multiplier(self.unit)),
            biases=biases,
            output=output(self.target, memory, self.relu),
        )

    def reports(self) -> Sequence[Report]:
        pixels, stored, weight = math.prod(self.size), self.weights.values, self.op.weight
        return (
            Report(
                self.name,
                TARGET.float_kernel.name,
                REASON,
                macs=stored.size * pixels,
                dense_macs=weight.size * pixels,
                sparsity=1 - np.count_nonzero(weight) / weight.size,
                block_density=len(stored) / (self._groups * weight[0].size),
                shape=weight.shape,
                weight_bytes=stored.nbytes + 4 * len(stored),
                block=(4, 1),
            ),
        )
