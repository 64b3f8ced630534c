"""Stage 4: the trained state as the engine's graph and its native file.

python -m weights.recipe.export --model runs/unstructured/quantized.pt --out icnet.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from sparse_icnet.formats import native
from sparse_icnet.network.graph import Graph, Quantizer
from sparse_icnet.network.icnet import DEFAULT_SIZE, LayerWeights, activation_names, icnet
from weights.recipe.model import ICNet
from weights.recipe.training import load_model


@torch.no_grad()
def to_graph(model: ICNet, size: tuple[int, int] = DEFAULT_SIZE) -> Graph:
    """The quantized network of `model` for images of `size` (height, width), multiples of 32."""
    weights = {}
    for name, layer in model.named_layers():
        codes, scale, bias = (t.detach().cpu().numpy() for t in layer.codes())
        weights[name] = LayerWeights(
            np.ascontiguousarray(codes, np.int8), scale.astype(np.float32), bias.astype(np.float32)
        )
    activations = {}
    for name in activation_names():
        quantizer = model.activation(name)
        if not quantizer.scale > 0:
            raise ValueError(f"activation {name!r} must be calibrated before export, found scale 0")
        activations[name] = Quantizer(float(quantizer.scale), int(quantizer.zero_point))
    return icnet(weights, activations, size)


def export(model: ICNet, path: Path, size: tuple[int, int] = DEFAULT_SIZE) -> Graph:
    """Write the native file atomically and return what it holds."""
    graph = to_graph(model, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    native.save(graph, path)
    return graph


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help=".pt of quantize.py or quantized.pt of qat.py"
    )
    parser.add_argument("--out", type=Path, required=True, help="native file to write")
    options = parser.parse_args(arguments)
    graph = export(load_model(options.model), options.out)
    zeros = sum(int((c.weight == 0).sum()) for c in graph.convolutions)
    total = sum(c.weight.size for c in graph.convolutions)
    print(f"{options.out}: {total} weights, {zeros / total:.4%} zeros, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
