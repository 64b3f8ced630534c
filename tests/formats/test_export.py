"""Exported models: well-formed, read back as they were, and computed alike by OpenVINO and ONNX Runtime."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from xml.etree import ElementTree

import numpy as np
import pytest
from graphs import as_exported, dyadic_blob, graphs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import random_blob, random_picture

from sparse_icnet import formats
from sparse_icnet.formats.exchange.tail import normalized
from sparse_icnet.formats.onnx import write as onnx_write
from sparse_icnet.formats.openvino import ranges
from sparse_icnet.formats.openvino import write as openvino_write
from sparse_icnet.network.graph import (
    Affine,
    Argmax,
    Convolution,
    Graph,
    Input,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
    pruned,
    resized,
)
from sparse_icnet.reference import compare, onnxruntime_peer, openvino_peer
from sparse_icnet.reference.equations import nearest
from sparse_icnet.reference.layers import layer_by_layer
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.target import TARGET

FULL_SIZE = (768, 960)
SHARE = 1e-4  # of the codes of a layer that may differ between runtimes, by one


def _needs(extras: str, *packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs the extra {extras}: {', '.join(missing)}")


onnx = _needs("`onnx`", "onnx")
onnxruntime = _needs("`onnx` and `reference`", "onnx", "onnxruntime")
openvino = _needs("`reference`", "openvino")


@pytest.fixture(scope="module")
def blob(tiny_graph) -> np.ndarray:
    return random_blob(tiny_graph, seed=5)


@pytest.fixture(scope="module")
def peer_graph(tiny_graph) -> Graph:
    """A network whose int8 products are exact in OpenVINO and ONNX Runtime on this CPU.

    Without VNNI they add pairs of products in 16 bits, saturating: weights of half the range, as NNCF makes them there.
    """
    if TARGET.name.endswith("vnni"):
        return tiny_graph
    halves = tuple(
        replace(op, weight=np.rint(op.weight / 2.01).astype(np.int8), weight_scale=2 * op.weight_scale)
        if isinstance(op, Convolution)
        else op
        for op in tiny_graph
    )
    assert max(np.abs(op.weight).max() for op in halves if isinstance(op, Convolution)) <= 64
    return replace(tiny_graph, ops=halves)


@pytest.fixture(scope="module")
def oracle(tiny_graph, blob) -> Oracle:
    return Oracle(tiny_graph, blob)


# The files


@pytest.mark.parametrize("form", ["int8", "fake_quantize"])
def test_ir_is_well_formed(tiny_graph, form):
    xml, constants = openvino_write.serialize(tiny_graph, "net", weights=form)
    net = ElementTree.fromstring(xml)
    assert (net.tag, net.get("version"), net.get("name")) == ("net", "11", "net")
    layers = {layer.get("id"): layer for layer in net.find("layers")}
    assert list(layers) == [str(i) for i in range(len(layers))]
    assert len({layer.get("name") for layer in layers.values()}) == len(layers)
    itemsize = {"f32": 4, "i8": 1, "i64": 8}
    end = 0
    for layer in layers.values():
        if layer.get("type") == "Const":
            data = layer.find("data").attrib
            shape = [int(length) for length in data["shape"].split(",")] if data["shape"] else []
            assert int(data["size"]) == int(np.prod(shape, dtype=int)) * itemsize[data["element_type"]]
            assert int(data["offset"]) >= end
            assert int(data["offset"]) % 64 == 0
            end = int(data["offset"]) + int(data["size"])
    assert end == len(constants)
    read = [(edge.get("to-layer"), edge.get("to-port")) for edge in net.find("edges")]
    ports = [
        (number, port.get("id")) for number, layer in layers.items() for port in layer.iterfind("input/port")
    ]
    assert sorted(read) == sorted(ports)


def test_ir_holds_the_weights_as_they_are(tiny_graph):
    """int8 codes and float32 scales lie in the .bin; every zero weight is the byte 0."""
    xml, constants = openvino_write.serialize(tiny_graph)
    layers = {layer.get("name"): layer.find("data") for layer in ElementTree.fromstring(xml).find("layers")}
    for op in tiny_graph.convolutions:
        for name, expected in (("codes", op.weight), ("scale", op.weight_scale)):
            data = layers.get(f"{op.name}/weight/{name}")
            if data is None:
                continue  # one constant for equal contents
            offset, size = int(data.get("offset")), int(data.get("size"))
            found = np.frombuffer(constants[offset : offset + size], expected.dtype)
            np.testing.assert_array_equal(found, expected.ravel())
    assert f"{tiny_graph.convolutions[0].name}/weight/codes" in layers


@pytest.mark.parametrize("suffix", [".xml", pytest.param(".onnx", marks=onnx)])
def test_file_appears_whole_or_not_at_all(tiny_graph, tmp_path, suffix, monkeypatch):
    path = tmp_path / f"model{suffix}"
    formats.save(tiny_graph, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == ({"model.xml", "model.bin"} if suffix == ".xml" else {"model.onnx"})

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        formats.save(tiny_graph, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("writer", "suffix"), [(openvino_write, ".xml"), (onnx_write, ".onnx")])
def test_name_must_end_as_the_format_does(tiny_graph, tmp_path, writer, suffix):
    with pytest.raises(ValueError, match=rf"model\.txt: .* ending in \{suffix}"):
        writer.save(tiny_graph, tmp_path / "model.txt")
    assert not any(tmp_path.iterdir())


def test_missing_package_names_the_extra(tiny_graph, monkeypatch):
    for package, extra, call in (
        ("onnx", "onnx", partial(onnx_write.serialize, tiny_graph)),
        ("onnxruntime", "reference", partial(onnxruntime_peer.OnnxRuntimeModel, tiny_graph)),
        ("openvino", "reference", partial(openvino_peer.OpenVinoModel, tiny_graph)),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"package {package}: pip install 'sparse-icnet\[{extra}\]'"):
            call()


def test_unknown_weight_form(tiny_graph):
    with pytest.raises(ValueError, match="weights must be 'int8' or 'fake_quantize', found 'int4'"):
        openvino_write.serialize(tiny_graph, weights="int4")


# Quantizers as ranges


@st.composite
def any_quantizer(draw: st.DrawFn) -> Quantizer:
    low = draw(st.integers(-128, 254))
    high = draw(st.integers(low + 1, min(low + 255, 255)))
    zero_point = draw(st.one_of(st.just(low), st.just(high), st.integers(low, high)))
    return Quantizer(draw(st.floats(2.0**-20, 2.0**13, width=32)), zero_point, low, high)


@given(any_quantizer())
@settings(max_examples=500)
def test_range_gives_the_scale_back(quantizer):
    low, high = map(float, ranges.activation_range(quantizer))
    assert np.float32((high - low) / (quantizer.levels - 1)) == quantizer.scale
    assert abs(-low / quantizer.scale - (quantizer.zero_point - quantizer.low)) < 1e-4


def test_range_leaves_zero_only_where_it_must():
    scales = np.random.default_rng(0).uniform(0.001, 0.1, 2000).astype(np.float32)
    lows = [ranges.activation_range(Quantizer(float(scale)))[0] for scale in scales]
    assert 0 < np.count_nonzero(lows) < 20
    sixteen_bits = np.float32(np.round(np.ldexp(scales, 19)) / 2**19)
    assert not any(ranges.activation_range(Quantizer(float(s)))[0] for s in sixteen_bits)


# Round trips


def _same_model(found: Graph, expected: Graph, scale_ulps: int = 0) -> None:
    assert {op.name: type(op) for op in found} == {op.name: type(op) for op in expected}
    assert (found.output, found.input.shape) == (expected.output, expected.input.shape)
    for op in expected:
        other = found[op.name]
        assert other.inputs == op.inputs
        if isinstance(op, Convolution):
            np.testing.assert_array_equal(other.weight, op.weight)
            np.testing.assert_array_max_ulp(other.weight_scale, op.weight_scale, scale_ulps)
            np.testing.assert_array_equal(other.bias, op.bias)
            assert (other.stride, other.dilation, other.padding) == (op.stride, op.dilation, op.padding)
        elif isinstance(op, Quantize):
            assert other.quantizer == op.quantizer


@pytest.mark.parametrize(
    ("suffix", "form"),
    [(".npz", None), (".xml", "int8"), (".xml", "fake_quantize"), pytest.param(".onnx", None, marks=onnx)],
)
def test_round_trip(tiny_graph, blob, oracle, tmp_path, suffix, form):
    """Layers, zeros, scales and quantizers survive; so do the bits of the result where scales are exact."""
    path = tmp_path / f"model{suffix}"
    if form is None:
        formats.save(tiny_graph, path)
    else:
        openvino_write.save(tiny_graph, path, weights=form)
    again = formats.load(path)
    _same_model(again, tiny_graph, scale_ulps=form == "fake_quantize")
    if form != "fake_quantize":
        np.testing.assert_array_equal(Oracle(again, blob).output(), oracle.output())


@onnx
def test_round_trip_through_every_format(tiny_graph, tmp_path):
    graph = tiny_graph
    for name in ("a.xml", "b.onnx", "c.npz", "d.onnx", "e.xml"):
        formats.save(graph, tmp_path / name)
        graph = formats.load(tmp_path / name)
    _same_model(graph, tiny_graph)


def test_round_trip_of_what_exporters_write(tiny_graph, tmp_path, blob):
    """Quantizers on the inputs of sums and behind resizes."""
    graph = as_exported(tiny_graph)
    formats.save(graph, tmp_path / "model.xml")
    again = formats.load(tmp_path / "model.xml")
    np.testing.assert_array_equal(Oracle(again, blob).output(), Oracle(graph, blob).output())


@given(graphs(), st.integers(0, 999))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trip_of_small_graphs(tmp_path, graph, seed):
    """Every kind of operation, and the same bits; codes are counted from 0 in an IR."""
    graph = replace(graph, ops=pruned(graph.ops, graph.output))
    assume(not (isinstance(graph[graph.output], Resize) and any(isinstance(op, Argmax) for op in graph)))
    ops, output, _ = normalized({op.name: op for op in graph}, graph.output)  # what reading leaves out
    graph = replace(graph, ops=pruned(ops.values(), output), output=output)
    assume(any(isinstance(op, Quantize) for op in graph))  # others are no INT8 models
    formats.save(graph, tmp_path / "model.xml")
    again = formats.load(tmp_path / "model.xml")
    blob = dyadic_blob(graph, seed)
    np.testing.assert_array_equal(_expected(again, blob), _expected(graph, blob))


# Small graphs of every kind: dyadic scales, so that float32 rounds nowhere and the results must be equal


def _comparable(graph: Graph) -> bool:
    """Whether runtimes must agree to the bit: no ties of an argmax and no resize by a fraction, whose index
    they compute in float32 (18 * 20 / 24 = 15 becomes 14.999999 in OpenVINO)."""
    for op in graph:
        if isinstance(op, Argmax):
            return False
        if isinstance(op, Resize):
            _, *size = graph.shape(op.input)
            if any(new % old and old % new for old, new in zip(size, op.size, strict=True)):
                return False
    return True


def _as_wide_as_its_kernels(graph: Graph) -> bool:
    """Over narrower maps OpenVINO 2026.4 multiplies with other weights: the 5x5 [[0, -59, 0, 0, -108], ...] with padding 2
    and stride 2 over codes (5, 0) in one column gives 5 * -108 where only the middle column of weights meets the map."""
    return all(
        op.dilation[1] * (op.weight.shape[3] - 1) < graph.shape(op.input)[2] for op in graph.convolutions
    )


def _even_zero_codes(graph: Graph) -> Graph:
    """FakeQuantize rounds x / s + z, (Q1) adds z after rounding: at ties they agree for even z - low."""
    ops = []
    for op in graph:
        if isinstance(op, Quantize):
            q = op.quantizer
            op = replace(op, quantizer=replace(q, zero_point=q.low + ((q.zero_point - q.low) & ~1)))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def _expected(graph: Graph, blob: np.ndarray) -> np.ndarray:
    return Oracle(graph, blob).output()


@openvino
@given(graphs(dyadic=True), st.integers(0, 999), st.sampled_from(["int8", "fake_quantize"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_small_graphs_in_openvino(graph, seed, form):
    assume(_comparable(graph) and _as_wide_as_its_kernels(graph))
    graph = _even_zero_codes(graph)
    blob = dyadic_blob(graph, seed)
    core = openvino_peer.import_openvino().Core()
    network = core.read_model(*openvino_write.serialize(graph, weights=form))
    properties = openvino_peer.settings(threads=1, int8=False, precision="f32")
    found = core.compile_model(network, "CPU", properties)([blob[None]])[0][0]
    np.testing.assert_array_equal(found, _expected(graph, blob))


@onnxruntime
@given(graphs(dyadic=True), st.integers(0, 999))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_small_graphs_in_onnxruntime(graph, seed):
    assume(_comparable(graph))
    blob = dyadic_blob(graph, seed)
    found = onnxruntime_peer.OnnxRuntimeModel(graph, 1, int8=False)(blob[None])[0]
    np.testing.assert_array_equal(found, _expected(graph, blob))


def _affine_argmax(seed: int = 0) -> Graph:
    """Affine > Quantize > Convolution > ReLU > Argmax."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (12, 3, 3, 3)).astype(np.int8)
    scale, bias = np.full(12, 2.0**-8, np.float32), rng.normal(0, 0.3, 12).astype(np.float32)
    ops = (
        Input("image", (3, 16, 24)),
        Affine("normal", "image", np.array([2, 0.5, 1], np.float32), np.array([0.25, -1, 0], np.float32)),
        Quantize("codes", "normal", Quantizer(2.0**-5, 100)),
        Convolution("scores", "codes", weight, scale, bias, padding=(1, 1, 1, 1)),
        Relu("positive", "scores"),
        Argmax("classes", "positive"),
    )
    return Graph(ops, "classes")


