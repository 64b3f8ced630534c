"""The error of a file from outside, and reading such a file within bounds."""

from __future__ import annotations

from pathlib import Path


class FormatError(ValueError):
    """A file that cannot be read as what it claims to be.

    The message is one line: the file, the place in it, what was expected and what was found.
    """


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of `path`; FormatError if it is no regular file or larger than `limit`, else OSError."""
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: expected a file, found a folder or a device")
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"{path}: expected at most {limit} bytes, found more")
    return data
