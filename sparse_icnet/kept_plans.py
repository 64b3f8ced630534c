"""Plans kept for later processes, beside the machine code (`sparse_icnet.private_files`): a start then needs no planning.

A plan is kept when it is made the second time, by another process or by this one: what is loaded once leaves a mark, an
empty file.  Its name is a digest of all that decides it: the bytes of the model file, how it was asked for, the CPU, and
the sources of this package that read models and plan.  Of the plans and marks in a folder the oldest go, by last use.
SPARSE_ICNET_KEEP_PLANS=0 switches all of this off.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_icnet import own_sources, private_files
from sparse_icnet.host import host
from sparse_icnet.private_files import cache_folders
from sparse_icnet.target import TARGET, target_cpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWITCH = "SPARSE_ICNET_KEEP_PLANS"
MAX_BYTES = 3 << 24  # of a file: 48 MiB
MAX_FOLDER = 1 << 26  # of all plans in a folder: 64 MiB
MAX_PLANS = 16  # in a folder
MAX_MARKS = 64
_MAGIC = b"sparse-icnet plan 2".ljust(32)  # with the digest 64 bytes: what follows is aligned
_NAME = re.compile(r"plan-[0-9a-f]{32}\.(?P<kind>plan|seen)")
# What reads models and plans, within the package.
_SOURCES = (
    "formats",
    "network",
    "operators",
    "plan",
    "sparse",
    "floats.py",
    "host.py",
    "target.py",
    "loading.py",
)
_log = logging.getLogger("sparse_icnet")
tell = _log.info


def are_kept() -> bool:
    """Whether the environment lets plans be kept, and kept ones be used."""
    return os.environ.get(SWITCH) != "0"


def key(digest: str, *asked: object) -> str:
    """Name of the plan of the model file with this SHA-256; `asked`: all options that decide the plan.

    Raises OSError where the files of this package cannot be read, as within an archive.
    """
    facts = (
        digest,
        asked,
        TARGET.name,
        target_cpu(),
        os.environ.get("NUMBA_CPU_FEATURES") or host().flattened(),
        platform.machine(),
        sys.byteorder,
        sys.version,
        np.__version__,
        _sources(),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _sources() -> bytes:
    """Digest of the sources that decide what a plan is."""
    return own_sources.digest(source_files)


def source_files() -> Iterator[str]:
    """The files of this package that read models and plan, in a fixed order."""
    package = os.path.dirname(__file__)
    for name in _SOURCES:
        if name.endswith(".py"):
            yield os.path.join(package, name.removesuffix(".py") + own_sources.SUFFIX)
            continue
        for folder, folders, files in os.walk(os.path.join(package, name)):
            folders[:] = sorted(one for one in folders if one != "__pycache__")
            yield from (
                os.path.join(folder, file) for file in sorted(files) if file.endswith(own_sources.SUFFIX)
            )


def _file(name: str) -> str:
    return f"plan-{name}.plan"


def find(name: str, room: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """The content of the kept plan `name`, in memory that `room` gives for so many bytes; None if none is kept whole."""
    for folder in cache_folders():
        path = folder / _file(name)
        taken: list[NDArray[np.uint8]] = []

        def take(size: int, taken: list[NDArray[np.uint8]] = taken) -> memoryview:
            taken.append(room(size))
            return taken[0].data

        try:
            content = private_files.read_into(path, MAX_BYTES, take)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.info("kept plan not used: %s", error)
            continue
        if private_files.is_sealed(_MAGIC, content, path.name):
            _log.info("plan taken from %s", path)
            with contextlib.suppress(OSError):  # of another user, or on a file system that is read-only
                os.utime(path)
            return taken[0][len(_MAGIC) + 32 :]
        _log.info("kept plan not used: %s: damaged", path)
    return None


def place(name: str) -> Path | None:
    """The file of the kept plan `name`; None where there is none."""
    paths = (folder / _file(name) for folder in cache_folders())
    return next((path for path in paths if os.path.isfile(path)), None)


def is_wanted(name: str) -> bool:
    """Whether the plan `name`, which was made just now, was made before; the next time it will have been."""
    marks = [folder / f"plan-{name}.seen" for folder in cache_folders()]
    if any(map(os.path.exists, marks)):  # of a `Path` an error where a folder is closed to this user
        return True
    for mark in marks:
        with contextlib.suppress(OSError):
            private_files.write(mark)
            _remove_old(mark.parent)
            break
    return False


def keep(name: str, parts: list[bytes | memoryview], public: bool = False) -> None:
    """Keep a plan for later processes, in the first cache folder that takes it; none is no error.

    public  whether it may be read by all who may read the machine code, in the same folder; it has the weights of its model
    """
    size = sum(len(part) for part in parts)
    if size > MAX_BYTES - 64:
        _log.info("plan not kept: %d bytes", size)
        return
    if own_sources.are_replaced(source_files):
        _log.info("plan not kept: the package was replaced since this process began")
        return
    file = _file(name)
    head = private_files.seal(_MAGIC, *parts, of=file)
    for folder in cache_folders():
        path = folder / file
        try:
            private_files.write(path, head, *parts, readable=None if public else False)
        except OSError as error:
            _log.info("plan not kept: %s", error)
            continue
        _log.info("plan kept in %s", path)
        with contextlib.suppress(OSError):
            path.with_suffix(".seen").unlink()
        _remove_old(folder)
        return


def _remove_old(folder: Path) -> None:
    """Remove the plans and marks that were not used for longest, beyond the limits."""
    found: list[tuple[float, int, str, bool]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is not None:
                with contextlib.suppress(OSError):
                    state = entry.stat(follow_symlinks=False)
                    found.append((state.st_mtime, state.st_size, entry.path, match["kind"] == "plan"))
    plans = marks = total = 0
    for _, size, path, is_plan in sorted(found, reverse=True):
        plans, marks, total = plans + is_plan, marks + (not is_plan), total + size
        if (plans > MAX_PLANS or total > MAX_FOLDER) if is_plan else marks > MAX_MARKS:
            with contextlib.suppress(OSError):
                os.unlink(path)
