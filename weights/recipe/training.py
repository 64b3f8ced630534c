"""The loop that all stages share: AdamW, cosine, moving average of the weights, pausing, resuming."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from weights.recipe import pruning
from weights.recipe.data import Augmentation, Frame, batches, class_weights
from weights.recipe.model import ICNet, normalize

AUXILIARY_WEIGHTS = (0.4, 0.16)  # at 1/16 and 1/32, beside 1 for the logits at 1/8
GRADIENT_CLIP = 5.0


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    pattern        None, or how weights are pruned: "unstructured" or "block4x4"
    sparsity       share of weights (unstructured) or of multiply-accumulates (block4x4) to reach
    sparsity_start share at the first step
    prune_until    share of the steps after which the masks stand still
    by_loss        choose blocks by what the loss says of them while training, not by magnitude; the first step
                   must have masks already where sparsity_start is not 0
    quantize       fake-quantize weights and activations, batch norm folded
    jaccard        weight of the soft Jaccard loss beside the cross entropy
    distillation   weight of the cross entropy against the classes that a teacher predicts
    """

    name: str
    epochs: int
    batch: int
    augmentation: Augmentation
    rate: float
    final_rate: float = 0.0
    weight_decay: float = 1e-2
    average: float = 0.995
    warmup: int = 50
    pattern: str | None = None
    sparsity: float = 0.6
    sparsity_start: float = 0.0
    prune_until: float = 0.6
    by_loss: bool = False
    quantize: bool = False
    jaccard: float = 0.0
    distillation: float = 0.0
    seed: int = 0


