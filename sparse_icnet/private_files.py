"""Files of what will be executed: read only where the user and root alone can have written, closed to writing by others.

A folder counts if it belongs to the user or to root and neither its group nor others may write into it, a file if the
same holds and it is a regular file of bounded size.  Neither is opened through a link, no opening waits (a FIFO would),
and all is asked of what was opened, not of a name that may mean something else a moment later.  On Windows, where
user folders are closed to others by themselves, kind and size alone are checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path

BESIDE_SOURCES = Path(__file__).parent / "run" / "__pycache__"
_POSIX = os.name == "posix"
_OPEN = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT", "O_BINARY")
)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedError(OSError):
    """A file or folder that somebody else may have written; the message says why, and names it."""


def cache_folders() -> Iterator[Path]:
    """Where such files may lie, best first: NUMBA_CACHE_DIR alone if set, BESIDE_SOURCES, the user's cache."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        yield Path(named)
        return
    yield BESIDE_SOURCES
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base and os.path.isabs(base):
        yield Path(base) / "sparse-icnet"


def read(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.  Raises FileNotFoundError, UntrustedError or another OSError."""
    with _opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UntrustedError(f"{path}: is larger than {limit} bytes")
    return content


def read_into(path: Path, limit: int, room: Callable[[int], memoryview]) -> memoryview:
    """As `read`, into memory that `room` gives for so many bytes."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UntrustedError(f"{path}: is larger than {limit} bytes")
        content = room(size)
        if file.readinto(content) != size or file.read(1):
            raise UntrustedError(f"{path}: changes while it is read")
    return content


def seal(magic: bytes, *parts: bytes | memoryview, of: str = "") -> bytes:
    """What stands before `parts` in a file: `magic` and their digest.

    of  name of the file, if its content counts under no other
    """
    digest = hashlib.sha256(of.encode())
    for part in parts:
        digest.update(part)
    return magic + digest.digest()


def sealed(magic: bytes, body: bytes, of: str = "") -> bytes:
    """`body` behind `magic` and its digest, as `unsealed` takes it; `of` as for `seal`."""
    return seal(magic, body, of=of) + body


def is_sealed(magic: bytes, content: memoryview, of: str = "") -> bool:
    """Whether `content` begins with the `seal` of what follows; else it is another kind of file, or a damaged one."""
    size = len(magic) + hashlib.sha256().digest_size
    return bytes(content[:size]) == seal(magic, content[size:], of=of)


def unsealed(magic: bytes, content: bytes, of: str = "") -> bytes | None:
    """What `sealed` was given with this `magic` and `of`; None for anything else."""
    size = len(magic) + hashlib.sha256().digest_size
    return content[size:] if is_sealed(magic, memoryview(content), of) else None


def write(path: Path, *parts: bytes | memoryview, readable: bool | None = None) -> None:
    """Write a file of `parts` whole or not at all; missing folders are made, what a killed process left of it removed.

    readable  whether others may read it, as far as the umask says so; folders 0755 and file 0644 instead of 0700 and 0600.
              None: in BESIDE_SOURCES alone.  Whoever may read the sources may read what was made of them, and one
              installation can serve all users

    Raises UntrustedError for a folder that others may write, another OSError where it cannot be written.
    """
    if readable is None:
        readable = path.parent == BESIDE_SOURCES
    from sparse_icnet.files import remove_dead, replacing

    for folder in [folder for folder in reversed(path.parents) if not folder.exists()]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o755 if readable else 0o700)
    with _opened_folder(path.parent), replacing(path) as temporary:
        remove_dead(path.parent, of=path)
        mode = 0o644 if readable else 0o600
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, mode)
        with open(descriptor, "wb") as file:
            for part in parts:
                file.write(part)


def keeper(size: int = 1 << 17) -> Path | None:
    """The cache folder that would keep a file of so many bytes written now, found by writing one; None: no folder."""
    for folder in cache_folders():
        probe = folder / f"probe-{os.getpid()}"
        try:
            write(probe, bytes(size))
            probe.unlink()
        except OSError:
            continue
        return folder
    return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file that the user or root alone can have written."""
    with _opened_folder(path.parent) as folder:
        if not _POSIX and path.is_symlink():
            raise UntrustedError(f"{path}: is a link")
        descriptor = os.open(path, os.O_RDONLY | _OPEN) if folder is None else _open_in(folder, path)
    try:
        _check(path, os.fstat(descriptor), stat.S_ISREG, "a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int | None]:
    """A descriptor of the folder; None on systems that open no folders."""
    if not _POSIX:
        _check(path, path.stat(), stat.S_ISDIR, "a folder")
        yield None
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise UntrustedError(f"{path}: is a link or no folder") from error
    try:
        _check(path, os.fstat(descriptor), stat.S_ISDIR, "a folder")
        yield descriptor
    finally:
        os.close(descriptor)


def _open_in(folder: int, path: Path) -> int:
    try:
        return os.open(path.name, os.O_RDONLY | _OPEN, dir_fd=folder)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # ELOOP; ENXIO of a socket
        raise UntrustedError(f"{path}: is a link or no regular file") from error


def _check(path: Path, found: os.stat_result, kind: Callable[[int], bool], wanted: str) -> None:
    if not kind(found.st_mode):
        raise UntrustedError(f"{path}: is not {wanted}")
    if not _POSIX:
        return
    if found.st_uid not in (0, os.geteuid()):
        raise UntrustedError(f"{path}: belongs to another user (number {found.st_uid})")
    if found.st_mode & _OTHERS_WRITE:
        raise UntrustedError(f"{path}: others may write it (mode {stat.S_IMODE(found.st_mode):04o})")
