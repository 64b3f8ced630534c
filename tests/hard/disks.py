"""Full disks at every size, limits on files, closed and full streams, folders that cannot be written or are missing.

Each command ends with one line that names what cannot be written, and with 2 (141 where a reader went away), or does its
work; a result is there whole or not at all.  When there is room again, --skip-existing completes the folder.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import ROOT
from .record import Record
from .workshop import Ended, Workshop, contents, workshop, wrong_files


def run(count: int, seed: int, commands: int = 99) -> Record:
    """`count` full disks and as many limits on the size of a file, each kind of stream and of folder.

    commands  of how many commands the streams are closed or full
    """
    record = Record("disks", seed)
    chance = random.Random(seed)
    with workshop(12) as shop:
        _limited_files(record, shop, count, chance)
        with _disk(record, shop.folder / "disk", 2 << 20) as disk:
            if disk is not None:
                for _ in range(count):
                    _full_disk(record, shop, disk, chance)
        _streams(record, shop, commands)
        _read_only(record, shop)
    return record


def _limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def _limited_files(record: Record, shop: Workshop, count: int, chance: random.Random) -> None:
    """A limit of the system on the size of a file (EFBIG) in each place where one is written."""
    whole = shop.folder / "whole"
    whole.mkdir()
    commands: dict[str, list[str]] = {
        "segment": shop.segment(Path("OUT")),
        "segment --save probabilities": shop.segment(Path("OUT"), "--save", "probabilities,classes"),
        "convert to .npz": ["convert", str(shop.model), "OUT/m.npz"],
        "convert to .xml": ["convert", str(shop.model), "OUT/m.xml"],
        "info --json": ["info", str(shop.model), "--size", "192x192", "--json", "OUT/info.json"],
    }
    expected = {}
    for name, words in commands.items():
        out = whole / name.replace(" ", "-")
        out.mkdir()
        done = shop.run(*_into(words, out))
        if done.code:
            record.fault(f"{name}: {done.complaint}")
        expected[name] = contents(out)
    for number in range(count):
        name, words = list(commands.items())[number % len(commands)]
        largest = max(len(content) for content in expected[name].values())
        size = chance.choice([0, 1, 100, chance.randrange(largest), chance.randrange(largest), largest - 1])
        out = shop.folder / "out"
        out.mkdir()
        ended = shop.run(*_into(words, out), preexec_fn=_limited(size))
        lines = ended.err.splitlines()
        told = ended.code == 2 and lines and all(line.startswith("sparse-icnet: error: ") for line in lines)
        named = all(str(out) in line for line in lines)
        fits = ended.code == 0 and not lines
        what = f"{name}, files of at most N bytes"
        record.check((told and named) or fits, what, f"{size} bytes: {ended.complaint}")
        wrong = wrong_files(out, expected[name])
        record.check(not wrong, "folders looked at", f"{what}, {size} bytes: {wrong}")
        shutil.rmtree(out)


def _into(words: list[str], out: Path) -> list[str]:
    return [word.replace("OUT", str(out)) for word in words]


@contextmanager
def _disk(record: Record, folder: Path, size: int) -> Iterator[Path | None]:
    """A file system of `size` bytes; None where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        record.left_out.append("full disks: mounting a tmpfs needs root")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def _full_disk(record: Record, shop: Workshop, disk: Path, chance: random.Random) -> None:
    """A disk that becomes full while pictures are written; then there is room."""
    out = disk / "out"
    needed = sum(map(len, shop.expected.values()))
    room = os.statvfs(disk)
    free = room.f_bavail * room.f_frsize
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(max(free - chance.randrange(needed), 0)))
    more = chance.choice([(), (), ("--workers", "2")]) if chance.random() < 0.3 else ()
    words = shop.segment(out, *more)
    ended = shop.run(*words)
    told = ended.one_line(2) and "No space left" in ended.err and str(disk) in ended.err
    record.check(told or ended.code == 0, f"full disk {' '.join(more)}".strip(), ended.complaint)
    wrong = wrong_files(out, shop.expected)
    record.check(not wrong, "folders looked at", f"full disk: {wrong}")
    (disk / "ballast").unlink()
    again = shop.run(*words, "--skip-existing")
    record.check(
        again.code == 0 and contents(out) == shop.expected, "completed when there was room", again.complaint
    )
    shutil.rmtree(out)


