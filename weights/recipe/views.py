"""Training views drawn on the device: all frames lie in its memory, and a batch is cut, mixed and coloured at once.

What `data.py` does to one frame at a time with Pillow on the CPU, for a GPU that must not wait: random cuts with zoom,
stretch, rotation and flip; rare classes pasted from one view into another; exposure, colour, blur, noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sparse_icnet.network.graph import Normalization
from weights.recipe.data import CLASSES, FULL_SIZE, UNLABELLED

GREY = 104.0  # beyond the frame
LABEL_STEP = 2  # image pixels for each label that the loss sees
# pole, sign symbol, pedestrian, bicyclist: the classes of thin and rare things
RARE = (2, 6, 9, 10)
BORDER_WEIGHT = (
    0.5  # of a pixel beside another class, where labels err most; thin things have little else and keep 1
)


@dataclass(frozen=True)
class Pool:
    """Frames on one device: images uint8 (F, 3, H, W), labels uint8 (F, H, W) and their names.

    taught  probabilities of a teacher, float16 (F, CLASSES, H, W), or None
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    taught: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def only(self, chosen: Sequence[int]) -> Pool:
        """The frames of these indices."""
        index = torch.as_tensor(list(chosen), device=self.device)
        taught = None if self.taught is None else self.taught[index]
        return Pool(self.images[index], self.labels[index], tuple(self.names[i] for i in chosen), taught)

    def with_taught(self, taught: Tensor) -> Pool:
        return replace(self, taught=taught)

    def class_weights(self) -> Tensor:
        """float32 (CLASSES,): median-frequency weights, clipped to 0.3..4, to the power 0.7; 0 for unlabelled."""
        counts = torch.stack([(self.labels == c).flatten(1).sum(1) for c in range(CLASSES)], 1).double().cpu()
        pixels = self.labels[0].numel()
        frequency = counts.sum(0) / ((counts > 0).sum(0) * pixels).clamp_min(1)
        seen = frequency[:UNLABELLED][frequency[:UNLABELLED] > 0]
        middle = float(np.median(seen.numpy()))
        weights = (middle / frequency.clamp_min(1e-9)).clamp(0.3, 4.0) ** 0.7
        weights[UNLABELLED] = 0
        return weights.float().to(self.device)


def load_pool(folder: str | Path, split: str, device: str = "cpu") -> Pool:
    """Frames of `folder`/`split` (PNG or JPEG) with the label images of `folder`/`split`annot, sorted by name."""
    folder = Path(folder)
    paths = sorted(p for p in (folder / split).glob("*") if p.suffix in {".png", ".jpg"})
    if not paths:
        raise FileNotFoundError(f"{folder / split}: expected PNG or JPEG frames, found none")
    images, labels = [], []
    for path in paths:
        label_path = folder / f"{split}annot" / f"{path.stem}.png"
        if not label_path.exists():
            raise FileNotFoundError(f"{label_path}: expected the label image of {path.name}, found none")
        images.append(np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1))
        labels.append(np.asarray(Image.open(label_path)))
        if images[-1].shape[1:] != labels[-1].shape or images[-1].shape != images[0].shape:
            raise ValueError(
                f"{path}: expected a frame and labels of {images[0].shape[1:]} pixels, found {images[-1].shape[1:]} "
                f"and {labels[-1].shape}"
            )
    return Pool(
        torch.from_numpy(np.stack(images)).to(device),
        torch.from_numpy(np.stack(labels)).to(device),
        tuple(p.stem for p in paths),
    )


@dataclass(frozen=True)
class Batch:
    """Views and what they should teach.

    images   float32 (N, 3, H, W), whole numbers 0..255
    labels   int64 (N, H/2, W/2)
    weight   float32 (N, H/2, W/2): 0 where unlabelled, less beside borders
    taught   float32 (N, CLASSES, H/2, W/2) or None
    """

    images: Tensor
    labels: Tensor
    weight: Tensor
    taught: Tensor | None


