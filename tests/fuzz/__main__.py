"""The command line of a campaign; `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from . import __doc__ as description
from .bases import READERS, available
from .campaign import Case, run, verdicts
from .record import recorded


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--readers", nargs="+", choices=READERS, default=available(), help="default: all that can run here")
    add("--count", type=int, default=1000, metavar="N", help="files of each reader, default 1000")
    add("--first", type=int, default=0, metavar="I", help="number of the first file, default 0")
    add("--seed", type=int, default=0, metavar="S", help="default 0")
    add("--only", type=int, nargs="+", metavar="I", help="these files alone")
    add(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes, default one for each CPU",
    )
    add("--seconds", type=float, default=30.0, metavar="T", help="time of one file, default 30")
    add("--memory", type=float, default=4.0, metavar="GIB", help="address space of a process, default 4")
    add("--failures", type=Path, default=Path("failures"), metavar="DIR", help="where faults are kept")
    add("--replay", type=Path, nargs="+", metavar="FILE", help="check these files instead")
    add(
        "--record",
        type=Path,
        metavar="FILE",
        help="keep the results in a JSON file, and go on where it was left; two code paths",
    )
    add("--reasons", action="store_true", help="also why files were refused, and how often")
    options = parser.parse_args()
    if options.replay:
        found = list(verdicts(options.replay, options.workers, options.seconds, options.memory))
        for path, verdict in found:
            print(f"{path}: {verdict.kind} {verdict.message}")
        return int(not all(verdict.good for _, verdict in found))
    if options.record:
        limits = (options.workers, options.seconds, options.memory, options.failures)
        good = recorded(options.record, options.readers, options.seed, options.count, *limits)
        print(options.record.read_text("utf-8"))
        return int(not good)
    indices = options.only or range(options.first, options.first + options.count)
    cases = [Case(reader, options.seed, index) for reader in options.readers for index in indices]
    start = time.perf_counter()
    summaries = run(cases, options.workers, options.seconds, options.memory, options.failures)
    for reader, summary in summaries.items():
        print(f"{reader}: {summary}")
        if options.reasons:
            for reason, count in summary.reasons.most_common(40):
                print(f"    {count:6} {reason}")
        for case, verdict in summary.faults:
            print(f"  {case.name}: {verdict.kind} {verdict.message}")
    print(f"{len(cases)} files, seed {options.seed}, in {time.perf_counter() - start:.0f} s")
    return int(any(summary.faults for summary in summaries.values()))


if __name__ == "__main__":
    sys.exit(main())
