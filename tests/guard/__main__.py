"""The command line; `python -m tests.guard --help`."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from . import __doc__ as description

import code_paths  # isort: skip  (found by the package)
from recorded import ROOT, header, now, write_json  # isort: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.guard", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ("native", *(path.name for path in code_paths.PATHS))
    default = ["native", *code_paths.runnable()]
    add("--paths", nargs="+", choices=names, default=default, help="default: all that run here")
    add("--step", type=int, default=96, metavar="N", help="pixels from size to size, default 96")
    add("--largest", default="768x960", metavar="HxW", help="default 768x960")
    add(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="ICNet at one of N sizes, which takes longest; default 1",
    )
    add("--graphs", type=int, default=150, metavar="N", help="random graphs, default 150")
    add("--damages", type=int, default=12, metavar="N", help="damaged plans of each, default 12")
    add("--first", type=int, default=0, metavar="I", help="number of the first case")
    add("--only", type=int, metavar="I", help="this case of the first path, in this process")
    add(
        "--record",
        type=Path,
        metavar="FILE",
        help="keep the results in a JSON file; paths in it are not run again",
    )
    add("--python", metavar="COMMAND", help="for the paths of another CPU: an emulator and its interpreter")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child or options.only is not None:
        return _run_here(options)
    settings = (
        f"--{name} {getattr(options, name)}" for name in ("step", "largest", "every", "graphs", "damages")
    )
    command = f"python -m tests.guard {' '.join(settings)}"
    results = header(command) | {"paths": {}}
    if options.record and options.record.exists():
        results = json.loads(options.record.read_text("utf-8"))
    for path in options.paths:
        if path not in results["paths"]:
            results["paths"][path] = _run(path, options)
            results["finished"] = now()
            results["faults"] = _compared(results["paths"])
            if options.record:
                options.record.parent.mkdir(parents=True, exist_ok=True)
                write_json(options.record, results)
    for path, found in results["paths"].items():
        print(f"{path}: {found['counts']} in {found['seconds']} s, faults {found['faults']}")
    print(f"faults: {results['faults']}")
    return int(bool(results["faults"]))


def _compared(paths: dict[str, Any]) -> list[str]:
    """All faults, results that differ between two paths among them."""
    faults = [f"{path}: {fault}" for path, found in paths.items() for fault in found["faults"]]
    first, *others = paths
    for other in others:
        one, two = (paths[path]["digest"] for path in (first, other))
        if one != two:
            faults.append(f"{other}: results differ from those on {first}")
    return faults


def _run(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """All cases on a path, in processes that replace each other when one dies."""
    counts: Counter[str] = Counter()
    kinds: set[str] = set()
    digests: dict[str, str] = {}
    faults: list[str] = []
    start, first, target = time.monotonic(), 0, ""
    while True:
        arguments = ["--child", "--paths", path, "--first", str(first)]
        for name in ("step", "largest", "every", "graphs", "damages"):
            arguments += [f"--{name}", str(getattr(options, name))]
        child = subprocess.Popen(
            [
                *(shlex.split(options.python or sys.executable)),
                "-X",
                "faulthandler",
                "-m",
                "tests.guard",
                *arguments,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        begun = None
        for line in child.stdout:
            message = json.loads(line)
            begun = message.get("begun", begun)
            target = message.get("target", target)
            counts.update(message.get("counts", {}))
            kinds.update(message.get("kinds", ()))
            if "case" in message:
                digests[message["case"]] = message["digest"]
        if not child.wait():
            break
        if begun is None:
            raise RuntimeError(f"{path}: the process ended with {child.returncode} before its first case")
        faults.append(f"case {begun[0]}, {begun[1]}: exit code {child.returncode}")
        first = begun[0] + 1
    # With which kernel a case runs differs between paths, what it gives does not: nor between the ends of its pages.
    results: dict[str, str] = {}
    for name, digest in digests.items():
        what = name.split(", kernel")[0]
        if results.setdefault(what, digest) != digest:
            faults.append(f"{name}: other results than with another kernel")
    for name, digest in results.items():
        if name.endswith(", end") and results.get(name.replace(", end", ", beginning")) != digest:
            faults.append(f"{name}: other results than at the beginning of pages")
    return {
        "target": target,
        "seconds": round(time.monotonic() - start),
        "counts": dict(counts),
        "kernels": sorted(kinds),
        "digest": _digest(results),
        "faults": faults,
    }


def _digest(results: dict[str, str]) -> str:
    import hashlib

    return hashlib.sha256(repr(sorted(results.items())).encode()).hexdigest()[:16]


def _run_here(options: argparse.Namespace) -> int:
    code_paths.enter(options.paths[0])
    from collections import Counter as Counted

    from sparse_icnet.target import TARGET

    from .cases import cases, numbered, run

    height, width = map(int, options.largest.split("x"))
    found = cases(options.step, (height, width), options.every, options.graphs)
    print(json.dumps({"target": TARGET.name}), flush=True)
    chosen = (
        [(options.only, found[options.only])] if options.only is not None else numbered(found, options.first)
    )
    for number, case in chosen:
        print(json.dumps({"begun": [number, str(case)]}), flush=True)
        counts: Counter[str] = Counted()
        kinds: set[str] = set()
        digest = run(case, options.damages, counts, kinds)
        message = {"case": str(case), "digest": digest, "counts": counts, "kinds": sorted(kinds)}
        print(json.dumps(message), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
