"""What the commands share: the model and the pictures named on the command line, and kernels that are compiled."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sparse_icnet import bundled, formats
from sparse_icnet.cli.terminal import note
from sparse_icnet.files import check_writable
from sparse_icnet.jobs import sources
from sparse_icnet.loading import load
from sparse_icnet.model import Model
from sparse_icnet.render import read_class_names
from sparse_icnet.run import machine_code
from sparse_icnet.run.code_files import Entry
from sparse_icnet.suggest import did_you_mean
from sparse_icnet.target import TARGET

MAX_LIST = 1 << 28  # bytes of a list of paths


def model_of(arguments: argparse.Namespace) -> Model:
    """The model that --model (or MODEL), --output, --bgr, --size, --threads and --classes ask for."""
    file = getattr(arguments, "classes", None)
    names = None if file is None else read_class_names(file)
    try:
        return load(
            *(arguments.model, arguments.size, arguments.threads, names),
            output=arguments.model_output,
            bgr=arguments.bgr,
        )
    except ValueError as error:
        if names is not None and "class names" in str(error):
            raise ValueError(f"{file}: {error}") from error
        raise


def ready(model: Model, quiet: bool = False, more: Sequence[Entry] = ()) -> None:
    """Make the engine of `model`; say so where that takes long because its kernels must be compiled first.

    more  machine code that will be needed beside
    """
    session, log = model.session, logging.getLogger(__name__)
    began: list[float] = []

    def compiling() -> None:
        began.append(time.perf_counter())
        if not quiet and len(began) == 1:
            note("compiling the kernels for this CPU, once after an install: 5 to 60 s ...")

    entries = [*session.prepare(compiling=compiling), *more]
    machine_code.load(entries, compiling)
    if began and not quiet:
        seconds, kept = time.perf_counter() - began[0], machine_code.folder_of(entries)
        note(f"compiled in {seconds:.0f} s, {f'kept in {kept}' if kept else 'no folder to keep them in'}")
    if log.isEnabledFor(logging.INFO):  # else nobody asks what the model says of itself
        name = bundled.short_name(model.path, model.graph.meta.name)
        log.info("%s at %dx%d, threads: %d, kernels: %s", name, *model.size, session.threads, TARGET.name)


def check_json(place: str | None) -> None:
    """Raise now what writing the figures there would raise after the work."""
    if place not in (None, "-"):
        check_writable(Path(place))


def split_model(files: Sequence[str]) -> tuple[str | None, list[str]]:
    """`[MODEL] [IMAGE ...]`: the first is a model if it is named like one."""
    if files and (Path(files[0]).suffix.lower() in formats.SUFFIXES or files[0] in bundled.all_names()):
        return files[0], list(files[1:])
    return None, list(files)


def _list_of_paths(name: str) -> bytes:
    """The content of a list, of standard input for '-'.  ValueError for an endless one."""
    if name != "-":
        with open(name, "rb") as file:
            content = file.read(MAX_LIST + 1)
    elif sys.stdin is None:
        raise ValueError("-: expected a list of paths on standard input, found it closed")
    else:
        content = sys.stdin.buffer.read(MAX_LIST + 1)
    if len(content) > MAX_LIST:
        raise ValueError(f"{name}: expected a list of at most {MAX_LIST} bytes, found more")
    return content


def expand(
    arguments: Sequence[str],
    lists: Sequence[str] = (),
    recursive: bool = False,
    output: Path | None = None,
    films: bool = False,
) -> sources.Found:
    """The sources that the arguments and the files of `lists` (- for standard input) name.

    Raises what `sources.expand` raises, and where an argument is a model or names nothing at all.
    """
    known = bundled.all_names()
    sources.check_named(arguments, known, formats.SUFFIXES, lambda word: did_you_mean(word, known))
    contents = [(name, _list_of_paths(name)) for name in lists]
    return sources.expand(arguments, contents, recursive=recursive, output=output, films=films)
