"""States in few bytes: kept weights as float16, masks as bits; what a machine lent for minutes can send back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weights.recipe.model import ICNet

SMALLEST = 6e-8  # of float16: a kept weight must not become 0


def save_compact(model: ICNet, path: Path) -> None:
    """Write the layers of `model`: kept weights float16, masks packed, all else as it is."""
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key.endswith(".mask"):
            bits = np.packbits(value.cpu().contiguous().numpy().ravel())
            state[key] = torch.from_numpy(bits)
        elif key.endswith(".weight"):
            mask = model.get_buffer(key.removesuffix("weight") + "mask")
            kept = value[mask].cpu()
            state[key] = torch.where(kept.abs() < SMALLEST, kept.sign() * SMALLEST, kept).half()
        else:
            state[key] = value.cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def unpacked(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of `save_compact` as `ICNet.load_state_dict` takes it, pruned weights 0; another state as it is."""
    names = [key.removesuffix(".mask") for key in stored if key.endswith(".mask")]
    if not any(stored[f"{name}.mask"].dtype == torch.uint8 for name in names):
        return stored
    own, result = ICNet().state_dict(), dict(stored)
    for name in names:
        mask_key, weight_key = f"{name}.mask", f"{name}.weight"
        if mask_key not in own:
            raise ValueError(f"expected a compact state of ICNet, found the layer {name}")
        shape = own[mask_key].shape
        bits = np.unpackbits(stored[mask_key].numpy(), count=shape.numel()).astype(bool)
        mask = torch.from_numpy(bits).reshape(shape)
        weight = torch.zeros(shape)
        weight[mask] = stored[weight_key].float()
        result[mask_key], result[weight_key] = mask, weight
    return result


def save_half(model: nn.Module, path: Path) -> None:
    """Write a state dict with its convolution weights as float16."""
    state = {k: v.cpu().half() if v.ndim == 4 else v.cpu() for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
