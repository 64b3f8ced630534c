"""One source -> its result files: decode, segment, write.  Whatever one picture can raise stays with that picture."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sparse_icnet.image import ImageError, frame_count, frames
from sparse_icnet.jobs.outputs import Mark, check_free, result_name, save_png
from sparse_icnet.jobs.sources import Source
from sparse_icnet.model import Model

# What no other picture can be written after either: a full disk, a quota, a file system that fails or is read-only.
_HOPELESS = frozenset(
    getattr(errno, name, -1) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ENODEV", "ESTALE")
)


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted of each picture; pickles to worker processes.

    output     folder of the results, made where it is missing
    save       kinds of results, keys of `outputs.SUFFIX_OF_KIND`
    overwrite  replace results of other sources and files that are no results
    """

    output: Path
    save: tuple[str, ...] = ("classes", "overlay")
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one picture: of a source that is no animation, or of one frame.

    source   the file
    frame    None, or the number of the frame, from 1
    digest   of the file: 'sha256:' and 64 hexadecimal digits; '' if it could not be read
    results  kind -> path of the file written
    shares   class name -> share of the pixels, of the classes that occur, largest first
    error    None, or one line that says what went wrong and with what
    """

    source: str
    frame: int | None = None
    digest: str = ""
    results: tuple[tuple[str, Path], ...] = ()
    shares: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def segment_source(model: Model, source: Source, options: Options) -> Iterator[Record]:
    """Segment a source and write its results: a record for each picture in it, one with `error` where it is of no use.

    After an unreadable frame an animation ends.  Raises OSError where nothing more can be written at all.
    """
    try:
        data = Path(source.path).read_bytes()
    except OSError as error:
        yield Record(source.path, error=f"{source.path}: {error.strerror or error}")
        return
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    frame: int | None = None
    try:
        many = frame_count(data, source.path) > 1
        for number, (picture, _) in enumerate(frames(data, source.path), 1):
            frame = number if many else None
            yield _segment_picture(model, picture, source, frame, digest, options)
    except ImageError as error:
        yield Record(source.path, frame, digest, error=str(error))
    except OSError as error:
        if error.errno in _HOPELESS:
            raise
        yield Record(source.path, frame, digest, error=f"{error.filename}: {error.strerror or error}")


def _segment_picture(
    model: Model, picture: Image.Image, source: Source, frame: int | None, digest: str, options: Options
) -> Record:
    paths = {kind: options.output / result_name(source.name, kind, frame) for kind in options.save}
    if not options.overwrite:
        for path in paths.values():
            check_free(path, digest)
    result = model.predict(picture)
    for kind, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        image = result.class_image() if kind == "classes" else result.overlay(legend=False)
        save_png(image, path, Mark(kind, source.name, digest))
    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    return Record(source.path, frame, digest, tuple(paths.items()), tuple(item for item in shares if item[1]))
