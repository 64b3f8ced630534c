"""What to segment: files, folders, patterns and lists become sources, each with an output name of its own.

A name follows from its source alone, never from what else is in the call:

    a file                 its name: street.jpg
    a folder               of each picture its path below the folder: 0001.jpg, with `recursive` also seq1/0001.jpg
    a pattern              of each match its path below the part without wildcards: 'data/seq?/*.jpg' gives seq1/0001.jpg
    a line of a list       its path as written, without root, '.' and '..'

The suffix is part of it, so a.jpg and a.png differ.  Two different sources that would get one name (letter case aside,
since some file systems do not tell a.jpg from A.JPG) are an error before anything is done.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from importlib.util import find_spec
from pathlib import Path, PurePath

from sparse_icnet import video
from sparse_icnet.image import SUFFIXES
from sparse_icnet.jobs.outputs import is_result

# What people keep beside their pictures and nothing here reads: said when a folder holds some.
UNREAD = frozenset(
    (
        *(".heic", ".heif", ".jxl", ".svg", ".pdf", ".psd", ".exr", ".hdr"),
        *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
        *(*video.SUFFIXES, ".mpg", ".mpeg"),
    )
)


class SourceError(ValueError):
    """Arguments that say nothing to segment, or two things of one name."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to segment: a picture, an animation of several, or a film.

    path  where it is, as the user wrote it
    name  of its results, below the output folder, '/' between folders
    """

    path: str
    name: str

    @property
    def is_film(self) -> bool:
        """Whether its suffix is a video's."""
        return Path(self.path).suffix.lower() in video.SUFFIXES


@dataclass(slots=True)
class Found:
    """What `expand` found.

    sources  in the order of the arguments, of each folder by name
    results  files that this program wrote, left out
    unread   how many files of each suffix in UNREAD were left out
    films    whether videos are sources as well
    named    whether the names matter: two sources of one name are an error
    """

    named: bool = True
    films: bool = False
    sources: list[Source] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    _claims: dict[str, Source] = field(default_factory=dict)

    def wants(self, path: Path) -> bool:
        """Whether `path` has the suffix of what is read here; counts it if it is one of UNREAD."""
        suffix = path.suffix.lower()
        if suffix in SUFFIXES or (self.films and suffix in video.SUFFIXES and find_spec("av")):
            return True
        if suffix in UNREAD:
            self.unread[suffix] += 1
        return False

    def add(self, path: Path, name: str) -> None:
        """Take `path` unless it is a result; once if it comes twice.  Raises SourceError if the name is another's."""
        if is_result(path):
            self.results.append(path)
            return
        source = Source(str(path), name)
        if self.films and source.is_film and not find_spec("av"):
            raise SourceError(f"{path}: {video.EXTRA}")
        other = self._claims.setdefault(name.casefold() if self.named else str(path), source)
        if other is source:
            self.sources.append(source)
        elif not _same_file(other.path, source.path):
            raise SourceError(
                f"{other.path} and {source.path}: expected sources of different names, both would be written as {name}; "
                "give them different output folders, or a quoted pattern that keeps their folders, such as 'seq?/*.jpg'"
            )


def expand(
    arguments: Sequence[str],
    lists: Iterable[tuple[str, bytes]] = (),
    *,
    recursive: bool = False,
    output: Path | None = None,
    films: bool = False,
) -> Found:
    """The sources that `arguments` and the lines of `lists` (name, content) stand for.

    recursive  look into the folders in a folder as well (links to folders are not followed)
    output     folder of the results: never searched; None: nothing is written, so that names may be shared
    films      take videos as well (`sparse_icnet.video.SUFFIXES`); in folders only if PyAV is there to read them

    Files and folders whose names begin with a dot count only where they are named.  A named file counts whatever its
    suffix, also if it is missing: opening it says so.  Raises SourceError as `Found.add`, for a folder or pattern that
    stands for nothing, where `output` itself is a folder to search, and for a named video without PyAV; OSError for a
    folder that cannot be listed.
    """
    found = Found(named=output is not None, films=films)
    for argument in arguments:
        path = Path(argument)
        if not argument:  # as a path it would be the current folder
            raise SourceError("expected pictures, folders or patterns, found an empty argument")
        if path.is_dir():
            _add_folder(found, path, PurePath(), recursive, output)
        elif not os.path.lexists(path) and has_magic(argument):
            _add_pattern(found, argument, recursive, output)
        else:
            found.add(path, path.name)
    for name, content in lists:
        for line in _lines(content):
            path = Path(line)
            if "\0" in line:
                raise SourceError(
                    f"{name}: expected a path in each line, found a NUL character in {line[:80]!r}"
                )
            if path.is_dir():
                _add_folder(found, path, _as_written(path), recursive, output)
            elif not (below := _as_written(path)).name:
                raise SourceError(f"{name}: expected a path in each line, found {line!r}")
            else:
                found.add(path, below.as_posix())
    return found