@openvino
@onnxruntime
def test_class_map_and_affine():
    graph = _affine_argmax()
    blob = dyadic_blob(graph, 3)
    expected = Oracle(graph, blob).output()
    assert len(np.unique(expected)) > 4
    for model in (openvino_peer.OpenVinoModel, onnxruntime_peer.OnnxRuntimeModel):
        found = model(graph, 1, int8=False)(blob[None])[0]
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


# ICNet


def _assert_layers_agree(layers) -> None:
    for layer in layers:
        assert layer.largest <= 1, layer
        assert layer.differing <= max(2, SHARE * layer.codes), layer
    assert sum(layer.differing for layer in layers) <= SHARE * sum(layer.codes for layer in layers)


@openvino
@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("exporter", ["ours", "nncf-like"])
def test_layer_by_layer_in_openvino(peer_graph, blob, int8, exporter):
    graph = peer_graph if exporter == "ours" else as_exported(peer_graph)
    layers = layer_by_layer(graph, blob, partial(openvino_peer.OpenVinoModel, threads=1, int8=int8))
    assert len(layers) == sum(isinstance(op, Quantize) for op in graph)
    _assert_layers_agree(layers)


@onnxruntime
@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float"])
def test_layer_by_layer_in_onnxruntime(tiny_graph, blob, int8):
    graph = onnxruntime_peer.with_int32_biases(tiny_graph) if int8 else tiny_graph
    peer = partial(onnxruntime_peer.OnnxRuntimeModel, threads=1, int8=int8)
    _assert_layers_agree(layer_by_layer(graph, blob, peer))


