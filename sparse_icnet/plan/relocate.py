"""One plan several times: weights and tables once, for each what an inference writes in memory of its own.

The storages of a plan lie in one piece of memory, so the same plan elsewhere is the same records with each address of
that piece moved by one distance.  No type of a record says which of its integers are addresses, but all others are counts,
distances or packed codes, below 2**33, where a process of 64 bits has no such memory.  And a plan that was made by this
process is proven once more: with an integer moved too many, or too few, it would touch memory that is not its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.plan.arena import Arena, memory_at
from sparse_icnet.plan.kept import KeptPlan
from sparse_icnet.plan.steps import Runnable, Step

if TYPE_CHECKING:
    from sparse_icnet.plan.program import Placement


def beside(plan: Runnable, threads: int | None = None) -> Runnable:
    """`plan` for inferences at the same time as those of `plan` itself.

    threads  of an inference; None: as many as of `plan`, whose tasks were divided for so many

    Raises ValueError of a plan that keeps its tensors, each of which has memory of its own.
    """
    if plan.keeps_tensors:
        raise ValueError("beside: expected a plan whose tensors share memory, found one that keeps them")
    arena = Arena(piece for piece in plan.arena.pieces if piece.memory is not plan.shared)
    shared = arena.take(plan.shared.size)
    first = plan.shared.ctypes.data
    moving = _Moving(first, first + plan.shared.size, shared.ctypes.data - first, arena)
    input_steps = {start: moving.steps(steps) for start, steps in plan.input_steps.items()}
    body = moving.steps(plan.body)
    output_steps = {end: moving.steps(steps) for end, steps in plan.output_steps.items()}
    threads = threads or plan.threads
    if isinstance(plan, KeptPlan):
        return replace(
            plan,
            input_steps=input_steps,
            body=body,
            output_steps=output_steps,
            threads=threads,
            arena=arena,
            shared=shared,
        )
    from sparse_icnet.plan.proof import prove

    whole = plan.whole()
    result = replace(
        whole,
        input_steps=input_steps,
        body=body,
        output_steps=output_steps,
        threads=threads,
        placement=_moved_placement(whole.placement, arena, shared),
    )
    prove(result)
    return result


def _moved_placement(old: Placement, arena: Arena, shared: NDArray[np.uint8]) -> Placement:
    from sparse_icnet.operators.memory import Memory
    from sparse_icnet.plan.arena import Piece
    from sparse_icnet.plan.program import Placement

    first = old.shared.ctypes.data
    distance = shared.ctypes.data - first
    addresses = {storage: address + distance for storage, address in old.memory.addresses.items()}
    pieces = {
        storage: Piece(shared[piece.address - first : piece.end - first], False)
        for storage, piece in old.pieces.items()
    }
    return Placement(Memory(old.memory.layouts, addresses), arena, pieces, shared, False)


@dataclass(frozen=True, slots=True)
class _Moving:
    """Records whose addresses within first..end move by `distance`; those behind other records go to `arena`."""

    first: int
    end: int
    distance: int
    arena: Arena

    def steps(self, steps: Sequence[Step]) -> list[Step]:
        return [self._step(step) for step in steps]

    def _step(self, step: Step) -> Step:
        places: dict[
            int, int
        ] = {}  # of records behind the record, which are written before those that lead to them
        behind = []
        for records in step.behind:
            moved = self._moved(records, places)
            places[records.ctypes.data] = address = self.arena.put(moved)
            behind.append(memory_at(address, moved.nbytes).view(moved.dtype))
        return replace(step, record=self._moved(step.record, places), behind=behind)

    def _moved(self, records: NDArray[np.void], places: Mapping[int, int]) -> NDArray[np.void]:
        """A copy of `records`, (n,)."""
        moved = records.copy()
        words = moved.view(np.int64).reshape(len(moved), -1)
        places_of_integers = _integers(moved.dtype)
        values = words[:, places_of_integers]
        values[(self.first <= values) & (values < self.end)] += self.distance
        for before, after in places.items():
            values[values == before] = after
        words[:, places_of_integers] = values
        return moved


@cache
def _integers(dtype: np.dtype[np.void]) -> NDArray[np.intp]:
    """Which words of 8 bytes of a record are int64, those of records inside it included."""
    return np.array(list(_found(dtype, 0)), np.intp) // 8


def _found(dtype: np.dtype[np.void], start: int) -> Iterator[int]:
    for kind, offset, *_ in (dtype.fields or {}).values():
        if kind.fields:
            yield from _found(kind, start + offset)
        elif kind == np.int64:
            yield start + offset