@dataclass(frozen=True)
class Views:
    """How views are drawn.  Lengths of `size` are pixels of a frame at 768x960; `zoom` is relative to that."""

    size: tuple[int, int] = (576, 768)
    zoom: tuple[float, float] = (0.7, 2.0)
    rotation: float = math.radians(4)
    paste: float = 0.5  # share of the views that receive things from another
    plain: float = 0.2  # share of the views whose colours stay
    classes: tuple[int, ...] = field(default=RARE)

    def gentle(self) -> Views:
        """The last views of a run: nearer to what will be looked at in zoom and colour."""
        return replace(self, zoom=(0.8, 1.5), plain=0.5)

    def draw(self, pool: Pool, index: Tensor, random: torch.Generator) -> Batch:
        """Views of the frames `index` (N,) of `pool`, drawn from `random`, a generator of its device."""
        theta = self._theta(len(index), pool, random)
        height, width = self.size
        half = (height // LABEL_STEP, width // LABEL_STEP)
        images = _sample(pool.images[index].float() - GREY, theta, self.size, "bilinear") + GREY
        labels = _sample(pool.labels[index][:, None].float() - UNLABELLED, theta, self.size, "nearest")
        labels = (labels + UNLABELLED).round_()
        taught = None
        if pool.taught is not None:
            taught = _sample(pool.taught[index].float(), theta, half, "bilinear")
        images, labels, taught = self._paste(images, labels, taught, random)
        images = self._colour(images, random)
        # Labels are taken at one of the 2x2 pixels, another for each batch: on average in their middle.
        row, column = (int(i) for i in torch.randint(0, LABEL_STEP, (2,)))
        chosen = labels[:, 0, row::LABEL_STEP, column::LABEL_STEP].long()
        return Batch(images, chosen, border_weights(chosen), taught)

    def _theta(self, count: int, pool: Pool, random: torch.Generator) -> Tensor:
        """(N, 2, 3) of `affine_grid`: where in its frame each view lies."""
        device = pool.device

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=random, device=device)

        zoom = torch.exp(uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        stretch = torch.exp(uniform(-0.1, 0.1))
        angle = uniform(-self.rotation, self.rotation)
        x = self.size[1] / FULL_SIZE[1] / zoom / stretch
        y = self.size[0] / FULL_SIZE[0] / zoom
        left, top = (uniform(-1, 1) * (1 - extent).abs() for extent in (x, y))
        aspect = pool.images.shape[2] / pool.images.shape[3]
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        rows = (x * cosine * mirror, -y * sine * aspect, left, x * sine / aspect * mirror, y * cosine, top)
        return torch.stack(rows, 1).reshape(count, 2, 3)

    def _paste(
        self, images: Tensor, labels: Tensor, taught: Tensor | None, random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put pixels of some rare classes of the next view of the batch over each, with what is taught there."""
        count, device = len(images), images.device
        rare = constant(tuple(float(c in self.classes) for c in range(CLASSES)), device)
        chosen = rare * (torch.rand(count, CLASSES, generator=random, device=device) < 0.6)
        chosen = chosen * (torch.rand(count, 1, generator=random, device=device) < self.paste)
        donor = labels.roll(1, 0)
        mask = chosen.gather(1, donor.flatten(1).long()).reshape(donor.shape)
        # Edges blend over a pixel, as those of a camera do.
        soft = functional.avg_pool2d(mask, 3, 1, 1)
        images = torch.lerp(images, images.roll(1, 0), torch.maximum(soft * mask, soft * 0.5))
        labels = torch.where(mask > 0, donor, labels)
        if taught is not None:
            coarse = functional.avg_pool2d(mask, LABEL_STEP)
            taught = torch.lerp(taught, taught.roll(1, 0), coarse)
        return images, labels, taught

    def _colour(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Exposure, gamma, white balance, saturation, contrast, a gradient of light, blur or sharpening, noise."""
        count, device = len(images), images.device
        changed = (torch.rand(count, 1, 1, 1, generator=random, device=device) >= self.plain).float()

        def spread(amount: float, channels: int = 1, share: float = 1.0) -> Tensor:
            """Uniform in -amount..amount for a share of the changed views, 0 for the others."""
            value = amount * (2 * torch.rand(count, channels, 1, 1, generator=random, device=device) - 1)
            there = torch.rand(count, 1, 1, 1, generator=random, device=device) < share
            return value * there * changed

        x = images / 255
        # Blur (towards the smoothed picture) or sharpening (away from it).
        amount = 0.7 * spread(1.0, share=0.6) + 0.3 * spread(1.0, share=0.3).abs()
        x = torch.lerp(x, _smoothed(x), amount)
        x = x.clamp(0, 1) ** torch.exp(spread(0.45))
        x = x * torch.exp(spread(0.35) + spread(0.12, 3))
        ramp_x = torch.linspace(-1, 1, x.shape[3], device=device)[None, None, None, :]
        ramp_y = torch.linspace(-1, 1, x.shape[2], device=device)[None, None, :, None]
        x = x * torch.exp(spread(0.3, share=0.4) * ramp_x + spread(0.3, share=0.4) * ramp_y)
        luma = constant((0.299, 0.587, 0.114), device)[None, :, None, None]
        grey = (x * luma).sum(1, keepdim=True)
        x = torch.lerp(grey, x, 1 + spread(0.5) - (spread(1.0, share=0.06) != 0).float())
        middle = grey.mean((2, 3), keepdim=True)
        x = torch.lerp(middle, x, 1 + spread(0.35))
        noise = torch.randn(x.shape, generator=random, device=device)
        x = x + noise * spread(0.04, share=0.4).abs()
        return (x * 255).clamp_(0, 255).round_()


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 of `values` on `device`, copied there once: a copy waits for all that is queued."""
    return torch.tensor(values, device=device)


def border_weights(labels: Tensor) -> Tensor:
    """float32 like labels int64 (N, h, w): 0 unlabelled, BORDER_WEIGHT beside another class but in thin things, else 1."""
    values = labels[:, None].float()
    largest = functional.max_pool2d(values, 3, 1, 1)
    least = -functional.max_pool2d(-values, 3, 1, 1)
    border = (largest != least)[:, 0]
    for c in RARE:
        border = border & (labels != c)
    weight = torch.where(border, BORDER_WEIGHT, 1.0)
    return weight * (labels != UNLABELLED)


def _sample(source: Tensor, theta: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """`source` seen through `theta`; what lies outside is 0."""
    grid = functional.affine_grid(theta, [len(source), 1, *size], align_corners=False)
    return functional.grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _smoothed(x: Tensor) -> Tensor:
    """A binomial filter of 7 pixels in each direction, edges repeated."""
    taps = constant((1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0), x.device) / 64
    channels = x.shape[1]
    x = functional.pad(x, (3, 3, 3, 3), mode="replicate")
    x = functional.conv2d(x, taps.reshape(1, 1, 7, 1).expand(channels, 1, 7, 1), groups=channels)
    return functional.conv2d(x, taps.reshape(1, 1, 1, 7).expand(channels, 1, 1, 7), groups=channels)


def whole_frames(pool: Pool, index: Tensor, size: tuple[int, int] = FULL_SIZE) -> tuple[Tensor, Tensor]:
    """(images float32 (N, 3, H, W), whole numbers, bilinear; labels int64 (N, H, W), nearest), as mean IoU is measured."""
    images = functional.interpolate(pool.images[index].float(), size=size, mode="bilinear").round_()
    labels = functional.interpolate(pool.labels[index][:, None].float(), size=size, mode="nearest-exact")
    return images, labels[:, 0].long()


def normalized(images: Tensor) -> Tensor:
    """Whole numbers 0..255 (N, 3, H, W) -> what ICNet takes, channels last."""
    scheme = Normalization()
    mean, std = (constant(values, images.device)[None, :, None, None] for values in (scheme.mean, scheme.std))
    return ((images / scheme.divisor - mean) / std).contiguous(memory_format=torch.channels_last)
