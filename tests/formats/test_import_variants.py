"""Networks written in other ways, exported by PyTorch and quantized by ONNX Runtime: read, or refused with advice."""

from __future__ import annotations

import logging

import numpy as np
import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package} (extra peers)")

import make_ort  # noqa: E402
import onnx  # noqa: E402
import onnx.version_converter  # noqa: E402
import torch  # noqa: E402
from make_ort import Small, blobs, exported, quantized  # noqa: E402
from onnxruntime.quantization import QuantFormat, QuantType  # noqa: E402
from test_import_ort import assert_agree, both  # noqa: E402
from torch.nn import functional  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet.formats.errors import FormatError  # noqa: E402


@pytest.fixture(autouse=True)
def quiet():
    """ONNX Runtime advises on preprocessing by the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    yield
    logging.getLogger().setLevel(level)


class Varied(Small):
    """`Small` with one part written otherwise."""

    def __init__(self, part: str) -> None:
        super().__init__("logits")
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self._stem(x))
        if self.part == "zeros before the pool":
            x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2)
        else:
            x = functional.max_pool2d(x, 3, 2, 1)
        if self.part == "transposed twice":
            x = x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)
        if self.part == "dropout":
            x = functional.dropout(x, 0.5, training=True)
        x = functional.relu(self.middle(x) + x)
        match self.part:
            case "pooled":
                tiles = functional.interpolate(functional.avg_pool2d(x, 4), scale_factor=4.0)
                x = x + tiles + functional.adaptive_avg_pool2d(x, 1)
            case "groups":
                x = functional.relu(
                    functional.conv2d(x, self.middle.weight[:, :4], self.middle.bias, 1, 1, groups=4)
                )
            case "each channel":
                x = functional.relu(
                    functional.conv2d(x, self.middle.weight[:, :1], self.middle.bias, 1, 1, groups=16)
                )
            case "hardswish":
                x = functional.hardswish(x)
            case "bilinear":
                x = functional.interpolate(
                    functional.interpolate(x, scale_factor=0.5), scale_factor=2.0, mode="bilinear"
                )
        return self._head(self.head(x))

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        match self.part:
            case "zeros around":
                return functional.conv2d(functional.pad(x, (1, 1, 1, 1)), self.stem.weight, self.stem.bias, 2)
            case "zeros on one side":
                return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.stem.weight, self.stem.bias, 2)
            case "mirrored":
                padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
                return functional.conv2d(padded, self.stem.weight, self.stem.bias, 2)
        return self.stem(x)

    def _head(self, x: torch.Tensor) -> torch.Tensor:
        match self.part:
            case "first of the batch":
                return x[0]
            case "log softmax":
                return functional.log_softmax(x, 1)
            case "sigmoid":
                return torch.sigmoid(x)
            case "bytes":
                return (functional.softmax(x, 1) * 255).to(torch.uint8)
            case "softmax, then bilinear":
                return functional.interpolate(functional.softmax(x, 1), scale_factor=4.0, mode="bilinear")
            case "bicubic":
                return functional.interpolate(x, scale_factor=4.0, mode="bicubic")
        return x


@pytest.mark.parametrize(
    "part",
    [
        *(
            "zeros around",
            "zeros on one side",
            "zeros before the pool",
            "transposed twice",
            "first of the batch",
        ),
        *("groups", "each channel"),
    ],
)
def test_read(tmp_path, part):
    assert_agree(*both(tmp_path, Varied(part)))


def test_averages_of_codes(tmp_path):
    options = {"quant_format": QuantFormat.QOperator}
    net, found, expected = both(tmp_path, Varied("pooled"), **options)
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"QLinearAveragePool", "QLinearGlobalAveragePool"} <= kinds
    assert_agree(net, found, expected)


@pytest.mark.parametrize("version", [11, 13, 17, 23])
def test_operator_sets(tmp_path, version):
    settings = {"opset_version": min(version, 18)}
    path = exported(Small("nearest softmax"), tmp_path / "f.onnx", **settings)
    path = quantized(path, tmp_path / "q.onnx", per_channel=version > 11)
    if version > 18:
        onnx.save(onnx.version_converter.convert_version(onnx.load(path), version), path)
    (found,) = (entry.version for entry in onnx.load(path).opset_import if entry.domain == "")
    assert found == version
    blob = blobs(9)[8]
    result, expected = sparse_icnet.load(path, threads=1)(blob), make_ort.run(path, blob)
    np.testing.assert_allclose(result, expected, atol=0.51 / 255)


REFUSED = {
    "mirrored": "expected padding with zeros, found mode 'reflect': train or export with zero padding",
    "hardswish": "'HardSwish' is not supported here: the engine knows ReLU alone",
    "bilinear": "found one within the network: train and export it with mode 'nearest'",
    "log softmax": "'LogSoftmax' is not supported here: it keeps the order of the logits: return the logits",
    "sigmoid": "'Sigmoid' is not supported here: as the head, return the logits",
    "bytes": "found 'uint8': return real values as they are, or their argmax",
    "softmax, then bilinear": "expected a bilinear resize before the softmax, found it behind: interpolate the logits",
    "bicubic": "found 'cubic': train and export with mode 'nearest', or the last resize 'bilinear'",
}


@pytest.mark.parametrize("part", REFUSED)
def test_refused_with_advice(tmp_path, part):
    path = quantized(exported(Varied(part), tmp_path / "f.onnx"), tmp_path / "q.onnx")
    with pytest.raises(FormatError, match=REFUSED[part]):
        sparse_icnet.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"activation_type": QuantType.QUInt16},
            "of type uint16: quantize activations to 8 bits, activation_type=",
        ),
        (
            {"activation_type": QuantType.QInt16},
            "of type int16: quantize activations to 8 bits, activation_type=",
        ),
        ({"weight_type": QuantType.QInt16, "per_channel": False}, "quantize them to 8 bits, as weight_type="),
        ({"weight_type": QuantType.QInt4, "per_channel": False}, "found int4: quantize weights"),
    ],
)
def test_other_numbers_of_bits_are_refused_with_advice(tmp_path, options, message):
    path = quantized(exported(Small(), tmp_path / "f.onnx"), tmp_path / "q.onnx", **options)
    with pytest.raises(FormatError, match=message):
        sparse_icnet.load(path)


def _two_pictures(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def _without_first_quantizer(graph):
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    graph.node.remove(first)
    for node in graph.node:
        node.input[:] = ["image" if name == first.output[0] else name for name in node.input]
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


def _without_last_dequantizer(graph):
    last = next(node for node in graph.node if "result" in node.output)
    graph.node.remove(last)
    for node in graph.node:
        node.output[:] = ["result" if name == last.input[0] else name for name in node.output]
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_two_pictures, r"found \(2, 3, 64, 96\): export the network with one picture, or any number"),
        (_without_first_quantizer, "keep the quantizer of the input in the file"),
        (_without_last_dequantizer, "found codes: keep the DequantizeLinear at the end"),
    ],
)
def test_other_ends_are_refused_with_advice(tmp_path, change, message):
    path = quantized(exported(Small(), tmp_path / "f.onnx"), tmp_path / "q.onnx")
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path)
    with pytest.raises(FormatError, match=message):
        sparse_icnet.load(path)


def test_any_number_of_pictures(tmp_path):
    """Exported with a free batch: one after the other."""
    axes = {"dynamic_axes": {"image": {0: "n"}, "result": {0: "n"}}}
    path = quantized(exported(Small("nearest softmax"), tmp_path / "f.onnx", **axes), tmp_path / "q.onnx")
    net, pair = sparse_icnet.load(path, threads=1), np.concatenate(blobs(9)[7:])
    found = net(pair)
    np.testing.assert_allclose(found, make_ort.run(path, pair), atol=0.51 / 255)
    assert found.shape[0] == 2


def test_names_of_any_script(tmp_path):
    path = quantized(exported(Small("softmax"), tmp_path / "f.onnx"), tmp_path / "q.onnx")
    plain = sparse_icnet.load(path, threads=1)
    proto = onnx.load(path)
    renamed = {name for node in proto.graph.node for name in node.output} - {"result"}
    for node in proto.graph.node:
        node.name = f"модель/слой: {node.name} ü"
        for names in (node.input, node.output):
            names[:] = [f"/日本/{name}" if name in renamed else name for name in names]
    onnx.save(proto, path)
    blob = blobs(1)[0]
    np.testing.assert_array_equal(sparse_icnet.load(path, threads=1)(blob), plain(blob))
