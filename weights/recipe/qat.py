"""Stage 3: quantization-aware training of a pruned model on whole frames, then export.

    python -m weights.recipe.qat --data camvid --start runs/unstructured/pruned.pt --out runs/unstructured

Batch norm is folded with its statistics frozen, activation ranges are calibrated on training frames and kept,
weights and activations are rounded with a straight-through gradient.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from weights.recipe.calibration import calibrate
from weights.recipe.data import Augmentation, load_frames
from weights.recipe.export import export
from weights.recipe.quantize import spread
from weights.recipe.training import Stage, Trainer, load_model, save_state


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument("--start", type=Path, required=True, help="pruned.pt of prune.py")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; gets qat.pt and icnet.npz"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--calibration-frames", type=int, default=64)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=Path, help="train only while this file does not exist")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    frames = load_frames(options.data, "train")
    model = load_model(options.start)
    if not (options.out / "qat.pt").exists():  # a resumed run finds its ranges in the checkpoint
        calibrate(model, spread(frames, options.calibration_frames))
    stage = Stage(
        "qat",
        options.epochs,
        batch=4,
        augmentation=Augmentation((768, 960), (0.9, 1.25)),
        rate=options.rate,
        average=0.99,
        quantize=True,
        seed=options.seed,
    )
    model = Trainer(model, stage, frames, options.out, options.device, options.pause).run()
    save_state(model, options.out / "quantized.pt")
    export(model, options.out / "icnet.npz")


if __name__ == "__main__":
    main()
