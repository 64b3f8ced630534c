"""`sparse-icnet eval`: mean intersection over union on CamVid-style folders."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sparse_icnet
from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, model_of, ready
from sparse_icnet.cli.terminal import Column, Progress, print_table, say, say_wrapped, write_json
from sparse_icnet.image import MAX_PIXELS, ImageError, fitted, to_rgb
from sparse_icnet.jobs.overlap import in_order
from sparse_icnet.jobs.sources import pictures_in
from sparse_icnet.metrics import IGNORED, Score, confusion_matrix, score
from sparse_icnet.model import Model
from sparse_icnet.network.graph import Size

# Of class maps: as `Model.segment` gives them by default, and as the model card says.
KINDS = ("smooth", "blocks")
_MOST_NAMED = 5  # frames of no use


def run(arguments: argparse.Namespace) -> int:
    pairs = pairs_of(_data(arguments), arguments.split, arguments.limit)
    check_json(arguments.json)
    model = model_of(arguments)
    count = len(model.class_names)
    _check_pairs(pairs, count)
    confusion = np.zeros((len(KINDS), count, count), np.int64)
    ready(model, arguments.quiet)
    with Progress(len(pairs), "frames", arguments.quiet) as progress:
        for one in in_order(lambda pair: _confusion_of(model, *pair), pairs):
            confusion += one
            progress.advance()
    scores = [score(one, _ignored(count)) for one in confusion]
    if arguments.json != "-":
        _report(scores, model, len(pairs))
    if arguments.json:
        figures = _figures(scores, model, len(pairs), bundled.short_name(bundled.resolve(arguments.model)))
        write_json(figures, arguments.json)
    return 0


def _ignored(classes: int) -> int | None:
    return IGNORED if classes > IGNORED else None


def _data(arguments: argparse.Namespace) -> Path:
    if arguments.data is not None:
        return Path(arguments.data)
    meant = arguments.model
    if meant is not None and Path(meant).is_dir():
        raise ValueError(f"eval: expected --data DIR, found none; did you mean --data {meant}?")
    bundled.resolve(meant)  # says so if it is no model either
    raise ValueError("eval: expected --data DIR, a folder with SPLIT/ and SPLITannot/, found none")


def pairs_of(data: Path, split: str, limit: int | None = None) -> list[tuple[Path, Path]]:
    """(frame, label) of the first `limit` frames in data/split.  Raises where a folder or a label is missing."""
    labels = data / f"{split}annot"
    for folder in (data / split, labels):
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: expected a folder (frames in SPLIT/, labels in SPLITannot/), found none"
            )
    pairs = []
    for frame in pictures_in(data / split)[:limit]:
        label = labels / f"{frame.stem}.png"
        if not label.is_file():
            raise ValueError(f"{label}: expected the label image of {frame.name}, found none")
        pairs.append((frame, label))
    return pairs


def _confusion_of(model: Model, frame: Path, label: Path) -> NDArray[np.int64]:
    """int64 (kinds, classes, classes): the confusion matrix of each of KINDS."""
    truth, count = read_label(label, model), len(model.class_names)
    pixels, _ = fitted(frame, model.size)
    maps = (model.segment_at_network_size(pixels, kind == "smooth") for kind in KINDS)
    return np.stack([confusion_matrix(truth, one, count) for one in maps])


def _check_pairs(pairs: Sequence[tuple[Path, Path]], count: int) -> None:
    """Decode all frames and labels, and raise now what would else stop the evaluation in its middle: all that is of no use.

    A figure over the rest would be one of other frames.
    """
    problems = [one for one in in_order(lambda pair: _problem(*pair, count), pairs) if one]
    if len(problems) > 1:
        named = "; ".join(problems[:_MOST_NAMED]) + ("; ..." if len(problems) > _MOST_NAMED else "")
        raise ValueError(f"eval: {len(problems)} of {len(pairs)} frames are of no use: {named}")
    if problems:
        raise ValueError(problems[0])


def _problem(frame: Path, label: Path, count: int) -> str | None:
    """What is wrong with a frame or its label, on one line; None if nothing is."""
    try:
        to_rgb(frame)
        largest = int(_read_label(label, None).max())
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{os.fsdecode(error.filename or frame)}: {error.strerror or error}"
    except MemoryError:
        return f"{frame}: not enough memory"
    return None if largest < count else f"{label}: expected classes 0..{count - 1}, found {largest}"


def read_label(path: Path, model: Model) -> NDArray[np.uint8]:
    """Class indices (H, W) at network size, nearest neighbour; a palette is not looked at."""
    return _read_label(path, model.size)


def _read_label(path: Path, size: Size | None) -> NDArray[np.uint8]:
    """Class indices at `size`, or at the size of the file."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P") or not 0 < image.width * image.height <= MAX_PIXELS:
                raise ImageError(
                    f"{path}: expected an 8-bit image of class indices (mode L or P), "
                    f"found mode {image.mode}, {image.width} x {image.height}"
                )
            if size is None:
                return np.asarray(image)
            return np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST))
    except ImageError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise ImageError(f"{path}: expected a label image, found damaged data ({error})") from error


def _report(scores: Sequence[Score], model: Model, frames: int) -> None:
    """A line a class, a column for each of KINDS."""
    rows = [
        (name, *(_percent(one.iou[c] or 0.0) for one in scores))
        for c, name in enumerate(model.class_names)
        if scores[0].iou[c] is not None
    ]
    rows.append(("pixels right", *(_percent(one.accuracy) for one in scores)))
    rows.append(("mIoU", *(_percent(one.mean) for one in scores)))
    print_table((Column("IoU"), *(Column(f"{kind} %") for kind in KINDS)), rows)
    if scores[0].absent:
        absent = ", ".join(model.class_names[c] for c in scores[0].absent)
        say_wrapped(f"not in the labels, left out of the mean: {absent}")
    say(f"{frames} frames at {model.size[0]}x{model.size[1]}")


def _percent(part: float) -> str:
    return f"{100 * part:.2f}"


def _figures(scores: Sequence[Score], model: Model, frames: int, name: str) -> dict[str, Any]:
    """The figures of each of KINDS under its name."""
    figures: dict[str, Any] = {
        "version": sparse_icnet.__version__,
        "model": name,
        "size": list(model.size),
        "frames": frames,
        "absent": [model.class_names[c] for c in scores[0].absent],
        "labelled_pixels": scores[0].pixels,
    }
    for kind, one in zip(KINDS, scores, strict=True):
        figures[kind] = {
            "mean_iou": one.mean,
            "pixel_accuracy": one.accuracy,
            "iou": dict(zip(model.class_names, one.iou, strict=True)),
        }
    return figures
