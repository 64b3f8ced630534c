"""Stage 3 without training: prune (if asked), calibrate on training frames, quantize, write the native file.

python -m weights.recipe.quantize --data camvid --start fp32.npz --out icnet.npz --pattern unstructured
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from weights.recipe import pruning
from weights.recipe.calibration import calibrate, recalibrate_batch_norm
from weights.recipe.data import Frame, load_frames
from weights.recipe.export import export
from weights.recipe.model import ICNet
from weights.recipe.training import load_model, save_state


def spread(frames: list[Frame], count: int) -> list[Frame]:
    """`count` of the frames, evenly spaced, so that every sequence takes part."""
    return [frames[round(i)] for i in np.linspace(0, len(frames) - 1, min(count, len(frames)))]


def quantize(model: ICNet, frames: list[Frame], pattern: str | None, sparsity: float) -> ICNet:
    """Prune `model` in place by `pattern` (None: keep its masks), calibrate it, leave it fake-quantizing."""
    if pattern is not None:
        pruning.apply_masks(model, pruning.CHOOSERS[pattern](model, sparsity))
        pruning.clear_pruned(model)
    model.quantize = False
    calibrate(model, frames)
    model.quantize = True
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument("--start", type=Path, required=True, help="FP32 .npz, or the .pt of a pruned model")
    parser.add_argument(
        "--out", type=Path, required=True, help="native file to write; the state goes beside it as .pt"
    )
    parser.add_argument(
        "--pattern", choices=tuple(pruning.CHOOSERS), help="prune first; default: keep the masks"
    )
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument(
        "--batch-norm-frames", type=int, default=0, help="take batch norm statistics anew from so many frames"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    every = load_frames(options.data, "train")
    frames = spread(every, options.frames)
    model = load_model(options.start)
    if options.batch_norm_frames:
        # In another order than that of the sequences, so that every batch mixes them.
        order = np.random.default_rng(0).permutation(len(every))[: options.batch_norm_frames]
        recalibrate_batch_norm(model, [every[i] for i in order])
    model = quantize(model, frames, options.pattern, options.sparsity)
    save_state(model, options.out.with_suffix(".pt"))
    export(model, options.out)
    zeros, skipped = pruning.sparsity(model)
    print(f"{options.out}: {zeros:.4%} zeros, {skipped:.2%} of multiply-accumulates skipped")


if __name__ == "__main__":
    main()
