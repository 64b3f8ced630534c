"""Files with layers in float32, or without quantizers around sums and pools, as NNCF and ONNX Runtime write them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package} (extra peers)")

import make_ort  # noqa: E402
import onnx  # noqa: E402
from make_ort import Pooled, blobs, exported, quantized  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet.network.graph import (  # noqa: E402
    AveragePool,
    Convolution,
    FloatConvolution,
    Graph,
    MaxPool,
    Quantize,
)
from sparse_icnet.reference.evaluate import evaluate_float  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402


@pytest.fixture(autouse=True)
def quiet():
    """ONNX Runtime advises on preprocessing by the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def float_onnx(tmp_path_factory) -> Path:
    return exported(Pooled(), tmp_path_factory.mktemp("float") / "float.onnx")


def nodes_of(path: Path, kind: str) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == kind]


def check(path: Path, run) -> Graph:
    """Engine and oracle agree to the bit, and with the runtime as float32 does with float64, whose ties differ."""
    net = sparse_icnet.load(path, threads=2)
    graph = net.graph
    for blob in blobs(10)[8:]:
        expected = run(blob)[0]
        found = Oracle(graph, blob[0]).output()
        np.testing.assert_array_equal(net(blob)[0], found)
        single, double = (
            evaluate_float(graph, blob[0], kind)[graph.output] for kind in (np.float32, np.float64)
        )
        step = max(op.quantizer.scale for op in graph if isinstance(op, Quantize))
        floor = max(np.abs(single - double).mean(), 1e-3 * step)
        assert np.ptp(expected) > 1
        assert np.abs(found - expected).mean() <= 1.5 * floor
        np.testing.assert_allclose(found, expected, atol=3 * step)
    return graph


FIRST, SECOND, LAST = 0, 2, -1


@pytest.mark.parametrize("which", [(FIRST,), (LAST,), (SECOND,), (1,), (0, 2, 3, 6, 7)])
def test_nodes_that_onnx_runtime_excludes(tmp_path, float_onnx, which):
    names = nodes_of(float_onnx, "Conv")
    chosen = [names[number] for number in which]
    path = quantized(float_onnx, tmp_path / "model.onnx", nodes_to_exclude=chosen)
    graph = check(path, lambda blob: make_ort.run(path, blob))
    assert sorted(op.name for op in graph if isinstance(op, FloatConvolution)) == sorted(chosen)
    assert len(graph.layers) == len(names)


@pytest.mark.parametrize("kinds", [["Conv"], ["Conv", "MaxPool"], ["Conv", "Add"], ["Add"]])
def test_kinds_that_onnx_runtime_quantizes(tmp_path, float_onnx, kinds):
    path = quantized(float_onnx, tmp_path / "model.onnx", op_types_to_quantize=kinds)
    graph = check(path, lambda blob: make_ort.run(path, blob))
    real = [op for op in graph if isinstance(op, AveragePool) and graph.quantizer(op.input) is None]
    assert bool(real) == ("Add" not in kinds)
    kind = Convolution if "Conv" in kinds else FloatConvolution
    assert all(isinstance(op, kind) for op in graph.layers)


AS_WRITTEN = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}  # FakeQuantize in float32


@pytest.mark.parametrize(
    "scope",
    [
        {"types": ["Add", "AdaptiveAvgPool", "AvgPool", "ReduceMean", "MaxPool", "Interpolate"]},
        {"types": ["Add"]},
        {"types": ["AdaptiveAvgPool", "AvgPool", "ReduceMean"]},
        {"convolutions": (FIRST, 2, LAST)},
        {"smooth": True},
    ],
    ids=str,
)
def test_scopes_that_nncf_ignores(tmp_path, float_onnx, scope):
    nncf = pytest.importorskip("nncf", reason="needs nncf (extra peers)")
    openvino = pytest.importorskip("openvino", reason="needs openvino (extra peers)")
    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    model = core.read_model(float_onnx)
    kinds = {op.get_type_name() for op in model.get_ops()}
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    chosen = [names[number] for number in scope.get("convolutions", ())]
    options = {}
    if "smooth" in scope:
        alphas = nncf.AdvancedSmoothQuantParameters(convolution=0.5)
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas)
        options["model_type"] = nncf.ModelType.TRANSFORMER
    result = nncf.quantize(
        model,
        nncf.Dataset(blobs(4)),
        subset_size=4,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            names=chosen, types=[kind for kind in scope.get("types", ()) if kind in kinds], validate=False
        ),
        **options,
    )
    openvino.save_model(result, tmp_path / "model.xml", compress_to_fp16=False)
    compiled = core.compile_model(core.read_model(tmp_path / "model.xml"), "CPU", AS_WRITTEN)
    graph = check(tmp_path / "model.xml", lambda blob: compiled(blob)[0])
    floats = [op for op in graph if isinstance(op, FloatConvolution)]
    if "smooth" in scope:  # scales of channels before convolutions, on sums and pools of real values
        assert floats
        assert all(np.count_nonzero(op.weight) == len(op.weight) for op in floats)
        assert "is computed in float32" in graph.meta.notes
    else:
        assert sorted(op.name for op in floats) == sorted(chosen)
    real = [op for op in graph if isinstance(op, AveragePool | MaxPool) and graph.quantizer(op.input) is None]
    assert real or "AvgPool" not in scope.get("types", ())
