"""What a step may touch, and how a proof says what it does touch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparse_icnet.operators import kernel_name
from sparse_icnet.operators.record import dtype_of
from sparse_icnet.operators.storage import Block, PlanError, Storage
from sparse_icnet.plan.arena import Piece
from sparse_icnet.plan.program import Plan, Step

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
    """The memory of a plan: constants, and the storages of its steps."""

    def __init__(self, plan: Plan) -> None:
        arena, places = plan.placement.arena, plan.placement.memory
        self._pieces = sorted((p for p in arena.pieces if p.bytes), key=lambda piece: piece.address)
        self._starts = [piece.address for piece in self._pieces]
        self.pieces = plan.placement.pieces
        self._steps = list(plan.steps())
        for storage, piece in self.pieces.items():
            taken = self.piece(piece.address)
            if taken is None or taken.constant or piece.end > taken.end:
                raise ProofError(f"tensor {storage.name!r}: its memory is not the plan's")
        self._places = places

    def piece(self, address: int) -> Piece | None:
        """The piece of the arena that holds `address`."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._pieces[index].end:
            return None
        return self._pieces[index]

    def start(self, storage: Storage) -> int:
        """The address by which kernels know a storage."""
        return self._places.block(storage) if isinstance(storage, Block) else self._places.start(storage)

    def writers(self, storage: Storage) -> list[Step]:
        """The steps that write a storage."""
        return [step for step in self._steps if storage in step.writes]


class Access:
    """One step as its kernel sees it.  A proof calls `reads`, `writes` and `scratch` for all that the kernel does.

    `a[field]` is an integer of the record, `a.inside(field)` a record inside it.  Offsets are given as a Span from an
    address in a field; `size` bytes are touched at each of them.  Whatever lies outside raises ProofError.
    """

    def __init__(
        self,
        step: Step,
        record: np.void,
        memory: Memory,
        scratch_bytes: int,
        source_bytes: int = 0,
        result_bytes: int | None = 0,
    ) -> None:
        self._step, self._record, self._memory = step, record, memory
        self._scratch_bytes = scratch_bytes
        self._source_bytes, self._result_bytes = source_bytes, result_bytes

    def __getitem__(self, field: str) -> int:
        return int(self._record[field])

    def inside(self, field: str) -> Access:
        """The same step, by a record inside its record."""
        return self._of(self._record[field])

    def _of(self, record: np.void) -> Access:
        return Access(
            self._step, record, self._memory, self._scratch_bytes, self._source_bytes, self._result_bytes
        )

    @property
    def result_comes_with_a_call(self) -> bool:
        """Whether the size of the result is not the plan's: then nothing about it is known here."""
        return self._result_bytes is None

    def writers(self, address: int) -> list[Step]:
        """The steps that write the storage that this one reads at an address."""
        storage = self._storage(self._step.reads, address)
        return [] if storage is None else self._memory.writers(storage)

    def _storage(self, storages: Sequence[Storage], address: int) -> Storage | None:
        return next((s for s in storages if self._memory.start(s) == address), None)

    @property
    def tasks(self) -> int:
        """Number of tasks of the step."""
        return self.positive("tasks", self._step.tasks)

    def fail(self, what: str) -> ProofError:
        """The error of this step, to be raised."""
        return ProofError(f"operation {self._step.name!r} ({kernel_name(self._step.kind)}): {what}")

    def positive(self, what: str, value: int) -> int:
        """`value`, if it lies within 1..MOST - 1, else ProofError."""
        if not 1 <= value < MOST:
            raise self.fail(f"expected 1 to {MOST - 1} {what}, found {value}")
        return value

    def count(self, field: str, what: str) -> int:
        """A field that counts something: positive, and small enough for products."""
        return self.positive(what, self[field])

    def require(self, condition: bool, what: str) -> None:
        """ProofError with the text `what` unless `condition` holds."""
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
        piece = self._memory.piece(address)
        if piece is None or not piece.constant or piece.address != address:
            raise self.fail(f"its {what} must be constants of the plan, found the address {address:#x}")
        self._inside(what, "reads", span, size, piece)
        return piece

    def record_at(self, what: str, address: int, kind: type) -> Access:
        """A record among the constants: a step that is computed inside this one."""
        return self.records_at(what, address, kind, 1)[0]

    def records_at(self, what: str, address: int, kind: type, count: int) -> list[Access]:
        """Several records behind each other."""
        records = self.table(what, address, dtype_of(kind), (count,))
        return [self._of(record) for record in records]

    # --- what the kernel touches -------------------------------------------------------------------------------------

    def reads(self, what: str, address: int, span: Span, size: int) -> None:
        """From a storage in `reads`."""
        storage = self._storage(self._step.reads, address)
        if storage is None:
            raise self.fail(f"its {what} must be a tensor that it reads, found the address {address:#x}")
        self._in_storage(what, "reads", storage, address, span, size)

    def writes(self, what: str, address: int, span: Span, size: int) -> None:
        """To a storage in `writes`."""
        storage = self._storage(self._step.writes, address)
        if storage is None:
            raise self.fail(f"its {what} must be the tensor that it writes, found the address {address:#x}")
        self._in_storage(what, "writes", storage, address, span, size)

    def _in_storage(
        self, what: str, verb: str, storage: Storage, address: int, span: Span, size: int
    ) -> None:
        piece = self._memory.pieces[storage]
        self._inside(what, verb, span + (address - piece.address), size, piece)

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
PROOFS: dict[type, Proof] = {}


def proves(kind: type) -> Callable[[Proof], Proof]:
    """Register what the kernel that reads the record `kind` touches."""

    def register(proof: Proof) -> Proof:
        PROOFS[kind] = proof
        return proof

    return register
