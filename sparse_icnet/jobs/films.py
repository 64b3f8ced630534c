"""A video -> its result files and one record.  Decoding, inference and encoding overlap; whole, or in stretches.

Of the kinds of results, overlay and side-by-side of a film are films, NAME.overlay.mp4; classes, confidence and
probabilities are a file a frame, NAME/00001.classes.png.  A frame that cannot be decoded has none, and the films show the
one before it for longer.

A long film can be done in stretches, by several processes: `begin` says how long it is, `segment_stretch` writes the frames
of one stretch and its part of each film, `finish` joins the parts.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from sparse_icnet import video
from sparse_icnet.files import replacing
from sparse_icnet.image import ImageError
from sparse_icnet.jobs.outputs import (
    FILM_KINDS,
    Mark,
    check_free,
    film_name,
    mark_comment,
    result_name,
)
from sparse_icnet.jobs.overlap import ahead, in_order
from sparse_icnet.jobs.sources import Source
from sparse_icnet.jobs.work import (
    FRAMES,
    Knowledge,
    Network,
    Options,
    Record,
    grid_confidence,
    message_of,
    rounded,
    save,
)
from sparse_icnet.network.graph import Size
from sparse_icnet.render import side_by_side
from sparse_icnet.result import Result

_CHUNK = 1 << 20  # bytes read at a time
_BEHIND = 3  # frames that wait for the encoder


@dataclass(frozen=True, slots=True)
class Job:
    """A film that is to be segmented.

    digest   of the file
    film     what is in it
    earlier  digest that the file had when its results were written; None if there are none
    seconds  that it took to find this out
    """

    source: Source
    digest: str
    film: video.Film
    options: Options
    earlier: str | None = None
    seconds: float = 0.0

    def mark(self, kind: str) -> Mark:
        return Mark(kind, self.source.name, self.digest)

    def films(self) -> dict[str, Path]:
        """kind -> path of the results that are films."""
        options = self.options
        kinds = [kind for kind in options.save_of_films if kind in FILM_KINDS]
        return {kind: options.output / film_name(self.source.name, kind) for kind in kinds}

    def check_free(self, path: Path) -> None:
        """Raise FileExistsError where something at `path` must stay."""
        if not self.options.overwrite:
            check_free(path, self.digest, self.earlier)

    def replacing(self, path: Path) -> AbstractContextManager[Path]:
        """`files.replacing` of a result; what another process put there meanwhile stays."""
        return replacing(path, None if self.options.overwrite else partial(self.check_free, path))

    def size_of(self, kind: str) -> Size:
        """(height, width) of a result that is a film."""
        if kind == "overlay":
            return self.film.size
        height, width = self.film.size
        widened = side_by_side(*[Image.new("L", (width, 1))] * 2).width
        return height + height % 2, widened + widened % 2  # even, as most players want it

    def writer(self, kind: str, path: Path, part: bool) -> video.Writer:
        film = self.film
        return video.Writer(
            path,
            self.size_of(kind),
            film.rate,
            film.clock,
            mark_comment(self.mark(kind)),
            aspect=film.aspect,
            part=part,
        )


@dataclass(slots=True)
class Tally:
    """What came of some frames of a film: how many were read, sums over them, seconds."""

    frames: int = 0
    shares: Counter[str] = field(default_factory=Counter)
    confidence: float = 0.0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        self.frames += other.frames
        self.shares.update(other.shares)
        self.confidence += other.confidence
        self.seconds += other.seconds


def segment_film(
    model: Network,
    source: Source,
    options: Options,
    manifest: Knowledge | None = None,
    tick: Callable[[int, int], None] | None = None,
    at_once: int = FRAMES,
) -> Record:
    """Segment a film and write its results.  Arguments and errors as of `work.segment_source`."""
    job = begin(model, source, options, manifest)
    return job if isinstance(job, Record) else segment(model, job, tick, at_once)


def segment(
    model: Network, job: Job, tick: Callable[[int, int], None] | None = None, at_once: int = FRAMES
) -> Record:
    """The whole film at once."""
    try:
        with ExitStack() as files:
            temporaries = {
                kind: files.enter_context(job.replacing(path)) for kind, path in job.films().items()
            }
            tally = segment_stretch(model, job, 0, job.film.frames, temporaries, tick, False, at_once)
            if not tally.frames:
                raise _nothing_left(job)
    except (ImageError, OSError, MemoryError) as error:
        return failed(job.source, error, job.digest)
    return _record(model, job, tally)


def begin(model: Network, source: Source, options: Options, manifest: Knowledge | None) -> Job | Record:
    """What there is to do; a record where there is nothing to do or nothing that can be done."""
    start = time.perf_counter()
    entry = manifest.entry(source.name) if manifest else None
    digest = ""
    try:
        digest = digest_of(source.path)
        if options.skip_existing and entry is not None:
            names = {kind: film_name(source.name, kind) for kind in options.save_of_films}
            if (entry.digest, entry.made_with) == (digest, options.made_with(model.size)) and all(
                entry.results.get(kind) == name and _is_there(options.output, name, entry.frames)
                for kind, name in names.items()
            ):
                return Record(source.path, source.name, digest=digest, results=names, skipped=True)
        # Of a film that has changed since, the manifest knows the digest that its results bear.
        ours = entry is not None and entry.source == os.path.abspath(source.path)
        earlier = entry.digest if entry and ours else None
        film = video.probe(source.path)
        job = Job(source, digest, film, options, earlier, time.perf_counter() - start)
        for path in job.films().values():
            job.check_free(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        return job
    except (ImageError, OSError, MemoryError) as error:
        return failed(source, error, digest)


def _is_there(output: Path, name: str, frames: int) -> bool:
    """Whether a film, or the files of all its frames, are in `output`."""
    folder, _, suffix = name.partition("/*")
    if not suffix:
        return (output / name).is_file()
    try:
        found = [one.name for one in os.scandir(output / folder) if one.name.endswith(suffix)]
    except OSError:
        return False
    return frames == sum(one.removesuffix(suffix).isdigit() for one in found)


def failed(source: Source, error: ImageError | OSError | MemoryError, digest: str = "") -> Record:
    """The record of a film that is of no use.  Raises `error` where nothing can be written at all."""
    return Record(source.path, source.name, digest=digest, error=message_of(error, source))


def segment_stretch(
    model: Network,
    job: Job,
    first: int,
    last: int,
    films: Mapping[str, Path],
    tick: Callable[[int, int], None] | None = None,
    part: bool = True,
    at_once: int = FRAMES,
) -> Tally:
    """Frames [first, last): write the files of the frames, and of each kind in `films` the film.

    films  kind -> new path; none is written where no frame can be read
    tick   called with (frames done, frames of the film); what it raises ends the work
    part   whether the films are parts to be joined
    at_once  frames that are computed or drawn at a time

    Raises FileExistsError where a file of a frame is in the way, ImageError, OSError.
    """
    start = time.perf_counter()
    tally = Tally()
    with ExitStack() as stack:
        writers: dict[str, video.Writer] = {}

        def encode(index: int, pictures: dict[str, Image.Image]) -> None:
            for kind, picture in pictures.items():
                if kind not in writers:
                    writers[kind] = stack.enter_context(job.writer(kind, films[kind], part))
                writers[kind].write(index, job.film.time(index), picture)

        frames = stack.enter_context(closing(video.read(job.film.stretch(first, last))))
        coming = stack.enter_context(closing(ahead(frames)))
        segmented = stack.enter_context(
            closing(
                in_order(lambda frame: _segmented(model, job, *frame), coming, at_once, taken=at_once + 2)
            )
        )
        encoder = stack.enter_context(ThreadPoolExecutor(1))
        behind: deque[Future[None]] = deque()
        try:
            for index, pictures, shares, confidence in segmented:
                behind.append(encoder.submit(encode, index, pictures))
                if len(behind) > _BEHIND:
                    behind.popleft().result()
                tally.frames += 1
                tally.shares.update(shares)
                tally.confidence += confidence
                if tick:
                    tick(index + 1, job.film.frames)
            for future in behind:
                future.result()
        finally:
            encoder.shutdown(cancel_futures=True)
    tally.seconds = time.perf_counter() - start
    return tally


def _segmented(
    model: Network, job: Job, index: int, picture: Image.Image
) -> tuple[int, dict[str, Image.Image], dict[str, float], float]:
    """(index, kind -> picture for the films, shares, confidence) of a frame; writes the files of the frame."""
    options, source = job.options, job.source
    result = model.predict(picture, options.smooth)
    pictures = {}
    for kind in options.save_of_films:
        if kind in FILM_KINDS:
            pictures[kind] = _drawn(result, kind, job)
        else:
            path = options.output / result_name(source.name, kind, index + 1)
            job.check_free(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(result, kind, path, job.mark(kind), options, partial(job.check_free, path))
    return index, pictures, result.shares, grid_confidence(result.logits)


def _drawn(result: Result, kind: str, job: Job) -> Image.Image:
    """A frame of a film of results: no legend, of the size that the film has."""
    options = job.options
    draw = result.overlay if kind == "overlay" else result.side_by_side
    picture = draw(options.alpha, False, options.palette or "camvid")
    height, width = job.size_of(kind)
    return picture if picture.size == (width, height) else _padded(picture, width, height)


def _padded(picture: Image.Image, width: int, height: int) -> Image.Image:
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(picture, (0, 0))
    return canvas


def finish(model: Network, job: Job, tally: Tally, parts: Mapping[str, Sequence[Path]]) -> Record:
    """Join the parts of each kind of film; the record of a film that was done in stretches.

    tally  of all stretches
    parts  kind -> its parts in order, without those of stretches where no frame was read
    """
    start = time.perf_counter()
    try:
        if not tally.frames:
            raise _nothing_left(job)
        film = job.film
        for kind, path in job.films().items():
            job.check_free(path)
            with job.replacing(path) as temporary:
                video.join(parts[kind], temporary, film.rate, film.clock, mark_comment(job.mark(kind)))
    except (ImageError, OSError, MemoryError) as error:
        return failed(job.source, error, job.digest)
    tally.seconds += time.perf_counter() - start
    return _record(model, job, tally)


def _nothing_left(job: Job) -> ImageError:
    return ImageError(
        f"{job.source.path}: expected frames that can be decoded, found none of {job.film.frames}"
    )


def _record(model: Network, job: Job, tally: Tally) -> Record:
    source, options, film = job.source, job.options, job.film
    return Record(
        source.path,
        source.name,
        frames=film.frames,
        unreadable=film.frames - tally.frames,
        digest=job.digest,
        size=film.size,
        model=options.model(model.size),
        settings=options.settings(),
        results={kind: film_name(source.name, kind) for kind in options.save_of_films},
        shares=rounded({name: share / tally.frames for name, share in tally.shares.items()}),
        confidence=round(tally.confidence / tally.frames, 4),
        milliseconds=round(1e3 * (job.seconds + tally.seconds), 1),
    )


def digest_of(path: str) -> str:
    """'sha256:...' of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
