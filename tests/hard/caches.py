"""Files of machine code that are damaged, cut, somebody else's or contested: never loaded, compiled anew, same results.

Damage is tried on the file of this machine's own kernels, by the reader itself: each byte of the head (magic, digest,
name of the entry point) and of the ELF header, random bytes of every part of the object behind it, cuts and additions.
What is loaded has been verified by its digest before any of it becomes code; a file that others may have written is not
looked at.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.run import code_files, machine_code

from . import HELPERS, ROOT
from .record import Record

_FIRST_RESULT = """
import hashlib, sys
import numpy as np, sparse_icnet
net = sparse_icnet.load("block4x4", size=(192, 192), threads=1)
blob = np.random.default_rng(0).normal(0, 1.3, (1, 3, 192, 192)).astype(np.float32)
print(hashlib.sha256(net(blob)).hexdigest())
"""


def run(count: int, at_once: int, seed: int) -> Record:
    """`count` damaged files, each kind of foreign one, and `at_once` first compilations at the same moment (0: none)."""
    record = Record("caches", seed)
    machine_code.warm_up()
    entry = machine_code.entry_of(ConvolutionParams)
    code = machine_code._machine_codes([entry])[entry]
    with tempfile.TemporaryDirectory(prefix="hard-") as folder:
        _damaged(record, Path(folder), code, count, random.Random(seed))
        _foreign(record, Path(folder), code)
        if at_once:
            _contested(record, Path(folder), at_once)
    return record


def _damaged(record: Record, folder: Path, code: bytes, count: int, chance: random.Random) -> None:
    path = folder / "own" / "run.o"
    assert code_files.write(path, code)
    whole = path.read_bytes()
    if code_files.read(path, _silent) != code:
        record.fault("an undamaged file is not read")
    name = whole.index(b"\0", len(code_files.MAGIC) + 32)
    parts = {
        "magic": range(len(code_files.MAGIC)),
        "digest": range(len(code_files.MAGIC), len(code_files.MAGIC) + 32),
        "name of the entry point": range(len(code_files.MAGIC) + 32, name + 1),
        "ELF header": range(name + 1, name + 65),
        "sections": range(name + 65, len(whole) - 4096),
        "end": range(len(whole) - 4096, len(whole)),
    }
    each = max(count // 8, 1)
    for part, places in parts.items():
        chosen = list(places) if len(places) <= each else chance.sample(places, each)
        for place in chosen:
            content = bytearray(whole)
            content[place] ^= 1 << chance.randrange(8)
            _refused(record, path, bytes(content), f"byte flipped in the {part}", place)
        cuts = chosen if len(chosen) < each // 4 else chance.sample(chosen, max(each // 4, 1))
        for place in cuts:
            _refused(record, path, whole[:place], f"cut in the {part}", place)
    for extra in (b"\0", b"\n", whole, bytes(4096)):
        _refused(record, path, whole + extra, "bytes added", len(extra))
    _refused(record, path, b"", "empty", 0)


def _refused(record: Record, path: Path, content: bytes, what: str, place: int) -> None:
    path.write_bytes(content)
    record.check(code_files.read(path, _silent) is None, what, f"at byte {place}: read all the same")


def _silent(*_: object) -> None:
    pass


def _foreign(record: Record, folder: Path, code: bytes) -> None:
    """What others may have written, and what is no file; as root also what belongs to another user."""

    def fresh(name: str) -> Path:
        path = folder / name / "run.o"
        code_files.write(path, code)
        return path

    def link(path: Path) -> None:
        path.rename(path.with_name("target"))
        path.symlink_to("target")

    def folder_link(path: Path) -> None:
        path.parent.rename(path.parent.with_name("moved"))
        path.parent.symlink_to("moved")

    def instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
        def change(path: Path) -> None:
            path.unlink()
            make(path)

        return change

    changes: dict[str, Callable[[Path], None]] = {
        "file that the group may write": lambda path: path.chmod(0o620),
        "file that others may write": lambda path: path.chmod(0o602),
        "folder that the group may write": lambda path: path.parent.chmod(0o770),
        "folder that others may write": lambda path: path.parent.chmod(0o1777),
        "link": link,
        "folder behind a link": folder_link,
        "FIFO": instead(os.mkfifo),
        "folder in its place": instead(Path.mkdir),
        "endless device": instead(lambda path: path.symlink_to("/dev/zero")),
        "too large": instead(lambda path: _sparse(path, code_files.MAX_BYTES + 1)),
    }
    if os.geteuid() == 0:
        changes["file of another user"] = lambda path: os.chown(path, 65534, -1)
        changes["folder of another user"] = lambda path: os.chown(path.parent, 65534, -1)
    else:
        record.left_out.append("files of other users: needs root")
    for what, change in changes.items():
        path = fresh(what)
        if code_files.read(path, _silent) != code:
            record.fault(f"{what}: not read before the change")
        change(path)
        record.check(code_files.read(path, _silent) is None, what, "read all the same")


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
    path.chmod(0o600)


def _contested(record: Record, folder: Path, at_once: int) -> None:
    """Processes that all find an empty cache at the same moment; then a flipped file, a cut one, none that can be kept."""
    cache = folder / "contested"
    expected = _ended(_start({}))
    if not expected:
        record.fault("no first result")
    start = time.monotonic()
    children = [_start({"NUMBA_CACHE_DIR": str(cache)}) for _ in range(at_once)]
    results = [_ended(child) for child in children]
    record.figures["seconds_of_compilations_at_once"] = round(time.monotonic() - start, 1)
    record.check(set(results) == {expected}, "first compilations at once", f"{results}, not {expected}")
    record.counts["first compilations at once"] += at_once - 1
    names = sorted(os.listdir(cache))
    kept = {
        function: [name for name in names if name.startswith(f"{function}-")]
        for function in ("run", "convolution")
    }
    record.check(
        all(len(one) == 1 for one in kept.values()) and not any(name.endswith(".tmp") for name in names),
        "caches left whole",
        str(names),
    )
    for what, function in (("flipped", "convolution"), ("cut", "run"), ("not writable", "convolution")):
        path = cache / kept[function][0]
        content = bytearray(path.read_bytes())
        if what == "flipped":
            content[len(content) // 2] ^= 1
        path.write_bytes(content[: 1000 if what == "cut" else None])
        environment = {"NUMBA_CACHE_DIR": str(cache)}
        if what == "not writable":
            environment["NUMBA_CACHE_DIR"] = str(path / "below a file")
        result = _ended(_start(environment))
        record.check(result == expected, f"compiled anew: {what}", f"{result}, not {expected}")
        whole = code_files.read(path, _silent)
        record.check(whole is not None, "caches repaired", what)


def _start(environment: dict[str, str]) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(HELPERS)])
    return subprocess.Popen(
        [sys.executable, "-c", _FIRST_RESULT],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(child: subprocess.Popen[str]) -> str:
    """The digest that a process printed, or what else it said."""
    out, err = child.communicate(timeout=1200)
    if not child.returncode:
        return out.strip()
    return f"exit code {child.returncode}: {err[-300:]}"
