"""A finished network as a teacher: this engine runs it, on every picture and on its mirror image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparse_icnet.model import Model, load
from weights.recipe.data import OUTPUT_STRIDE


class Teacher:
    """Class probabilities from a model file, averaged over a picture and its mirror image.

    The average is better than either: 71.5 instead of 69.9 % mIoU for the unstructured file of 68.87 %, both measured
    with probabilities enlarged bilinearly.  The engine needs about half the time of PyTorch in bfloat16.

    path     anything that `sparse_icnet.load` takes
    size     (height, width) of the pictures
    """

    def __init__(self, path: str | Path, size: tuple[int, int], threads: int | None = None) -> None:
        self.model: Model = load(path, size=size, threads=threads)
        self._out = np.empty((len(self.model.classes), *size), np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB (N, H, W, 3) -> float32 (N, classes, H/8, W/8)."""
        return np.stack([(self._one(x) + self._one(x[:, ::-1])[:, :, ::-1]) / 2 for x in images])

    def _one(self, image: np.ndarray) -> np.ndarray:
        self.model.session.probabilities_of_image(np.ascontiguousarray(image), out=self._out)
        return self._out[:, ::OUTPUT_STRIDE, ::OUTPUT_STRIDE].copy()
