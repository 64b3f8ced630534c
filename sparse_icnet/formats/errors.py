"""The error of a file from outside, reading such a file within bounds, the gateway around what interprets its bytes.

A reader takes three steps, and each has errors of its own:

1. `read_bounded` takes the bytes from the file system.  Its OSErrors are about the system (no such file, no permission)
   and pass as they are.
2. Libraries turn bytes into plain values: zipfile and zlib, expat, protobuf, json, codecs.  Each such call stands inside
   `parsing`.  It sees nothing but bytes, so whatever it raises, of whatever type, says that the bytes are wrong.
3. This package turns the values into a Graph.  It checks every value and raises FormatError or GraphError by itself; any
   other exception there is a fault of this package and must stay visible as one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FormatError(ValueError):
    """A file that cannot be read as what it claims to be.

    The message is one line: the file, the place in it, what was expected and what was found.  Five more lines say what to
    do about a model that is not quantized.
    """


@contextmanager
def parsing(place: object, expected: str) -> Iterator[None]:
    """Around calls of libraries that interpret bytes from outside: what they raise becomes a FormatError.

    place     the file and the part of it, the start of the message
    expected  what the bytes should have been

    Exhausted memory and too deep recursion count as well, for the bytes ask for them.  KeyboardInterrupt passes.
    """
    try:
        yield
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"{place}: expected {expected}, found damaged data ({brief(error)})") from error


def brief(error: BaseException) -> str:
    """What an exception says, on one line of bounded length; its type if it says nothing."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of `path`; FormatError if it is no regular file or larger than `limit`, else OSError."""
    check_regular(path)
    with path.open("rb") as stream:
        data = stream.read(min(os.fstat(stream.fileno()).st_size, limit) + 1)
    if len(data) > limit:
        raise FormatError(f"{path}: expected at most {limit} bytes, found more")
    return data


def check_regular(path: Path) -> None:
    """FormatError for a folder or a device, whose opening or reading might never end; nothing for a missing file."""
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: expected a file, found a folder or a device")
