"""What the commands share: models and pictures named on the command line, work on several pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sparse_icnet import bundled, formats
from sparse_icnet.image import SUFFIXES
from sparse_icnet.model import Model, load

Item = TypeVar("Item")
Result = TypeVar("Result")


def model_of(arguments: argparse.Namespace) -> Model:
    """The model that --model (or MODEL), --size and --threads ask for."""
    return load(arguments.model, arguments.size, arguments.threads)


def split_model(files: Sequence[str]) -> tuple[str | None, list[str]]:
    """`[MODEL] [IMAGE ...]`: the first is a model if it is named like one."""
    if files and (Path(files[0]).suffix.lower() in formats.SUFFIXES or files[0] in bundled.names()):
        return files[0], list(files[1:])
    return None, list(files)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in `folder`, by name.  Raises ValueError if there is none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(
            f"{folder}: expected a folder with pictures ({', '.join(sorted(SUFFIXES))}), found none"
        )
    return found


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 2) -> Iterator[Result]:
    """`map` on a few threads: one decodes or encodes while another computes.  Stops when the caller does."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
