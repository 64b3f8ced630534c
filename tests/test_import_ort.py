"""Networks exported by PyTorch and quantized by ONNX Runtime: what they end in, and what the tools leave in them."""

from __future__ import annotations

import logging

import numpy as np
import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package} (extra peers)")

from make_ort import Small, blobs, exported, quantized, run  # noqa: E402
from onnxruntime.quantization import QuantType  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet.network.graph import Quantize  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402


@pytest.fixture(autouse=True)
def quiet():
    """ONNX Runtime advises on preprocessing by the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    yield
    logging.getLogger().setLevel(level)


def both(tmp_path, model, **options) -> tuple[sparse_icnet.Model, np.ndarray, np.ndarray]:
    """(the network, what it returns for a blob, what ONNX Runtime computes); the engine equals the oracle on the way."""
    path = quantized(exported(model, tmp_path / "float.onnx"), tmp_path / "model.onnx", **options)
    net = sparse_icnet.load(path, threads=1)
    blob = blobs(9)[8]
    found = net(blob)
    np.testing.assert_array_equal(found[0], Oracle(net.graph, blob[0]).output())
    assert found[0].shape == net.graph.shape(net.graph.output)
    expected = run(path, blob)
    assert len(np.unique(expected)) > 3
    return net, found.reshape(expected.shape), expected


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
    assert found.dtype == np.uint8
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
