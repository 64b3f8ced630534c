"""Real files of the real tools: ICNet in PyTorch, quantized by NNCF, saved by OpenVINO or as ONNX.

Needs torch, nncf, openvino (and onnx for the ONNX files); callers `pytest.importorskip` them.
Run as a script to keep the files: `python tests/helpers/make_nncf.py FOLDER [HEIGHT WIDTH]`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sparse_icnet.network import icnet
from sparse_icnet.network.graph import Graph

EPSILON = 1e-5


class ConvBatchNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU where `relu`."""

    def __init__(self, spec: icnet.LayerSpec, relu: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            spec.inputs,
            spec.outputs,
            spec.kernel,
            spec.stride,
            spec.padding,
            spec.dilation,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(spec.outputs, EPSILON)
        self.relu = relu

    def forward(self, x):
        x = self.norm(self.convolution(x))
        return functional.relu(x) if self.relu else x


class Bottleneck(nn.Module):
    """Reduce, 3x3, increase; the projection exists when the number of channels changes."""

    def __init__(self, spec: icnet.BlockSpec) -> None:
        super().__init__()
        reduce, middle, increase, *projection = spec.layers
        self.reduce = ConvBatchNorm(reduce, True)
        self.middle = ConvBatchNorm(middle, True)
        self.increase = ConvBatchNorm(increase, False)
        self.projection = ConvBatchNorm(projection[0], False) if projection else nn.Identity()

    def forward(self, x):
        return functional.relu(self.increase(self.middle(self.reduce(x))) + self.projection(x))


class Fusion(nn.Module):
    """Cascade feature fusion of the low map, upsampled twice, with the high map."""

    def __init__(self, low: icnet.LayerSpec, high: icnet.LayerSpec) -> None:
        super().__init__()
        self.low, self.high = ConvBatchNorm(low, False), ConvBatchNorm(high, False)

    def forward(self, low, high):
        return functional.relu(self.low(functional.interpolate(low, scale_factor=2)) + self.high(high))


class ICNet(nn.Module):
    """DESIGN.md section 1: normalized image (N, 3, H, W) -> probabilities (N, classes, H, W)."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.high = nn.Sequential(*(ConvBatchNorm(spec, True) for spec in icnet.HIGH_LAYERS))
        self.stem = nn.Sequential(*(ConvBatchNorm(spec, True) for spec in icnet.STEM_LAYERS))
        self.medium = nn.Sequential(*(Bottleneck(spec) for spec in icnet.MEDIUM_BLOCKS))
        self.low = nn.Sequential(*(Bottleneck(spec) for spec in icnet.LOW_BLOCKS))
        self.pyramid = ConvBatchNorm(icnet.PYRAMID_LAYER, True)
        self.cff42 = Fusion(*icnet.FUSION_LAYERS["cff42"])
        self.cff421 = Fusion(*icnet.FUSION_LAYERS["cff421"])
        spec = icnet.classifier_layer(classes)
        self.classifier = nn.Conv2d(spec.inputs, spec.outputs, 1)

    def forward(self, image):
        return functional.softmax(self.logits(image), 1)

    def logits(self, image):
        high = self.high(image)
        medium = functional.max_pool2d(self.stem(functional.interpolate(image, scale_factor=0.5)), 3, 2, 1)
        medium = self.medium(medium)
        low = self.low(functional.interpolate(medium, scale_factor=0.5))
        total = low
        for bins in icnet.PYRAMID_BINS:
            pooled = functional.adaptive_avg_pool2d(low, bins)
            total = total + functional.interpolate(pooled, size=low.shape[2:])
        fused = self.cff42(self.pyramid(total), medium)
        fused = self.cff421(fused, high)
        logits = self.classifier(functional.interpolate(fused, scale_factor=2))
        return functional.interpolate(logits, scale_factor=4)


def scenes(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """float32 (count, 3, H, W): smooth blobs with edges and noise, normalized like photos."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 6, 6)).astype(np.float32))
    smooth = functional.interpolate(coarse, size=size, mode="bicubic").numpy()
    blocks = functional.interpolate(coarse.flip(1), size=size).numpy()
    noise = rng.normal(scale=0.1, size=smooth.shape)
    return np.clip(0.8 * smooth + 0.5 * blocks + noise, -1.35, 2.0).astype(np.float32)


def torch_icnet(size: tuple[int, int], seed: int = 0) -> ICNet:
    """A random ICNet whose activations have the statistics of a trained one.

    He initialization, 60 % of each layer pruned by magnitude and one channel entirely, batch norms with
    varied gamma (some negative) and beta and measured mean and variance, logits of spread 2: classes
    vary over the image and no softmax saturates.
    """
    torch.manual_seed(seed)
    model = ICNet()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            magnitude = module.weight.detach().abs()
            module.weight.data *= magnitude > magnitude.flatten().kthvalue(int(0.6 * magnitude.numel()))[0]
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 1.2)
            module.weight.data *= torch.where(torch.rand_like(module.weight) < 0.1, -1.0, 1.0)
            nn.init.normal_(module.bias, 0.1, 0.2)
            module.momentum = None  # cumulative average
    model.high[1].convolution.weight.data[5] = 0
    images = torch.from_numpy(scenes(4, size, seed))
    with torch.no_grad():
        for _ in range(2):
            model.train()(images)
        logits = model.eval().logits(images)
        scale = 2 / logits.std((0, 2, 3))
        model.classifier.weight *= scale[:, None, None, None]
        model.classifier.bias.copy_((model.classifier.bias - logits.mean((0, 2, 3))) * scale)
    return model.eval()


