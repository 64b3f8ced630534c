"""Plans whose memory lies between pages that nobody may touch, and random damage to them: run as a program.

    python tests/helpers/guarded.py EXAMPLES DAMAGES

For EXAMPLES random graphs and two networks, each with DAMAGES random changes of a field or a table, whatever the proof
accepts is run.  A kernel that then touches a byte outside of its tensors, tables or scratch memory kills the process.
Prints how many damaged plans the proof accepted and refused.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from any_graphs import any_graphs
from engine import WINOGRAD, Net, forced, random_blob, random_image
from graphs import random_icnet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparse_icnet.network.graph import Bilinear, Graph
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.operators import storage
from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.storage import PlanError
from sparse_icnet.plan import LEAST_TIME, layout
from sparse_icnet.plan.arena import Arena
from sparse_icnet.plan.encode import encode
from sparse_icnet.plan.policy import Policy
from sparse_icnet.plan.program import End, Plan, Start
from sparse_icnet.plan.proof import ProofError, prove
from sparse_icnet.plan.select import select
from sparse_icnet.run.session import Session

PAGE = mmap.PAGESIZE
# Fields that decide how long a kernel works: enlarged without bound, a harmless plan would run for hours.
LONGEST = 1 << 12


class GuardedArena(Arena):
    """Every piece between two forbidden pages, at the end of the allowed ones or at their beginning."""

    at_end = True

    def _take(self, wanted: int) -> NDArray[np.uint8]:
        pages = max(1, -(-wanted // PAGE))
        chunk = mmap.mmap(-1, (pages + 2) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._chunks.append(chunk)
        memory = np.frombuffer(chunk, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (0, pages + 1):
            place = ctypes.c_void_p(memory.ctypes.data + page * PAGE)
            if libc.mprotect(
                place, ctypes.c_size_t(PAGE), mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0
            ):
                raise OSError(ctypes.get_errno(), "mprotect")
        # Atomics and streamed stores want whole cache lines: a little less than a line may lie behind the piece.
        start = PAGE + ((pages * PAGE - wanted) // LINE * LINE if self.at_end else 0)
        return memory[start : start + wanted]


@contextmanager
def guarded(at_end: bool, slack: int = storage.SLACK) -> Iterator[None]:
    """Plans made inside lie between forbidden pages, their tensors with `slack` bytes before and behind."""
    usual, arena, GuardedArena.at_end = storage.SLACK, layout.Arena, at_end
    layout.Arena, storage.SLACK = GuardedArena, slack
    try:
        yield
    finally:
        layout.Arena, storage.SLACK = arena, usual


def unproven(graph: Graph, keep_tensors: bool = True, policy: Policy = LEAST_TIME) -> Plan | None:
    """The plan of `graph` as it comes from the planner; None for what the engine cannot run."""
    try:
        program = select(optimize(graph), policy, 1)
        return encode(program, layout.lay_out(program, keep_tensors))
    except PlanError:
        return None


def fields_of(record: np.void, prefix: str = "") -> dict[str, tuple[np.void, str]]:
    """The integers of a record by dotted name: what holds each, and its name there."""
    found: dict[str, tuple[np.void, str]] = {}
    for name, (kind, _) in record.dtype.fields.items():
        if kind.fields:
            found |= fields_of(record[name], f"{prefix}{name}.")
        elif kind == np.int64:
            found[prefix + name] = record, name
    return found


@contextmanager
def damaged(plan: Plan, rng: np.random.Generator) -> Iterator[None]:
    """One field or one entry of a table changed, a little or much."""

    def changed(value: int, limit: int) -> int:
        little = [1, 4, 16, 64, 128, 1 << 10, 1 << 12, 1 << 16]
        delta = int(rng.choice(little)) * int(rng.choice([-1, 1]))
        choices = [value + delta, value + delta, 2 * value, -value, 0, value // 2, value ^ (1 << 20)]
        return int(np.clip(choices[rng.integers(len(choices))], -limit, limit - 1))

    if rng.random() < 0.5:
        steps = list(plan.steps())
        fields = list(fields_of(steps[rng.integers(len(steps))].record[0]).values())
        record, name = fields[rng.integers(len(fields))]
        before = int(record[name])
        record[name] = changed(before, 1 << 62)
        try:
            yield
        finally:
            record[name] = before
    else:
        tables = [piece for piece in plan.placement.arena.pieces if piece.constant and piece.bytes >= 8]
        piece = tables[rng.integers(len(tables))]
        kind = np.dtype(rng.choice(["int32", "int64"]))
        table = piece.memory[: piece.bytes // kind.itemsize * kind.itemsize].view(kind)
        index = int(rng.integers(table.size))
        before = table[index].copy()
        table[index] = changed(int(before), 1 << (8 * kind.itemsize - 1))
        try:
            yield
        finally:
            table[index] = before


def lasts(plan: Plan) -> bool:
    """Whether a step would run for long, harmless as it may be."""
    counts = {
        "vectors",
        "height",
        "width",
        "count",
        "rows",
        "columns",
        "channels",
        "groups",
        "taps",
        "phases",
    }
    counts |= {"phases_y", "phases_x", "enlarged_y", "enlarged_x", "rows_per_task"}
    return any(
        name.rpartition(".")[2] in counts and record[field] > LONGEST
        for step in plan.steps()
        for name, (record, field) in fields_of(step.record[0]).items()
    )


def run(plan: Plan) -> list[np.ndarray]:
    """Every start and every end of `plan`, what comes in and goes out between forbidden pages as well; the results."""
    session = Session(plan)
    inputs = GuardedArena()

    def between(array: np.ndarray) -> np.ndarray:
        guarded = inputs.take(max(array.nbytes, 1))[: array.nbytes].view(array.dtype).reshape(array.shape)
        guarded[...] = array
        return guarded

    shape, results = plan.graph.input.shape, []
    sources = {Start.BLOB: between(random_blob(shape)), Start.IMAGE: between(random_image(shape))}
    ends: list[tuple[Start, End, tuple[int, ...], type]] = [
        (Start.BLOB, End.PROBABILITIES, plan.output_shape, np.float32),
        (Start.IMAGE, End.PROBABILITIES, plan.output_shape, np.float32),
        (Start.IMAGE, End.CLASSES, plan.class_map_size, np.uint8),
        (Start.BLOB, End.LOGITS, plan.logits_shape, np.float32),
        *((Start.BLOB, End.SMOOTH_CLASSES, size, np.uint8) for size in ((5, 7), (33, 130))),
    ]
    for start, end, size, dtype in ends:
        result = between(np.zeros(size, dtype))
        stretch = session._stretch((size[0], size[1])) if end is End.SMOOTH_CLASSES else None
        session._run(start, sources[start], {end: result}, stretch)
        results.append(result)
    return results


def main(examples: int, damages: int) -> None:
    counts = {"accepted": 0, "refused": 0, "graphs": 0}

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        any_graphs(),
        st.booleans(),
        st.sampled_from([0, 64, 256, storage.SLACK]),
        st.sampled_from([None, WINOGRAD]),
        st.integers(0, 2**32 - 1),
    )
    def attempt(graph: Graph, at_end: bool, slack: int, kernel: str | None, seed: int) -> None:
        with guarded(at_end, slack):
            plan = unproven(graph, policy=forced(kernel))
        if plan is None:
            return
        counts["graphs"] += 1
        rng = np.random.default_rng(seed)
        for number in range(damages + 1):
            if number == 0:
                judge(plan, counts)
                continue
            with damaged(plan, rng):
                judge(plan, counts)

    attempt()
    for at_end, graph in itertools.product((False, True), (random_icnet((96, 192)), bilinear())):
        with guarded(at_end):
            plan = unproven(graph)
        assert plan is not None
        rng = np.random.default_rng(at_end)
        for _ in range(damages):
            with damaged(plan, rng):
                judge(plan, counts)
    print(*(f"{name} {count}" for name, count in counts.items()))


def bilinear() -> Graph:
    """A network that ends in a bilinear upsampling, larger than what is computed of a row at a time."""
    net = Net((24, 48))
    net.add(Bilinear("up", net.convolution(net.image, 5, 3, 2), (31, 300)))
    return net.softmax("up")


def judge(plan: Plan, counts: dict[str, int]) -> None:
    try:
        prove(plan)
    except ProofError:
        counts["refused"] += 1
        return
    if not lasts(plan):
        counts["accepted"] += 1
        run(plan)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
