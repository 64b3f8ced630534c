"""What a trained network takes from whole training frames: statistics of its batch norms, ranges of its quantizers.

The range of a quantizer ends where the squared error is least.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from weights.recipe.data import Frame, full_frame
from weights.recipe.model import MOMENTUM, ICNet, Layer, normalize

BINS = 4096
CODES = 255
SCOUTS = 8  # frames that fix the width of the histograms
SAMPLE = 5  # every fifth value is enough
MARGIN = 1.5  # histograms reach this far beyond the largest value of the scouts


def images(frames: Iterable[Frame], size: tuple[int, int]) -> Iterable[torch.Tensor]:
    """The frames as network inputs (1, 3, H, W)."""
    for frame in frames:
        yield normalize(full_frame(frame, size)[0][None]).to(memory_format=torch.channels_last)


@torch.no_grad()
def recalibrate_batch_norm(
    model: ICNet, frames: list[Frame], size: tuple[int, int] = (768, 960), batch: int = 4
) -> None:
    """Replace the running statistics by the mean of those of batches of whole frames (Wu and Johnson 2021).

    Training saw zoomed crops; what runs are whole frames, whose mean and variance differ.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    model.train()
    for index, start in enumerate(range(0, len(frames) - batch + 1, batch)):
        for layer in layers:
            layer.momentum = 1 / (index + 1)
        model(torch.cat(list(images(frames[start : start + batch], size))))
    for layer in layers:
        layer.momentum = MOMENTUM
    model.eval()


@torch.no_grad()
def calibrate(model: ICNet, frames: list[Frame], size: tuple[int, int] = (768, 960)) -> None:
    """Set the scale of every activation quantizer but the input's from `frames` (training frames only).

    The weights are quantized while the ranges are measured, so that the ranges fit what will run.
    """
    model.eval()
    largest: dict[str, float] = {}
    counts: dict[str, np.ndarray] = {}

    def scout(name: str, x: torch.Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(x.max()))

    def count(name: str, x: torch.Tensor) -> None:
        upper = MARGIN * max(largest[name], 1e-6)
        values = x.float().permute(0, 2, 3, 1).reshape(-1)[::SAMPLE].clamp(0, upper)
        histogram = torch.histc(values, BINS, 0, upper).double().numpy()
        counts[name] = counts.get(name, 0.0) + histogram

    evenly = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, min(SCOUTS, len(frames)))]
    for observer, chosen in ((scout, evenly), (count, frames)):
        model.observer = observer
        for image in images(chosen, size):
            model(image)
    model.observer = None
    for name in largest:
        if name != "input":
            upper = MARGIN * max(largest[name], 1e-6)
            model.activation(name).scale.fill_(best_upper(counts[name], upper) / CODES)


def best_upper(counts: np.ndarray, upper: float) -> float:
    """The end e of 0..e, in 256 codes, with the least squared error over a histogram of 0..upper."""
    width = upper / counts.size
    centres = (np.arange(counts.size) + 0.5) * width
    # Exact zeros (ReLU) fall into the first bin and cost nothing; leave them out.
    counts = counts.copy()
    counts[0] = 0
    used = np.flatnonzero(counts)
    if not used.size:
        return upper
    last = float(centres[used[-1]] + width / 2)
    errors, ends = [], last * np.linspace(0.1, 1.0, 181)
    for end in ends:
        scale = end / CODES
        rounded = np.clip(np.rint(centres / scale), 0, CODES) * scale
        errors.append(float((counts * (centres - rounded) ** 2).sum()))
    return float(ends[int(np.argmin(errors))])
