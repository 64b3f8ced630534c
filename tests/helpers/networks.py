"""Networks for tests: ICNet with random weights whose activations stay alive and whose classes vary."""

from __future__ import annotations

import numpy as np

from sparse_icnet.network.graph import Graph, Quantize, Quantizer
from sparse_icnet.network.icnet import LayerWeights, activation_names, icnet, layer_specs
from sparse_icnet.reference import evaluate


def random_icnet(
    size: tuple[int, int] = (192, 192), seed: int = 0, density: float = 0.4, classes: int = 12
) -> Graph:
    """ICNet with He-initialised weights of which `density` stay, calibrated on one random picture."""
    rng = np.random.default_rng(seed)
    weights = {}
    for layer in layer_specs(classes):
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        fan_in = layer.inputs * layer.kernel**2
        real = rng.standard_normal(shape) * (rng.random(shape) < density)
        codes = np.clip(np.rint(real * 40), -127, 127).astype(np.int8)
        deviation = np.sqrt(2 / (fan_in * max(density, 0.05)))
        scale = np.full(layer.outputs, deviation / 40, np.float32)
        bias = (rng.standard_normal(layer.outputs) * 0.2).astype(np.float32)
        weights[layer.name] = LayerWeights(codes, scale, bias)
    placeholders = {name: Quantizer(1.0) for name in activation_names()} | {"input": Quantizer(0.02, 114)}
    limits, logits = _float_values(icnet(weights, placeholders, size), rng)
    # Logits of every class with mean 0 and deviation 2: all classes occur, the softmax is not saturated.
    spread = np.maximum(logits.std((1, 2)), 1e-6) / 2
    last = weights["conv6_cls"]
    weights["conv6_cls"] = LayerWeights(
        last.weight,
        (last.scale / spread).astype(np.float32),
        ((last.bias - logits.mean((1, 2))) / spread).astype(np.float32),
    )
    quantizers = {name: Quantizer(max(limits[name], 1e-3) / 255) for name in activation_names()}
    return icnet(weights, quantizers | {"input": Quantizer(0.02, 114)}, size)


def random_blob(graph: Graph, seed: int = 0) -> np.ndarray:
    """float32 (3, H, W): smooth noise about as large as a normalized picture."""
    rng = np.random.default_rng(seed)
    channels, height, width = graph.input.shape
    coarse = rng.standard_normal((channels, -(-height // 8), -(-width // 8)))
    smooth = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return (smooth + 0.3 * rng.standard_normal((channels, height, width))).astype(np.float32)


def random_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): a picture with areas and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    smooth = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def _float_values(graph: Graph, rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    """Largest value of each tensor that will be quantized, and the logits, in float without quantizers."""
    blob = random_blob(graph, int(rng.integers(1 << 31)))
    values: dict[str, np.ndarray] = {}
    limits: dict[str, float] = {}
    for op in graph.ops:
        if isinstance(op, Quantize):
            values[op.name] = values[op.input]
            limits[op.name.removesuffix("/codes")] = float(values[op.input].max())
        else:
            values[op.name] = evaluate.float_value(op, values, blob, np.float32)
    return limits, values["conv6_cls"]
