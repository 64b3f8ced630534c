"""What the commands share: the model and the pictures named on the command line, work on several pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sparse_icnet import bundled, formats
from sparse_icnet.jobs import sources
from sparse_icnet.model import Model, load
from sparse_icnet.suggest import did_you_mean

Item = TypeVar("Item")
Result = TypeVar("Result")


def model_of(arguments: argparse.Namespace) -> Model:
    """The model that --model (or MODEL), --size and --threads ask for."""
    return load(arguments.model, arguments.size, arguments.threads)


def split_model(files: Sequence[str]) -> tuple[str | None, list[str]]:
    """`[MODEL] [IMAGE ...]`: the first is a model if it is named like one."""
    if files and (Path(files[0]).suffix.lower() in formats.SUFFIXES or files[0] in bundled.all_names()):
        return files[0], list(files[1:])
    return None, list(files)


def expand(
    arguments: Sequence[str], lists: Sequence[str] = (), recursive: bool = False, output: Path | None = None
) -> sources.Found:
    """The sources that the arguments and the files of `lists` (- for standard input) name.

    Raises what `sources.expand` raises, and where an argument is a model or names nothing at all.
    """
    known = bundled.all_names()
    sources.check_named(arguments, known, formats.SUFFIXES, lambda word: did_you_mean(word, known))
    contents = [(name, sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()) for name in lists]
    return sources.expand(arguments, contents, recursive=recursive, output=output)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 2) -> Iterator[Result]:
    """`map` on a few threads: one decodes or encodes while another computes.  Stops when the caller does."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
