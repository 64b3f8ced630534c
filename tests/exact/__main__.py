"""The command line; `python -m tests.exact --help`."""

from __future__ import annotations

import argparse
import importlib
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

PARTS = ("digests", "sums", "requantization", "calls")


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.exact", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ("native", *(path.name for path in code_paths.PATHS))
    default = ["native", *code_paths.runnable()]
    add("--paths", nargs="+", choices=names, default=default, help="default: all that run here")
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="default: all; calls on the first path alone",
    )
    add("--quick", action="store_true", help="a little of everything")
    add(
        "--record",
        type=Path,
        metavar="FILE",
        help="keep the results in a JSON file; what is in it is not run again",
    )
    add("--python", metavar="COMMAND", help="for the paths of another CPU: an emulator and its interpreter")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _run_here(options.paths[0], options.parts[0], options.quick)
    results = header("python -m tests.exact") | {"quick": options.quick, "paths": {}}
    if options.record and options.record.exists():
        results = json.loads(options.record.read_text("utf-8"))
    for path in options.paths:
        found = results["paths"].setdefault(path, {})
        for part in options.parts:
            if part in found or (part == "calls" and path != options.paths[0]):
                continue
            found[part] = _run(path, part, options.quick, options.python)
            print(f"{path}, {part}: {json.dumps(found[part])}", flush=True)
            results["faults"] = sum(
                len(p["faults"]) for parts in results["paths"].values() for p in parts.values()
            )
            results["finished"] = now()
            if options.record:
                options.record.parent.mkdir(parents=True, exist_ok=True)
                write_json(options.record, results)
    print(f"{results['faults']} faults")
    return int(bool(results["faults"]))


def _run(path: str, part: str, quick: bool, python: str | None) -> dict[str, Any]:
    arguments = ["--child", "--paths", path, "--parts", part, *(["--quick"] if quick else [])]
    start = time.monotonic()
    done = subprocess.run(
        [*shlex.split(python or sys.executable), "-X", "faulthandler", "-m", "tests.exact", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = round(time.monotonic() - start)
    if done.returncode:
        return {"faults": [f"exit code {done.returncode}: {done.stderr[-2000:]}"], "seconds": seconds}
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


def _run_here(path: str, part: str, quick: bool) -> int:
    code_paths.enter(path)
    from sparse_icnet.target import TARGET

    counts: Counter[str] = Counter()
    faults: list[str] = []
    importlib.import_module(f"tests.exact.{part}").run(quick, counts, faults)
    print(json.dumps({"target": TARGET.name, "counts": counts, "faults": faults}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
