"""Coverage-guided fuzzing of the readers by atheris: `python -m tests.fuzz.coverage`.

    python -m tests.fuzz.coverage --runs 50000 --record FILE      every reader, in a process of its own
    python -m tests.fuzz.coverage --readers onnx --runs 1000

libFuzzer keeps what reaches code that nothing before it reached: of `sparse_icnet.formats` and `sparse_icnet.network`,
which are instrumented.  Most of its changes are those of `mutate_npz`, `mutate_ir` and `mutate_onnx`, others are of the
bytes of one file, or of one member of an archive, the rest of all bytes.  An execution reads a file and plans what was
read; the limits on time and memory are those of `check`.  What loads is kept, one file for each network, and afterwards
checked like the files of a campaign, on two code paths.

Needs the package atheris (and onnx for its reader).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recorded import ROOT, header, now, write_json

from .bases import READERS, available, bases, written
from .values import Files

KEPT = 2000  # files of one reader that loaded
EVERY = 500  # executions between two states of a child's results


def packed(files: Files) -> bytes:
    """The files of a model as one text: of an IR the length of the .xml, the .xml, the .bin."""
    if ".xml" not in files:
        (content,) = files.values()
        return content
    return struct.pack("<I", len(files[".xml"])) + files[".xml"] + files[".bin"]


def unpacked(reader: str, data: bytes) -> Files:
    """The files that `packed` made one, of any bytes."""
    if reader != "ir":
        return {f".{reader}": data}
    length = struct.unpack("<I", data[:4].ljust(4, b"\0"))[0]
    return {".xml": data[4 : 4 + length], ".bin": data[4 + length :]}


def _one_part(files: Files, rng: Any, mutate: Callable[[bytes, int], bytes]) -> Files:
    """Bytes changed in one file of a model, or in one member of an archive, whose check sums stay right."""
    suffix = sorted(files)[int(rng.integers(len(files)))]
    content = files[suffix]
    if suffix != ".npz":
        return files | {suffix: mutate(content, 2 * len(content) + 16)}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = "graph.npy" if rng.random() < 0.5 else sorted(members)[int(rng.integers(len(members)))]
    members[name] = mutate(members[name], 2 * len(members[name]) + 16)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return {suffix: buffer.getvalue()}


class _Target:
    """What libFuzzer calls."""

    def __init__(self, reader: str, folder: Path, first: int) -> None:
        import numpy as np

        from .campaign import MUTATE

        self.reader, self.folder, self.mutations = reader, folder, MUTATE[reader]
        self.results: dict[str, Any] = {"executions": first, "counts": {}, "faults": [], "worst": {}}
        self.known: set[str] = set()
        self.rng = np.random.default_rng([READERS.index(reader), first])
        self.kept = len(list((folder / "loaded").glob("*")))

    def mutate(self, data: bytes, size: int, seed: int) -> bytes:
        import atheris
        import numpy as np

        rng = np.random.default_rng(seed)
        kind = rng.random()
        try:
            files = unpacked(self.reader, data)
            if kind < 0.6:
                found = packed(self.mutations(files, rng))
            elif kind < 0.9:
                found = packed(_one_part(files, rng, atheris.Mutate))
            else:
                found = atheris.Mutate(data, size)
        except Exception:  # what is no model any more has no structure to change
            found = atheris.Mutate(data, size)
        return found if len(found) <= size else data

    def run(self, data: bytes) -> None:
        from .check import read

        path = written(unpacked(self.reader, data), self.folder / "m")
        net, verdict = read(path)
        results = self.results
        results["executions"] += 1
        results["counts"][verdict.kind] = results["counts"].get(verdict.kind, 0) + 1
        for name in ("seconds", "memory"):
            results["worst"][name] = max(results["worst"].get(name, 0), getattr(verdict.cost, name))
        if not verdict.good:
            self.keep("faults", data)
            results["faults"].append(f"{verdict.kind} {verdict.message}")
        if net is not None and self.kept < KEPT:
            from sparse_icnet.network.digest import digest

            name = digest(net.graph)
            if name not in self.known:
                self.known.add(name)
                self.kept += 1
                self.keep("loaded", data)
        if results["executions"] % EVERY == 0:
            self.save()

    def keep(self, kind: str, data: bytes) -> None:
        (self.folder / kind).mkdir(exist_ok=True)
        name = hashlib.sha256(data).hexdigest()[:16]
        written(unpacked(self.reader, data), self.folder / kind / name)

    def save(self) -> None:
        write_json(self.folder / "results.json", self.results)


def _fuzz(reader: str, folder: Path, runs: int, first: int, seed: int) -> None:
    """The child: never returns."""
    import atheris

    with atheris.instrument_imports(include=["sparse_icnet.formats", "sparse_icnet.network"]):
        import sparse_icnet.formats
        import sparse_icnet.formats.native
        import sparse_icnet.formats.onnx.read
        import sparse_icnet.formats.openvino.read  # noqa: F401
    target = _Target(reader, folder, first)
    corpus = folder / "corpus"
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for name, files in bases(reader).items():
            (corpus / name).write_bytes(packed(files))
    target.save()
    longest = 4 * max(path.stat().st_size for path in corpus.iterdir())
    arguments = [
        *(sys.argv[0], str(corpus), f"-runs={runs}", f"-seed={seed + first}", f"-max_len={longest}"),
        *(
            "-timeout=60",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={folder}/",
            "-mutate_depth=2",
            "-verbosity=0",
        ),
    ]
    atheris.Setup(arguments, target.run, custom_mutator=target.mutate)
    atheris.Fuzz()


def _reader(reader: str, folder: Path, runs: int, seed: int) -> dict[str, Any]:
    """`runs` executions, in processes that replace each other when one dies; their results added up."""
    total: dict[str, Any] = {"executions": 0, "counts": {}, "faults": [], "worst": {}}
    folder.mkdir(parents=True, exist_ok=True)
    while total["executions"] < runs:
        first, left = total["executions"], runs - total["executions"]
        arguments = [reader, str(folder), str(left), str(first), str(seed)]
        code = "import sys; from tests.fuzz.coverage import _fuzz, Path; a = sys.argv; sys.argv = a[:1]; "
        code += "_fuzz(a[1], Path(a[2]), *map(int, a[3:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        results = json.loads((folder / "results.json").read_text("utf-8"))
        if results["executions"] == first and left >= EVERY:
            raise RuntimeError(f"{reader}: the fuzzer does not start: {done.stderr[-2000:]}")
        total["executions"] = runs if not done.returncode else results["executions"]
        for kind, count in results["counts"].items():
            total["counts"][kind] = total["counts"].get(kind, 0) + count
        for name, value in results["worst"].items():
            total["worst"][name] = max(value, total["worst"].get(name, 0))
        total["faults"] += results["faults"]
        if done.returncode:
            total["faults"].append(f"exit code {done.returncode}: {done.stderr[-500:]}")
    total["coverage_corpus"] = len(list((folder / "corpus").iterdir()))
    return total


def _checked(reader: str, folder: Path, seconds: float) -> dict[str, Any]:
    """What becomes of the files that loaded, run on two code paths."""
    from .campaign import verdicts

    files = sorted(path for path in (folder / "loaded").glob("*") if path.suffix != ".bin")
    counts: dict[str, int] = {}
    faults = []
    for path, verdict in verdicts(files, 1, seconds, 4.0, second_path=True):
        counts[verdict.kind] = counts.get(verdict.kind, 0) + 1
        if not verdict.good:
            faults.append(f"{path.name}: {verdict.kind} {verdict.message}")
    return {"files": len(files), "counts": counts, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--readers", nargs="+", choices=READERS, default=available(), help="default: all that can run here")
    add("--runs", type=int, default=10000, metavar="N", help="executions of each reader, default 10000")
    add("--seed", type=int, default=1, metavar="S", help="default 1")
    add(
        "--folder",
        type=Path,
        metavar="DIR",
        help="for the corpus and what was found; a corpus there is used again",
    )
    add("--record", type=Path, metavar="FILE", help="keep the results in a JSON file")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    results = header(f"python -m tests.fuzz.coverage --runs {options.runs} --seed {options.seed}")
    results["readers"] = {}
    for reader in options.readers:
        start = time.monotonic()
        found = _reader(reader, (folder / reader).resolve(), options.runs, options.seed)
        found["loaded_and_run"] = _checked(reader, folder / reader, 60)
        found["seconds"] = round(time.monotonic() - start)
        results["readers"][reader] = found
        print(f"{reader}: {json.dumps(found)}", flush=True)
        everything = results["readers"].values()
        results["executions"] = sum(entry["executions"] for entry in everything)
        results["faults"] = sum(len(e["faults"]) + len(e["loaded_and_run"]["faults"]) for e in everything)
        results["finished"] = now()
        if options.record:
            options.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.record, results)
    print(f"found in {folder}")
    return int(bool(results["faults"]))


if __name__ == "__main__":
    sys.exit(main())
