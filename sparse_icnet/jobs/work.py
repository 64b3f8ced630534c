"""One source -> its result files: decode, segment, write.  An error of one picture is its record's, the others are done.

`segment_source` is all that a thread or a worker process has to call: it writes the results and yields a `Record` for
each picture or film, whose `line()` the caller appends to the manifest.  `Options` and `Record` pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_icnet.image import MAX_PIXELS, MAX_STREAM, ImageError, frames, measure
from sparse_icnet.jobs.manifest import Entry
from sparse_icnet.jobs.outputs import Mark, check_free, result_name, save_jpeg, save_npy, save_png
from sparse_icnet.jobs.overlap import Room
from sparse_icnet.jobs.sources import Source
from sparse_icnet.network.graph import Size
from sparse_icnet.processes import PerProcess
from sparse_icnet.render import ALPHA
from sparse_icnet.result import Result

# What no other picture can be written after either: a full disk, a quota, a file system that fails or is read-only.
HOPELESS = frozenset(
    getattr(errno, name, -1) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ENODEV", "ESTALE")
)

# Pictures that a process has in work at the same time have together at most as many pixels as the largest one may have,
# 17 to 20 bytes for each with an overlay and its legend.
_ROOM = PerProcess(lambda: Room(MAX_PIXELS))

FRAMES = 3  # of a film that are in work at a time


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted of each picture.

    output         folder of the results, made where it is missing
    model_name     what the manifest calls the model
    model_digest   of its file or files
    save           kinds of results, keys of `outputs.SUFFIX_OF_KIND`
    save_of_films  those of videos
    smooth         as for `Model.segment`
    alpha          share of the colour in overlays, 0 to 1
    legend         beside overlays
    palette        (r, g, b) of each class; None: CamVid's
    dtype          of probabilities: float16 or float32
    drawn          format of overlays and side-by-side pictures: "png", or "jpeg", which takes a tenth of the time
    skip_existing  leave out what the manifest says is done and whose files are there
    overwrite      replace results of other sources and files that are no results
    """

    output: Path
    model_name: str = ""
    model_digest: str = ""
    save: tuple[str, ...] = ("classes", "overlay")
    save_of_films: tuple[str, ...] = ("overlay",)
    smooth: bool = True
    alpha: float = ALPHA
    legend: bool = False
    palette: tuple[tuple[int, int, int], ...] | None = None
    dtype: str = "float16"
    drawn: str = "png"
    skip_existing: bool = False
    overwrite: bool = False

    def model(self, size: Size) -> dict[str, Any]:
        """What the manifest says of a model that runs at `size`."""
        return {"name": self.model_name, "digest": self.model_digest, "size": list(size)}

    def made_with(self, size: Size) -> str:
        """`Entry.made_with` of what is made with these options by a model at `size`."""
        return json.dumps([self.model(size), self.settings()], sort_keys=True)

    def settings(self) -> str:
        """Digest of all that the results depend on besides picture and model."""
        names = ("smooth", "alpha", "legend", "palette", "dtype")
        values = json.dumps([getattr(self, name) for name in names])
        return hashlib.sha256(values.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one picture: of a source that is no animation, or of one frame of it; or of one film.

    source   the file, as the user wrote it
    name     of its results
    frame    None, or the number of the frame of an animation, from 1
    error    None, or one line that says what went wrong and with what
    skipped  whether its results were there already
    The others are those of `sparse_icnet.jobs.manifest`; without results where there is an error or all is skipped.
    """

    source: str
    name: str
    frame: int | None = None
    frames: int | None = None
    unreadable: int | None = None
    digest: str = ""
    size: Size | None = None
    model: dict[str, Any] = field(default_factory=dict)
    settings: str = ""
    results: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    confidence: float | None = None
    milliseconds: float = 0.0
    error: str | None = None
    skipped: bool = False

    def line(self) -> dict[str, Any] | None:
        """Its line of the manifest; None where nothing was written."""
        if not self.results or self.error or self.skipped:
            return None
        values = asdict(self)
        films_own = () if self.frames is not None else ("frames", "unreadable")
        for name in ("error", "skipped", *films_own):
            del values[name]
        return {**values, "source": os.path.abspath(self.source)}


class Network(Protocol):
    """What computes results: a `Model`, or a `SideBySide` of it."""

    @property
    def size(self) -> Size:
        """(height, width) of its input."""

    def predict(self, image: Image.Image, smooth: bool = True, /) -> Result:
        """As `Model.predict`."""


def segment_source(
    model: Network,
    source: Source,
    options: Options,
    manifest: Knowledge | None = None,
    tick: Callable[[int, int], None] | None = None,
    at_once: int = FRAMES,
) -> Iterator[Record]:
    """Segment a source and write its results: a record for each picture in it, one with `error` where it is of no use.

    manifest  what is known of earlier results (read only)
    tick      called with (frames done, frames of the film) as a film goes on
    at_once   frames of a film that are computed or drawn at a time

    After an unreadable frame an animation ends.  Raises OSError where nothing more can be written at all.
    """
    if source.is_film:
        from sparse_icnet.jobs.films import segment_film

        yield segment_film(model, source, options, manifest, tick, at_once)
        return
    start = time.perf_counter()
    try:
        data = _read(source.path)
    except OSError as error:
        yield Record(source.path, source.name, error=f"{source.path}: {error.strerror or error}")
        return
    except ImageError as error:
        yield Record(source.path, source.name, error=str(error))
        return
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    frame: int | None = None
    try:
        count, pixels = measure(data, source.path)
        with _ROOM.get().taken(pixels):
            if count == 1:
                task = Task(model, source, None, digest, options, manifest)
                yield task.skipped() or task.segment(next(frames(data, source.path)).picture, start)
                return
            for frame, (picture, _) in enumerate(frames(data, source.path), 1):
                task = Task(model, source, frame, digest, options, manifest)
                yield task.skipped() or task.segment(picture, start)
                start = time.perf_counter()
    except (ImageError, OSError, MemoryError) as error:
        yield Record(source.path, source.name, frame, digest=digest, error=message_of(error, source))


def message_of(error: ImageError | OSError | MemoryError, source: Source) -> str:
    """One line on what is wrong with a source or its results.  Raises `error` where no other can be written either."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{source.path}: not enough memory"
    if error.errno in HOPELESS:
        raise error
    return f"{error.filename}: {error.strerror or error}"


class Knowledge(Protocol):
    """What is known of earlier results: `Manifest`, or a part of it that goes to another process."""

    def entry(self, name: str, frame: int | None = None) -> Entry | None:
        """What is known of the results of a source, or of a frame of an animation."""


def _read(path: str) -> bytes:
    """The content of a picture file; ImageError for one of more than MAX_STREAM bytes, such as a device without end."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        whole = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_STREAM
        data = file.read() if whole else file.read(MAX_STREAM + 1)
    if len(data) > MAX_STREAM:
        raise ImageError(f"{path}: expected a picture of at most {MAX_STREAM} bytes, found more")
    return data


@dataclass(frozen=True, slots=True)
class Task:
    """One picture, or one frame of an animation, that is to be segmented.

    digest  of the file
    """

    model: Network
    source: Source
    frame: int | None
    digest: str
    options: Options
    manifest: Knowledge | None = None

    def skipped(self) -> Record | None:
        """A record if the results are there and are those of this file, model and settings; else None."""
        entry = self._entry()
        if not self.options.skip_existing or entry is None:
            return None
        same = (entry.digest, entry.made_with) == (self.digest, self.options.made_with(self.model.size))
        names = self._names()
        there = same and all(
            entry.results.get(kind) == name and (self.options.output / name).is_file()
            for kind, name in names.items()
        )
        if not there:
            return None
        return Record(
            self.source.path, self.source.name, self.frame, digest=self.digest, results=names, skipped=True
        )

    def segment(self, picture: Image.Image, start: float) -> Record:
        """Segment the picture and write its results.

        start  `time.perf_counter()` when the work on it began

        Raises FileExistsError where a result of another source, or no result, is in the way; OSError.
        """
        names = self._names()
        if not self.options.overwrite:
            for name in names.values():
                self._check_free(self.options.output / name)
        result = self.model.predict(picture, self.options.smooth)
        for kind, name in names.items():
            path = self.options.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            mark = Mark(kind, self.source.name, self.digest)
            save(result, kind, path, mark, self.options, partial(self._check_free, path))
        return Record(
            self.source.path,
            self.source.name,
            self.frame,
            digest=self.digest,
            size=result.size,
            model=self.options.model(self.model.size),
            settings=self.options.settings(),
            results=names,
            shares=rounded(result.shares),
            confidence=round(grid_confidence(result.logits), 4),
            milliseconds=round(1e3 * (time.perf_counter() - start), 1),
        )

    def _check_free(self, path: Path) -> None:
        entry = self._entry()
        # Of a picture that has changed since, the manifest knows the digest that its results bear.
        ours = entry is not None and entry.source == os.path.abspath(self.source.path)
        check_free(path, self.digest, entry.digest if entry and ours else None)

    def _entry(self) -> Entry | None:
        return self.manifest.entry(self.source.name, self.frame) if self.manifest else None

    def _names(self) -> dict[str, str]:
        options = self.options
        return {kind: result_name(self.source.name, kind, self.frame, options.drawn) for kind in options.save}


def save(
    result: Result, kind: str, path: Path, mark: Mark, options: Options, check_free: Callable[[], None]
) -> None:
    """Write one kind of result of one picture.

    check_free  raises where the file at `path` is another's; asked for what another process puts there meanwhile
    """
    palette = options.palette or "camvid"
    may_replace = None if options.overwrite else check_free
    if kind == "probabilities":
        save_npy(
            result.probabilities(np.float16 if options.dtype == "float16" else np.float32),
            path,
            mark,
            may_replace,
        )
    elif kind == "classes":
        save_png(result.class_image(palette), path, mark, may_replace)
    elif kind == "confidence":
        save_png(result.confidence_image(), path, mark, may_replace)
    else:
        draw = result.overlay if kind == "overlay" else result.side_by_side
        write = save_jpeg if options.drawn == "jpeg" else save_png
        write(draw(options.alpha, options.legend, palette), path, mark, may_replace)


def rounded(shares: Mapping[str, float]) -> dict[str, float]:
    """The classes that occur, the largest first, as a manifest states them."""
    largest = sorted(shares.items(), key=lambda item: -item[1])
    return {name: round(share, 6) for name, share in largest if share}


def grid_confidence(logits: NDArray[np.float32]) -> float:
    """Mean over the grid points of the highest probability, of logits (C, h, w): softmax over C."""
    powers = np.exp(logits - logits.max(0))
    return float((1 / powers.sum(0, dtype=np.float64)).mean())


def model_digest(path: Path, output: str | None = None, bgr: bool = False) -> str:
    """'sha256:...' of a model file; of an .xml and its .bin together; and of how it is loaded, unless that is as usual."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,):
        if part.is_file():
            digest.update(part.read_bytes())
    if output is not None or bgr:
        digest.update(repr((output, bgr)).encode())
    return f"sha256:{digest.hexdigest()}"
