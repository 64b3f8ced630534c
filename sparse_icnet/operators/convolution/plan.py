"""A block-sparse convolution in a program: its tasks, its time as estimated, its record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, Quantizer, Size
from sparse_icnet.operators.convolution.pack import (
    block_offsets,
    blocks_of,
    estimated_entries,
    order_of,
    pack_weights,
)
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Candidate, Report
from sparse_icnet.operators.outputs import NO_OUTPUT, Addend, epilogue, operand, output
from sparse_icnet.operators.params import AHEAD, FUSED, LINE, NO_MAP, RUN_VECTORS, SCRATCH_BYTES, Operand
from sparse_icnet.operators.storage import Demand, Storage, View
from sparse_icnet.operators.taps import demand_of, taps_of
from sparse_icnet.sparse.block_csr import BlockCSR
from sparse_icnet.sparse.couples import BlockOrder
from sparse_icnet.target import TARGET, MicroKernel

# A task has no more bytes of activations than this, counting those that a group of output channels reads on average: all
# groups read them again.  Register tiles of one or two vectors, for which the loads count, want them in the first-level
# cache, wide ones in the second-level cache.
TASK_BYTES_NARROW, TASK_BYTES_WIDE = 24 << 10, 256 << 10


# What `direct_costs` computes of one plane, in the names of `MicroKernel`.
COST = "rows * computed * (singles / speed)"
COST_COUPLES = "rows * computed * (singles / speed + 2 * couples / couple_speed)"
COST_WORDS = "computed: vectors of a plane in whole tiles; singles, couples: blocks alone, pairs of blocks"


def remainder_kernel(kernel: MicroKernel, vectors: int) -> MicroKernel:
    """The narrowest micro-kernel with as many rows for the vectors that whole tiles of `kernel` leave over."""
    rest = vectors % kernel.vectors
    fitting = [k for k in TARGET.kernels if k.rows == kernel.rows and rest <= k.vectors <= kernel.vectors]
    return min(fitting, key=lambda k: k.vectors)


def direct_costs(op: Convolution, vectors: int) -> dict[MicroKernel, float]:
    """Estimated time of each micro-kernel for these weights on a plane of `vectors` vectors.

    Stored products, times vectors in whole tiles, over the relative speed of the kernel for them.
    """
    costs = {}
    for kernel in TARGET.kernels:
        whole, rest = divmod(vectors, kernel.vectors)
        computed = whole * kernel.vectors + (remainder_kernel(kernel, vectors).vectors if rest else 0)
        singles, couples = estimated_entries(op, kernel.rows)
        cost = singles / kernel.speed
        if couples:
            cost += 2 * couples / kernel.couple_speed
        costs[kernel] = cost * kernel.rows * computed
    return costs


def vectors_per_task(blocks: BlockCSR, kernel: MicroKernel) -> int:
    """Vectors of pixels of one task of a convolution with these weights: whole tiles of `kernel`.

    As many as keep the activations in the cache: what a group of output channels costs beside its products is paid once a
    task.  With few blocks a group reads little, and few groups read the same.
    """
    read = LINE * max(1, blocks.blocks // max(1, len(blocks.indptr) - 1))
    most = (TASK_BYTES_NARROW if kernel.vectors <= 2 else TASK_BYTES_WIDE) // read
    return max(1, min(most, RUN_VECTORS) // kernel.vectors) * kernel.vectors


@dataclass(frozen=True, eq=False)
class ConvolutionStep:
    """`op` with the epilogue that follows it.

    source    the codes that it reads
    phases    of the output
    size      (height, width) of the output
    kernel    the micro-kernel; reason: why that one; candidates: what it was compared with
    unit      of its results; inner: quantizer before they are added to anything
    addend    what is added: nothing, a map, or another convolution of the same size, whose tiles are computed just before
              they are added
    target    what it fills; None for the addend of another convolution
    relu      whether its results are ReLU's; saturates: as in `Output`
    threads   that its tasks are divided for
    taps      as `taps_of` gives them; blocks, order, packed: its weights as `pack.py` makes them
    """

    op: Convolution
    source: View
    phases: Size
    size: Size
    kernel: MicroKernel
    reason: str
    unit: float
    inner: Quantizer | None
    addend: Addend | ConvolutionStep | None
    target: View | None
    relu: bool
    saturates: bool
    threads: int
    taps: NDArray[np.int64]
    blocks: BlockCSR
    order: BlockOrder
    packed: NDArray[np.int32]
    candidates: tuple[Candidate, ...] = ()

    @classmethod
    def of(
        cls,
        op: Convolution,
        source: View,
        phases: Size,
        size: Size,
        kernel: MicroKernel,
        reason: str,
        unit: float,
        inner: Quantizer | None,
        addend: Addend | ConvolutionStep | None = None,
        target: View | None = None,
        relu: bool = False,
        saturates: bool = False,
        threads: int = 1,
    ) -> ConvolutionStep:
        """The step with its taps, and its weights packed."""
        blocks, order = blocks_of(op, kernel.rows), order_of(op, kernel.rows)
        return cls(
            op,
            source,
            phases,
            size,
            kernel,
            reason,
            unit,
            inner,
            addend,
            target,
            relu,
            saturates,
            threads,
            taps_of(op, source, phases),
            blocks,
            order,
            pack_weights(blocks, order),
        )

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def _groups(self) -> int:
        return -(-int(self.op.weight.shape[0]) // 4)

    @property
    def _vectors_per_task(self) -> int:
        return vectors_per_task(self.blocks, self.kernel)

    @property
    def _chunks(self) -> int:
        return -(-self.source.map.grid.vectors // self._vectors_per_task)

    @property
    def _groups_per_task(self) -> int:
        """So few that every thread finds work until the end, whatever the size of the map."""
        parts = min(self._groups, max(1, -(-8 * self.threads // (self._chunks * math.prod(self.phases)))))
        return -(-self._groups // parts)

    @property
    def tasks(self) -> int:
        return self._chunks * math.prod(self.phases) * -(-self._groups // self._groups_per_task)

    @property
    def scratch(self) -> int:
        return SCRATCH_BYTES

    @property
    def reads(self) -> Sequence[Storage]:
        own = (self.source.map,)
        if isinstance(self.addend, ConvolutionStep):
            return (*own, *self.addend.reads)
        return own if self.addend is None else (*own, self.addend.view.map)

    @property
    def writes(self) -> Sequence[Storage]:
        return () if self.target is None else (self.target.map,)

    def demands(self) -> Sequence[Demand]:
        own = demand_of(self.name, self.source, self.taps)
        return (own, *self.addend.demands()) if isinstance(self.addend, ConvolutionStep) else (own,)

    def params(self, memory: Memory) -> ConvolutionParams:
        source, vectors = memory.layout(self.source.map), self.source.map.grid.vectors
        columns = self.blocks.indices[self.order.blocks[:, : TARGET.blocks_per_entry]].reshape(-1)
        columns = np.pad(columns, (0, AHEAD * TARGET.blocks_per_entry))
        offsets = block_offsets(self.op, source, self.taps, columns)
        codes = self.source.codes
        if isinstance(self.addend, ConvolutionStep):
            addend, fused = Operand(FUSED, NO_MAP, 0.0, 0), self.addend.params(memory)
        else:
            addend, fused = operand(self.addend, memory), None
        return ConvolutionParams(
            phases=math.prod(self.phases),
            vectors=vectors,
            chunks=self._chunks,
            vectors_per_task=self._vectors_per_task,
            groups=self._groups,
            groups_per_task=self._groups_per_task,
            kernel=TARGET.kernel_index(self.kernel),
            tile_vectors=self.kernel.vectors,
            remainder_kernel=TARGET.kernel_index(remainder_kernel(self.kernel, vectors)),
            source=memory.start(codes),
            offsets=offsets,
            offsets_phase=offsets.strides[0],
            indptr=self.order.indptr,
            weights=self.packed,
            epilogue=epilogue(
                self.op,
                codes.quantizer,
                codes.stored_zero - TARGET.code_shift,
                self.unit,
                self.inner,
                addend,
                fused,
                NO_OUTPUT
                if self.target is None
                else output(self.target, memory, self.relu, self.saturates, copies=True),
            ),
        )

    def reports(self) -> Sequence[Report]:
        op, pixels = self.op, math.prod(self.size)
        own = Report(
            op.name,
            self.kernel.name,
            self.reason,
            macs=self.blocks.data.size * pixels,
            dense_macs=op.weight.size * pixels,
            sparsity=1 - np.count_nonzero(op.weight) / op.weight.size,
            block_density=self.blocks.density,
            shape=op.weight.shape,
            weight_bytes=self.packed.nbytes + 4 * TARGET.blocks_per_entry * len(self.packed),
            candidates=self.candidates,
        )
        return (*self.addend.reports(), own) if isinstance(self.addend, ConvolutionStep) else (own,)
