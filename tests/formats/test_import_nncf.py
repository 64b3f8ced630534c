"""Files that NNCF itself wrote, from an ICNet built in PyTorch: they load, and agree with OpenVINO and "
"ONNX Runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra peers)")
nncf = pytest.importorskip("nncf", reason="needs nncf (extra peers)")
openvino = pytest.importorskip("openvino", reason="needs openvino (extra peers)")

import make_nncf  # noqa: E402
from PIL import Image  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet import formats  # noqa: E402
from sparse_icnet.network.graph import (  # noqa: E402
    AveragePool,
    Graph,
    MaxPool,
    Normalization,
    Quantize,
    Relu,
    Resize,
    Softmax,
)
from sparse_icnet.reference.evaluate import evaluate_float  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402

SIZE = (192, 192)
TRAINED_SIZE = (384, 576)
FRAMES = 6
AS_WRITTEN = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}  # FakeQuantize in float32
IRS = ("mixed", "performance", "mixed old")


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return make_nncf.torch_icnet(SIZE)


@pytest.fixture(scope="module")
def float_ir(model):
    return make_nncf.openvino_model(model, SIZE)


@pytest.fixture(scope="module", params=IRS)
def ir(request, float_ir, tmp_path_factory) -> Path:
    """An IR of version 11 with int8 weights; an old one is of version 10 with float weights."""
    preset, *old = request.param.split()
    path = tmp_path_factory.mktemp("nncf") / "m.xml"
    make_nncf.write_ir(float_ir, path, SIZE, preset, bool(old))
    if old:
        path.write_text(path.read_text().replace('version="11"', 'version="10"', 1))
    return path


@pytest.fixture(scope="module")
def qdq(model, tmp_path_factory) -> Path:
    pytest.importorskip("onnx", reason="needs onnx (extra peers)")
    return make_nncf.write_onnx_qdq(model, tmp_path_factory.mktemp("nncf") / "qdq.onnx", SIZE)


@pytest.fixture(scope="module")
def fake_quantize(model, tmp_path_factory) -> Path:
    pytest.importorskip("onnx", reason="needs onnx (extra peers)")
    if not (shutil.which("c++") or shutil.which("g++")) or not shutil.which("ninja"):
        pytest.skip("NNCF's PyTorch back end compiles an extension: needs g++ and ninja")
    folder = tmp_path_factory.mktemp("nncf")
    with pytest.MonkeyPatch.context() as patch:
        # A build folder of its own: a lock that an interrupted build left in the shared one would block this one.
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder / "extensions"))
        patch.setenv("NNCF_EXTENSION_LOAD_TIMEOUT", "600")
        return make_nncf.write_onnx_fake_quantize(model, folder / "fq.onnx", SIZE)


def check_structure(graph: Graph) -> None:
    counts = {
        kind: sum(isinstance(op, kind) for op in graph) for kind in (Quantize, Relu, MaxPool, AveragePool)
    }
    assert counts == {Quantize: 100, Relu: 57, MaxPool: 1, AveragePool: 4}
    assert len(graph.convolutions) == 64
    assert sum(isinstance(op, Resize) for op in graph) == 10
    assert isinstance(graph[graph.output], Softmax)
    assert graph.shape(graph.output) == (12, *SIZE)
    assert graph.normalization == Normalization()
    weights = np.concatenate([op.weight.ravel() for op in graph.convolutions])
    assert 6.6e6 < weights.size < 6.7e6
    assert 0.6 <= (weights == 0).mean() < 0.65
    assert len({op.name for op in graph}) == len(graph.ops)


def check_layers(graph: Graph, reference: dict[str, np.ndarray], blob: np.ndarray) -> None:
    """Each quantizer, given the reference's codes as its inputs: at most 0.01 % of codes differ, by one."""
    oracle = Oracle(graph, blob)
    oracle._codes.update(reference)
    assert len(reference) == 100
    total = different = 0
    for name, expected in reference.items():
        difference = np.abs(oracle._compute_codes(graph[name]) - expected)
        assert difference.max() <= 1, name
        total, different = total + difference.size, different + np.count_nonzero(difference)
    assert different <= total / 10_000, f"{different} of {total} codes"
    assert len(np.unique(expected)) > 20


