"""ICNet as its paper draws it: three branches, pyramid pooling, two cascade fusions, a classifier.

Zhao, Qi, Shen, Shi, Jia: "ICNet for Real-Time Semantic Segmentation on High-Resolution Images", ECCV 2018.
Every convolution is followed by ReLU and a quantizer unless noted; there is no quantizer on the inputs
of an addition, so the sum of two branches is rounded once, in any engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import (
    Add,
    AveragePool,
    Convolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
)

# The classes of CamVid in the order of the model card, and their colours: red, green, blue.
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "vehicle",
    "pedestrian",
    "bicyclist",
    "unlabelled",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
    (0, 0, 0),
)
DEFAULT_SIZE: Size = (768, 960)
SIZE_MULTIPLE = 32  # of the low branch; the bins of its pyramid may overlap
PYRAMID_BINS = (1, 2, 3, 6)


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """Quantized weights of one convolution: int8 (O, I, kh, kw), float32 scale (O,), float32 bias (O,)."""

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Shape and geometry of one convolution of ICNet."""

    name: str
    outputs: int
    inputs: int
    kernel: int
    stride: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        """Zeros on each side, so that a convolution of stride 1 keeps the size."""
        return self.dilation * (self.kernel - 1) // 2


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """A bottleneck: 1x1 reduce (stride), 3x3 (dilation), 1x1 increase; 1x1 projection when inputs != outputs."""

    name: str
    inputs: int
    middle: int
    outputs: int
    stride: int = 1
    dilation: int = 1

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Reduce, 3x3, increase and, where there is one, the projection."""
        layers: tuple[LayerSpec, ...] = (
            LayerSpec(f"{self.name}/reduce", self.middle, self.inputs, 1, self.stride),
            LayerSpec(f"{self.name}/3x3", self.middle, self.middle, 3, 1, self.dilation),
            LayerSpec(f"{self.name}/increase", self.outputs, self.middle, 1),
        )
        if self.inputs != self.outputs:
            layers += (LayerSpec(f"{self.name}/proj", self.outputs, self.inputs, 1, self.stride),)
        return layers


HIGH_LAYERS = (
    LayerSpec("conv1_sub1", 32, 3, 3, 2),
    LayerSpec("conv2_sub1", 32, 32, 3, 2),
    LayerSpec("conv3_sub1", 32, 32, 3, 2),
)
STEM_LAYERS = (
    LayerSpec("conv1_1", 32, 3, 3, 2),
    LayerSpec("conv1_2", 32, 32, 3),
    LayerSpec("conv1_3", 64, 32, 3),
)
MEDIUM_BLOCKS = (
    BlockSpec("conv2_1", 64, 32, 128),
    BlockSpec("conv2_2", 128, 32, 128),
    BlockSpec("conv2_3", 128, 32, 128),
    BlockSpec("conv3_1", 128, 64, 256, stride=2),
)
LOW_BLOCKS = (
    *(BlockSpec(f"conv3_{i}", 256, 64, 256) for i in (2, 3, 4)),
    BlockSpec("conv4_1", 256, 128, 512, dilation=2),
    *(BlockSpec(f"conv4_{i}", 512, 128, 512, dilation=2) for i in (2, 3, 4, 5, 6)),
    BlockSpec("conv5_1", 512, 256, 1024, dilation=4),
    *(BlockSpec(f"conv5_{i}", 1024, 256, 1024, dilation=4) for i in (2, 3)),
)
PYRAMID_LAYER = LayerSpec("conv5_4_k1", 256, 1024, 1)
FUSION_LAYERS = {
    "cff42": (LayerSpec("cff42/low", 128, 256, 3, 1, 2), LayerSpec("cff42/high", 128, 256, 1)),
    "cff421": (LayerSpec("cff421/low", 128, 128, 3, 1, 2), LayerSpec("cff421/high", 128, 32, 1)),
}


def classifier_layer(classes: int = len(CLASSES)) -> LayerSpec:
    """The 1x1 classifier, the one convolution with a bias of its own and no ReLU."""
    return LayerSpec("conv6_cls", classes, 128, 1)


def layer_specs(classes: int = len(CLASSES)) -> tuple[LayerSpec, ...]:
    """The 64 convolutions in the order of the network."""
    return (
        *HIGH_LAYERS,
        *STEM_LAYERS,
        *(layer for block in (*MEDIUM_BLOCKS, *LOW_BLOCKS) for layer in block.layers),
        PYRAMID_LAYER,
        *(layer for layers in FUSION_LAYERS.values() for layer in layers),
        classifier_layer(classes),
    )


def activation_names() -> tuple[str, ...]:
    """The tensors that carry a quantizer: the input, every ReLU, the pyramid sum.

    A convolution with ReLU gives its own name, a bottleneck and a fusion the name of the block.
    """
    names = ["input", *(layer.name for layer in (*HIGH_LAYERS, *STEM_LAYERS))]
    for block in (*MEDIUM_BLOCKS, *LOW_BLOCKS):
        names += [f"{block.name}/reduce", f"{block.name}/3x3", block.name]
    return (*names, "pyramid", PYRAMID_LAYER.name, *FUSION_LAYERS)


def icnet(
    weights: Mapping[str, LayerWeights],
    activations: Mapping[str, Quantizer],
    size: Size = DEFAULT_SIZE,
) -> Graph:
    """The quantized graph of ICNet: image 3 x H x W -> probabilities classes x H x W.

    weights      layer name -> LayerWeights, names as in `layer_specs`
    activations  tensor name -> Quantizer, names as in `activation_names`
    size         (height, width), positive multiples of 32

    Raises ValueError for another size and for weights of another shape, KeyError for a name that is missing.
    """
    if min(size) < 1 or any(length % SIZE_MULTIPLE for length in size):
        raise ValueError(f"size must be positive multiples of {SIZE_MULTIPLE}, found {size[0]}x{size[1]}")
    g = _Builder(weights, activations, size)
    image = g.quantize("input", g.input)

    high = image  # 3 x H x W
    for layer in HIGH_LAYERS:
        high = g.convolution_relu(layer, high)  # -> 32 x H/8 x W/8

    medium = g.resize("image_half", image, 1 / 2)
    for layer in STEM_LAYERS:
        medium = g.convolution_relu(layer, medium)  # -> 64 x H/4 x W/4
    medium = g.max_pool("pool1", medium)
    for block in MEDIUM_BLOCKS:
        medium = g.bottleneck(block, medium)  # -> 256 x H/16 x W/16

    low = g.resize("conv3_1_half", medium, 1 / 2)
    for block in LOW_BLOCKS:
        low = g.bottleneck(block, low)  # -> 1024 x H/32 x W/32
    low = g.pyramid_pooling("pyramid", low)
    low = g.convolution_relu(PYRAMID_LAYER, low)  # -> 256 x H/32 x W/32

    fused = g.cascade_fusion("cff42", low, medium)  # -> 128 x H/16 x W/16
    fused = g.cascade_fusion("cff421", fused, high)  # -> 128 x H/8 x W/8

    fused = g.resize("cff421_up", fused, 2)
    logits = g.convolution(classifier_layer(len(weights["conv6_cls"].bias)), fused)
    logits = g.resize("logits_up", logits, 4)
    return g.build(g.add(Softmax("probabilities", logits)))


class _Builder:
    """Appends operations and remembers shapes; each method returns the name of its output."""

    def __init__(
        self, weights: Mapping[str, LayerWeights], activations: Mapping[str, Quantizer], size: Size
    ) -> None:
        self.weights, self.activations = weights, activations
        self.ops: list[Op] = []
        self.sizes: dict[str, Size] = {}
        self.input = self.add(Input("image", (3, *size)), size)

    def add(self, op: Op, size: Size | None = None) -> str:
        self.ops.append(op)
        self.sizes[op.name] = size or self.sizes[op.inputs[0]]
        return op.name

    def build(self, output: str) -> Graph:
        return Graph(tuple(self.ops), output)

    def quantize(self, tensor: str, source: str) -> str:
        if tensor not in self.activations:
            raise KeyError(f"activation quantizer {tensor!r} is missing")
        return self.add(Quantize(f"{tensor}/codes", source, self.activations[tensor]))

    def relu_quantize(self, tensor: str, source: str) -> str:
        return self.quantize(tensor, self.add(Relu(f"{tensor}/relu", source)))

    def convolution(self, layer: LayerSpec, source: str) -> str:
        if layer.name not in self.weights:
            raise KeyError(f"weights of layer {layer.name!r} are missing")
        w = self.weights[layer.name]
        expected = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        if w.weight.shape != expected:
            raise ValueError(
                f"layer {layer.name!r}: expected weights of shape {expected}, found {w.weight.shape}"
            )
        height, width = self.sizes[source]
        size = (math.ceil(height / layer.stride), math.ceil(width / layer.stride))
        return self.add(
            Convolution(
                layer.name,
                source,
                w.weight,
                w.scale,
                w.bias,
                stride=(layer.stride,) * 2,
                dilation=(layer.dilation,) * 2,
                padding=(layer.padding,) * 4,
            ),
            size,
        )

    def convolution_relu(self, layer: LayerSpec, source: str) -> str:
        return self.relu_quantize(layer.name, self.convolution(layer, source))

    def max_pool(self, name: str, source: str) -> str:
        height, width = self.sizes[source]
        return self.add(
            MaxPool(name, source, (3, 3), (2, 2), (1, 1, 1, 1)), (math.ceil(height / 2), math.ceil(width / 2))
        )

    def resize(self, name: str, source: str, factor: float) -> str:
        height, width = self.sizes[source]
        size = (round(height * factor), round(width * factor))
        return self.add(Resize(name, source, size), size)

    def bottleneck(self, block: BlockSpec, source: str) -> str:
        reduce, middle, increase, *projection = block.layers
        x = self.convolution_relu(reduce, source)
        x = self.convolution_relu(middle, x)
        x = self.convolution(increase, x)
        shortcut = self.convolution(projection[0], source) if projection else source
        return self.relu_quantize(block.name, self.add(Add(f"{block.name}/sum", x, shortcut)))

    def pyramid_pooling(self, name: str, source: str) -> str:
        """x + sum over bins of nearest-up(average pool(x, bins)): no ReLU, x is not negative."""
        total, size = source, self.sizes[source]
        for bins in PYRAMID_BINS:
            pooled = self.add(AveragePool(f"{name}/pool{bins}", source, (bins, bins)), (bins, bins))
            spread = self.add(Resize(f"{name}/up{bins}", pooled, size), size)
            total = self.add(Add(f"{name}/sum{bins}", total, spread))
        return self.quantize(name, total)

    def cascade_fusion(self, name: str, low: str, high: str) -> str:
        """ReLU(3x3 dilated convolution of the 2x upsampled low input + 1x1 projection of the high input)."""
        low_layer, high_layer = FUSION_LAYERS[name]
        low = self.convolution(low_layer, self.resize(f"{name}/up", low, 2))
        high = self.convolution(high_layer, high)
        return self.relu_quantize(name, self.add(Add(f"{name}/sum", low, high)))
