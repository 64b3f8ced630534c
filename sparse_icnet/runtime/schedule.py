"""In which order the steps of a plan run, and which tensors may share memory.

An inference that touches every tensor at an address of its own moves tens of megabytes through caches of one or two.
Run depth first, few tensors are alive at a time, and those that follow find their memory in the cache already.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparse_icnet.runtime.layout import Buffer
    from sparse_icnet.runtime.steps import Step


def needs(steps: Sequence[Step]) -> list[set[int]]:
    """Indices of the steps that write what each step reads, `steps` being in an order in which they may run."""
    writers: dict[int, set[int]] = {}  # by identity of a buffer, or of a step that keeps its result to itself
    result: list[set[int]] = []
    for i, step in enumerate(steps):
        result.append(set().union(*(writers.get(id(source), ()) for source in step.reads)))
        for target in (step, *_written(step)):
            writers.setdefault(id(target), set()).add(i)
    return result


def depth_first(steps: Sequence[Step]) -> list[Step]:
    """The same steps, each as soon after what it reads as possible; among equals the one with the largest output."""
    before = needs(steps)
    readers: list[list[int]] = [[] for _ in steps]
    for i, sources in enumerate(before):
        for source in sources:
            readers[source].append(i)
    missing = [len(sources) for sources in before]
    # Steps that may run, by the place of the last of what they read, by size of output, by their order.
    ready = [(0, -_planes(step), i) for i, step in enumerate(steps) if not missing[i]]
    heapq.heapify(ready)
    order: list[Step] = []
    while ready:
        *_, chosen = heapq.heappop(ready)
        order.append(steps[chosen])
        for reader in readers[chosen]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (-len(order), -_planes(steps[reader]), reader))
    return order


def _planes(step: Step) -> int:
    return max((buffer.planes for buffer in _written(step)), default=0)


def lifetimes(steps: Sequence[Step]) -> dict[int, tuple[int, int]]:
    """id(buffer) -> (index of its first writer, index of its last reader), both included."""
    alive: dict[int, tuple[int, int]] = {}
    for i, step in enumerate(steps):
        for buffer in (*_written(step), *step.reads):
            alive[id(buffer)] = (alive.get(id(buffer), (i, i))[0], i)
    return alive


def offsets(sizes: Sequence[int], alive: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """(offset of each block, bytes of all), no two blocks overlapping that are alive at a time.

    Greedy by size (Pisarchyk and Lee 2020): the largest first, each at the lowest offset that is free all its life.
    """
    placed: list[int] = []
    result = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        begin, end = alive[i]
        at = 0
        for j in sorted(
            (j for j in placed if alive[j][0] <= end and begin <= alive[j][1]), key=result.__getitem__
        ):
            if result[j] - at >= sizes[i]:
                break
            at = max(at, result[j] + sizes[j])
        result[i] = at
        placed.append(i)
    return result, max((at + size for at, size in zip(result, sizes, strict=True)), default=0)


def _written(step: Step) -> Iterable[Buffer]:
    return () if step.output is None else (step.output.buffer,)