def openvino_codes(path: Path, graph: Graph, blob: np.ndarray) -> dict[str, np.ndarray]:
    """Codes of every FakeQuantize as OpenVINO computes them in float32."""
    core = openvino.Core()
    model = core.read_model(path)
    names = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "FakeQuantize" and name in {
            op.name for op in graph if isinstance(op, Quantize)
        }:
            model.add_outputs(node.output(0))
            names.append(name)
    results = core.compile_model(model, "CPU", AS_WRITTEN)(blob[None])
    codes = {}
    for name, values in zip(names, list(results.values())[1:], strict=True):
        quantizer = graph[name].quantizer
        position = values[0].astype(np.float64) / quantizer.scale + quantizer.zero_point
        codes[name] = np.rint(position).astype(np.int16)
        assert np.abs(position - codes[name]).max() < 0.01, (
            f"{name}: OpenVINO's values are not codes of this quantizer"
        )
    return codes


def test_ir_agrees_with_openvino(ir):
    graph = formats.load(ir)
    check_structure(graph)
    blob = make_nncf.scenes(1, SIZE, 99)[0]
    check_layers(graph, openvino_codes(ir, graph, blob), blob)


def test_onnx_with_quantize_and_dequantize_agrees_with_onnx_runtime(qdq, model):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra peers)")
    graph = formats.load(qdq)
    check_structure(graph)
    proto = onnx.load(str(qdq))
    outputs = {node.name: node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    for output in outputs.values():
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(proto.SerializeToString(), options)
    blob = make_nncf.scenes(1, SIZE, 99)[0]
    _, *values = session.run(None, {session.get_inputs()[0].name: blob[None]})
    check_layers(graph, {name: v[0].astype(np.int16) for name, v in zip(outputs, values, strict=True)}, blob)
    for op in graph.convolutions:  # /medium/medium.0/reduce/convolution/Conv is medium.0.reduce.convolution
        *parts, _ = op.name.strip("/").split("/")
        path = [
            part
            for part, after in zip(parts, (*parts[1:], ""), strict=True)
            if not after.startswith(f"{part}.")
        ]
        pruned = model.get_submodule(".".join(path)).weight.detach().numpy() == 0
        assert pruned.mean() >= 0.59
        assert not op.weight[pruned].any(), op.name


def test_onnx_with_fake_quantize_agrees_with_openvino(fake_quantize):
    graph = formats.load(fake_quantize)
    check_structure(graph)
    blob = make_nncf.scenes(1, SIZE, 99)[0]
    check_layers(graph, openvino_codes(fake_quantize, graph, blob), blob)
    assert any(
        (op.weight_scale < 0).any() for op in graph.convolutions
    )  # unfolded batch norms with gamma < 0


def test_end_to_end_within_the_noise_floor(camvid, tmp_path):
    """Trained weights on photos: as far from OpenVINO's float evaluation as float32 is from float64, or "
    "1.5 times."""
    size, table = TRAINED_SIZE, Normalization().table()
    files = sorted((camvid / "val").glob("*.png"))
    chosen = files[:: len(files) // (FRAMES + 4)][: FRAMES + 4]
    images = [
        Image.open(file).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR) for file in chosen
    ]
    blobs = np.stack([np.stack([table[c][np.asarray(image)[..., c]] for c in range(3)]) for image in images])
    model = make_nncf.icnet_of(formats.load(sparse_icnet.DEFAULT_WEIGHTS))
    path = make_nncf.write_ir(
        make_nncf.openvino_model(model, size), tmp_path / "m.xml", size, "mixed", images=blobs[FRAMES:]
    )
    graph = formats.load(path)
    compiled = openvino.Core().compile_model(path, "CPU", AS_WRITTEN)
    noise = ours = 0
    for blob in blobs[:FRAMES]:
        single, double = (
            evaluate_float(graph, blob, dtype)[graph.output].argmax(0) for dtype in (np.float32, np.float64)
        )
        theirs = compiled(blob[None])[0][0].argmax(0)
        assert len(np.unique(theirs)) > 4
        noise += np.count_nonzero(single != double)
        ours += np.count_nonzero(Oracle(graph, blob).output().argmax(0) != theirs)
    assert noise > 0
    assert ours <= 1.5 * noise, f"{ours} pixels differ from OpenVINO, the noise floor is {noise}"
