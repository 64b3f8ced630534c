"""Networks exported by PyTorch and quantized by ONNX Runtime: what they end in, and what the tools leave in them."""

from __future__ import annotations

import ast
import json
import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package} (extra peers)")

import make_ort  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from make_ort import Small, blobs, exported, quantized, run  # noqa: E402
from onnxruntime.quantization import QuantFormat, QuantType  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet import formats  # noqa: E402
from sparse_icnet.blobs import file_output  # noqa: E402
from sparse_icnet.formats.errors import FormatError  # noqa: E402
from sparse_icnet.formats.exchange.build import float_model  # noqa: E402
from sparse_icnet.network.graph import Quantize  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402


@pytest.fixture(autouse=True)
def quiet():
    """ONNX Runtime advises on preprocessing by the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    yield
    logging.getLogger().setLevel(level)


def both(tmp_path, model, float_options=None, **options) -> tuple[sparse_icnet.Model, np.ndarray, np.ndarray]:
    """(the network, what it returns for a blob, what ONNX Runtime computes); the engine equals the oracle on the way."""
    path = exported(model, tmp_path / "float.onnx", **(float_options or {}))
    path = quantized(path, tmp_path / "model.onnx", **options)
    net = sparse_icnet.load(path, threads=1)
    blob = blobs(9)[8]
    found = net(blob)
    result = file_output(net.graph, Oracle(net.graph, blob[0]).output())
    np.testing.assert_array_equal(found.reshape(result.shape), result)
    expected = run(path, blob)
    assert len(np.unique(expected)) > 3
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    return net, found, expected


def assert_agree(net: sparse_icnet.Model, found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for float rounding, which at a tie of a quantizer makes a step of one code."""
    step = max(op.quantizer.scale for op in net.graph if isinstance(op, Quantize))
    np.testing.assert_allclose(found, expected, atol=1.5 * step)
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.01


@pytest.mark.parametrize("tail", ["logits", "nearest"])
def test_logits_as_output(tmp_path, tail):
    assert_agree(*both(tmp_path, Small(tail)))


@pytest.mark.parametrize("tail", ["bilinear", "corners"])
def test_bilinear_logits_without_their_last_quantizer(tmp_path, tail):
    net, found, expected = both(tmp_path, Small(tail))
    quantizers = [op.quantizer for op in net.graph if isinstance(op, Quantize)]
    np.testing.assert_allclose(found, expected, atol=0.51 * max(q.scale for q in quantizers))
    assert "a quantizer behind the bilinear resize, is left out" in net.meta.notes


@pytest.mark.parametrize("tail", ["softmax", "nearest softmax", "softmax nearest"])
def test_a_quantizer_behind_the_softmax_is_left_out(tmp_path, tail):
    net, found, expected = both(tmp_path, Small(tail))
    np.testing.assert_allclose(found, expected, atol=0.51 / 255)  # it has 256 codes for 0..1
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert "a quantizer behind the softmax, is left out" in net.meta.notes


@pytest.mark.parametrize(
    "tail", ["argmax", "argmax-kept", "softmax argmax", "argmax int32", "argmax uint8", "nearest argmax"]
)
def test_class_maps_of_any_type_and_rank(tmp_path, tail):
    _, found, expected = both(tmp_path, Small(tail))
    assert np.mean(found != expected) < 0.003  # probabilities of 8 bits are often equal


@pytest.mark.parametrize("tail", ["logits", "bilinear", "softmax", "argmax"])
def test_pictures_are_segmented_whatever_the_end(tmp_path, tail):
    path = quantized(exported(Small(tail), tmp_path / "float.onnx"), tmp_path / "model.onnx")
    net = sparse_icnet.load(path, threads=1)
    picture = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    plain = quantized(exported(Small("logits"), tmp_path / "f.onnx"), tmp_path / "plain.onnx")
    expected = sparse_icnet.load(plain, threads=1)
    np.testing.assert_array_equal(net.segment(picture), expected.segment(picture))
    np.testing.assert_allclose(net.probabilities(picture).sum(0), 1, atol=1e-5)
    assert net.predict(picture).classes.shape == (50, 70)


