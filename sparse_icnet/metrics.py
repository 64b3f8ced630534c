"""Accuracy of class maps: confusion matrix, intersection over union, mean over the classes that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.icnet import CLASSES

IGNORED = CLASSES.index("unlabelled")


def confusion_matrix(
    labels: NDArray[Any], predictions: NDArray[Any], classes: int = len(CLASSES)
) -> NDArray[np.int64]:
    """int64 (classes, classes): pixels by label (row) and predicted class (column).

    labels, predictions  integer arrays of one shape, values 0..classes-1
    Raises ValueError where shapes differ or a value is out of range.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(
            f"labels and predictions must have one shape, found {labels.shape} and {predictions.shape}"
        )
    for what, values in (("labels", labels), ("predictions", predictions)):
        if values.dtype.kind not in "ui":
            raise TypeError(f"{what} must be integers, found {values.dtype}")
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(f"{what} must lie in 0..{classes - 1}, found {values.min()}..{values.max()}")
    pairs = labels.astype(np.intp).ravel() * classes + predictions.ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Score:
    """Accuracy over a set of images.

    iou       per class TP / (TP + FP + FN), None for a class that no label holds
    mean      mean of `iou` over the classes that labels hold, the ignored one left out
    accuracy  share of the labelled pixels that are right
    absent    classes that no label holds: they do not enter the mean
    pixels    labelled pixels
    """

    iou: tuple[float | None, ...]
    mean: float
    accuracy: float
    absent: tuple[int, ...]
    pixels: int


def score(confusion: NDArray[np.int64], ignored: int | None = IGNORED) -> Score:
    """Intersection over union from a confusion matrix (label by row).

    Pixels labelled `ignored` count nowhere.  A labelled pixel predicted as `ignored` is a miss of its class.
    Raises ValueError where no labelled pixel is left.
    """
    counts = confusion.copy()
    if ignored is not None:
        counts[ignored] = 0
    total = int(counts.sum())
    if not total:
        raise ValueError("no labelled pixel to score: every label is the ignored class")
    true = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - true
    present = counts.sum(1) > 0
    iou = tuple(float(t / u) if p else None for t, u, p in zip(true, union, present, strict=True))
    return Score(
        iou=iou,
        mean=float(np.mean([value for value in iou if value is not None])),
        accuracy=float(true.sum() / total),
        absent=tuple(int(c) for c in np.flatnonzero(~present) if c != ignored),
        pixels=total,
    )
