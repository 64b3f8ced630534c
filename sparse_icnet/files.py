"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_tag = ""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`; what the block writes there replaces `path`, or goes if it fails.

    An OSError of the block that names no file ("No space left on device"), or the temporary one, names `path`.
    """
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and os.fsdecode(error.filename) != str(temporary):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, nor is its folder
            temporary.unlink()


def tag(text: str) -> None:
    """Let the temporary files of this process bear `text` from now on: for `remove_temporary`, if it dies."""
    global _tag
    _tag = f"{text}."


def remove_temporary(folder: Path, text: str) -> None:
    """Remove what processes with the tag `text` left behind in `folder` and the folders in it."""
    for path in folder.rglob(f".*.{text}.*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def check_writable(path: Path) -> None:
    """Raise the OSError that writing `path` by `replacing` would, before the work whose result it is to hold."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    probe = _beside(path)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _beside(path: Path) -> Path:
    """A new hidden name in the folder of `path`, no longer than a file system takes."""
    return path.with_name(f".{path.name[:32]}.{_tag}{os.getpid()}.{secrets.token_hex(4)}.tmp")
