"""A plan as later processes take it: `sparse_icnet.plan.kept` says what it consists of.

A plan is full of addresses, which lie elsewhere in another process.  Nobody lists where they stand: each step is encoded a
second time, as if all memory lay SHIFT bytes further, and compared with what it is.  A word that is SHIFT larger is an
address and will be moved, every other must be the same.  Where anything else differs the plan is not kept.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.floats import standard_floats
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import name_of, written
from sparse_icnet.plan.arena import Piece
from sparse_icnet.plan.kept import LENGTH, NUMBER, WORD, Row
from sparse_icnet.plan.layout import lay_out
from sparse_icnet.plan.policy import LeastTime
from sparse_icnet.plan.program import Plan
from sparse_icnet.plan.select import select
from sparse_icnet.plan.steps import Step

# A multiple of every page, with bits in both halves: an address cut to 32 bits or rounded to a float differs otherwise.
SHIFT = (1 << 40) + (1 << 24)


class ImmovableError(ValueError):
    """A plan that holds an address in a form that this module does not know."""


@standard_floats()
def kept_form(plan: Plan, facts: Mapping[str, Any]) -> list[bytes | memoryview]:
    """What `sparse_icnet.plan.kept.restored` makes a plan of, in parts that follow one another.

    plan   of `sparse_icnet.plan.plan_for` by its default policy, not yet run; no tensors kept
    facts  to be kept with it, of JSON's types

    Raises ImmovableError for a plan that cannot be kept.
    """
    if plan.keeps_tensors:
        raise ImmovableError("a plan that keeps its tensors is for this process alone")
    records, moved_words = _compared(plan)
    pieces = [piece for piece in plan.arena.pieces if piece.constant or piece.memory is plan.placement.shared]
    if not pieces or pieces[0].constant or sum(not piece.constant for piece in pieces) != 1:
        raise ImmovableError("expected the memory of tensors before the constants")
    contents = [*(piece.memory for piece in pieces[1:]), *records]
    places = list(accumulate((-(-len(content) // LINE) * LINE for content in contents), initial=0))
    if places[-1] // WORD.itemsize > np.iinfo(NUMBER).max:
        raise ImmovableError(f"a plan of {places[-1]} bytes")
    image = np.zeros(places[-1], np.uint8)
    for place, content in zip(places, contents, strict=False):
        image[place : place + len(content)] = content
    moved = np.concatenate(
        [place // WORD.itemsize + words for place, words in zip(places, moved_words, strict=False)]
    )
    words = image.view(WORD)
    distances, inside = _distances(words[moved], pieces, places)
    words[moved] = distances
    moved = np.concatenate([moved[inside], moved[~inside]])
    constants = {piece.address: place for piece, place in zip(pieces[1:], places, strict=False)}
    header = {
        **_description(plan, iter(places[len(pieces) - 1 : -1]), constants),
        "shared": pieces[0].bytes,
        "image": image.size,
        "moved": (int(inside.sum()), int((~inside).sum())),
        "facts": dict(facts),
    }
    text = json.dumps(header).encode()
    return [
        LENGTH.pack(len(text)),
        text,
        bytes(-(LENGTH.size + len(text)) % LINE),
        image.data,
        moved.astype(NUMBER).data.cast("B"),
    ]


def _description(plan: Plan, places: Iterator[int], constants: Mapping[int, int]) -> dict[str, Any]:
    """The header of a plan.

    places     of the record of each step; constants: address -> place of each
    """

    def rows(steps: Sequence[Step]) -> list[Row]:
        return [(step.name, step.kind.__name__, step.tasks, next(places), behind(step)) for step in steps]

    def behind(step: Step) -> list[tuple[int, str, int]]:
        return [(constants[one.ctypes.data], name_of(one.dtype), len(one)) for one in step.behind]

    upsampling = plan.upsampling
    return {
        "input_steps": {start.name: rows(steps) for start, steps in plan.input_steps.items()},
        "body": rows(plan.body),
        "output_steps": {end.name: rows(steps) for end, steps in plan.output_steps.items()},
        "input_shape": plan.input_shape,
        "returned_shape": plan.returned_shape,
        "returns_classes": plan.returns_classes,
        "returns_logits": plan.returns_logits,
        "logits_shape": plan.logits_shape,
        "upsampling": None if upsampling is None else (*upsampling.size, upsampling.align_corners),
        "output_shape": plan.output_shape,
        "scratch_bytes": plan.scratch_bytes,
        "threads": plan.threads,
    }


def _compared(plan: Plan) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int64]]]:
    """(records of the steps as bytes; of each constant and each record the numbers of the words that are addresses)."""
    elsewhere = _Elsewhere([piece for piece in plan.arena.pieces if piece.constant])
    program = select(plan.graph, LeastTime(), plan.threads)
    placed = lay_out(program, keep_tensors=False)
    further = plan.placement.shared.ctypes.data + SHIFT - placed.shared.ctypes.data
    addresses = {storage: start + further for storage, start in placed.memory.addresses.items()}
    memory = Memory(placed.memory.layouts, addresses)
    records: list[NDArray[np.uint8]] = []
    moved: list[NDArray[np.int64]] = []
    for operator, step in zip(program.operators(), plan.steps(), strict=True):
        second = written(operator.params(memory), elsewhere.put)
        if second.dtype != step.record.dtype:
            raise ImmovableError(f"{step.name}: expected a record of {step.record.dtype}")
        records.append(step.record.view(np.uint8))
        moved.append(_addresses(records[-1], second.view(np.uint8)))
    return records, elsewhere.addresses() + moved


class _Elsewhere:
    """Takes the constants of a second encoding in their order, compares each with that of the first, and keeps none."""

    def __init__(self, constants: Sequence[Piece]) -> None:
        self._constants = constants
        self._addresses: list[NDArray[np.int64]] = []

    def put(self, array: NDArray[Any]) -> int:
        """Of a constant, the address that it would have."""
        if len(self._addresses) == len(self._constants):
            raise ImmovableError("another encoding has more constants")
        piece = self._constants[len(self._addresses)]
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if max(content.size, 1) != piece.bytes:
            raise ImmovableError("another encoding has constants of other sizes")
        self._addresses.append(_addresses(piece.memory[: content.size], content))
        return piece.address + SHIFT

    def addresses(self) -> list[NDArray[np.int64]]:
        """Of every constant the numbers of the words that are addresses."""
        if len(self._addresses) != len(self._constants):
            raise ImmovableError("another encoding has fewer constants")
        return self._addresses


def _addresses(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers of the words that are SHIFT larger in the second; ImmovableError where anything else differs."""
    whole = first.size // WORD.itemsize * WORD.itemsize
    one, other = first[:whole].view(WORD), second[:whole].view(WORD)
    differ = np.flatnonzero(one != other)
    if not ((other[differ] - one[differ] == SHIFT).all() and (first[whole:] == second[whole:]).all()):
        raise ImmovableError("two encodings differ in more than addresses")
    return differ


def _distances(
    addresses: NDArray[np.int64], pieces: Sequence[Piece], places: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(distances of addresses from the beginning of what they lie in, whether that is the image).

    pieces  the memory that tensors share, then the constants; places: those of the constants in the image
    """
    order = sorted(range(len(pieces)), key=lambda index: pieces[index].address)
    starts = [pieces[index].address for index in order]
    result, inside = np.empty_like(addresses), np.empty(addresses.shape, np.bool_)
    for i, address in enumerate(addresses.tolist()):
        index = order[bisect_right(starts, address) - 1]
        distance = address - pieces[index].address
        if not 0 <= distance <= pieces[index].bytes:
            raise ImmovableError("an address outside the memory of the plan")
        result[i], inside[i] = distance + (places[index - 1] if index else 0), index > 0
    return result, inside