def cross_entropy(logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted cross entropy of logits (N, C, h, w) against class shares of the same shape."""
    weighted = shares * weights[:, None, None]
    return -(weighted * functional.log_softmax(logits.float(), 1)).sum() / weighted.sum().clamp_min(1.0)


def soft_jaccard(logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """1 - mean over the classes in the batch of sum(p t) / sum(p + t - p t) (Rahman and Wang 2016).

    p are the predicted probabilities and t the class shares of an output pixel; what carries no label counts
    in neither.  Unlike cross entropy it weighs every class alike, as mean IoU does.
    """
    scored = weights > 0
    target = shares[:, scored]
    labelled = target.sum(1, keepdim=True)
    p = torch.softmax(logits.float(), 1)[:, scored] * labelled
    both = (p * target).sum((0, 2, 3))
    sizes = target.sum((0, 2, 3))
    either = p.sum((0, 2, 3)) + sizes - both
    present = sizes > 1
    return 1 - (both[present] / either[present].clamp_min(1e-6)).mean()


def imitation(logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Cross entropy of logits (N, C, h, w) against the probabilities of a teacher (Hinton et al. 2015)."""
    return -(expected * functional.log_softmax(logits.float(), 1)).sum(1).mean()


def total_loss(
    outputs: tuple[torch.Tensor, ...],
    shares: torch.Tensor,
    weights: torch.Tensor,
    jaccard: float = 0.0,
) -> torch.Tensor:
    """Cross entropy at 1/8 plus the auxiliary ones at 1/16 and 1/32, and `jaccard` times the Jaccard loss."""
    loss = cross_entropy(outputs[0], shares, weights)
    if jaccard:
        loss = loss + jaccard * soft_jaccard(outputs[0], shares, weights)
    for factor, logits in zip(AUXILIARY_WEIGHTS, outputs[1:], strict=True):
        shares = functional.avg_pool2d(shares, 2)
        loss = loss + factor * cross_entropy(logits, shares, weights)
    return loss


class Trainer:
    """Runs a stage on `model`, keeps a checkpoint in `out` after each epoch and resumes from it.

    teacher   uint8 images (N, H, W, 3) -> class probabilities at 1/8, which the stage's distillation imitates
    bfloat16  multiply in bfloat16 (autocast); None: where the hardware does
    pause     train only while this file does not exist
    """

    def __init__(
        self,
        model: ICNet,
        stage: Stage,
        frames: list[Frame],
        out: Path,
        device: str = "cpu",
        pause: Path | None = None,
        teacher: Callable[[np.ndarray], np.ndarray] | None = None,
        bfloat16: bool | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        self.stage, self.frames, self.out, self.pause, self.log = stage, frames, out, pause, log
        self.device = device
        self.bfloat16 = fast_bfloat16(device) if bfloat16 is None else bfloat16
        self.model = model.to(device, memory_format=torch.channels_last)
        self.model.quantize = stage.quantize
        self.average = copy.deepcopy(self.model)
        if (teacher is not None) != (stage.distillation > 0):
            raise ValueError(
                f"stage {stage.name}: distillation {stage.distillation} and a teacher go together, found "
                f"{'one' if teacher is not None else 'none'}"
            )
        self.teacher = teacher
        self.optimizer = torch.optim.AdamW(self._groups(), lr=stage.rate, betas=(0.9, 0.99))
        if stage.by_loss and stage.pattern != "block4x4":
            raise ValueError(
                f"stage {stage.name}: by_loss chooses blocks, but the pattern is {stage.pattern}"
            )
        self.sensitivity = pruning.Sensitivity()
        self.epoch = 0
        self.steps_per_epoch = len(frames) // stage.batch
        if not self.steps_per_epoch:
            raise ValueError(f"stage {stage.name}: batch {stage.batch} needs more than {len(frames)} frames")
        self.weights = torch.from_numpy(class_weights(frames)).to(device)
        self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.out / f"{self.stage.name}.pt"

    def _groups(self) -> list[dict]:
        """Weight decay on convolution weights only."""
        parameters = list(self.model.parameters())
        return [
            {"params": [p for p in parameters if p.ndim == 4], "weight_decay": self.stage.weight_decay},
            {"params": [p for p in parameters if p.ndim != 4], "weight_decay": 0.0},
        ]

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sensitivity.squares = state["sensitivity"]
        self.epoch = state["epoch"]
        self.log(f"{self.stage.name}: resumed after epoch {self.epoch}")

    def _save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sensitivity": self.sensitivity.squares,
            "epoch": self.epoch,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def run(self, until: int | None = None) -> ICNet:
        """Train to the last epoch (or to `until`) and return the moving average of the weights."""
        last = self.stage.epochs if until is None else min(until, self.stage.epochs)
        while self.epoch < last:
            start = time.perf_counter()
            loss = self._train_epoch()
            self.epoch += 1
            self._save()
            zeros, skipped = pruning.sparsity(self.model)
            self.log(
                f"{time.strftime('%H:%M:%S')} {self.stage.name} epoch {self.epoch}/{self.stage.epochs} "
                f"loss {loss:.4f} zeros {zeros:.2%} skipped {skipped:.2%} {time.perf_counter() - start:.0f} s"
            )
        return self.average

    def _train_epoch(self) -> float:
        stage, losses = self.stage, []
        self.model.train()
        total = stage.epochs * self.steps_per_epoch
        source = batches(self.frames, stage.augmentation, stage.batch, stage.seed, self.epoch)
        for index, (images, shares) in enumerate(source):
            wait_while(self.pause)
            step = self.epoch * self.steps_per_epoch + index
            self._prune(step, total)
            rate = learning_rate(stage, step, total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            x = normalize(images).to(self.device, memory_format=torch.channels_last)
            with self._autocast():
                outputs = self.model(x)
            targets = torch.from_numpy(shares).to(self.device)
            loss = total_loss(outputs, targets, self.weights, stage.jaccard)
            if self.teacher is not None:
                taught = torch.from_numpy(self.teacher(images)).to(self.device)
                loss = loss + stage.distillation * imitation(outputs[0], taught)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if stage.by_loss and not self._masks_stand(step, total):
                self.sensitivity.update(self.model)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP)
            self.optimizer.step()
            if self._masks_stand(step, total):
                pruning.clear_pruned(self.model)
            self._update_average(step)
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16)

    def _masks_stand(self, step: int, total: int) -> bool:
        return self.stage.pattern is None or step >= self._last_mask(total)

    def _last_mask(self, total: int) -> int:
        """The step that chooses the final masks."""
        return min(math.ceil(self.stage.prune_until * total), total - 1)

    def _prune(self, step: int, total: int) -> None:
        """New masks every ten steps while they move; until they stand, pruned weights may come back."""
        stage = self.stage
        if stage.pattern is None:
            return
        end = self._last_mask(total)
        if step == end or (step < end and step % 10 == 0):
            share = pruning.ramp(step / end if end else 1.0, stage.sparsity_start, stage.sparsity)
            if not stage.by_loss:
                pruning.apply_masks(self.model, pruning.CHOOSERS[stage.pattern](self.model, share))
            elif step > 0:  # nothing is known before the first step
                pruning.apply_masks(self.model, self.sensitivity.masks(self.model, share))
            if step == end:
                pruning.clear_pruned(self.model)

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        keep = min(self.stage.average, (1 + step) / (10 + step))
        old, new = self.average.state_dict(), self.model.state_dict()
        floats = [k for k in old if old[k].is_floating_point()]
        torch._foreach_lerp_([old[k] for k in floats], [new[k] for k in floats], 1 - keep)
        for k in old:
            if not old[k].is_floating_point():
                old[k].copy_(new[k])


def fast_bfloat16(device: str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware: half the time of float32 on such a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def learning_rate(stage: Stage, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine from `rate` to `final_rate`."""
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, total - stage.warmup)
    return stage.final_rate + (stage.rate - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def wait_while(pause: Path | None) -> None:
    """Sleep while the file `pause` exists, so that something else can be timed."""
    while pause is not None and pause.exists():
        time.sleep(1.0)


def save_state(model: ICNet, path: Path) -> None:
    """Write the state dict of a finished stage, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(model.state_dict(), temporary)
    os.replace(temporary, path)


def load_model(path: Path) -> ICNet:
    """A model from `save_state` or `compact.save_compact`, or from an FP32 checkpoint .npz."""
    from weights.recipe.compact import unpacked
    from weights.recipe.model import load_checkpoint

    model = ICNet()
    if path.suffix == ".npz":
        load_checkpoint(model, path)
    else:
        model.load_state_dict(unpacked(torch.load(path, map_location="cpu", weights_only=True)))
    return model
