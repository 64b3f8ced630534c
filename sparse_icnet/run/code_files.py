"""Files of machine code: where they lie, what they are called, which of them count.

The name holds a digest of all that decides the machine code, so that other sources, settings, compilers or CPUs have other
files.  What is loaded is whole and written by nobody but the user or root (`sparse_icnet.private_files`).
Does not import Numba.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llvmlite

from sparse_icnet import own_sources, private_files
from sparse_icnet.host import host
from sparse_icnet.private_files import cache_folders
from sparse_icnet.target import TARGET, target_cpu

MAGIC = b"sparse-icnet machine code 3\n"
MAX_BYTES = 1 << 24  # of a file
# Within the package.  Not found by imports: those of Numba would take longer than all else.
_SOURCES = (
    *(f"run/{name}.py" for name in ("code_files", "compiler", "control", "loop")),
    "operators/__init__.py",
    *(f"operators/{name}.py" for name in ("epilogue", "params", "record", "step")),
    *(f"operators/*/{name}.py" for name in ("params", "*kernel", "transforms")),
    "simd/*.py",
    "floats.py",
    "target.py",
    "network/arithmetic.py",
    "sparse/winograd.py",
)
_log = logging.getLogger("sparse_icnet")
_log.addHandler(logging.NullHandler())  # no handler: Python would print warnings on stderr


@dataclass(frozen=True, slots=True)
class Entry:
    """A function to be compiled, with all that it calls: an object of its own.

    module    of this package, such as "run.loop"; function: its name there
    record    name of the record that a kernel reads: its arguments are that record, a task (int64) and the address of
              scratch memory (int64), and it returns nothing.  "": the function takes five int64 and returns one
    sources   that decide its machine code beside those of the kernels, within the package
    """

    module: str
    function: str
    record: str = ""
    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.function


def find(entries: Iterable[Entry], tell: bool) -> dict[Entry, tuple[Path, bytes]]:
    """Of each entry the first whole file in the cache folders, and what it holds; without those that have none.

    tell  the log which files, and what is wrong with others
    """
    found = {}
    where: dict[Path, list[str]] = {}
    for entry, name in _names(entries):
        for folder in cache_folders():
            code = read(folder / name, _log.info if tell else _silent)
            if code is not None:
                found[entry] = folder / name, code
                where.setdefault(folder, []).append(str(entry))
                break
    for folder, functions in where.items() if tell else ():
        _log.info("compiled kernels loaded from %s: %s", folder, ", ".join(functions))
    return found


def _silent(*_: object) -> None:
    """For what was told already, or will be."""


def keep(entry: Entry, code: bytes) -> Path | None:
    """Write the machine code into the first cache folder that takes it, which is returned; None: no folder does."""
    if own_sources.are_replaced(_paths, _SOURCES) or own_sources.are_replaced(_paths, entry.sources):
        _log.info("compiled kernels not kept: the package was replaced since this process began")
        return None
    ((_, name),) = _names([entry])
    return next((folder for folder in cache_folders() if write(folder / name, code)), None)


def _names(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    common = None
    for entry in entries:
        common = common or _common()
        yield entry, f"{entry.function}-{_digest(common, entry)}.o"


def key(entry: Entry) -> str:
    """Digest of all that decides the machine code of an entry: the sources, the compiler, its settings, the CPU."""
    return _digest(_common(), entry)


def _digest(common: bytes, entry: Entry) -> str:
    digest = hashlib.sha256(common + f"{entry.module}:{entry.function}".encode())
    digest.update(own_sources.digest(_paths, entry.sources))
    return digest.hexdigest()[:24]


def sources(entry: Entry) -> list[Path]:
    """The files of this package that decide the machine code: the kernels and all that they import."""
    return _paths((*_SOURCES, *entry.sources))


def _paths(patterns: Sequence[str]) -> list[Path]:
    package = Path(__file__).parent.parent
    named = (pattern.removesuffix(".py") + own_sources.SUFFIX for pattern in patterns)
    return [path for pattern in named for path in sorted(package.glob(pattern))]


def _common() -> bytes:
    """Digest of what all entries share."""
    digest = hashlib.sha256(own_sources.digest(_paths, _SOURCES))
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:  # Numba then takes those of the host, whatever CPU is named
        features = host().flattened()
    settings = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name not in ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT")
    )
    facts = (
        _numba_version(),
        llvmlite.__version__,
        platform.machine(),
        sys.platform,
        TARGET.name,
        target_cpu(),
        features,
        settings,
    )
    digest.update(repr(facts).encode())
    return digest.digest()


def _numba_version() -> str:
    """What the installed Numba calls itself, without importing it, nor a parser of metadata (30 ms)."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        raise ImportError("numba is missing: pip install numba")
    return (Path(spec.origin).parent / "_version.py").read_text(encoding="utf-8")


def read(path: Path, tell: Callable[..., None]) -> bytes | None:
    """The machine code in a file, None if there is no whole one or somebody else may have written it."""
    try:
        content = private_files.read(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        tell("compiled kernels not loaded: %s", error)
        return None
    body = private_files.unsealed(MAGIC, content, path.name)
    if body is None:
        tell("compiled kernels not loaded: %s: damaged", path)
    return body


def write(path: Path, code: bytes) -> bool:
    """Whether the machine code could be kept there; a read-only folder is no error."""
    try:
        private_files.write(path, private_files.sealed(MAGIC, code, path.name))
    except OSError as error:
        _log.info("compiled kernels not kept: %s", error)
        return False
    return True
