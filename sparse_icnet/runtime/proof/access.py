"""What a step may touch, and how a proof says what it does touch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparse_icnet.kernels.fields import ROW_FIELDS, Kind
from sparse_icnet.runtime.layout import Arena, Buffer, Piece
from sparse_icnet.runtime.steps import PlanError, Step

MOST = 1 << 31  # of anything that is counted: products of two stay exact in the kernels' int64

FARTHEST = 1 << 48  # bytes: more than a process can address


@dataclass(frozen=True, slots=True)
class Span:
    """All byte offsets at which something begins, or more: low..high, both included."""

    low: int
    high: int

    def __add__(self, other: Span | int) -> Span:
        """Every sum of an offset of either."""
        if isinstance(other, int):
            return Span(self.low + other, self.high + other)
        return Span(self.low + other.low, self.high + other.high)


HERE = Span(0, 0)


def steps(count: int, stride: int) -> Span:
    """0, stride, 2 * stride ... (count - 1) * stride."""
    last = (count - 1) * stride
    return Span(min(0, last), max(0, last))


def values(array: NDArray[Any]) -> Span:
    """The values of an array of integers that is not empty."""
    return Span(int(array.min()), int(array.max()))


class ProofError(PlanError):
    """A plan that would touch memory that is not its own."""


class Memory:
    """The memory of a plan: constants, tensors, and results that a step keeps for another."""

    def __init__(self, arena: Arena, buffers: list[Buffer]) -> None:
        pieces = sorted((p for p in arena.pieces if p.bytes), key=lambda piece: piece.address)
        self._pieces = pieces
        self._starts = [piece.address for piece in pieces]
        self._tensors = set()
        for buffer in buffers:
            piece = self.piece(buffer.memory.address)
            if piece is None or piece.constant or buffer.memory.end > piece.end:
                raise ProofError(f"tensor {buffer.name!r}: its memory is not the plan's")
            self._tensors.add(piece.address)

    def piece(self, address: int) -> Piece | None:
        """The piece of the arena that holds `address`."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._pieces[index].end:
            return None
        return self._pieces[index]

    def private(self, address: int) -> Piece | None:
        """The piece that begins at `address`, unless tensors lie in it, which only steps that name them may touch."""
        piece = self.piece(address)
        return None if piece is None or piece.address != address or address in self._tensors else piece