def test_symmetric_activations_before_a_padded_max_pool(tmp_path):
    options = {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
    net, found, expected = both(tmp_path, Small("logits"), **options)
    signed = [op for op in net.graph if isinstance(op, Quantize) and op.quantizer.low < 0]
    assert all(op.quantizer.zero_point == 0 for op in signed)
    assert len(signed) > 2
    assert_agree(net, found, expected)


def test_quantizers_of_onnx_runtimes_own_domain(tmp_path):
    options = {"extra_options": {"UseQDQContribOps": True}}
    net, found, expected = both(tmp_path, Small("logits"), **options)
    proto = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in proto.graph.node if "Quantize" in node.op_type} == {"com.microsoft"}
    assert_agree(net, found, expected)


def test_batch_norm_behind_a_quantized_convolution(tmp_path):
    model = Small("logits", norm=True)
    net, found, expected = both(tmp_path, model, float_options={"training": torch.onnx.TrainingMode.PRESERVE})
    assert any(node.op_type == "BatchNormalization" for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert_agree(net, found, expected)


@pytest.mark.parametrize("tail", ["logits", "softmax", "nearest argmax"])
def test_operations_on_codes(tmp_path, tail):
    options = {"quant_format": QuantFormat.QOperator}
    net, found, expected = both(tmp_path, Small(tail), **options)
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"QLinearConv", "QLinearAdd"} <= kinds
    if tail == "logits":
        assert_agree(net, found, expected)
    elif tail == "softmax":
        np.testing.assert_allclose(found, expected, atol=0.02)
    else:
        assert np.mean(found != expected) < 0.01


def test_data_beside_the_model(tmp_path):
    """The newer exporter of PyTorch writes such files by itself."""
    path = quantized(exported(Small("logits"), tmp_path / "float.onnx"), tmp_path / "inside.onnx")
    settings = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save_model(onnx.load(path), tmp_path / "model.onnx", **settings)
    expected, found = formats.load(path), formats.load(tmp_path / "model.onnx")
    for one, other in zip(expected.convolutions, found.convolutions, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
    (tmp_path / "weights.data").rename(tmp_path / "elsewhere")
    (tmp_path / "weights.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match=r"expected the file .*weights\.data with its data, found a link"):
        formats.load(tmp_path / "model.onnx")
    (tmp_path / "weights.data").unlink()
    with pytest.raises(FormatError, match="found none"):
        formats.load(tmp_path / "model.onnx")
    (tmp_path / "weights.data").write_bytes((tmp_path / "elsewhere").read_bytes()[:-200])
    with pytest.raises(FormatError, match=r"expected \d+ bytes at \d+ of .*weights\.data, found"):
        formats.load(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../weights.data", "of the model's own folder, found '../weights.data'"),
        ("location", "/etc/passwd", "of the model's own folder"),
        ("location", "", "of the model's own folder"),
        ("location", "C:\\weights", "of the model's own folder"),
        ("location", ".", "of the model's own folder"),
        ("location", "folder", "found a folder"),
        ("offset", "-1", "whole number as offset"),
        ("location", "x" * 256, "of the model's own folder"),
        ("offset", "999999", "found 0"),
        ("offset", "9" * 18, "found 0"),
        ("length", "x", "whole number as length"),
        ("length", "3", "bytes of external data, found 3"),
    ],
)
def test_data_elsewhere_is_refused(tmp_path, key, value, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "weights.data").write_bytes(bytes(1 << 16))
    proto = onnx.load(quantized(exported(Small("logits"), tmp_path / "f.onnx"), tmp_path / "q.onnx"))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for name, text in ({"location": "weights.data"} | {key: value}).items():
        tensor.external_data.add(key=name, value=text)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(FormatError, match=re.escape(message)):
        formats.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_float_model_says_how_nncf_quantizes_it(tmp_path, suffix):
    path = exported(Small("softmax"), tmp_path / "net.onnx")
    if suffix == ".xml":
        openvino = pytest.importorskip("openvino", reason="needs openvino (extra peers)")
        openvino.save_model(openvino.Core().read_model(path), tmp_path / "net.xml")
    with pytest.raises(FormatError, match="expected an INT8 model, found one without quantizers") as caught:
        sparse_icnet.load(tmp_path / f"net{suffix}")
    first, *advice = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / f'net{suffix}'}: ")
    assert len(advice) == 5
    assert all(f"net{end}" in str(caught.value) for end in (suffix, "-int8.xml"))


@pytest.mark.parametrize("name", ["net.onnx", "a\"b'.onnx", "a\nb.onnx"])
def test_the_advice_about_a_float_model_is_python_whatever_the_file_is_called(name):
    _, *advice = float_model(f"models/{name}").splitlines()[name.count("\n") :]
    tree = ast.parse("\n".join(line.strip() for line in advice))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert texts == [name, f"{Path(name).stem}-int8.xml"]


