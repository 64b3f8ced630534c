"""The forms in which the weights of a layer of int8 are stored: dense, CSR in the file, blocks, and what its kernel reads.

Every size is that of arrays which the modules of `sparse_icnet.sparse` and the operators' `pack.py` make.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_icnet.network.graph import Convolution, Graph
from sparse_icnet.operators.convolution.pack import blocks_of, order_of, pack_weights
from sparse_icnet.operators.operator import Report
from sparse_icnet.operators.params import AHEAD
from sparse_icnet.operators.winograd.pack import weight_bytes
from sparse_icnet.sparse.block_csr import LANE_CHANNELS, BlockCSR
from sparse_icnet.sparse.csr import CSR
from sparse_icnet.sparse.gather import gather_zeros
from sparse_icnet.sparse.winograd import transformed
from sparse_icnet.target import TARGET

if TYPE_CHECKING:
    from sparse_icnet.plan.program import Plan

BLOCK_ROWS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class BlockForm:
    """Weights in blocks of `rows` output x 4 input channels at one tap (`sparse_icnet.sparse.block_csr`).

    blocks  all of them; stored: those that hold a non-zero
    bytes   of the stored ones with their places: data, indices, indptr
    """

    rows: int
    blocks: int
    stored: int
    bytes: int

    @property
    def empty(self) -> int:
        """Blocks that hold nothing but zeros."""
        return self.blocks - self.stored


@dataclass(frozen=True, slots=True)
class DirectForm:
    """What a micro-kernel reads (`operators/convolution/pack.py`).

    kernel         its name; rows: output channels of its blocks
    couples        pairs of blocks that are multiplied together; singles: blocks alone
    weights_bytes  of the weights; offsets_bytes: of the byte offsets that say where each block reads, of all
                   phases, those behind the last included (`AHEAD`); indptr_bytes: of the ranges of the row groups
    """

    kernel: str
    rows: int
    couples: int
    singles: int
    weights_bytes: int
    offsets_bytes: int
    indptr_bytes: int

    @property
    def bytes(self) -> int:
        return self.weights_bytes + self.offsets_bytes + self.indptr_bytes


@dataclass(frozen=True, slots=True)
class WinogradForm:
    """What Winograd's filtering reads (`operators/winograd/pack.py`): G g G' of every filter g, as int16.

    elements  numbers, channels filled up to fours included; nonzero: of them, those that are not zero
    """

    kernel: str
    elements: int
    nonzero: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LayerForms:
    """The stored forms of one convolution; sizes in bytes.

    shape      (O, I, kh, kw); weights: int8, as many bytes when dense
    nonzeros   of them
    csr_bytes  of the arrays of its CSR form, as the native file holds them before compression
    blocks     in blocks of 1, 2 and 4 output channels
    gathered   the same when the channels of the network are permuted to gather zeros; None where that was not looked at
    packed     as the engine holds it; None where the output does not need the layer
    """

    name: str
    shape: tuple[int, int, int, int]
    nonzeros: int
    csr_bytes: int
    blocks: tuple[BlockForm, ...]
    gathered: tuple[BlockForm, ...] | None
    packed: DirectForm | WinogradForm | None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def zeros(self) -> float:
        """Share of the weights that are zero."""
        return 1 - self.nonzeros / self.weights

    def of_rows(self, rows: int) -> BlockForm:
        """The form in blocks of so many output channels."""
        return next(form for form in self.blocks if form.rows == rows)

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return {"weights": self.weights, "zeros": self.zeros, **asdict(self)}


def forms(graph: Graph, plan: Plan, gather: bool = True) -> tuple[LayerForms, ...]:
    """The forms of every convolution of int8 of `graph`, as a file has it, and of the `plan` that was made of it.

    gather  also look at the blocks behind `sparse_icnet.sparse.gather.gather_zeros`, which takes a second or two
    """
    gathered = {op.name: op for op in gather_zeros(graph).convolutions} if gather else {}
    reports = {report.name: report for report in plan.convolutions()}
    return tuple(
        forms_of(op, reports.get(op.name), _phases(plan, op.name), gathered.get(op.name))
        for op in graph.convolutions
    )


def forms_of(
    op: Convolution, report: Report | None = None, phases: int = 1, gathered: Convolution | None = None
) -> LayerForms:
    """The forms of one convolution.

    report    of the plan; phases: of its output
    gathered  the same convolution with its channels permuted
    """
    csr = CSR.from_dense(op.weight)
    outputs, inputs, height, width = op.weight.shape
    return LayerForms(
        name=op.name,
        shape=(outputs, inputs, height, width),
        nonzeros=csr.data.size,
        csr_bytes=csr.indptr.nbytes + csr.indices.nbytes + csr.data.nbytes,
        blocks=block_forms(op),
        gathered=block_forms(gathered) if gathered is not None else None,
        packed=_packed(op, report, phases) if report is not None else None,
    )


def block_forms(op: Convolution) -> tuple[BlockForm, ...]:
    """The weights of `op` in blocks of each of `BLOCK_ROWS` output channels."""
    return tuple(_block_form(BlockCSR.from_dense(op.weight, rows)) for rows in BLOCK_ROWS)


def _block_form(blocks: BlockCSR) -> BlockForm:
    _, inputs, height, width = blocks.shape
    columns = -(-inputs // LANE_CHANNELS) * height * width
    size = blocks.indptr.nbytes + blocks.indices.nbytes + blocks.data.nbytes
    return BlockForm(blocks.rows, columns * (blocks.indptr.size - 1), blocks.blocks, size)


def _packed(op: Convolution, report: Report, phases: int) -> DirectForm | WinogradForm:
    if report.filtered:
        outputs, inputs = (n + -n % 4 for n in op.weight.shape[:2])
        numbers = transformed(np.ascontiguousarray(op.weight.transpose(2, 3, 0, 1)))
        return WinogradForm(
            report.kernel, len(numbers) * outputs * inputs, int(np.count_nonzero(numbers)), weight_bytes(op)
        )
    kernel = next(one for one in TARGET.kernels if one.name == report.kernel)
    order = order_of(op, kernel.rows)
    packed = pack_weights(blocks_of(op, kernel.rows), order)
    return DirectForm(
        kernel=kernel.name,
        rows=kernel.rows,
        couples=order.couples,
        singles=order.singles,
        weights_bytes=packed.nbytes,
        offsets_bytes=4 * TARGET.blocks_per_entry * (len(packed) + AHEAD) * phases,
        indptr_bytes=order.indptr.nbytes,
    )


def _phases(plan: Plan, name: str) -> int:
    """Phases of the output of a convolution of the plan's graph; 1 where it has none of that name."""
    if all(op.name != name for op in plan.graph.convolutions):
        return 1
    return math.prod(plan.grid.phases(*plan.graph.shape(name)[1:]) or (1,))
