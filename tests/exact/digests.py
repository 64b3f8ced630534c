"""Both bundled models at 192x192 and 768x960: the digests that `tests/run/test_digest.py` stores, on this code path."""

from __future__ import annotations

from collections import Counter

from test_digest import DIGESTS, digests


def run(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    for name, sizes in DIGESTS.items():
        for size, wanted in sizes.items():
            if quick and size != (192, 192):
                continue
            counts["digests"] += len(wanted)
            if (found := digests(name, size)) != wanted:
                faults.append(f"{name} at {size}: expected {wanted}, found {found}")
