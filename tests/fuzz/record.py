"""A campaign whose results are kept in a file: written every so often, continued where it was left.

The file says for each reader how many files became what, the largest costs, and every fault; which commits were under test;
on which machine.  Files of all readers take turns, so that a campaign that is cut short has tried each as often.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recorded import commit, header, now, write_json

from .campaign import SECOND_PATH, Case, Summary, run
from .check import MEMORY, SECOND, SIZE_A_SECOND, SLACK, Verdict

EVERY = 60.0  # seconds between two states of the file


def recorded(
    path: Path,
    readers: Sequence[str],
    seed: int,
    count: int,
    workers: int,
    seconds: float,
    gigabytes: float,
    failures: Path,
) -> bool:
    """Check `count` files of each reader, those that `path` already counts included; whether there is no fault."""
    results = _begun(path, readers, seed)
    known: dict[str, dict[str, Any]] = results["readers"]
    todo = [
        Case(reader, seed, index)
        for index in range(count)
        for reader in readers
        if index >= known[reader]["files"]
    ]
    results["commits"] = list(dict.fromkeys([*results["commits"], commit()]))
    summaries = {reader: Summary() for reader in readers}
    before = json.dumps(results)
    start = written = time.monotonic()

    def keep() -> None:
        merged = json.loads(before)
        for reader, summary in summaries.items():
            _merge(merged["readers"][reader], summary)
        merged["finished"] = now()
        merged["seconds"] = round(merged["seconds"] + time.monotonic() - start)
        merged["executions"] = sum(entry["files"] for entry in merged["readers"].values())
        merged["faults"] = sum(len(entry["faults"]) for entry in merged["readers"].values())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, merged)

    def seen(case: Case, verdict: Verdict) -> None:
        nonlocal written
        summaries[case.reader].add(case, verdict)
        if time.monotonic() - written > EVERY:
            written = time.monotonic()
            keep()

    run(todo, workers, seconds, gigabytes, failures, second_path=True, seen=seen)
    keep()
    return not json.loads(path.read_text("utf-8"))["faults"]


def _begun(path: Path, readers: Sequence[str], seed: int) -> dict[str, Any]:
    """What `path` holds, or the beginning of it."""
    if path.exists():
        results: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if results["seed"] != seed or list(results["readers"]) != list(readers):
            raise ValueError(f"{path}: expected a campaign of seed {seed} over {', '.join(readers)}")
        return results
    started = header(f"python -m tests.fuzz --record {path.name} --seed {seed}")
    started["commits"] = [started.pop("commit")]
    entry: dict[str, Any] = {"files": 0, "counts": {}, "worst": {}, "faults": []}
    return started | {
        "seed": seed,
        "code_paths": ["native", " ".join(f"{name}={value}" for name, value in SECOND_PATH.items())],
        "limits": {
            "seconds_to_load": f"{SECOND} + (file + weights + plan) / {SIZE_A_SECOND} bytes",
            "bytes_to_read": f"{MEMORY} x (file + weights) + {SLACK}",
            "seconds_a_file": 30,
        },
        "seconds": 0,
        "readers": {reader: json.loads(json.dumps(entry)) for reader in readers},
    }


def _merge(entry: dict[str, Any], summary: Summary) -> None:
    for kind, number in summary.counts.items():
        entry["counts"][kind] = entry["counts"].get(kind, 0) + number
    entry["files"] += summary.counts.total()
    for name, value in summary.worst.items():
        entry["worst"][name] = max(value, entry["worst"].get(name, 0))
    entry["faults"] += [f"{case.name}: {verdict.kind} {verdict.message}" for case, verdict in summary.faults]