@openvino
def test_layer_by_layer_where_no_range_gives_the_scale(peer_graph, blob):
    """Ranges that leave zero by a hair cost OpenVINO neither exactness nor int8."""

    def without_range(quantizer: Quantizer) -> Quantizer:
        scale = np.float32(quantizer.scale)
        while not ranges.activation_range(Quantizer(float(scale)))[0]:
            scale = np.nextafter(scale, np.float32(1))
        return Quantizer(float(scale))

    ops = tuple(
        replace(op, quantizer=without_range(op.quantizer))
        if isinstance(op, Quantize) and op.quantizer.zero_point == 0
        else op
        for op in peer_graph
    )
    graph = replace(peer_graph, ops=ops)
    _assert_layers_agree(layer_by_layer(graph, blob, openvino_peer.OpenVinoModel))
    _assert_int8(openvino_peer.OpenVinoModel(graph), graph)


def _assert_int8(model: openvino_peer.OpenVinoModel, graph: Graph) -> None:
    convolutions = [executed for kind, executed, _ in model.executed() if kind == "Convolution"]
    assert len(convolutions) == len(graph.convolutions)
    assert all(executed.endswith("I8") for executed in convolutions), convolutions


@openvino
@pytest.mark.parametrize("form", ["int8", "fake_quantize"])
def test_openvino_executes_int8(tiny_graph, tmp_path, form):
    openvino_write.save(tiny_graph, tmp_path / "model.xml", weights=form)
    _assert_int8(openvino_peer.OpenVinoModel(tmp_path / "model.xml"), tiny_graph)
    reference = openvino_peer.OpenVinoModel(tmp_path / "model.xml", int8=False)
    assert not any(
        executed.endswith("I8") for kind, executed, _ in reference.executed() if kind == "Convolution"
    )


