"""A small network that is no ICNet and whose every text tries to leave the place that a page gives it."""

from __future__ import annotations

import numpy as np

from sparse_icnet.network.graph import (
    Add,
    Argmax,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Quantize,
    Quantizer,
    Relu,
)
from sparse_icnet.network.meta import Meta

SCRIPT = "</script><script>console.log('hostile')</script>"
IMAGE = "\"><img src=x onerror=console.log('hostile')>"
CLASSES = ("<b>sky", "'\"&amp;", "tree</td>", "road-->", "<!--pole")


def hostile_network(seed: int = 0, real: bool = False) -> Graph:
    """Three convolutions, a sum and a pool for pictures of 32 x 48, five classes, no accuracy stated.

    real  the last convolution is one of float32
    """
    rng = np.random.default_rng(seed)
    quantizer = Quantizer(0.02, 100)

    def convolution(name: str, source: str, outputs: int, inputs: int, size: int) -> Convolution:
        weight = rng.integers(-60, 61, (outputs, inputs, size, size)).astype(np.int8)
        weight[rng.random(weight.shape) < 0.5] = 0
        scale = np.full(outputs, 0.5 / size**2 / inputs, np.float32)
        bias = rng.normal(0, 0.2, outputs).astype(np.float32)
        return Convolution(name, source, weight, scale, bias, padding=(size // 2,) * 4)

    def in_real_values(op: Convolution) -> FloatConvolution:
        weight = (op.weight * op.weight_scale[:, None, None, None]).astype(np.float32)
        return FloatConvolution(op.name, op.input, weight, op.bias)

    first, second, last = f"block/{SCRIPT}", f"{IMAGE}\u202e\n{'x' * 400}", "&lt;/script&gt;]]>"
    ops = (
        Input("image", (3, 32, 48)),
        Quantize("codes", "image", quantizer),
        convolution(first, "codes", 8, 3, 3),
        Relu("relu", first),
        Quantize("first codes", "relu", quantizer),
        convolution(second, "first codes", 8, 8, 3),
        Add("sum", second, "first codes"),
        Quantize("sum codes", "sum", quantizer),
        MaxPool("pool", "sum codes", (2, 2), (2, 2)),
        in_real_values(convolution(last, "pool", 5, 8, 1)) if real else convolution(last, "pool", 5, 8, 1),
        Argmax("classes", last),
    )
    meta = Meta(name=SCRIPT, class_names=CLASSES, licence="<i>none", notes=IMAGE)
    return Graph(ops, "classes", meta=meta)
