"""Stage 2: gradual pruning while training, on crops and then on whole frames.

python -m weights.recipe.prune --data camvid --start fp32.npz --out runs/unstructured --pattern unstructured
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from weights.recipe.data import CROPS, Augmentation, load_frames
from weights.recipe.teacher import Teacher
from weights.recipe.training import Stage, Trainer, load_model, save_state


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument("--start", type=Path, required=True, help="FP32 .npz, or the .pt of an earlier stage")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pattern", choices=("unstructured", "block4x4"), required=True)
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--sparsity-start", type=float, default=0.0)
    parser.add_argument("--prune-until", type=float, default=0.6, help="share of the crop epochs")
    parser.add_argument(
        "--by-loss",
        action="store_true",
        help="choose blocks by the loss, which never come back, not by magnitude",
    )
    parser.add_argument("--crop-epochs", type=int, default=60)
    parser.add_argument("--full-epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--final-rate", type=float, help="at the end of the crop epochs; default: rate / 5")
    parser.add_argument("--jaccard", type=float, default=0.5, help="weight of the soft Jaccard loss")
    parser.add_argument(
        "--teacher", type=Path, nargs="+", help="imitate these model files as well (crop epochs)"
    )
    parser.add_argument("--distillation", type=float, default=1.0, help="weight of that imitation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=Path, help="train only while this file does not exist")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    frames = load_frames(options.data, "train")
    common = {"frames": frames, "out": options.out, "device": options.device, "pause": options.pause}
    crops = Stage(
        "crops",
        options.crop_epochs,
        batch=8,
        augmentation=CROPS,
        rate=options.rate,
        final_rate=options.rate / 5 if options.final_rate is None else options.final_rate,
        jaccard=options.jaccard,
        distillation=options.distillation if options.teacher else 0.0,
        pattern=options.pattern,
        sparsity=options.sparsity,
        sparsity_start=options.sparsity_start,
        prune_until=options.prune_until,
        by_loss=options.by_loss,
        seed=options.seed,
    )
    full = Stage(
        "full",
        options.full_epochs,
        batch=4,
        augmentation=Augmentation((768, 960), (0.8, 1.4)),
        rate=options.rate / 5,
        final_rate=options.rate / 100,
        jaccard=options.jaccard,
        seed=options.seed + 1,
    )
    teacher = Teacher(options.teacher, crops.augmentation.size, options.threads) if options.teacher else None
    model = Trainer(load_model(options.start), crops, teacher=teacher, **common).run()
    save_state(model, options.out / "crops-average.pt")
    model = Trainer(model, full, **common).run()
    save_state(model, options.out / "pruned.pt")


if __name__ == "__main__":
    main()
