"""Finished networks as a teacher: this engine runs them, on every picture and on its mirror image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparse_icnet.loading import load
from sparse_icnet.model import Model
from weights.recipe.data import CLASSES, OUTPUT_STRIDE


class Teacher:
    """Class probabilities from model files, averaged over them, a picture and its mirror image.

    The average is better than either: 71.5 instead of 69.9 % mIoU for the unstructured file of 68.87 %, both measured
    with probabilities enlarged bilinearly.  The engine needs about half the time of PyTorch in bfloat16.

    paths  each anything that `sparse_icnet.load` takes
    size   (height, width) of the pictures
    """

    def __init__(
        self, paths: Sequence[str | Path], size: tuple[int, int], threads: int | None = None
    ) -> None:
        self.models: list[Model] = [load(path, size=size, threads=threads) for path in paths]
        self._out = np.empty((CLASSES, *size), np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB (N, H, W, 3) -> float32 (N, classes, H/8, W/8)."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: np.ndarray) -> np.ndarray:
        total = np.zeros((CLASSES, *(length // OUTPUT_STRIDE for length in image.shape[:2])), np.float32)
        for model in self.models:
            for picture, step in ((image, 1), (image[:, ::-1], -1)):
                model.session.probabilities_of_image(picture, out=self._out)
                total += self._out[:, ::OUTPUT_STRIDE, ::OUTPUT_STRIDE][:, :, ::step]
        return total / (2 * len(self.models))
