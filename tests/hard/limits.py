"""Little address space, small stacks, few descriptors: the results as they must be, or one clear line.

Whatever the limit, a result is whole and right or not there, and no process dies of a signal once it has begun to answer.
"""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable

from .record import Record
from .workshop import Ended, Workshop, workshop, wrong_files

_MIB = 1 << 20


def run(count: int, seed: int) -> Record:
    """`count` limits of each kind."""
    record = Record("limits", seed)
    chance = random.Random(seed)
    kinds: dict[str, tuple[int, Callable[[], int]]] = {
        "address space": (resource.RLIMIT_AS, lambda: chance.randrange(300, 1200) * _MIB),
        "data": (resource.RLIMIT_DATA, lambda: chance.randrange(100, 600) * _MIB),
        "stack": (resource.RLIMIT_STACK, lambda: chance.choice([128, 256, 512, 1024, 4096]) << 10),
        "descriptors": (resource.RLIMIT_NOFILE, lambda: chance.randrange(6, 40)),
    }
    with workshop(6) as shop:
        for what, (limit, value) in kinds.items():
            for _ in range(count):
                _limited(record, shop, what, limit, value(), chance.random() < 0.25)
    return record


def _limited(record: Record, shop: Workshop, what: str, limit: int, value: int, pool: bool) -> None:
    def set_limit() -> None:
        resource.setrlimit(limit, (value, value))

    out = shop.folder / "out"
    words = shop.segment(out, *(("--workers", "2") if pool else ()))
    ended = shop.run(*words, preexec_fn=set_limit)
    if not ended.answered:
        # The interpreter, or a library that it loads, could not even begin.
        record.counts[f"{what}: not enough for Python to begin"] += 1
    else:
        good = ended.code == 0 or _told(ended)
        outcome = "done" if ended.code == 0 else "refused"
        record.check(good, f"{what}: {outcome}", f"{value}{' with --workers' * pool}: {ended.complaint}")
    wrong = wrong_files(out, shop.expected)
    record.check(not wrong, "folders looked at", f"{what} {value}: {wrong}")
    if ended.answered and ended.code == 0:
        record.check(
            len(list(out.glob("*.png"))) == len(shop.expected), "all results there", f"{what} {value}"
        )
    shutil.rmtree(out, ignore_errors=True)


def _told(ended: Ended) -> bool:
    """Whether it says in lines of errors alone why not."""
    lines = ended.err.splitlines()
    return ended.code == 2 and bool(lines) and all(line.startswith("sparse-icnet: ") for line in lines)
