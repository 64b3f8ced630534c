"""Two result files of one benchmark by their ratios: is the second faster, slower or the same within the noise?

    python bench/ratios.py before.json after.json [--tolerance 5]

Reads files of `compare.py` (a peer's time over this engine's, in the same run) and of `kernels.py` (the share of the peaks,
measured in the same run).  Ratios hold across noisy machines where milliseconds do not; files of different CPUs or
settings are refused.  Exit code 1: a ratio of the second file is lower by more than the tolerance in percent and by
more than the quartiles of the two runs explain.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import exit_code, table

MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure that is better when larger, with its quartiles."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, sample: Mapping[str, float]) -> Ratio:
        return cls(float(sample["median"]), float(sample["q1"]), float(sample["q3"]))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", type=Path, metavar="AFTER.json")
    parser.add_argument("--tolerance", type=float, default=5.0, metavar="PERCENT", help="default: 5")
    return parser


def read(path: Path) -> dict[str, Any]:
    """A result file.  Raises ValueError for one that is not of `compare.py` or `kernels.py`."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, found {path.stat().st_size}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON of a benchmark ({error})") from error
    if not isinstance(results, dict) or not {"latency", "network"} & results.keys():
        raise ValueError(f"{path}: expected results of compare.py or kernels.py, found neither")
    return results


def ratios(results: Mapping[str, Any]) -> Iterator[tuple[str, Ratio]]:
    """Every ratio of a result file with its name."""
    for row in results.get("latency", ()):
        for peer, sample in row["ratio_of_rounds"].items():
            size = "x".join(map(str, row["size"]))
            beside = f", busy {row['busy']}" if row.get("busy") else ""
            name = f"{row['model']}, {row['case']}, {size}, threads {row['threads']}{beside}: {peer}"
            yield name, Ratio.of(sample)
    for row in results.get("network", ()):
        for case in row["cases"]:
            ms = case["ms"]
            share = [100 * row["ms_at_peaks"] / ms[key] for key in ("median", "q3", "q1")]
            yield f"{case['case']}, threads {row['threads']}: % of the peaks", Ratio(*share)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float) -> tuple[str, list[str]]:
    """(table of all ratios that both hold, names of those that fell)."""
    for key in ("cpu", "features", "cpus"):
        if before["machine"][key] != after["machine"][key]:
            raise ValueError(
                f"the files are of different machines: {key} {before['machine'][key]} and {after['machine'][key]}"
            )
    if before["isa"] != after["isa"]:
        raise ValueError(f"the files are of different code: isa {before['isa']} and {after['isa']}")
    old, new = dict(ratios(before)), dict(ratios(after))
    common = [name for name in old if name in new]
    if not common:
        raise ValueError("the files have no case in common")
    rows, fallen = [], []
    for name in common:
        a, b = old[name], new[name]
        change = 100 * (b.value / a.value - 1)
        fell = change < -tolerance and b.high < a.low
        fallen += [name] if fell else []
        rows.append(
            (name, f"{a.value:.2f}", f"{b.value:.2f}", f"{change:+.1f} %" + (" SLOWER" if fell else ""))
        )
    return table(("ratio (larger is better)", "before", "after", "change"), rows), fallen


def main() -> int:
    """Compare; 1 if a ratio fell."""
    arguments = parser().parse_args()
    text, fallen = compare(read(arguments.before), read(arguments.after), arguments.tolerance)
    print(text)
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