def icnet_of(graph: Graph) -> ICNet:
    """The float ICNet whose convolutions hold the dequantized weights of `graph` (names of "
    "`network.icnet`)."""
    model = ICNet()
    names = [spec.name for spec in icnet.layer_specs()]
    units = [module for module in model.modules() if isinstance(module, ConvBatchNorm)]
    for name, unit in zip(names, (*units, None), strict=True):
        op = graph[name]
        weight = torch.from_numpy(op.weight * op.weight_scale[:, None, None, None])
        if unit is None:
            model.classifier.weight.data, model.classifier.bias.data = (
                weight,
                torch.from_numpy(op.bias.copy()),
            )
        else:
            unit.convolution.weight.data = weight
            unit.norm.bias.data = torch.from_numpy(op.bias.copy())
            unit.norm.running_var.fill_(1 - EPSILON)
    return model.eval()


def _quiet() -> None:
    import nncf

    nncf.set_log_level(logging.ERROR)
    warnings.filterwarnings("ignore")


def _calibration(size: tuple[int, int], wrap, images: np.ndarray | None = None):
    import nncf

    if images is None:
        images = np.concatenate([scenes(1, size, seed) for seed in (11, 12, 13, 14)])
    return nncf.Dataset([wrap(image[None]) for image in images])


def openvino_model(model: ICNet, size: tuple[int, int]):
    """The float model as OpenVINO converts it."""
    import openvino

    converted = openvino.convert_model(model, example_input=torch.zeros(1, 3, *size))
    converted.reshape([1, 3, *size])
    return converted


def write_ir(
    float_model,
    path: Path,
    size: tuple[int, int],
    preset: str,
    old_form: bool = False,
    images: np.ndarray | None = None,
) -> Path:
    """NNCF-quantized IR at `path`.

    preset    "mixed" or "performance"
    old_form  FP32 weights behind FakeQuantize in place of int8 weights
    images    float32 (4, 3, H, W) to calibrate on, made-up scenes if None
    """
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    _quiet()
    advanced = None
    if old_form:
        advanced = AdvancedQuantizationParameters(
            backend_params={"compress_weights": False}, overflow_fix=OverflowFix.DISABLE
        )
    quantized = nncf.quantize(
        float_model.clone(),
        _calibration(size, lambda x: x, images),
        subset_size=4,
        preset=nncf.QuantizationPreset(preset),
        advanced_parameters=advanced,
    )
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
    return path


def write_onnx_qdq(model: ICNet, path: Path, size: tuple[int, int], preset: str = "mixed") -> Path:
    """NNCF-quantized ONNX with QuantizeLinear and DequantizeLinear."""
    import nncf
    import onnx

    _quiet()
    floating = path.with_suffix(".float.onnx")
    torch.onnx.export(model, (torch.zeros(1, 3, *size),), str(floating), dynamo=False, opset_version=17)
    graph = onnx.load(str(floating))
    name = graph.graph.input[0].name
    quantized = nncf.quantize(
        graph, _calibration(size, lambda x: {name: x}), subset_size=4, preset=nncf.QuantizationPreset(preset)
    )
    onnx.save(quantized, str(path))
    return path


def write_onnx_fake_quantize(model: ICNet, path: Path, size: tuple[int, int], preset: str = "mixed") -> Path:
    """NNCF's PyTorch back end exported as it trains: custom FakeQuantize operations, batch norms unfolded.

    Without the overflow fix, whose half range puts the largest weight of each channel exactly between two
    codes, where runtimes differ.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    _quiet()
    example = torch.zeros(1, 3, *size)
    quantized = nncf.quantize(
        model,
        _calibration(size, torch.from_numpy),
        subset_size=4,
        preset=nncf.QuantizationPreset(preset),
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
    )
    torch.onnx.export(
        quantized,
        (example,),
        str(path),
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    return path


def main(folder: str, height: str = "192", width: str = "192") -> None:
    """Write one file of every kind into `folder`."""
    target, size = Path(folder), (int(height), int(width))
    target.mkdir(parents=True, exist_ok=True)
    model = torch_icnet(size)
    converted = openvino_model(model, size)
    for preset in ("mixed", "performance"):
        print(write_ir(converted, target / f"{preset}.xml", size, preset))
        print(write_ir(converted, target / f"{preset}_old.xml", size, preset, old_form=True))
    print(write_onnx_qdq(model, target / "qdq.onnx", size))
    print(write_onnx_fake_quantize(model, target / "fake_quantize.onnx", size))


if __name__ == "__main__":
    main(*sys.argv[1:])