class Access:
    """One step as its kernel sees it.  A proof calls `reads`, `writes` and `scratch` for all that the kernel does.

    `a[field]` is a field of the row.  Offsets are given as a Span from an address in a field; `size` bytes are touched at
    each of them.  Whatever lies outside raises ProofError.
    """

    def __init__(
        self,
        step: Step,
        row: NDArray[np.int64],
        memory: Memory,
        scratch_bytes: int,
        source_bytes: int = 0,
        result_bytes: int | None = 0,
    ) -> None:
        self._step, self._row, self._memory = step, row, memory
        self._scratch_bytes = scratch_bytes
        self._source_bytes, self._result_bytes = source_bytes, result_bytes
        self._reads = {b.address: b for b in step.reads if isinstance(b, Buffer)}
        self._output = None if step.output is None else step.output.buffer

    def __getitem__(self, index: int) -> int:
        return int(self._row[index])

    @property
    def result_comes_with_a_call(self) -> bool:
        """Whether the size of the result is not the plan's: then nothing about it is known here."""
        return self._result_bytes is None

    @property
    def earlier(self) -> list[Step]:
        """The steps that keep for this one what it reads."""
        return [source for source in self._step.reads if isinstance(source, Step)]

    @property
    def tasks(self) -> int:
        return self.positive("tasks", self._step.tasks)

    def fail(self, what: str) -> ProofError:
        """The error of this step, to be raised."""
        return ProofError(f"operation {self._step.name!r} ({self._step.kind.name.lower()}): {what}")

    def positive(self, what: str, value: int) -> int:
        if not 1 <= value < MOST:
            raise self.fail(f"expected 1 to {MOST - 1} {what}, found {value}")
        return value

    def count(self, index: int, what: str) -> int:
        """A field that counts something: positive, and small enough for products."""
        return self.positive(what, self[index])

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            raise self.fail(what)

    def modest(self, what: str, offsets: NDArray[np.int64]) -> None:
        """Offsets that a proof adds up in int64 must be such that a few of them cannot wrap."""
        span = values(offsets)
        self.require(
            span.low > -FARTHEST and span.high < FARTHEST,
            f"its {what}: expected offsets within memory, found {span.low}..{span.high}",
        )

    # --- tables ------------------------------------------------------------------------------------------------------

    def table(
        self,
        what: str,
        address: int,
        dtype: DTypeLike,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ) -> NDArray[Any]:
        """The constants `offset` bytes behind an address, read from where the kernel will read them."""
        kind = np.dtype(dtype)
        if strides is None:
            strides = [kind.itemsize] * len(shape)
            for axis in reversed(range(len(shape) - 1)):
                strides[axis] = strides[axis + 1] * shape[axis + 1]
        span = HERE
        for count, stride in zip(shape, strides, strict=True):
            span += steps(self.positive(f"entries of {what}", count), stride)
        piece = self._constant(what, address, span + offset, kind.itemsize)
        return np.ndarray(shape, kind, piece.memory.data, offset, tuple(strides))

    def constant(self, what: str, address: int, size: int, offset: int = 0) -> None:
        """`size` bytes of constants are read, `offset` bytes behind an address."""
        self._constant(what, address, HERE + offset, size)

    def _constant(self, what: str, address: int, span: Span, size: int) -> Piece:
        piece = self._memory.private(address)
        if piece is None or not piece.constant:
            raise self.fail(f"its {what} must be constants of the plan, found the address {address:#x}")
        self._inside(what, "reads", span, size, piece)
        return piece

    def row_at(self, address: int) -> Access:
        """A step that is computed inside this one, whose row lies among the constants."""
        row = self.table("fused step", address, np.int64, (ROW_FIELDS,))
        return Access(self._step, row, self._memory, self._scratch_bytes)

    # --- what the kernel touches -------------------------------------------------------------------------------------

    def reads(self, what: str, address: int, span: Span, size: int) -> None:
        """From a tensor in `reads`, or from what another step keeps for this one."""
        buffer = self._reads.get(address)
        if buffer is None and self._output is not None and self._output.address == address:
            buffer = self._output  # of a step that works in place
        piece = self._memory.private(address) if buffer is None else buffer.memory
        if piece is None or piece.constant:
            raise self.fail(f"its {what} must be a tensor that it reads, found the address {address:#x}")
        self._inside(what, "reads", span + (address - piece.address), size, piece)

    def writes(self, what: str, address: int, span: Span, size: int) -> None:
        """To the output tensor, or to what this step keeps for another."""
        if self._output is not None:
            piece = self._output.memory if address == self._output.address else None
        else:
            piece = self._memory.private(address)
        if piece is None or piece.constant:
            raise self.fail(f"its {what} must be the tensor that it writes, found the address {address:#x}")
        self._inside(what, "writes", span + (address - piece.address), size, piece)

    def scratch(self, what: str, span: Span, size: int) -> None:
        """Scratch memory of a thread, read or written."""
        self._fits(f"its {what}", "takes", span, size, self._scratch_bytes, "of scratch memory")

    def reads_source(self, span: Span, size: int) -> None:
        """From what the caller passes in, whose address comes with a call."""
        self._fits("it", "reads", span, size, self._source_bytes, "of the network's input")

    def writes_result(self, span: Span, size: int) -> None:
        """To what the caller gets, whose address comes with a call."""
        self._fits("it", "writes", span, size, self._result_bytes or 0, "of the result")

    def _inside(self, what: str, verb: str, span: Span, size: int, piece: Piece) -> None:
        self._fits(f"its {what}", verb, span, size, piece.bytes, "of their memory")

    def _fits(self, what: str, verb: str, span: Span, size: int, limit: int, where: str) -> None:
        if span.low < 0 or span.high + size > limit:
            raise self.fail(
                f"{what} {verb} the bytes {span.low}..{span.high + size - 1} {where}, which has {limit} bytes"
            )


Proof = Callable[[Access], None]
PROOFS: dict[Kind, Proof] = {}


def proves(kind: Kind) -> Callable[[Proof], Proof]:
    """Register what the kernel of `kind` touches."""

    def register(proof: Proof) -> Proof:
        PROOFS[kind] = proof
        return proof

    return register
