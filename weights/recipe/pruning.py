"""Which weights go: single weights by magnitude, 4 x 4 blocks by what they lose for the time that they save."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from weights.recipe.model import ICNet, layer_pixels

BLOCK = 4  # output and input channels of a block, at one kernel position
# 0: every layer equally; 1: loss of energy per multiply-accumulate saved.  With 40 % skipped and no training,
# the loss on training crops was 1.91 at 0, 1.17 at 0.3, 1.69 at 0.5, 1.85 at 0.7 and 1.90 at 1.
COST_EXPONENT = 0.3
LEAST_KEPT = 0.15  # share of its blocks that every layer keeps


def unstructured_masks(model: ICNet, sparsity: float) -> dict[str, torch.Tensor]:
    """Keep the largest |w| / ||w of the layer||: exactly round(sparsity * weights) zeros over all layers."""
    layers = dict(model.named_layers())
    scores = [layer.weight.detach() for layer in layers.values()]
    score = torch.cat([(weight.abs() / weight.norm()).flatten() for weight in scores])
    zeros = round(sparsity * len(score))
    keep = torch.ones(len(score), dtype=torch.bool, device=score.device)
    if zeros:
        keep[_least(score, zeros)] = False
    parts = torch.split(keep, [weight.numel() for weight in scores])
    return {
        name: part.reshape(layer.weight.shape)
        for (name, layer), part in zip(layers.items(), parts, strict=True)
    }


def _least(score: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` least values: in linear time on the CPU, by sorting on a GPU."""
    if score.is_cuda:
        return torch.argsort(score)[:count]
    return torch.from_numpy(np.argpartition(score.numpy(), count - 1)[:count])


def block_masks(model: ICNet, saved: float) -> dict[str, torch.Tensor]:
    """Drop blocks until at least the share `saved` of the multiply-accumulates (rewritten network) is gone.

    A block scores its energy relative to the mean block of its layer, divided by (multiply-accumulates of the
    layer) ** COST_EXPONENT: layers in which time is spent give more, wherever their weights are few.
    """
    pixels = layer_pixels()
    scores = {}
    for name, layer in model.named_layers():
        weight = layer.weight.detach().double()
        mean = _block_sums(weight**2) / _block_sums(torch.ones_like(weight)) / (weight**2).mean()
        scores[name] = mean.cpu().numpy() / (weight.numel() * pixels[name]) ** COST_EXPONENT
    return _drop_blocks(model, scores, saved, LEAST_KEPT)


class Sensitivity:
    """What each kept block is worth: the expected square of the first-order change of the loss without it.

    The change is -sum(w dL/dw) over the block (Molchanov et al., "Importance Estimation for Neural Network Pruning",
    CVPR 2019), squared and averaged over training steps with weight `decay`.  It sees what magnitude cannot: a block
    of large weights whose output nobody needs.
    """

    def __init__(self, decay: float = 0.97) -> None:
        self.decay = decay
        self.squares: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, model: ICNet) -> None:
        """Take in the gradients of one step, before they are clipped or applied."""
        for name, layer in model.named_layers():
            change = _block_sums(layer.weight * layer.weight.grad * layer.mask)
            # Only ranks matter, so that the average needs no correction for its start at zero.
            old = self.squares.get(name, torch.zeros_like(change))
            self.squares[name] = torch.lerp(change.square(), old, self.decay)

    def masks(self, model: ICNet, saved: float) -> dict[str, torch.Tensor]:
        """Drop kept blocks, those of least loss per multiply-accumulate first, until the share `saved` is gone."""
        costs, scores = _block_costs(model), {}
        for name, layer in model.named_layers():
            kept = (_block_sums(layer.mask.double()) > 0).cpu().numpy()
            score = self.squares[name].cpu().double().numpy() / costs[name]
            scores[name] = np.where(kept, score, -1.0)
        return _drop_blocks(model, scores, saved, 0.0)


def _drop_blocks(
    model: ICNet, scores: dict[str, np.ndarray], saved: float, least_kept: float
) -> dict[str, torch.Tensor]:
    """Masks without the blocks of least score that together make the share `saved` of the multiply-accumulates.

    Every layer keeps the share `least_kept` of its blocks, and one in any case.
    """
    protected = []
    for name, _ in model.named_layers():
        score = scores[name].ravel().copy()
        kept = max(1, int(np.ceil(least_kept * score.size)))
        score[np.argpartition(score, score.size - kept)[score.size - kept :]] = np.inf
        protected.append(score)
    score = np.concatenate(protected)
    cost = np.concatenate([cost.ravel() for cost in _block_costs(model).values()])
    order = np.argsort(score, kind="stable")
    running = np.cumsum(cost[order])
    wanted = saved * running[-1]
    count = int(np.searchsorted(running, wanted)) + 1 if saved > 0 else 0
    if count and not np.isfinite(score[order[count - 1]]):
        raise ValueError(f"cannot skip {saved:.0%} when every layer keeps {least_kept:.0%} of its blocks")
    keep = np.ones(score.size, bool)
    keep[order[:count]] = False
    ends = np.cumsum([s.size for s in protected])[:-1]
    masks = {}
    for (name, layer), part in zip(model.named_layers(), np.split(keep, ends), strict=True):
        outputs, inputs = layer.weight.shape[:2]
        blocks = part.reshape(scores[name].shape)
        spread = blocks.repeat(BLOCK, 0)[:outputs].repeat(BLOCK, 1)[:, :inputs]
        masks[name] = torch.from_numpy(np.ascontiguousarray(spread))
    return masks


def _block_costs(model: ICNet) -> dict[str, np.ndarray]:
    """Multiply-accumulates of each block of each layer, as float64."""
    pixels = layer_pixels()
    return {
        name: _block_sums(torch.ones(layer.weight.shape, dtype=torch.float64)).numpy() * pixels[name]
        for name, layer in model.named_layers()
    }


def _block_sums(x: torch.Tensor) -> torch.Tensor:
    """(O, I, kh, kw) -> (ceil(O/4), ceil(I/4), kh, kw), a last partial block padded with zeros."""
    outputs, inputs, height, width = x.shape
    padded = functional.pad(x, (0, 0, 0, 0, 0, -inputs % BLOCK, 0, -outputs % BLOCK))
    return padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK, height, width).sum((1, 3))


CHOOSERS = {"unstructured": unstructured_masks, "block4x4": block_masks}


def apply_masks(model: ICNet, masks: dict[str, torch.Tensor]) -> None:
    for name, layer in model.named_layers():
        layer.mask.copy_(masks[name])


@torch.no_grad()
def clear_pruned(model: ICNet) -> None:
    """Set the weights outside the masks to zero for good."""
    for _, layer in model.named_layers():
        layer.weight.mul_(layer.mask)


def sparsity(model: ICNet) -> tuple[float, float]:
    """(share of zero weights, share of skipped multiply-accumulates of the rewritten network) by masks."""
    pixels = layer_pixels()
    kept = total = kept_macs = total_macs = 0
    for name, layer in model.named_layers():
        k, n = int(layer.mask.sum()), layer.mask.numel()
        kept, total = kept + k, total + n
        kept_macs, total_macs = kept_macs + k * pixels[name], total_macs + n * pixels[name]
    return 1 - kept / total, 1 - kept_macs / total_macs


def ramp(progress: float, start: float, final: float) -> float:
    """Cubic schedule of gradual pruning (Zhu and Gupta 2017): steep first, final at progress 1."""
    return final + (start - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3
