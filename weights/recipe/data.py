"""CamVid frames, augmentation and the targets of an ICNet whose output pixels cover 8 x 8 image pixels."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 12
UNLABELLED = 11
FULL_SIZE = (768, 960)
OUTPUT_STRIDE = 8


@dataclass(frozen=True)
class Frame:
    """One frame and its labels, at the size of the files."""

    name: str
    image: Image.Image  # RGB
    label: Image.Image  # L, class indices


def load_frames(folder: str | Path, split: str) -> list[Frame]:
    """Frames of `folder`/`split` with labels of `folder`/`split`annot, sorted by name."""
    folder = Path(folder)
    paths = sorted((folder / split).glob("*.png"))
    if not paths:
        raise FileNotFoundError(f"{folder / split}: expected PNG frames, found none")
    frames = []
    for path in paths:
        label_path = folder / f"{split}annot" / path.name
        if not label_path.exists():
            raise FileNotFoundError(f"{label_path}: expected the label image of {path.name}, found none")
        label = Image.open(label_path)
        label.load()
        image = Image.open(path).convert("RGB")
        if image.size != label.size:
            raise ValueError(f"{label_path}: expected size {image.size}, found {label.size}")
        frames.append(Frame(path.name, image, label))
    return frames


def full_frame(frame: Frame, size: tuple[int, int] = FULL_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W, 3), bilinear, and label uint8 (H, W), nearest: what mIoU is measured on."""
    height, width = size
    image = frame.image.resize((width, height), Image.Resampling.BILINEAR)
    label = frame.label.resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image, np.uint8), np.asarray(label, np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """Random crop of `size` from the frame at 768x960, zoomed by `zoom`, with flip and colour changes."""

    size: tuple[int, int] = (384, 480)
    zoom: tuple[float, float] = (0.7, 1.6)
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3

    def __call__(self, frame: Frame, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """uint8 image (H, W, 3) and uint8 label (H, W), drawn from `random`."""
        image, label = self._crop(frame, random)
        if random.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return self._colour(image, random), np.ascontiguousarray(label)

    def _crop(self, frame: Frame, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        zoom = float(np.exp(random.uniform(*np.log(self.zoom))))
        stretch = float(np.exp(random.uniform(-0.1, 0.1)))
        width, height = frame.image.size
        # The cut, in pixels of the file; where it is larger than the frame, the rest is unlabelled grey.
        cut_height = self.size[0] / FULL_SIZE[0] * height / zoom
        cut_width = self.size[1] / FULL_SIZE[1] * width / (zoom * stretch)
        rows, image_height = _fit(cut_height, height, self.size[0])
        columns, image_width = _fit(cut_width, width, self.size[1])
        top = random.uniform(0, height - rows)
        left = random.uniform(0, width - columns)
        box = (left, top, left + columns, top + rows)
        target = (image_width, image_height)
        image = np.full((*self.size, 3), 104, np.uint8)
        label = np.full(self.size, UNLABELLED, np.uint8)
        y = int(random.integers(0, self.size[0] - image_height + 1))
        x = int(random.integers(0, self.size[1] - image_width + 1))
        inside = (slice(y, y + image_height), slice(x, x + image_width))
        image[inside] = np.asarray(frame.image.resize(target, Image.Resampling.BILINEAR, box))
        label[inside] = np.asarray(frame.label.resize(target, Image.Resampling.NEAREST, box))
        return image, label

    def _colour(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        gains = [1 + random.uniform(-a, a) for a in (self.brightness, self.contrast, self.saturation)]
        brightness, contrast, saturation = (np.float32(g) for g in gains)
        x = image.astype(np.float32) * brightness
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        x = (x - grey[..., None]) * saturation + grey[..., None]
        middle = np.float32(grey.mean())
        x = (x - middle) * contrast + middle
        return np.clip(np.rint(x), 0, 255).astype(np.uint8)


# What the stages on crops see.
CROPS = Augmentation((384, 480), (0.6, 1.8))


def _fit(cut: float, available: int, target: int) -> tuple[float, int]:
    """(length to cut from the frame, length that it fills in the target)."""
    if cut <= available:
        return cut, target
    return float(available), max(1, round(target * available / cut))


def histograms(label: np.ndarray, stride: int = OUTPUT_STRIDE) -> np.ndarray:
    """float32 (CLASSES, H/stride, W/stride): share of each class in each output pixel.

    Cross entropy against these shares equals the mean cross entropy over the image pixels, since
    all pixels of a block receive the same prediction.
    """
    height, width = label.shape[0] // stride, label.shape[1] // stride
    block = (np.arange(height * stride) // stride)[:, None] * width + (np.arange(width * stride) // stride)[
        None
    ]
    index = block * CLASSES + label[: height * stride, : width * stride]
    counts = np.bincount(index.ravel(), minlength=height * width * CLASSES).reshape(height, width, CLASSES)
    return np.ascontiguousarray(counts.transpose(2, 0, 1), np.float32) / np.float32(stride * stride)


def class_weights(frames: list[Frame]) -> np.ndarray:
    """float32 (CLASSES,): median-frequency weights, clipped to 0.3..4, to the power 0.7; 0 for unlabelled."""
    counts = np.zeros(CLASSES)
    present = np.zeros(CLASSES)
    for frame in frames:
        count = np.bincount(np.asarray(frame.label).ravel(), minlength=CLASSES)[:CLASSES]
        counts += count
        present += (count > 0) * np.asarray(frame.label).size
    frequency = counts / np.maximum(present, 1)
    seen = frequency[:UNLABELLED][frequency[:UNLABELLED] > 0]
    weights = np.clip(np.median(seen) / np.maximum(frequency, 1e-9), 0.3, 4.0) ** 0.7
    weights[UNLABELLED] = 0
    return weights.astype(np.float32)


def batches(
    frames: list[Frame], augmentation: Augmentation, batch: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of (images uint8 (N, H, W, 3), histograms float32 (N, CLASSES, H/8, W/8)), from a thread.

    Everything follows from (seed, epoch): a resumed run draws what an uninterrupted one would have drawn.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(frames))
    ready: queue.Queue = queue.Queue(maxsize=3)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for start in range(0, len(order) - batch + 1, batch):
                pairs = []
                for index in order[start : start + batch]:
                    random = np.random.default_rng([seed, epoch, int(index)])
                    pairs.append(augmentation(frames[index], random))
                put((np.stack([p[0] for p in pairs]), np.stack([histograms(p[1]) for p in pairs])))
                if stop.is_set():
                    return
            put(None)
        except Exception as error:  # handed to the consumer, who raises it
            put(error)

    worker = threading.Thread(target=produce, daemon=True)
    worker.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
