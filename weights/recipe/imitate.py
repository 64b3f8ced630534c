"""ICNet, dense or while it is pruned, taught by labels and by the large teacher, on views drawn on the device.

python -m weights.recipe.imitate --data camvid --start runs/start.pt --teacher runs/teacher.pt --out runs/dense.pt \
    --seconds 130 --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from weights.recipe import pruning
from weights.recipe.clock import Group, Plan, train
from weights.recipe.encoder import Large, fused
from weights.recipe.losses import auxiliary_loss, smooth_loss
from weights.recipe.model import ICNet
from weights.recipe.teach import averaged, probabilities
from weights.recipe.training import load_model, save_state
from weights.recipe.views import Batch, Pool, Views, load_pool, normalized

LIVE_SCALE = (
    2 / 3
)  # of a view, at which the teacher looks at it: less than half the time, and its averages know finer things
MASK_INTERVAL = 20  # steps between two choices of masks


@dataclass(frozen=True)
class Sparsity:
    """Which weights go while training: `final` of them (unstructured) or of the multiply-accumulates (block4x4).

    until  share of the time after which the masks stand
    """

    pattern: str
    final: float
    start: float = 0.0
    until: float = 0.5


@dataclass(frozen=True)
class Lesson:
    """Weights of the losses beside the cross entropy, and what share of the teaching comes from the view itself.

    live  0: only from the averages over scales and mirror images of the whole frame; 1: only from the teacher's look at
          the view as the student sees it (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent")
    """

    jaccard: float = 0.5
    distillation: float = 1.0
    live: float = 0.5


def train_student(
    model: ICNet,
    pool: Pool,
    teacher: Large | None,
    plan: Plan,
    views: Views,
    lesson: Lesson | None = None,
    sparsity: Sparsity | None = None,
    log: Callable[[str], None] = print,
) -> ICNet:
    """The moving average of `model` trained by `plan`, with `sparsity` if it is given."""
    lesson = lesson or Lesson()
    weights = pool.class_weights()
    expert = None if teacher is None else fused(teacher).to(pool.device)
    masks = None if sparsity is None else Masks(model, sparsity)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        batch = Batch(batch.images, batch.labels, batch.weight, taught(expert, batch, lesson.live))
        logits, *others = model(normalized(batch.images))
        with torch.autocast(batch.images.device.type, enabled=False):
            distillation = 0.0 if batch.taught is None else lesson.distillation
            loss = smooth_loss(logits, batch, weights, lesson.jaccard, distillation)
            return loss + auxiliary_loss(tuple(others), batch, weights)

    average = train(
        model,
        [Group(model)],
        plan,
        pool,
        views,
        loss_of,
        inputs=normalized,
        before=None if masks is None else masks.before,
        after=None if masks is None else masks.after,
        log=log,
    )
    assert isinstance(average, ICNet)
    if masks is not None:
        masks.finish(average)
    return average


@torch.no_grad()
def taught(expert: Large | None, batch: Batch, live: float) -> Tensor | None:
    """What the student should imitate: the frame's averages, the teacher's look at the view, or a mixture."""
    if expert is None or (live == 0 and batch.taught is not None):
        return batch.taught
    size = (batch.labels.shape[1], batch.labels.shape[2])
    smaller = tuple(round(length * LIVE_SCALE / 32) * 32 for length in batch.images.shape[2:])
    images = functional.interpolate(batch.images, size=smaller, mode="bilinear", antialias=True)
    seen = probabilities(expert, images, size)
    if batch.taught is None:
        return seen
    # Beyond the frame nothing was taught, and the sum over the classes is less than 1 there.
    known = batch.taught.sum(1, keepdim=True)
    return live * seen + (1 - live) * (batch.taught + (1 - known) * seen)


class Masks:
    """Masks that grow with the time, and stand at `until`."""

    def __init__(self, model: ICNet, sparsity: Sparsity) -> None:
        self.model, self.sparsity = model, sparsity
        self.sensitivity = pruning.Sensitivity()
        self.standing = False

    def before(self, progress: float, step: int) -> None:
        rule = self.sparsity
        if self.standing or (step % MASK_INTERVAL and progress < rule.until):
            return
        share = pruning.ramp(progress / rule.until, rule.start, rule.final)
        if rule.pattern == "unstructured":
            pruning.apply_masks(self.model, pruning.unstructured_masks(self.model, share))
        elif self.sensitivity.squares:
            pruning.apply_masks(self.model, self.sensitivity.masks(self.model, share))
        if progress >= rule.until:
            self.standing = True
            pruning.clear_pruned(self.model)

    def after(self, progress: float, step: int) -> None:
        if self.sparsity.pattern == "block4x4" and not self.standing:
            self.sensitivity.update(self.model)

    def finish(self, average: ICNet) -> None:
        if not self.standing:
            raise RuntimeError("training ended before the masks stood")
        pruning.clear_pruned(average)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder with train/ and trainannot/")
    parser.add_argument("--start", type=Path, required=True, help="FP32 .npz, or the .pt of an earlier stage")
    parser.add_argument("--teacher", type=Path, help="state of teach.py")
    parser.add_argument("--out", type=Path, required=True, help="state to write, .pt")
    parser.add_argument("--pattern", choices=("unstructured", "block4x4"), help="prune while training")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--sparsity-start", type=float, default=0.0)
    parser.add_argument("--prune-until", type=float, default=0.5, help="share of the time")
    parser.add_argument("--seconds", type=float, default=130.0)
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--live", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    pool = load_pool(options.data, "train", options.device)
    teacher = None
    if options.teacher is not None:
        teacher = Large()
        teacher.load_state_dict(torch.load(options.teacher, map_location="cpu", weights_only=True))
        teacher = teacher.to(options.device).eval()
        if options.live < 1:
            pool = pool.with_taught(averaged(teacher, pool))
    plan = Plan(
        "student" if options.pattern is None else options.pattern,
        options.seconds,
        options.batch,
        options.rate,
        final_rate=options.rate / 100,
        steps=options.steps,
        seed=options.seed,
    )
    sparsity = None
    if options.pattern is not None:
        sparsity = Sparsity(options.pattern, options.sparsity, options.sparsity_start, options.prune_until)
    model = load_model(options.start)
    model = train_student(model, pool, teacher, plan, Views(), Lesson(live=options.live), sparsity)
    save_state(model.cpu(), options.out)


if __name__ == "__main__":
    main()
