"""Files that appear whole or not at all, and what becomes of those that a killed process never finished.

Until it is whole a file has a hidden name beside its own, `.NAME.OWNER.RANDOM.tmp`; the parts of a film lie in a folder
`.NAME.OWNER.RANDOM.parts`.  OWNER says which process of which boot of which system writes it, so that the next process
can tell what a dead one has left (SIGKILL, a power failure) and removes it: `remove_dead`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

_tag = ""
_LEFT = re.compile(
    r"\..*\.(?P<system>[0-9a-f]{8})-(?P<process>\d+)-(?P<start>\d+)\.[0-9a-f]{8}\.(?:tmp|parts)", re.DOTALL
)
_OLD = (
    24 * 3600
)  # seconds after which a process of another system or boot, of which nothing is known, is taken for dead
# What `os.link` says on file systems without links between files (FAT, some of networks).
_NO_LINKS = frozenset(
    getattr(errno, name, -1)
    for name in ("EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EINVAL")
)


@contextlib.contextmanager
def replacing(path: Path, may_replace: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield a new name beside `path`; what the block writes there replaces `path`, or goes if it fails.

    may_replace  raises where the file that is at `path` must stay; None: any may go.  Where there is none, the new one
                 takes its place only if no other process was faster: then that file is looked at as well

    An OSError of the block that names no file ("No space left on device"), or the temporary one, names `path`.
    """
    temporary = _beside(path)
    try:
        yield temporary
        _publish(temporary, path, may_replace)
    except OSError as error:
        if error.filename is not None and os.fsdecode(error.filename) != str(temporary):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, nor is its folder
            temporary.unlink()


def _publish(temporary: Path, path: Path, may_replace: Callable[[], None] | None) -> None:
    if may_replace is not None:
        try:
            if os.name == "nt":
                os.rename(temporary, path)  # which there replaces nothing
            else:
                os.link(temporary, path)
            return
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        may_replace()
    os.replace(temporary, path)


def tag(text: str) -> None:
    """Let the temporary files of this process bear `text` from now on: for `remove_temporary`, if it dies."""
    global _tag
    _tag = f"{text}."


def remove_temporary(folder: Path, text: str) -> None:
    """Remove what processes with the tag `text` left behind in `folder`."""
    for path in folder.glob(f".*.{text}.*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_dead(folder: Path, of: Path | None = None) -> None:
    """Remove what processes that are no more left unfinished in `folder`.

    of  only what was to become this file

    A process of another system, or of one before a restart, of which nothing can be known, counts as dead a day after
    it last wrote.
    """
    start = "." if of is None else _start(of)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # no such folder
        for entry in entries:
            if entry.name.startswith(start) and _is_dead(entry.name, entry.path):
                _remove(entry.path)


def temporary_folder(folder: Path, name: str) -> Path:
    """A new hidden folder in `folder` for what becomes the file `name`; `remove_dead` removes it if this process dies."""
    path = _beside(folder / name, "parts")
    path.mkdir()
    return path


def check_writable(path: Path) -> None:
    """Raise the OSError that writing `path` by `replacing` would, before the work whose result it is to hold.

    What a process that is no more left of an earlier attempt is removed.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    remove_dead(path.parent, of=path)
    probe = _beside(path)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _beside(path: Path, suffix: str = "tmp") -> Path:
    """A new hidden name in the folder of `path`, no longer than a file system takes."""
    owner = f"{_system()}-{os.getpid()}-{_started(os.getpid()) or 0}"
    return path.with_name(f"{_start(path)}{_tag}{owner}.{secrets.token_hex(4)}.{suffix}")


def _start(path: Path) -> str:
    return f".{path.name[:32]}."


@lru_cache(maxsize=1)
def _system() -> str:
    """8 hexadecimal digits for this boot of this system and the process numbers seen here (those of a container)."""
    facts = [os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _started(process: int) -> int | None:
    """When a process was started, in ticks since the boot; None where that cannot be known."""
    try:
        return int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_dead(name: str, path: str) -> bool:
    """Whether `name` is that of something unfinished and the process that made it is no more."""
    match = _LEFT.fullmatch(name)
    if match is None:
        return False
    process = int(match["process"])
    if match["system"] != _system() or os.name != "posix" or not 0 < process < 1 << 31:
        try:
            return time.time() - os.lstat(path).st_mtime > _OLD
        except OSError:
            return False
    try:
        os.kill(process, 0)  # asks whether it is there, no more
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return _started(process) not in (None, int(match["start"]))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