@openvino
@onnxruntime
def test_full_size(tiny_graph, tmp_path):
    """768x960: both runtimes load the files and agree with each other."""
    graph = resized(tiny_graph, FULL_SIZE)
    formats.save(graph, tmp_path / "model.xml")
    formats.save(graph, tmp_path / "model.onnx")
    blob = random_blob(graph, seed=2)[None]
    results = [
        openvino_peer.OpenVinoModel(tmp_path / "model.xml")(blob),
        onnxruntime_peer.OnnxRuntimeModel(tmp_path / "model.onnx")(blob),
    ]
    for result in results:
        assert result.shape == (1, 12, *FULL_SIZE)
        assert compare.triviality(graph, result[0]) is None
    agreement = np.mean(results[0].argmax(1) == results[1].argmax(1))
    assert agreement > 0.97


@openvino
@onnxruntime
def test_windows_of_the_pyramid_may_overlap(tiny_graph):
    """At 96x96 the last map is 3x3, which 2 and 6 bins do not tile."""
    graph = resized(tiny_graph, (96, 96))
    blob = random_blob(graph, seed=4)
    for model in (openvino_peer.OpenVinoModel, onnxruntime_peer.OnnxRuntimeModel):
        (pyramid,) = (
            layer
            for layer in layer_by_layer(graph, blob, partial(model, threads=1))
            if layer.tensor == "pyramid/codes"
        )
        assert pyramid.largest <= 1
        assert pyramid.differing <= SHARE * pyramid.codes + 1


