"""This engine, OpenVINO and ONNX Runtime on the same models, pictures, sizes and threads.

    python bench/compare.py --quick                    under a minute
    python bench/compare.py --nncf --json FILE --png FILE

Needs the extra `peers` (and `plot` for --png).  Every engine runs in a process of its own; they take turns in
short rounds, so that whatever else the machine does hits all of them.  Exit code 1: an engine failed, or the
engines disagree about the classes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from _busy import busy
from _common import (
    ISA_ENVIRONMENT,
    cpus,
    exit_code,
    machine,
    now,
    say,
    size_argument,
    summary,
    write_json,
)
from _many import Many
from _models import Entry, default_entries, entry_of, export, write_inputs
from _processes import HERE, Worker, WorkerError, alternate, fresh
from _report import CASES, OURS, report

from sparse_icnet.network.graph import Size
from sparse_icnet.target import TARGET

PEERS = ("openvino", "onnxruntime")
PARTS = ("latency", "sizes", "loaded", "start", "folder")
MAIN_SIZE = (768, 960)
OTHER_SIZES = ((384, 480), (1536, 1920))
BUSY = (1, 2)  # processes beside a measurement
SAVE = (("classes", "png"), ("classes,overlay", "png"), ("classes,overlay", "jpeg"))
LEAST_AGREEMENT = (
    0.95  # share of pixels with the class that this engine gives; int8 engines differ by a few ‰
)


def saturates(isa: str) -> bool:
    """Whether the peers' sums of products saturate in 16 bits: without VNNI, and by their fastest settings."""
    return isa != "native" or not TARGET.name.endswith("vnni")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--model",
        action="append",
        type=Path,
        metavar="FILE",
        help="in place of the bundled models; may repeat",
    )
    add("--nncf", action="store_true", help="also the first model as NNCF quantizes it (768x960 only)")
    add(
        "--size",
        action="append",
        type=size_argument,
        metavar="HxW",
        help="first: the main size; others: the part `sizes`",
    )
    add("--threads", type=int, nargs="+", metavar="N", help="default: 1 and 2, as far as there are CPUs")
    add("--case", action="append", choices=tuple(CASES), help="default: all; may repeat")
    add("--engine", action="append", choices=PEERS, help="peers; default: both; may repeat")
    add("--part", action="append", choices=PARTS, help="default: all; may repeat")
    add("--isa", choices=tuple(ISA_ENVIRONMENT), default="native", help="the class of CPUs to run code for")
    add("--rounds", type=int, default=7, metavar="N", help="turns of each engine (default: 7)")
    add("--seconds", type=float, default=0.3, metavar="S", help="least length of a turn (default: 0.3)")
    add(
        "--pictures",
        type=int,
        default=48,
        metavar="N",
        help="in the folder of the part `folder` (default: 48)",
    )
    add(
        "--quick",
        action="store_true",
        help="default model, all threads, 3 rounds, `latency` and `start` alone",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    add("--png", type=Path, metavar="FILE", help="draw the main size on the most threads into FILE")
    return parser


@dataclass
class Comparison:
    """A run: what was asked, where files go, what was found."""

    arguments: argparse.Namespace
    folder: Path
    engines: list[str]
    entries: list[Entry]
    threads: list[int]
    sizes: list[Size]
    cases: list[str]
    environment: Mapping[str, str]
    workers: dict[str, Worker] = field(default_factory=dict)
    latency: list[dict[str, Any]] = field(default_factory=list)
    start: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _exported: dict[tuple[str, Size], tuple[dict[str, str], dict[str, str]]] = field(default_factory=dict)

    def files(self, entry: Entry, size: Size) -> tuple[dict[str, str], dict[str, str]]:
        """What each engine loads, and the inputs, at `size`; written when first asked for."""
        key = entry.name, size
        if key not in self._exported:
            inputs = write_inputs(entry.graph(size), size, self.folder)
            self._exported[key] = export(entry, size, self.folder, self.engines), inputs
        return self._exported[key]

    def run(self, parts: list[str]) -> None:
        """All parts, in order."""
        with ExitStack() as stack:
            if {"latency", "sizes", "loaded"} & set(parts):
                for engine in self.engines:
                    self.workers[engine] = Worker(engine, self.environment)
                    stack.callback(self.workers[engine].stop)
            if "latency" in parts:
                for entry in self.entries:
                    for case in self.cases:
                        for threads in self.threads:
                            self.time(entry, case, entry.only_size or self.sizes[0], threads)
            if "sizes" in parts:
                for entry in self.sized:
                    for size in self.sizes[1:]:
                        for case in self.cases:
                            self.time(entry, case, size, self.threads[-1])
            if "loaded" in parts:
                for entry in self.sized:
                    for processes in BUSY:
                        for case in self.cases:
                            with busy(processes):
                                self.time(entry, case, self.sizes[0], self.threads[-1], processes)
        if "start" in parts:
            for entry in self.sized:
                self.time_start(entry)
        if "folder" in parts:
            self.time_many()

    @property
    def sized(self) -> list[Entry]:
        """The models that are not for one size alone."""
        return [entry for entry in self.entries if entry.only_size is None]

    def time(self, entry: Entry, case: str, size: Size, threads: int, processes: int = 0) -> None:
        """One case on all engines, in turns, and whether they agree.

        processes  how many are busy beside it
        """
        beside = f", {processes} busy process{'es' * (processes > 1)} beside it" if processes else ""
        say(
            f"{entry.name}: {CASES[case]}, {size[0]}x{size[1]}, {threads} thread{'s' * (threads > 1)}{beside}"
        )
        paths, inputs = self.files(entry, size)
        opened = {}
        for engine, worker in self.workers.items():
            try:
                worker.ask(
                    "open",
                    case=case,
                    model=paths.get(f"{engine}/{case}", paths[engine]),
                    size=size,
                    threads=threads,
                    input=inputs[case],
                )
                opened[engine] = worker
            except WorkerError as error:
                self.problems.append(str(error))
        times = alternate(opened, self.arguments.rounds, self.arguments.seconds, 3)
        maps = {}
        for engine, worker in opened.items():
            path = self.folder / f"{engine}.npy"
            worker.ask("classes", path=str(path))
            maps[engine] = np.load(path)
            worker.ask("close")
        row: dict[str, Any] = {
            "model": entry.name,
            "case": case,
            "size": list(size),
            "threads": threads,
            "busy": processes,
        }
        row["ms"] = {engine: summary(np.concatenate(turns)) for engine, turns in times.items()}
        row["ratio"], row["ratio_of_rounds"], row["agreement"] = {}, {}, {}
        for engine in opened:
            if engine == OURS or OURS not in opened:
                continue
            row["ratio"][engine] = round(row["ms"][engine]["median"] / row["ms"][OURS]["median"], 3)
            paired = [np.median(a) / np.median(b) for a, b in zip(times[engine], times[OURS], strict=True)]
            row["ratio_of_rounds"][engine] = summary(paired)
            row["agreement"][engine] = round(float((maps[engine] == maps[OURS]).mean()), 5)
            share = row["agreement"][engine]
            if share < LEAST_AGREEMENT:
                if saturates(self.arguments.isa) and not entry.narrow_weights:
                    where, why = self.notes, ": its sums of products saturate in 16 bits without VNNI"
                else:
                    where, why = self.problems, f"; expected at least {LEAST_AGREEMENT:.0%}"
                pixels = f"{engine} gives {share:.1%} of the pixels the class of {OURS}"
                where.append(f"{entry.name}, {CASES[case]}: {pixels}{why}")
        if OURS in maps and np.unique(maps[OURS]).size < 2:
            self.problems.append(f"{entry.name}, {CASES[case]}: one class everywhere proves nothing")
        self.latency.append(row)

    def time_start(self, entry: Entry) -> None:
        """Fresh processes: picture file to first class map, and peak memory.

        This engine with an empty and with a warm cache of compiled kernels, OpenVINO without and with its
        cache of compiled models; the caches are folders of their own.
        """
        size, threads = self.sizes[0], self.threads[-1]
        paths, inputs = self.files(entry, size)
        tail = [inputs["picture"], *map(str, size), str(threads)]
        repeats = 2 if self.arguments.quick else 5
        seconds: dict[str, list[float]] = {}
        peaks: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            cache = Path(name)
            # A quick run does not wait for the compiler: it uses the usual cache of compiled kernels.
            kernels = {} if self.arguments.quick else {"NUMBA_CACHE_DIR": str(cache / "numba")}
            models = [str(cache / "openvino")]
            plan: list[tuple[str, str, list[str]]] = []
            if OURS in self.engines:
                plan.append((OURS, "" if self.arguments.quick else "empty cache", []))
            if "openvino" in self.engines:
                plan.append(("openvino", "", models))
            for _ in range(repeats):
                plan += [(OURS, "warm cache", [])] if OURS in self.engines else []
                if "openvino" in self.engines:
                    plan += [("openvino", "no cache", []), ("openvino", "warm cache", models)]
                plan += [("onnxruntime", "no cache", [])] if "onnxruntime" in self.engines else []
            for engine, how, more in plan:
                say(f"fresh process: {engine}, {how or 'to fill its cache'}")
                command = [str(HERE / "_start.py"), engine, paths[engine], *tail, *more]
                try:
                    taken, reply = fresh(command, {**self.environment, **kernels})
                except WorkerError as error:
                    self.problems.append(str(error))
                    continue
                if how:
                    seconds.setdefault(f"{engine}, {how}", []).append(taken)
                    peaks.setdefault(f"{engine}, {how}", []).append(reply["peak_bytes"] / 2**20)
        for name in seconds:
            self.start.append(
                {
                    "engine": name,
                    "model": entry.name,
                    "size": list(size),
                    "threads": threads,
                    "seconds_to_first_class_map": summary(seconds[name]),
                    "peak_mib": summary(peaks[name]),
                }
            )

    def time_many(self) -> None:
        """Folders and a film to result files, see `Many`."""
        repeats = 1 if self.arguments.quick else 3
        many = Many(self.folder, self.arguments.pictures, self.threads[-1], repeats, self.environment)
        for entry in self.sized:
            paths, _ = self.files(entry, self.sizes[0])
            for save, drawn in SAVE:
                say(f"{entry.name}: folder of {self.arguments.pictures} pictures to {save} ({drawn})")
                engines = self.engines if drawn == "png" else [OURS]
                self.pictures += many.folders(entry.name, paths, self.sizes[0], engines, save, drawn)
            if find_spec("av"):
                say(f"{entry.name}: film")
                self.pictures += many.film(entry.name, paths[OURS], self.sizes[0])
        self.problems += many.problems

    def results(self) -> dict[str, Any]:
        """Everything, as it goes into the JSON file."""
        return {
            "date": now(),
            "machine": machine(),
            "isa": self.arguments.isa,
            "environment": dict(self.environment),
            "rounds": self.arguments.rounds,
            "models": [entry.about() for entry in self.entries],
            "latency": self.latency,
            "start": self.start,
            "folder": self.pictures,
            "problems": self.problems,
            "notes": self.notes,
        }


def main() -> int:
    """Run what the command line asks for."""
    arguments = parser().parse_args()
    if arguments.quick:
        arguments.rounds = min(arguments.rounds, 3)
    engines = [OURS, *(peer for peer in PEERS if peer in (arguments.engine or PEERS))]
    notes = []
    if arguments.isa != "native" and "onnxruntime" in engines:
        engines.remove("onnxruntime")
        notes.append("onnxruntime is left out: it has no switch for the instruction set")
    for module in [*engines[1:], *(["onnx"] if "onnxruntime" in engines else [])]:
        if find_spec(module) is None:
            raise ImportError(f"{module} is missing: pip install 'sparse-icnet[peers]'")
    entries = [entry_of(path) for path in arguments.model or ()] or default_entries()
    if arguments.quick:
        entries = entries[:1]
    sizes = list(dict.fromkeys(arguments.size or (MAIN_SIZE, *OTHER_SIZES)))
    threads = sorted(set(arguments.threads or (n for n in (1, 2) if n <= cpus())))
    if arguments.quick and not arguments.threads:
        threads = threads[-1:]
    parts = arguments.part or [
        part for part in PARTS if not (arguments.quick and part in ("sizes", "loaded", "folder"))
    ]
    with tempfile.TemporaryDirectory(prefix="sparse-icnet-bench-") as name:
        folder = Path(name)
        if arguments.nncf:
            entries.append(_nncf_entry(entries[0], sizes[0], folder, saturates(arguments.isa)))
        comparison = Comparison(
            arguments,
            folder,
            engines,
            entries,
            threads,
            sizes,
            arguments.case or list(CASES),
            ISA_ENVIRONMENT[arguments.isa],
            notes=notes,
        )
        comparison.run(parts)
        results = comparison.results()
    print(report(results))
    if arguments.json:
        write_json(arguments.json, results)
    if arguments.png:
        from _plot import draw

        draw(results, arguments.png)
    return 1 if results["problems"] else 0


def _nncf_entry(entry: Entry, size: Size, folder: Path, narrow_weights: bool) -> Entry:
    from _nncf import quantize

    say(f"{entry.name}: quantizing with NNCF")
    path = folder / f"{entry.name}-nncf.xml"
    quantize(entry.graph(size), path, narrow_weights)
    return Entry(path.stem, path, size, narrow_weights)


if __name__ == "__main__":
    sys.exit(exit_code(main))
