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


def load_compact(path: Path) -> ICNet:
    """The model of `save_compact`; pruned weights are 0."""
    model = ICNet()
    own = model.state_dict()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if stored.keys() != own.keys():
        raise ValueError(f"{path}: expected a compact state of ICNet, found other names")
    for key in [k for k in own if k.endswith(".mask")]:
        shape = own[key].shape
        bits = np.unpackbits(stored[key].numpy(), count=own[key].numel()).astype(bool)
        mask = torch.from_numpy(bits).reshape(shape)
        weight = torch.zeros(shape)
        name = key.removesuffix("mask") + "weight"
        weight[mask] = stored[name].float()
        stored[key], stored[name] = mask, weight
    model.load_state_dict(stored)
    return model


def save_half(model: nn.Module, path: Path) -> None:
    """Write a state dict with its convolution weights as float16."""
    state = {k: v.cpu().half() if v.ndim == 4 else v.cpu() for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