# From image to class map


@openvino
@onnxruntime
@pytest.mark.parametrize("size", [None, (90, 150)], ids=["network size", "another size"])
def test_image_to_classes(peer_graph, size):
    """All of it in one graph gives what the parts give: fit, normalize, run, argmax, enlarge."""
    pillow = pytest.importorskip("PIL.Image")
    network_size = peer_graph.input.shape[1:]
    height, width = size or network_size
    picture = random_picture(height, width, seed=3)
    n = peer_graph.normalization
    mean, deviation = (np.array(x, np.float32).reshape(3, 1, 1) for x in (n.mean, n.std))
    planes = [pillow.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(picture, -1, 0)]
    real = np.stack([np.asarray(p.resize(network_size[::-1], pillow.Resampling.BILINEAR)) for p in planes])
    blob, rounded = (
        ((pixels / np.float32(n.divisor) - mean) / deviation)[None] for pixels in (real, np.rint(real))
    )
    for module, model in (
        (openvino_peer, openvino_peer.OpenVinoModel),
        (onnxruntime_peer, onnxruntime_peer.OnnxRuntimeModel),
    ):
        expected, other = (
            nearest(model(peer_graph, 1)(x).argmax(1), (height, width))[0] for x in (blob, rounded)
        )
        exact = {"precision": "f32"} if module is openvino_peer else {}
        classes = module.image_to_classes(peer_graph, 1, size, **exact)(picture)
        assert (classes.dtype, classes.shape) == (np.uint8, (height, width))
        # A random network is chaotic: rounding the fitted picture to bytes moves one pixel in twenty.
        noise = np.mean(expected != other)
        assert noise < 0.1
        assert np.mean(classes != expected) <= 2 * noise + 0.02


@openvino
@onnxruntime
def test_blob_to_probabilities(peer_graph, blob):
    for fast, model in (
        (openvino_peer.blob_to_probabilities(peer_graph, 1, precision="f32"), openvino_peer.OpenVinoModel),
        (onnxruntime_peer.blob_to_probabilities(peer_graph, 1), onnxruntime_peer.OnnxRuntimeModel),
    ):
        fastest = {"exact": False} if model is onnxruntime_peer.OnnxRuntimeModel else {}
        expected = model(peer_graph, 1, **fastest)(blob[None])
        np.testing.assert_array_equal(fast(blob[None]), expected)
        assert isinstance(peer_graph[peer_graph.output], Softmax)
        np.testing.assert_allclose(expected.sum(1), 1, atol=1e-5)