def test_the_advice_works(tmp_path, monkeypatch):
    """The lines that a float model is refused with, run as they stand."""
    pytest.importorskip("nncf", reason="needs nncf (extra peers)")
    path = exported(Small("softmax"), tmp_path / "net.onnx")
    with pytest.raises(FormatError) as caught:
        sparse_icnet.load(path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {"BLOBS": blobs(4)})
    net = sparse_icnet.load(tmp_path / "net-int8.xml", threads=1)
    assert net(blobs(1)[0]).shape == (1, make_ort.CLASSES, 16, 24)


def test_unsigned_weights_around_a_zero_point(tmp_path):
    """Their distances from the zero point need 9 bits: a sum of two convolutions."""
    options = {"weight_type": QuantType.QUInt8, "per_channel": False}
    net, found, expected = both(tmp_path, Small("logits"), **options)
    rests = [op for op in net.graph.convolutions if op.name.endswith("/rest")]
    assert rests
    assert all(np.count_nonzero(op.weight) < op.weight.size / 4 for op in rests)
    assert_agree(net, found, expected)


class TwoHeads(torch.nn.Module):
    """A network as it is trained: with an auxiliary output."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.other = Small("softmax"), Small("logits")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(x), self.other(x)


def test_one_of_several_outputs(tmp_path):
    names = {"output_names": ["result", "aux"]}
    path = quantized(exported(TwoHeads(), tmp_path / "f.onnx", **names), tmp_path / "net.onnx")
    with pytest.raises(
        FormatError, match=r"expected one network output, found 2 'result', 'aux': choose .* output="
    ):
        sparse_icnet.load(path)
    with pytest.raises(FormatError, match=r"expected an output of the file, 'result', 'aux', found 'auxx'"):
        sparse_icnet.load(path, output="auxx")
    net = sparse_icnet.load(path, threads=1, output="aux")
    again = pickle.loads(pickle.dumps(net))
    blob = blobs(1)[0]
    found = net(blob)
    np.testing.assert_array_equal(again(blob), found)
    assert found.min() < -0.1  # logits
    np.testing.assert_allclose(sparse_icnet.load(path, output="result")(blob).sum(1), 1, atol=1e-5)


def test_the_command_line_knows_outputs_and_notes(tmp_path, run):
    names = {"output_names": ["result", "aux"]}
    path = quantized(exported(TwoHeads(), tmp_path / "f.onnx", **names), tmp_path / "net.onnx")
    code, _, err = run("info", path)
    assert code == 2
    assert "choose one by its name, output='result' or --output result" in err
    code, _, err = run("info", path, "--output", "auxx")
    assert (code, "did you mean aux?" in err) == (2, True)
    code, out, _ = run("info", path, "--output", "aux", "--json", tmp_path / "i.json", "--threads", "1")
    assert code == 0
    assert "the file takes float32 (1, 3, 64, 96), RGB, and gives float32 (1, 6, 16, 24)" in " ".join(
        out.split()
    )
    figures = json.loads((tmp_path / "i.json").read_text())
    assert "assumed to be normalized as the model card says" in figures["notes"]
    assert figures["notes"].split("; ")[0] in " ".join(out.split())
    assert run("convert", path, tmp_path / "aux.npz", "--output", "aux", "--bgr")[0] == 0
    kept = sparse_icnet.load(tmp_path / "aux.npz", threads=1)
    assert kept.graph.faces.input.bgr
    blob = blobs(1)[0]
    np.testing.assert_array_equal(kept(blob), sparse_icnet.load(path, threads=1, output="aux")(blob))


@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
def test_openvino_saves_the_same_network(tmp_path, kind):
    """There QuantizeLinear is a FakeQuantize to codes and a Convert, DequantizeLinear a Subtract and a Multiply."""
    openvino = pytest.importorskip("openvino", reason="needs openvino (extra peers)")
    options = {"activation_type": getattr(QuantType, kind)}
    path = quantized(
        exported(Small("nearest softmax"), tmp_path / "f.onnx"), tmp_path / "net.onnx", **options
    )
    openvino.save_model(openvino.Core().read_model(path), tmp_path / "net.xml", compress_to_fp16=False)
    graph, saved = formats.load(path), formats.load(tmp_path / "net.xml")
    for blob in blobs(3):
        np.testing.assert_array_equal(Oracle(saved, blob[0]).output(), Oracle(graph, blob[0]).output())
    assert "Convert" in (tmp_path / "net.xml").read_text()
