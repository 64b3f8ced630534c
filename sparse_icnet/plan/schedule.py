"""In which order the operators of a program run, and which storages may share memory.

An inference that touches every tensor at an address of its own moves tens of megabytes through caches of one or two.
Run depth first, few tensors are alive at a time, and those that follow find their memory in the cache already.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol, TypeVar

from sparse_icnet.operators.storage import Block, Storage


class Accesses(Protocol):
    """An operator, or the step that is made of it."""

    @property
    def reads(self) -> Sequence[Storage]: ...

    @property
    def writes(self) -> Sequence[Storage]: ...


AnyOperator = TypeVar("AnyOperator", bound=Accesses)


def needs(operators: Sequence[Accesses]) -> list[set[int]]:
    """Indices of those that write what each operator reads, `operators` being in an order in which they may run."""
    writers: dict[Storage, set[int]] = {}
    result: list[set[int]] = []
    for i, operator in enumerate(operators):
        result.append(set().union(*(writers.get(source, ()) for source in operator.reads)))
        for target in operator.writes:
            writers.setdefault(target, set()).add(i)
    return result


def depth_first(operators: Sequence[AnyOperator]) -> list[AnyOperator]:
    """The same, each as soon after what it reads as possible; among equals the one with the largest output."""
    before = needs(operators)
    readers: list[list[int]] = [[] for _ in operators]
    for i, sources in enumerate(before):
        for source in sources:
            readers[source].append(i)
    missing = [len(sources) for sources in before]
    # Those that may run, by the place of the last of what they read, by size of output, by their order.
    ready = [(0, -_planes(operator), i) for i, operator in enumerate(operators) if not missing[i]]
    heapq.heapify(ready)
    order: list[AnyOperator] = []
    while ready:
        *_, chosen = heapq.heappop(ready)
        order.append(operators[chosen])
        for reader in readers[chosen]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (-len(order), -_planes(operators[reader]), reader))
    return order


def _planes(operator: Accesses) -> int:
    maps = (storage for storage in operator.writes if not isinstance(storage, Block))
    return max((map.phases[0] * map.phases[1] for map in maps), default=0)


def lifetimes(operators: Sequence[Accesses]) -> dict[Storage, tuple[int, int]]:
    """Storage -> (index of its first writer, index of its last reader), both included."""
    alive: dict[Storage, tuple[int, int]] = {}
    for i, operator in enumerate(operators):
        for storage in (*operator.writes, *operator.reads):
            alive[storage] = (alive.get(storage, (i, i))[0], i)
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
