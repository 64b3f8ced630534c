"""ICNet in PyTorch: trainable, prunable, and the same arithmetic as the engine when it fake-quantizes.

The network is computed in its rewritten form: the fusions convolve before the nearest upsampling with half
the dilation, conv2_3 runs only where the stride of conv3_1 reads it, and the logits stay at 1/8 of the image.
In exact arithmetic that changes nothing; in training it saves a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_icnet.network.graph import Normalization
from sparse_icnet.network.icnet import (
    FUSION_LAYERS,
    HIGH_LAYERS,
    LOW_BLOCKS,
    MEDIUM_BLOCKS,
    PYRAMID_BINS,
    PYRAMID_LAYER,
    STEM_LAYERS,
    BlockSpec,
    LayerSpec,
    activation_names,
    classifier_layer,
    layer_specs,
)

EPSILON = 1e-5  # of every batch norm
MOMENTUM = 0.05
# Weight codes are -63..63.  Two neighbouring products with u8 activations then stay within int16 (2 * 255 * 63 = 32130),
# and `vpmaddubsw` of CPUs without VNNI never saturates: OpenVINO and ONNX Runtime are exact there as well, and this
# engine multiplies nearly all blocks in couples.  Mean IoU does not tell it from -127..127.
LEVELS = 63
AUXILIARY = {"cff42/aux": 256, "cff421/aux": 128}  # training-only classifiers and their input channels
STRIDED_SOURCE = "conv2_3"  # the block of which only even rows and columns are read


class Layer(nn.Module):
    """One convolution with its batch norm (or bias) and the mask of the weights that pruning keeps.

    weight (O, I, kh, kw), mask bool of that shape; gamma, beta, mean, var (O,), or in a classifier bias (O,).
    """

    def __init__(self, spec: LayerSpec, normalized: bool) -> None:
        super().__init__()
        self.spec = spec
        self.momentum = MOMENTUM
        self.weight = nn.Parameter(torch.empty(spec.outputs, spec.inputs, spec.kernel, spec.kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))
        self.normalized = normalized
        if normalized:
            self.gamma = nn.Parameter(torch.ones(spec.outputs))
            self.beta = nn.Parameter(torch.zeros(spec.outputs))
            self.register_buffer("mean", torch.zeros(spec.outputs))
            self.register_buffer("var", torch.ones(spec.outputs))
        else:
            self.bias = nn.Parameter(torch.zeros(spec.outputs))

    def masked(self) -> Tensor:
        """The kept weights.  Pruned ones still receive a gradient and may come back (Lin et al. 2020)."""
        return self.weight - (self.weight * ~self.mask).detach()

    def folded(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) with the batch norm multiplied in, from its running statistics."""
        if not self.normalized:
            return self.weight * self.mask, self.bias
        gain = self.gamma / torch.sqrt(self.var + EPSILON)
        return self.weight * self.mask * gain[:, None, None, None], self.beta - self.mean * gain

    def codes(self) -> tuple[Tensor, Tensor, Tensor]:
        """(codes -LEVELS..LEVELS as float, scale (O,), bias (O,)): zero exactly where the mask is."""
        weight, bias = self.folded()
        largest = weight.detach().abs().amax((1, 2, 3))
        scale = torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))
        codes = torch.clamp(torch.round(weight.detach() / scale[:, None, None, None]), -LEVELS, LEVELS)
        # A kept weight never becomes 0: the sparsity of the file is the sparsity of the mask.
        smallest = torch.where(weight.detach() < 0, -1.0, 1.0)
        codes = torch.where(self.mask & (codes == 0), smallest, codes)
        return codes, scale, bias

    def quantized(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) as the engine sees them; the gradient passes straight through the rounding."""
        weight, _ = self.folded()
        codes, scale, bias = self.codes()
        return weight + (codes * scale[:, None, None, None] - weight).detach(), bias

    def forward(
        self, x: Tensor, quantize: bool, stride: int | None = None, dilation: int | None = None
    ) -> Tensor:
        spec = self.spec
        stride = spec.stride if stride is None else stride
        dilation = spec.dilation if dilation is None else dilation
        padding = dilation * (spec.kernel - 1) // 2
        if quantize:
            weight, bias = self.quantized()
            return functional.conv2d(x, weight, bias, stride, padding, dilation)
        if not self.normalized:
            return functional.conv2d(x, self.masked(), self.bias, stride, padding, dilation)
        if self.training:
            y = functional.conv2d(x, self.masked(), None, stride, padding, dilation)
            return functional.batch_norm(
                y, self.mean, self.var, self.gamma, self.beta, True, self.momentum, EPSILON
            )
        weight, bias = self.folded()
        return functional.conv2d(x, weight, bias, stride, padding, dilation)


class Activation(nn.Module):
    """u8 quantizer of a tensor: real = scale * (code - zero_point), code 0..255.  Scale 0: not calibrated."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.scale > 0:
            raise RuntimeError("activation ranges must be calibrated before quantization, found none")
        return torch.fake_quantize_per_tensor_affine(
            x.float(), float(self.scale), int(self.zero_point), 0, 255
        )


