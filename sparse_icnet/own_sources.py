"""The sources of this package as this process runs them: their digest names what is kept for other processes.

A process goes on with the modules that it has imported when the package is replaced on disk, by an upgrade beside a
server.  Sources count as they were when their digest was first asked for: what others make of new ones is not for such a
process, and what it makes itself, of old modules and new ones, is kept for nobody.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable
from functools import cache
from typing import TypeAlias

# Of the files that hold them: an installation may have nothing but what Python compiled.
SUFFIX = os.path.splitext(__file__)[1]
Listed: TypeAlias = Callable[..., Iterable[str | os.PathLike[str]]]


@cache
def digest(listed: Listed, *arguments: Hashable) -> bytes:
    """Of the files `listed(*arguments)`, as they were when this process first asked for it."""
    return _digest(listed(*arguments))


def are_replaced(listed: Listed, *arguments: Hashable) -> bool:
    """Whether those files are others now than `digest` says."""
    try:
        return _digest(listed(*arguments)) != digest(listed, *arguments)
    except OSError:  # one is gone
        return True


def _digest(paths: Iterable[str | os.PathLike[str]]) -> bytes:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.digest()
