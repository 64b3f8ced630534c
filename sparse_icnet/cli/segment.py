"""`sparse-icnet segment`: pictures -> class maps and overlays."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import in_order, model_of, pictures_in
from sparse_icnet.image import ImageError, save_png, to_rgb
from sparse_icnet.model import Model
from sparse_icnet.render import class_image, overlay, palette

DONE, BAD_INPUT = 0, 2


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    sources = _expand([*([str(bundled.SAMPLE_IMAGE)] if arguments.sample else []), *arguments.images], output)
    if not sources:
        raise ValueError("segment: expected pictures, a folder or --sample, found none")
    model = model_of(arguments)
    output.mkdir(parents=True, exist_ok=True)
    jobs = list(zip(sources, _names(sources), strict=True))
    failures = 0
    start = time.perf_counter()
    for done, (source, line, error) in enumerate(
        in_order(lambda job: _segment_one(model, job[0], output / job[1], not arguments.no_overlay), jobs), 1
    ):
        if error:
            failures += 1
            print(f"sparse-icnet: error: {' '.join(error.splitlines())}", file=sys.stderr)
        elif not arguments.quiet:
            count = f"[{done}/{len(jobs)}] " if len(jobs) > 1 else ""
            print(f"{count}{source}: {line}", flush=True)
    if len(jobs) > 1 and not arguments.quiet:
        seconds = time.perf_counter() - start
        print(f"{len(jobs) - failures} of {len(jobs)} pictures done in {seconds:.1f} s -> {output}")
    return BAD_INPUT if failures else DONE


def _segment_one(model: Model, source: Path, stem: Path, with_overlay: bool) -> tuple[Path, str, str | None]:
    """Segment one picture into `stem`.classes.png and .overlay.png: (source, line to print, error)."""
    try:
        picture = to_rgb(source)
    except ImageError as error:
        return source, "", str(error)
    except OSError as error:
        return source, "", f"{source}: {error.strerror or error}"
    classes = model.segment(picture)
    colours = palette(classes=len(model.classes))
    written = [stem.with_name(f"{stem.name}.classes.png")]
    save_png(class_image(classes, colours), written[0])
    if with_overlay:
        written.append(stem.with_name(f"{stem.name}.overlay.png"))
        save_png(overlay(picture, classes, colours), written[1])
    return source, f"{_shares(classes, model.classes)} -> {', '.join(map(str, written))}", None


def _shares(classes: NDArray[np.uint8], names: Sequence[str], most: int = 4) -> str:
    """'road 31 %, sky 20 %, ...': the largest classes of a map."""
    counts = np.bincount(classes.ravel(), minlength=len(names))
    largest = np.argsort(-counts, kind="stable")[:most]
    return ", ".join(f"{names[c]} {100 * counts[c] / classes.size:.0f} %" for c in largest if counts[c])


def _expand(arguments: Sequence[str], output: Path) -> list[Path]:
    """Folders become the pictures in them, except the output folder: its results are no input."""
    sources: list[Path] = []
    for path in map(Path, arguments):
        if not path.is_dir():
            sources.append(path)
        elif output.is_dir() and path.samefile(output):
            raise ValueError(f"{path}: the output folder must not be an input folder")
        else:
            sources += pictures_in(path)
    return sources


def _names(sources: Sequence[Path]) -> list[str]:
    """A name of its own for each source (letter case aside): its stem, or stem-2, stem-3 ..."""
    taken: set[str] = set()
    names = []
    for source in sources:
        name, number = source.stem, 2
        while name.casefold() in taken:
            name, number = f"{source.stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