class ICNet(nn.Module):
    """(N, 3, H, W) normalized images -> logits (N, classes, H/8, W/8); H and W multiples of 192.

    quantize   evaluate with fake-quantized weights and activations (batch norm folded, statistics frozen)
    observer   called as observer(name, tensor) with every tensor that carries a quantizer, before it
    """

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.classes = classes
        self.quantize = False
        self.observer = None
        self.layers = nn.ModuleDict(
            {_key(spec.name): Layer(spec, spec.name != "conv6_cls") for spec in layer_specs(classes)}
        )
        self.auxiliary = nn.ModuleDict(
            {
                _key(name): Layer(LayerSpec(name, classes, inputs, 1), False)
                for name, inputs in AUXILIARY.items()
            }
        )
        self.activations = nn.ModuleDict({_key(name): Activation() for name in activation_names()})
        self._set_input_range()

    def _set_input_range(self) -> None:
        table = Normalization().table()
        low, high = float(table.min()), float(table.max())
        scale = (high - low) / 255
        self.activation("input").scale.fill_(scale)
        self.activation("input").zero_point.fill_(round(-low / scale))

    def layer(self, name: str) -> Layer:
        return self.layers[_key(name)]

    def activation(self, name: str) -> Activation:
        return self.activations[_key(name)]

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """The 64 convolutions of inference by their engine names."""
        for layer in self.layers.values():
            yield layer.spec.name, layer

    def _stop(self, name: str, x: Tensor) -> Tensor:
        """Where the quantizer `name` stands."""
        if self.observer is not None:
            self.observer(name, x)
        return self.activation(name)(x) if self.quantize else x

    def _conv(self, name: str, x: Tensor, **geometry: int) -> Tensor:
        return self.layer(name)(x, self.quantize, **geometry)

    def _conv_relu(self, name: str, x: Tensor, **geometry: int) -> Tensor:
        return self._stop(name, functional.relu(self._conv(name, x, **geometry)))

    def _bottleneck(self, block: BlockSpec, x: Tensor) -> Tensor:
        reduce, middle, increase, *projection = (layer.name for layer in block.layers)
        y = self._conv_relu(reduce, x, stride=1)
        if block.name == STRIDED_SOURCE:
            y, x = self._conv_relu(middle, y, stride=2), x[:, :, ::2, ::2]
        else:
            y = self._conv_relu(middle, y)
        y = self._conv(increase, y)
        shortcut = self._conv(projection[0], x, stride=1) if projection else x
        return self._stop(block.name, functional.relu(y + shortcut))

    def _fuse(self, name: str, low: Tensor, high: Tensor) -> Tensor:
        low_name, high_name = (layer.name for layer in FUSION_LAYERS[name])
        low = _double(self._conv(low_name, low, dilation=1))
        return self._stop(name, functional.relu(low + self._conv(high_name, high)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor] | Tensor:
        """Logits at 1/8; in training also those of the auxiliary classifiers at 1/16 and 1/32."""
        image = self._stop("input", image)
        high = image
        for spec in HIGH_LAYERS:
            high = self._conv_relu(spec.name, high)
        medium = image[:, :, ::2, ::2]
        for spec in STEM_LAYERS:
            medium = self._conv_relu(spec.name, medium)
        medium = functional.max_pool2d(medium, 3, 2, 1)
        for block in MEDIUM_BLOCKS:
            medium = self._bottleneck(block, medium)
        low = medium[:, :, ::2, ::2]
        for block in LOW_BLOCKS:
            low = self._bottleneck(block, low)
        low = self._stop("pyramid", low + sum(_spread(low, bins) for bins in PYRAMID_BINS))
        low = self._conv_relu(PYRAMID_LAYER.name, low)
        middle = self._fuse("cff42", low, medium)
        fused = self._fuse("cff421", middle, high)
        logits = self._conv("conv6_cls", fused)
        if not self.training:
            return logits
        coarse = self.auxiliary[_key("cff42/aux")](low, False)
        finer = self.auxiliary[_key("cff421/aux")](middle, False)
        return logits, finer, coarse


def _key(name: str) -> str:
    return name.replace("/", "-")


def _double(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return functional.interpolate(x, size=(2 * height, 2 * width), mode="nearest")


def _spread(x: Tensor, bins: int) -> Tensor:
    """Mean over bins x bins equal windows, spread back to the size of x."""
    height, width = x.shape[2:]
    window = (height // bins, width // bins)
    return functional.interpolate(
        functional.avg_pool2d(x, window, window), size=(height, width), mode="nearest"
    )


def normalize(images: np.ndarray) -> Tensor:
    """uint8 RGB (N, H, W, 3) -> float32 (N, 3, H, W), the network input, through the engine's table."""
    table = Normalization().table()
    return torch.from_numpy(np.stack([table[c][images[..., c]] for c in range(3)], 1))


def load_checkpoint(model: ICNet, path: str | Path) -> None:
    """Fill the layers and auxiliary classifiers from an .npz of `<layer>/weight|gamma|beta|mean|var|bias`."""
    layers = {**dict(model.named_layers()), **{layer.spec.name: layer for layer in model.auxiliary.values()}}
    with np.load(path, allow_pickle=False) as arrays, torch.no_grad():
        for name, layer in layers.items():
            for part in ("weight", *(("gamma", "beta", "mean", "var") if layer.normalized else ("bias",))):
                if f"{name}/{part}" not in arrays:
                    raise ValueError(f"{path}: array {name}/{part} is missing")
                value, target = arrays[f"{name}/{part}"], getattr(layer, part)
                if value.shape != tuple(target.shape):
                    raise ValueError(
                        f"{path}: {name}/{part} must be {tuple(target.shape)}, found {value.shape}"
                    )
                target.copy_(torch.from_numpy(value))


def layer_pixels(height: int = 768, width: int = 960) -> dict[str, int]:
    """Output positions that each convolution computes in the rewritten network, by layer name."""
    pixels: dict[str, int] = {}
    area = height * width
    for spec, step in zip(HIGH_LAYERS, (2, 4, 8), strict=True):
        pixels[spec.name] = area // step**2
    for spec in STEM_LAYERS:
        pixels[spec.name] = area // 16
    for block in MEDIUM_BLOCKS:
        for spec in block.layers:
            at_16 = block.name == "conv3_1" or (
                block.name == STRIDED_SOURCE and not spec.name.endswith("reduce")
            )
            pixels[spec.name] = area // (256 if at_16 else 64)
    for block in LOW_BLOCKS:
        for spec in block.layers:
            pixels[spec.name] = area // 1024
    pixels[PYRAMID_LAYER.name] = area // 1024
    for name, (low, high) in (("cff42", (1024, 256)), ("cff421", (256, 64))):
        pixels[FUSION_LAYERS[name][0].name] = area // low
        pixels[FUSION_LAYERS[name][1].name] = area // high
    pixels[classifier_layer().name] = area // 64
    return pixels
