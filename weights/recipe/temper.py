"""The last word on a finished file, by its classifier alone: how often each class is said, and how surely.

python -m weights.recipe.temper --data camvid --model icnet.npz --out tempered.npz --unweigh 0.5

Training weighs rare classes up (`data.class_weights`), and the network then says them too often: its probabilities are
about those of the frames times the weights.  `--unweigh` takes that share of the logarithms of the weights off the biases.
`--temperature` also divides all logits by one fitted on training frames: no class map changes, the probabilities do
(Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparse_icnet.formats import native
from sparse_icnet.loading import load
from sparse_icnet.network.graph import Convolution, Graph
from weights.recipe.data import UNLABELLED, Frame, class_weights, full_frame, load_frames

CLASSIFIER = "conv6_cls"
PIXEL_STEP = 4  # every fourth row and column is enough
BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Scores:
    """Smooth logits float32 (P, classes) of labelled pixels, and their labels int64 (P,)."""

    logits: Tensor
    labels: Tensor


def scores(path: str | Path, frames: list[Frame], threads: int | None = None) -> Scores:
    """What the engine says of pixels of `frames` at 768x960."""
    session = load(path, threads=threads).session
    logits, labels = [], []
    for frame in frames:
        image, label = full_frame(frame)
        small, _ = session.scores_of_image(image, None)
        smooth = functional.interpolate(torch.from_numpy(small)[None], size=label.shape, mode="bilinear")[0]
        taken = slice(PIXEL_STEP // 2, None, PIXEL_STEP)
        truth = torch.from_numpy(label[taken, taken].astype(np.int64)).flatten()
        known = truth != UNLABELLED
        logits.append(smooth[:, taken, taken].flatten(1).T[known])
        labels.append(truth[known])
    return Scores(torch.cat(logits), torch.cat(labels))


def fit_temperature(known: Scores) -> float:
    """The temperature of least cross entropy, to a thousandth, by golden-section search between 1/3 and 3."""
    low, high = np.log(1 / 3), np.log(3.0)
    ratio = (np.sqrt(5.0) - 1) / 2

    def loss(x: float) -> float:
        return float(functional.cross_entropy(known.logits / float(np.exp(x)), known.labels))

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-3:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))


def calibration_error(known: Scores, temperature: float = 1.0) -> float:
    """Expected calibration error: the mean gap between confidence and share of right pixels, over BINS equal bins."""
    confidence, said = torch.softmax(known.logits / temperature, 1).max(1)
    right = (said == known.labels).double()
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, confidence.double() - right)
    return float(gaps.abs().sum() / len(right))


def adjusted(graph: Graph, shift: np.ndarray, temperature: float) -> Graph:
    """`graph` with `shift` (classes,) added to the biases of the classifier, and its logits divided by `temperature`."""

    def change(op: Convolution) -> Convolution:
        scale = (op.weight_scale / np.float32(temperature)).astype(np.float32)
        bias = ((op.bias + shift.astype(np.float32)) / np.float32(temperature)).astype(np.float32)
        return replace(op, weight_scale=scale, bias=bias)

    if not any(isinstance(op, Convolution) and op.name == CLASSIFIER for op in graph.ops):
        raise ValueError(f"expected a convolution {CLASSIFIER}, found none")
    ops = [change(op) if isinstance(op, Convolution) and op.name == CLASSIFIER else op for op in graph.ops]
    return replace(graph, ops=tuple(ops))


def unweighing(weights: np.ndarray, share: float) -> np.ndarray:
    """float32 (classes,): what to add to the biases so that `share` of the class weights is taken back."""
    logarithms = np.log(np.where(weights > 0, weights, 1.0))
    return (-share * logarithms).astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument("--model", type=Path, required=True, help="native file of an ICNet")
    parser.add_argument("--out", type=Path, required=True, help="native file to write")
    parser.add_argument("--unweigh", type=float, default=0.0, help="share of the class weights to take back")
    parser.add_argument(
        "--temperature", action="store_true", help="divide the logits by the fitted temperature"
    )
    parser.add_argument("--every", type=int, default=5, help="fit the temperature on each so manieth frame")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    frames = load_frames(options.data, "train")
    shift = unweighing(class_weights(frames), options.unweigh)
    known = scores(options.model, frames[:: options.every], options.threads)
    known = Scores(known.logits + torch.from_numpy(shift), known.labels)
    temperature = fit_temperature(known)
    applied = temperature if options.temperature else 1.0
    native.save(adjusted(native.load(options.model), shift, applied), options.out)
    before, after = (100 * calibration_error(known, t) for t in (1.0, temperature))
    print(
        f"{options.out}: temperature {applied:.3f}, best on training frames {temperature:.3f}; "
        f"calibration error there {before:.2f} % without it, {after:.2f} % with it"
    )


if __name__ == "__main__":
    main()
