"""Mean IoU of a trained state in PyTorch, float or fake-quantized, on whole frames.

python -m weights.recipe.evaluate --data camvid --model runs/unstructured/quantized.pt --quantized
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from sparse_icnet.metrics import confusion_matrix, score
from sparse_icnet.network.icnet import CLASSES
from weights.recipe.data import OUTPUT_STRIDE, Frame, full_frame, load_frames
from weights.recipe.model import ICNet, normalize
from weights.recipe.training import load_model


@torch.no_grad()
def confusion(model: ICNet, frames: list[Frame], quantized: bool) -> np.ndarray:
    """int64 (labels, predictions): pixels at 768x960."""
    model.eval()
    model.quantize = quantized
    matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for frame in frames:
        image, label = full_frame(frame)
        logits = model(normalize(image[None]).to(memory_format=torch.channels_last))
        classes = logits[0].argmax(0).numpy().repeat(OUTPUT_STRIDE, 0).repeat(OUTPUT_STRIDE, 1)
        matrix += confusion_matrix(label, classes)
    return matrix


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid folder")
    parser.add_argument("--model", type=Path, required=True, help="FP32 .npz or .pt of any stage")
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--quantized", action="store_true", help="with fake quantization, as the engine computes"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    matrix = confusion(load_model(options.model), load_frames(options.data, options.split), options.quantized)
    result = score(matrix)
    for name, value in zip(CLASSES, result.iou, strict=True):
        if value is not None and name != "unlabelled":
            print(f"{name:12} {value:.4f}")
    print(f"{'mIoU':12} {result.mean:.4f}")


if __name__ == "__main__":
    main()
