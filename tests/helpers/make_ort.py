"""Small networks as people export them: PyTorch to ONNX, quantized by ONNX Runtime.

Needs torch, onnx and onnxruntime; callers `pytest.importorskip` them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn
from torch.nn import functional

SIZE = (64, 96)
CLASSES = 6


class Small(nn.Module):
    """Strided convolution, padded max pool, a residual, a head at a quarter of the size, then `ended` by `tail`."""

    def __init__(self, tail: str = "logits", norm: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.middle = nn.Conv2d(16, 16, 3, 1, 1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.head = nn.Conv2d(16, CLASSES, 1)
        self.tail = tail
        for parameter in self.parameters():
            spread = 0.6 if parameter.ndim == 1 else 1.5 / parameter[0].numel() ** 0.5
            parameter.data = spread * torch.randn(parameter.shape, generator=generator)
        if norm:
            self.norm.running_mean += torch.randn(16, generator=generator)
            self.norm.running_var *= torch.rand(16, generator=generator) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        x = functional.relu(self.norm(self.middle(x)) + x)
        return ended(self.head(x), self.tail)


class Pooled(nn.Module):
    """Strided convolutions, a padded max pool, pyramid pooling, a fusion of two sizes, logits at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.high = nn.Conv2d(3, 8, 3, 4, 1)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.reduce = nn.Conv2d(16, 12, 1)
        self.square = nn.Conv2d(12, 16, 3, 2, 2, dilation=2)
        self.shortcut = nn.Conv2d(16, 16, 1, 2)
        self.low = nn.Conv2d(16, 8, 3, 1, 2, dilation=2)
        self.side = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, CLASSES, 1)
        for parameter in self.parameters():
            spread = 0.4 if parameter.ndim == 1 else 1.5 / parameter[0].numel() ** 0.5
            parameter.data = spread * torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.data *= torch.rand(parameter.shape, generator=generator) < 0.7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = functional.relu(self.high(x))
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        x = functional.relu(self.square(functional.relu(self.reduce(x))) + self.shortcut(x))
        total = x
        for bins in (1, 2, 4):  # the exporter knows windows that tile the map
            pooled = functional.adaptive_avg_pool2d(x, bins)
            total = total + functional.interpolate(pooled, size=x.shape[2:])
        low = self.low(functional.interpolate(total, scale_factor=2.0))
        return self.head(functional.relu(low + self.side(high)))


def ended(x: torch.Tensor, tail: str) -> torch.Tensor:
    """`x` through the steps of `tail`, words with spaces between."""
    for step in tail.split():
        match step:
            case "logits":
                pass
            case "nearest":
                x = functional.interpolate(x, scale_factor=4.0, mode="nearest")
            case "bilinear":
                x = functional.interpolate(x, size=SIZE, mode="bilinear", align_corners=False)
            case "corners":
                x = functional.interpolate(x, size=SIZE, mode="bilinear", align_corners=True)
            case "softmax":
                x = functional.softmax(x, 1)
            case "argmax":
                x = x.argmax(1)
            case "argmax-kept":
                x = x.argmax(1, keepdim=True)
            case "int32":
                x = x.to(torch.int32)
            case "uint8":
                x = x.to(torch.uint8)
            case _:
                raise ValueError(step)
    return x


def blobs(count: int) -> list[np.ndarray]:
    """Smooth random pictures, float32 (1, 3, H, W)."""
    rng = np.random.default_rng(11)
    coarse = torch.from_numpy(rng.standard_normal((count, 3, 8, 12)).astype(np.float32))
    return [blob[None].numpy() for blob in functional.interpolate(coarse, size=SIZE, mode="bicubic")]


class Pictures(CalibrationDataReader):
    def __init__(self) -> None:
        self.pictures = iter(blobs(8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        blob = next(self.pictures, None)
        return None if blob is None else {"image": blob}


def exported(model: nn.Module, path: Path, dynamo: bool = False, **options: Any) -> Path:
    """The float32 model as ONNX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.from_numpy(blobs(1)[0]),)
        names = {"input_names": ["image"], "output_names": ["result"]}
        settings = {"opset_version": 18} | names | options
        torch.onnx.export(model.eval(), example, str(path), dynamo=dynamo, **settings)
    return path


def quantized(path: Path, target: Path, **options: Any) -> Path:
    """`path` quantized by ONNX Runtime with its defaults (uint8 activations, int8 weights) and `options`."""
    settings: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    quantize_static(str(path), str(target), Pictures(), **(settings | options))
    return target


def run(path: Path, blob: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes, every operation as the file writes it (nothing fused)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": blob})[0]
