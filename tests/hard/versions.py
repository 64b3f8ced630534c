"""The record of a run of tests, from pytest's XML: `python -m tests.hard.versions RESULTS.xml NAME [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

from .record import Record


def summed(results: Path, name: str) -> Record:
    """How many tests passed, failed and were skipped; each that failed is a fault."""
    record = Record(name, seed=0)
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        outcomes = {child.tag for child in case}
        place = f"{case.get('classname')}::{case.get('name')}"
        if outcomes & {"failure", "error"}:
            record.counts["failed"] += 1
            record.fault(place)
        else:
            record.counts["skipped" if "skipped" in outcomes else "passed"] += 1
    return record


def main() -> int:
    results, name, *folder = sys.argv[1:]
    record = summed(Path(results), name)
    print(record.text())
    if folder and folder[0]:
        print(f"  -> {record.write(Path(folder[0]))}")
    return int(bool(record.faults) or not record.counts["passed"])


if __name__ == "__main__":
    sys.exit(main())
