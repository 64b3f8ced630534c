"""manifest.jsonl: a line of JSON for each picture or film that is done, in the folder of its results.

    source        path of the picture, absolute
    name          of its results (`sources.Source.name`)
    frame         number of the frame from 1 of an animation, else null
    frames        of a film alone: how many it has
    unreadable    of a film alone: how many of these cannot be decoded
    digest        of the source file: 'sha256:...'
    size          [height, width] of the picture, pixels
    model         name and digest of the model, network size
    settings      digest of what else the results depend on
    results       kind -> path below the folder of the manifest; of a film with a file a frame their pattern
    shares        class name -> share of the pixels, the largest first
    confidence    mean over the points of the network's grid of the highest probability
    milliseconds  from the first byte read to the last one written
    Shares and confidence of a film are the means over its frames.

A line is appended by one write when the results are whole.  What a killed process left of its last line is no line; the
next one to append ends it first.  Of several lines about one picture the last one counts.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

NAME = "manifest.jsonl"
PATTERN = "manifest*.jsonl"  # those of several processes that share a folder


@dataclass(frozen=True, slots=True)
class Entry:
    """What the last lines about one picture say.

    made_with  model and settings
    results    kind -> path below the folder
    frames     of a film: how many are readable
    """

    source: str
    digest: str
    made_with: str
    results: Mapping[str, str]
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What the manifests say about one source: number of the frame, or None -> entry."""

    entries: dict[int | None, Entry]

    def entry(self, name: str, frame: int | None = None) -> Entry | None:
        """As `Manifest.entry`; `name` is that of the source."""
        return self.entries.get(frame)


class Manifest:
    """The lines of all manifests in a folder, by picture; and the file that new ones are appended to."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        """Read the manifests in `folder`.

        Raises FileExistsError where `name` is a file of something else, OSError where one cannot be read.
        """
        self.path = folder / name
        self._known: dict[str, Known] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        for path in sorted(folder.glob(PATTERN)):
            if not path.is_file():  # opening a pipe would wait
                raise FileExistsError(errno.EEXIST, "exists and is no file", str(path))
            with open(path, "rb") as file:
                self._read(path, file.read())

    def _read(self, path: Path, content: bytes) -> None:
        found = 0
        for values in _lines(content):
            key, entry = _entry(values)
            if entry is None:
                continue
            found += 1
            name, frame = key
            entries = self._known.setdefault(name, Known({})).entries
            before = entries.get(frame)
            if before and (before.digest, before.made_with) == (entry.digest, entry.made_with):
                entry = replace(entry, results={**before.results, **entry.results})
            entries[frame] = entry
        if b"\n" in content and not found and path == self.path:
            raise FileExistsError(errno.EEXIST, "exists and is no manifest of sparse-icnet", str(path))

    def entry(self, name: str, frame: int | None = None) -> Entry | None:
        """What is known of the results of a source."""
        known = self._known.get(name)
        return known.entry(name, frame) if known else None

    def known(self, name: str) -> Known | None:
        """What is known of the results of a source and of its frames, for another process."""
        return self._known.get(name)

    def append(self, values: Mapping[str, Any]) -> None:
        """Add a line.  Raises OSError that names the file."""
        line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                if self._file is None:
                    self._file = self._opened()
                if os.write(self._file, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _opened(self) -> int:
        """Descriptor at the end of the file, behind a whole line."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o666)
        end = os.lseek(file, 0, os.SEEK_END)
        if end:
            os.lseek(file, end - 1, os.SEEK_SET)
            if os.read(file, 1) != b"\n":
                os.write(file, b"\n")
        return file

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # half a line, or none
            continue
        if isinstance(values, dict):
            yield values


def _entry(values: dict[str, Any]) -> tuple[tuple[str, int | None], Entry | None]:
    """(key, entry) of a line; no entry for one that is not of this form."""
    name, frame = values.get("name"), values.get("frame")
    results = values.get("results")
    if not (
        isinstance(name, str)
        and (frame is None or isinstance(frame, int))
        and isinstance(results, dict)
        and all(isinstance(path, str) for path in results.values())
    ):
        return ("", None), None
    made_with = json.dumps([values.get("model"), values.get("settings")], sort_keys=True)
    counts = values.get("frames"), values.get("unreadable")
    frames = counts[0] - counts[1] if isinstance(counts[0], int) and isinstance(counts[1], int) else 0
    return (name, frame), Entry(
        str(values.get("source")), str(values.get("digest")), made_with, dict(results), frames
    )
