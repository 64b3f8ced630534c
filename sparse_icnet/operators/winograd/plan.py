"""A convolution by Winograd's filtering in a program: one step, or one that transforms the inputs before another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, MaxPool, Quantizer, Size
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Candidate, Plain, Report
from sparse_icnet.operators.outputs import Addend, epilogue, operand, output
from sparse_icnet.operators.params import SCRATCH_BYTES
from sparse_icnet.operators.storage import VECTOR_PIXELS, Block, Demand, Storage, View
from sparse_icnet.operators.taps import demand_of, int32_table, tap_offsets, taps_of
from sparse_icnet.operators.winograd.pack import gathered, pack_weights, weight_bytes
from sparse_icnet.operators.winograd.params import WORK_BYTES, Elements, WinogradParams
from sparse_icnet.operators.winograd.tiling import (
    Tiling,
    element_bytes,
    elements_bytes,
    groups_at_once,
    own_elements,
    scratch_bytes,
)
from sparse_icnet.sparse.winograd import ELEMENTS, INPUTS, OUTPUTS
from sparse_icnet.target import TARGET


@dataclass(frozen=True, eq=False)
class WinogradStep:
    """`op` by filtering, with the epilogue that follows it.

    source    the codes that it reads
    phases    of the output
    size      (height, width) of the output
    tiles     of the output; reason: why filtering; candidates: what it was compared with
    unit      of its results; inner: quantizer before they are added to anything
    addend    what is added, if anything is
    target    what it fills
    elements  made by a `WinogradInputStep`; None: each task makes its own
    """

    op: Convolution
    source: View
    phases: Size
    size: Size
    tiles: Tiling
    reason: str
    unit: float
    inner: Quantizer | None
    addend: Addend | None
    target: View
    relu: bool
    saturates: bool
    threads: int
    elements: Block | None
    candidates: tuple[Candidate, ...] = ()

    @staticmethod
    def elements_block(op: Convolution, tiles: Tiling, threads: int) -> Block | None:
        """Memory for the elements if a step of its own makes them."""
        if own_elements(op, tiles, 4 * threads):
            return None
        tasks = math.prod(tiles.phases) * tiles.blocks
        return Block(f"{op.name}/elements", tasks * elements_bytes(op, tiles))

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def scattered(self) -> bool:
        """Whether outputs go one by one to where a table says; their copies are then made by another step."""
        return self.tiles.starts is not None

    @property
    def _tasks(self) -> int:
        """Vectors of tiles of all phases, as tasks take them."""
        return math.prod(self.tiles.phases) * self.tiles.blocks

    @property
    def _at_once(self) -> int:
        """Groups of output channels at once."""
        return groups_at_once(self.op, self.tiles, 8 * self.threads if self.elements else self._tasks)

    @property
    def _groups(self) -> int:
        return -(-int(self.op.weight.shape[0]) // 4)

    @property
    def in_groups(self) -> int:
        return -(-int(self.op.weight.shape[1]) // 4)

    @property
    def tasks(self) -> int:
        return self._tasks * (-(-self._groups // self._at_once) if self.elements else 1)

    @property
    def scratch(self) -> int:
        return scratch_bytes(self.op, self.tiles, self.elements is None, self._at_once)[1]

    @property
    def reads(self) -> Sequence[Storage]:
        inputs: tuple[Storage, ...] = (self.source.map, *((self.elements,) if self.elements else ()))
        return inputs if self.addend is None else (*inputs, self.addend.view.map)

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    @cached_property
    def _taps(self) -> NDArray[np.int64]:
        """What the pixels of a tile read where lanes are neighbours in memory: those of a window that moves by tiles."""
        window = MaxPool(self.op.name, self.op.input, (INPUTS, INPUTS), (OUTPUTS, OUTPUTS), self.op.padding)
        return taps_of(window, self.source, self.tiles.phases)

    def demands(self) -> Sequence[Demand]:
        if not self.scattered:
            return (demand_of(self.name, self.source, self._taps),)
        # Pixels outside the map are read in the row of padding above its first plane.
        return (Demand(self.name, self.source.codes, 1, {(int(self.source.planes[0, 0]), 0): (1, 0)}),)

    def inputs(self, memory: Memory, transforms: bool) -> Elements:
        """The record of the inputs, for the step that transforms them or for one that finds them transformed."""
        source, tiles = memory.layout(self.source.map), self.tiles
        offsets, phase, gathers = None, 0, 0
        if transforms and self.scattered:
            offsets, _ = self._tables(memory)
            gathers = offsets.strides[0]
        elif transforms:
            offsets = int32_table(tap_offsets(source, self._taps), f"convolution {self.op.name!r}")
            phase = offsets.strides[0]
        return Elements(
            groups=self.in_groups,
            chunks=tiles.blocks,
            vectors_per_task=tiles.at_once,
            source=memory.start(self.source.map),
            source_stride=source.stride,
            offsets=offsets,
            offsets_phase=phase,
            gathered=gathers,
            in_order=np.arange(ELEMENTS, dtype=np.int32) * 64 if gathers else None,
            address=memory.block(self.elements) if self.elements else 0,
            element_bytes=element_bytes(2 * self.in_groups * tiles.at_once),
        )

    def _tables(self, memory: Memory) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        source, target = ((view, memory.layout(view.map)) for view in (self.source, self.target))
        return gathered(self.op, self.tiles, self.size, source, target)

    def params(self, memory: Memory) -> WinogradParams:
        tiles, at_once, codes = self.tiles, self._at_once, self.source.codes
        scattered = self._tables(memory)[1] if self.scattered else None
        return WinogradParams(
            inputs=self.inputs(memory, transforms=self.elements is None),
            vectors=tiles.vectors,
            groups=self._groups,
            groups_at_once=at_once,
            columns=self.phases[1],
            weights=pack_weights(self.op, at_once),
            sums=scratch_bytes(self.op, tiles, self.elements is None, at_once)[0],
            sums_element_bytes=element_bytes(4 * at_once * tiles.at_once),
            scattered=scattered,
            scattered_bytes=0 if scattered is None else scattered.strides[0],
            epilogue=epilogue(
                self.op,
                codes.quantizer,
                codes.stored_zero,
                self.unit,
                self.inner,
                operand(self.addend, memory),
                None,
                output(self.target, memory, self.relu, self.saturates, copies=not self.scattered),
            ),
        )

    def reports(self) -> Sequence[Report]:
        op = self.op
        return (
            Report(
                op.name,
                TARGET.filtering.name,
                self.reason,
                macs=ELEMENTS * 16 * self._groups * self.in_groups * VECTOR_PIXELS * self.tiles.all_vectors,
                dense_macs=op.weight.size * math.prod(self.size),
                sparsity=1 - np.count_nonzero(op.weight) / op.weight.size,
                block_density=1.0,
                shape=op.weight.shape,
                weight_bytes=weight_bytes(op),
                filtered=True,
                candidates=self.candidates,
            ),
        )


@dataclass(frozen=True, eq=False)
class WinogradInputStep(Plain):
    """Makes the elements that a `WinogradStep` multiplies, where its tasks share them."""

    step: WinogradStep

    @property
    def name(self) -> str:
        return f"{self.step.name}/elements"

    @property
    def tasks(self) -> int:
        tiles = self.step.tiles
        return math.prod(tiles.phases) * tiles.blocks * self.step.in_groups

    @property
    def scratch(self) -> int:
        return SCRATCH_BYTES + WORK_BYTES

    @property
    def reads(self) -> Sequence[Storage]:
        return (self.step.source.map,)

    @property
    def writes(self) -> Sequence[Storage]:
        assert self.step.elements is not None
        return (self.step.elements,)

    def params(self, memory: Memory) -> Elements:
        return self.step.inputs(memory, transforms=True)
