"""Stage 1: the dense FP32 network from scratch, on crops and then on whole frames.

python -m weights.recipe.train_fp32 --data camvid --out runs/fp32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from weights.recipe.data import CROPS, Augmentation, load_frames
from weights.recipe.model import ICNet
from weights.recipe.training import Stage, Trainer, load_model, save_state


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument(
        "--start", type=Path, help="FP32 .npz or .pt to go on from; default: Kaiming initialisation"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; gets fp32.pt")
    parser.add_argument("--crop-epochs", type=int, default=160)
    parser.add_argument("--full-epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=Path, help="train only while this file does not exist")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    frames = load_frames(options.data, "train")
    model = ICNet() if options.start is None else load_model(options.start)
    stages = (
        Stage(
            "fp32-crops",
            options.crop_epochs,
            batch=8,
            augmentation=CROPS,
            rate=options.rate,
            final_rate=options.rate / 10,
            seed=options.seed,
        ),
        Stage(
            "fp32-full",
            options.full_epochs,
            batch=4,
            augmentation=Augmentation((768, 960), (0.8, 1.4)),
            rate=options.rate / 10,
            final_rate=0.0,
            seed=options.seed + 1,
        ),
    )
    for stage in stages:
        model = Trainer(model, stage, frames, options.out, options.device, options.pause).run()
    save_state(model, options.out / "fp32.pt")


if __name__ == "__main__":
    main()
