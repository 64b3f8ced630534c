"""What is looked at is what is trained: logits enlarged bilinearly, against the labels of the pixels.

`training.py` has the loss of 8x8 blocks that share a class; here the map is smooth (bilinear interpolation of the
logits, then the largest), so the loss interpolates too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from weights.recipe.data import CLASSES
from weights.recipe.training import AUXILIARY_WEIGHTS, cross_entropy
from weights.recipe.views import Batch


def smooth_loss(logits: Tensor, batch: Batch, weights: Tensor, jaccard: float, distillation: float) -> Tensor:
    """Cross entropy + `jaccard` * soft Jaccard loss + `distillation` * imitation, at the resolution of the labels.

    logits  (N, CLASSES, h, w) at any resolution; weights (CLASSES,) of the classes
    """
    enlarged = functional.interpolate(logits.float(), size=batch.labels.shape[1:], mode="bilinear")
    log_p = functional.log_softmax(enlarged, 1)
    pixel = weights[batch.labels] * batch.weight
    loss = (functional.nll_loss(log_p, batch.labels, reduction="none") * pixel).sum() / pixel.sum().clamp_min(
        1.0
    )
    if jaccard:
        loss = loss + jaccard * soft_jaccard(log_p.exp(), batch, weights > 0)
    if distillation:
        if batch.taught is None:
            raise ValueError("distillation needs probabilities of a teacher, found none")
        loss = loss - distillation * (batch.taught * log_p).sum(1).mean()
    return loss


def soft_jaccard(p: Tensor, batch: Batch, scored: Tensor) -> Tensor:
    """1 - mean over the classes in the batch of sum(p t) / sum(p + t - p t) (Rahman and Wang 2016), pixels weighed."""
    truth = functional.one_hot(batch.labels, CLASSES).movedim(3, 1)
    weight = batch.weight[:, None]
    weighted = p * weight
    both = (weighted * truth).sum((0, 2, 3))
    sizes = (truth * weight).sum((0, 2, 3))
    either = weighted.sum((0, 2, 3)) + sizes - both
    present = (sizes > 1) & scored
    share = both / either.clamp_min(1e-6)
    return 1 - (share * present).sum() / present.sum().clamp_min(1)


def auxiliary_loss(outputs: tuple[Tensor, ...], batch: Batch, weights: Tensor) -> Tensor:
    """The cross entropies of the classifiers at 1/16 and 1/32 against the class shares of their pixels."""
    truth = functional.one_hot(batch.labels, CLASSES).movedim(3, 1) * batch.weight[:, None]
    total = torch.zeros((), device=truth.device)
    for factor, logits in zip(AUXILIARY_WEIGHTS, outputs, strict=True):
        shares = functional.adaptive_avg_pool2d(truth, (logits.shape[2], logits.shape[3]))
        total = total + factor * cross_entropy(logits, shares, weights)
    return total