def folders_of(found: Iterable[Source], output: Path) -> list[Path]:
    """The folders at and below `output` that results of these sources lie in, as far as they are there."""
    folders = {output}
    for source in found:
        path = output / source.name
        folders.update((path.parent, path))  # the second of animations and films
    return sorted(folder for folder in folders if folder.is_dir())


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in `folder`, by name.  Raises SourceError if there is none."""
    found = Found()
    _add_folder(found, folder, PurePath(), recursive=False, output=None)
    return [Path(source.path) for source in found.sources]


def _add_folder(found: Found, folder: Path, below: PurePath, recursive: bool, output: Path | None) -> None:
    """The pictures in `folder` (in the folders in it as well, if `recursive`), named by their paths after `below`."""
    if output is not None and _same_file(folder, output):
        raise SourceError(f"{folder}: the output folder must not be an input folder")
    pictures = 0
    for path in _walk(folder, recursive, output):
        if found.wants(path):
            pictures += 1
            found.add(path, (below / path.relative_to(folder)).as_posix())
    if not pictures:
        others = f"; of no use here: {counted(found.unread)}" if found.unread else ""
        if found.films and not found.unread.keys().isdisjoint(video.SUFFIXES):
            others += f" ({video.EXTRA})"
        deeper = "" if recursive else "; --recursive looks into the folders in it"
        raise SourceError(
            f"{folder}: expected a folder with pictures ({', '.join(sorted(SUFFIXES))}), found none{others}{deeper}"
        )


def _walk(folder: Path, recursive: bool, output: Path | None) -> Iterator[Path]:
    """Files in `folder`, by name, then those of the folders in it.  Nothing hidden, nothing in `output`."""
    deeper: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                yield folder / entry.name
            elif recursive and entry.is_dir(follow_symlinks=False):
                deeper.append(folder / entry.name)
    for path in deeper:
        if output is None or not _same_file(path, output):
            yield from _walk(path, recursive, output)


def _add_pattern(found: Found, pattern: str, recursive: bool, output: Path | None) -> None:
    """Files that match; of folders that match the pictures in them."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if has_magic(part))
    base = Path(*parts[:fixed])
    try:
        # Opening a pipe among the matches would wait.
        matches = sorted(
            path for path in base.glob(str(Path(*parts[fixed:]))) if path.is_dir() or path.is_file()
        )
    except ValueError as error:
        raise SourceError(f"{pattern}: expected a pattern, found one of another form ({error})") from error
    taken = 0
    for path in matches:
        below = path.relative_to(base)
        if output is not None and _inside(path, output):
            continue
        if path.is_dir():
            if parts[-1] != "**":
                _add_folder(found, path, below, recursive, output)
                taken += 1
        elif found.wants(path):
            found.add(path, below.as_posix())
            taken += 1
    if not taken:
        raise SourceError(
            f"{pattern}: expected a pattern that matches pictures, found {len(matches)} matches and no picture"
        )


def _inside(path: Path, folder: Path) -> bool:
    return any(_same_file(parent, folder) for parent in (path, *path.parents)) if folder.is_dir() else False


def _same_file(one: str | Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is missing
        return os.path.abspath(one) == os.path.abspath(other)


def _lines(content: bytes) -> Iterator[str]:
    for line in content.split(b"\n"):
        if line := line.removesuffix(b"\r"):
            yield os.fsdecode(line)


def _as_written(path: PurePath) -> PurePath:
    return PurePath(*(part for part in path.parts if part not in (path.anchor, ".", "..")))


def counted(suffixes: Counter[str]) -> str:
    """'3 .heic, 1 .mp4'."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))


def check_named(
    arguments: Sequence[str],
    model_names: Sequence[str],
    model_suffixes: Sequence[str],
    hint: Callable[[str], str],
) -> None:
    """Raise where an argument is no picture but a model, or names nothing and has not even the suffix of a picture.

    hint  from a word to ', did you mean ...?'
    """
    for argument in arguments:
        path = Path(argument)
        suffix = path.suffix.lower()
        if suffix in model_suffixes or (argument in model_names and not path.exists()):
            raise SourceError(f"{argument}: expected a picture, found a model; name it by --model {argument}")
        if not os.path.lexists(path) and not has_magic(argument) and suffix not in SUFFIXES | UNREAD:
            raise FileNotFoundError(
                errno.ENOENT,
                "no such file; expected a picture, a folder, or by --model one of "
                f"{', '.join(model_names)}{hint(argument)}",
                argument,
            )