def _streams(record: Record, shop: Workshop, most: int) -> None:
    """Standard streams that are closed, full, or whose reader went away."""
    picture = str(next(shop.frames.iterdir()))
    small = ("--size", "192x192", "--threads", "1")
    segment = ["segment", picture, "-o", str(shop.folder / "streams"), "--model", str(shop.model), *small]
    commands = {
        "segment": segment,
        "info": ["info", str(shop.model), *small],
        "models": ["models"],
        "profile": ["profile", str(shop.model), "--runs", "1", *small],
        "verify": ["verify", str(shop.model), picture, *small],
        "segment -v": [*segment, "-v"],
        "info --json": ["info", str(shop.model), "--json", *small],
        "--help": ["--help"],
    }
    for name, words in list(commands.items())[:most]:
        with open("/dev/full", "w", encoding="ascii") as full:
            ended = shop.run(*words, stdout=full)
            said = ended.err.splitlines()[-1:] if name.endswith("-v") else ended.err.splitlines()
            good = ended.code == 2 and said == [
                "sparse-icnet: error: standard output: No space left on device"
            ]
            record.check(good, "standard output is full", f"{name}: {ended.complaint}")
            ended = shop.run(*words, stderr=full)
            record.check(ended.code == 0, "standard error is full", f"{name}: {ended.complaint}")
        for closed in ((0,), (1,), (2,), (0, 1, 2)):
            ended = shop.run(*words, preexec_fn=_closing(closed))
            record.check(ended.code == 0, "closed streams", f"{name} without {closed}: {ended.complaint}")
        reader, writer = os.pipe()
        os.close(reader)
        ended = shop.run(*words, stdout=writer)
        os.close(writer)
        record.check(
            ended.code in (0, 141) and "rror" not in ended.err, "reader gone", f"{name}: {ended.complaint}"
        )


def _closing(numbers: tuple[int, ...]) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def _read_only(record: Record, shop: Workshop) -> None:
    """An installation and folders that this user cannot write, and no home."""
    install = shop.folder / "install"
    shutil.copytree(ROOT / "sparse_icnet", install / "sparse_icnet")
    shutil.copytree(ROOT / "weights", install / "weights", ignore=shutil.ignore_patterns("recipe"))
    closed = shop.folder / "closed"
    closed.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "PYTHONPATH")
    }
    environment["PYTHONPATH"] = str(install)
    places = [install, closed, *install.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in places}
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        _without_rights(record, shop, environment, closed)
        now = {
            path: path.stat().st_mtime_ns for root in (install, closed) for path in [root, *root.rglob("*")]
        }
        record.check(now == before, "installations left alone", "something was written")
    finally:
        for path in places:
            path.chmod(0o755 if path.is_dir() else 0o644)


def _without_rights(record: Record, shop: Workshop, environment: dict[str, str], closed: Path) -> None:
    def powerless(*words: str, **more: str) -> Ended:
        return shop.run(*words, env=environment | more, preexec_fn=_drop_rights, cwd=str(shop.folder))

    cases: dict[str, dict[str, str]] = {
        "no HOME": {},
        "HOME that is missing": {"HOME": "/nonexistent"},
        "HOME that is a file": {"HOME": str(shop.model)},
        "HOME that cannot be written": {"HOME": str(closed)},
        "empty HOME": {"HOME": ""},
        "relative cache folder": {"XDG_CACHE_HOME": "cache"},
    }
    for number, (what, more) in enumerate(cases.items()):
        out = shop.folder / f"powerless-{number}"
        ended = powerless(*shop.segment(out), **more)
        record.check(ended.code == 0 and not ended.err, f"read-only install, {what}", ended.complaint)
        wrong = wrong_files(out, shop.expected)
        record.check(not wrong, "folders looked at", f"read-only install: {wrong}")
    for words in (
        shop.segment(closed),
        shop.segment(closed / "new"),
        shop.segment(closed, "--workers", "2"),
        ["convert", str(shop.model), str(closed / "m.npz")],
        ["convert", str(shop.model), str(closed / "m.xml")],
        ["info", str(shop.model), "--json", str(closed / "i.json"), "--size", "192x192"],
        ["warmup"],
    ):
        more = {"NUMBA_CACHE_DIR": str(closed / "cache")} if words == ["warmup"] else {}
        ended = powerless(*words, **more)
        lines = ended.err.splitlines()
        good = ended.code == 2 and lines and all(line.startswith("sparse-icnet: error: ") for line in lines)
        record.check(
            bool(good) and str(closed) in ended.err,
            "folders that cannot be written",
            f"{words[0]}: {ended.complaint}",
        )


def _drop_rights() -> None:
    """What root may do beyond others is gone with the next program that it runs."""
    if os.geteuid() == 0:
        prctl, drop_from_bounding_set = ctypes.CDLL(None).prctl, 24
        for capability in range(64):
            prctl(drop_from_bounding_set, capability, 0, 0, 0)
