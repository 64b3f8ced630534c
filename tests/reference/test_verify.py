"""The runner's report: what passes, what does not, and that it cannot be fooled."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from networks import random_blob

from sparse_icnet.network.graph import Argmax, Convolution, Graph, Resize, rename_inputs
from sparse_icnet.reference import compare, engines
from sparse_icnet.reference.compare import cell_size, verify
from sparse_icnet.reference.evaluate import evaluate_float
from sparse_icnet.reference.layers import layer_by_layer
from sparse_icnet.reference.onnxruntime_peer import OnnxRuntimeModel, with_int32_biases
from sparse_icnet.reference.openvino_peer import OpenVinoModel
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.reference.report import Difference, Report, allowed_pixels

PEERS = [
    pytest.param(
        against,
        marks=pytest.mark.skipif(
            not all(map(find_spec, packages)), reason=f"needs the extra `reference`: {', '.join(packages)}"
        ),
    )
    for against, packages in (("openvino", ["openvino"]), ("onnxruntime", ["onnx", "onnxruntime"]))
]


class OracleEngine:
    """The oracle as an engine, of a graph that may differ from the one under test."""

    def __init__(self, graph: Graph) -> None:
        self.executed = graph

    def output(self, blob):
        return Oracle(self.executed, blob).output()

    def trace(self, blob):
        oracle = Oracle(self.executed, blob)
        names = [op.name for op in self.executed if self.executed.quantizer(op.name) is not None]
        return {name: oracle.codes(name) for name in names}


class Damaged(OracleEngine):
    """The right answer after `change(array)` of the output or of one tensor."""

    def __init__(self, graph: Graph, change, tensor: str | None = None) -> None:
        super().__init__(graph)
        self.change, self.tensor = change, tensor

    def output(self, blob):
        output = super().output(blob)
        return output if self.tensor else self.change(output)

    def trace(self, blob):
        trace = super().trace(blob)
        if self.tensor:
            trace[self.tensor] = self.change(trace[self.tensor].copy())
        return trace


class Untraced:
    """An engine that shows its output alone."""

    def __init__(self, result) -> None:
        self.result = result

    def output(self, blob):
        return self.result


@pytest.fixture(scope="module")
def blob(tiny_graph) -> np.ndarray:
    return random_blob(tiny_graph, seed=7)


@pytest.fixture(scope="module")
def output(tiny_graph, blob) -> np.ndarray:
    return Oracle(tiny_graph, blob).output()


def changed(graph: Graph, name: str, **fields) -> Graph:
    return replace(graph, ops=tuple(replace(op, **fields) if op.name == name else op for op in graph))


# Against the oracle


def test_engine_equals_the_oracle(tiny_graph, blob):
    """The default engine, every tensor that it shows."""
    report = verify(tiny_graph, [blob], names=["noise"], threads=1)
    assert report.passed, str(report)
    assert report.traced > 50
    text = str(report)
    assert text.endswith("PASSED")
    assert "noise" in text
    assert "bit for bit" in text


def test_one_bit_of_the_output_is_a_mismatch(tiny_graph, blob):
    def last_bit(output):
        output[3, 10, 20] = np.nextafter(output[3, 10, 20], np.float32(2))
        return output

    report = verify(tiny_graph, [blob], engine=Damaged(tiny_graph, last_bit))
    assert not report.passed
    assert report.problems == ("not the bits of the oracle: image 1",)
    assert report.differences[0].differing == 0
    assert 0 < report.differences[0].largest < 1e-6
    assert str(report).endswith("FAILED")


def test_first_diverging_tensor_is_named(tiny_graph, blob):
    def off_by_two(codes):
        codes[1, 2, 3] += 2
        return codes

    report = verify(tiny_graph, [blob], engine=Damaged(tiny_graph, off_by_two, "conv3_1/codes"))
    assert not report.passed
    (divergence,) = report.divergences
    assert (divergence.tensor, divergence.differing, divergence.largest) == ("conv3_1/codes", 1, 2)
    order = [op.name for op in tiny_graph if tiny_graph.quantizer(op.name) is not None]
    assert report.traced == order.index("conv3_1/codes")
    assert "first diverges at 'conv3_1/codes': 1 of " in str(report)


def test_divergence_is_the_first_in_the_order_of_execution(tiny_graph, blob):
    """A wrong bias spoils everything behind it; the report names where it begins."""
    op = tiny_graph["conv4_2/reduce"]
    assert isinstance(op, Convolution)
    wrong = changed(tiny_graph, op.name, bias=op.bias + np.float32(0.5))

    class Wrong(OracleEngine):
        def trace(self, blob):
            return OracleEngine(wrong).trace(blob)

    divergence, equal = compare.first_divergence(Wrong(tiny_graph), blob)
    assert divergence.tensor == "conv4_2/reduce/codes"
    assert equal > 10


def test_engine_may_rewrite_its_graph(tiny_graph, blob):
    """Names and order of `executed` count, not those of the graph as loaded."""
    renamed = {"image_half": "renamed"}
    ops = tuple(
        replace(op, name="renamed") if op.name == "image_half" else rename_inputs(op, renamed)
        for op in tiny_graph
    )
    report = verify(tiny_graph, [blob], engine=OracleEngine(replace(tiny_graph, ops=ops)))
    assert report.passed, str(report)


def test_wrong_shape_in_the_trace(tiny_graph, blob):
    engine = Damaged(tiny_graph, lambda codes: codes[:, 1:], "conv1_1/codes")
    with pytest.raises(ValueError, match=r"tensor 'conv1_1/codes': expected codes of shape \(32, 48, 48\)"):
        verify(tiny_graph, [blob], engine=engine)


# Networks that end in a class map


def class_map(graph: Graph, enlarged: bool) -> Graph:
    """`graph` with an argmax in place of its softmax, of the logits themselves or, `enlarged`, in front of the resize."""
    ops = [op for op in graph if op.name not in ("logits_up", "probabilities")]
    ops.append(Argmax("classes", ops[-1].name))
    if enlarged:
        ops.append(Resize("enlarged", "classes", graph.input.shape[1:]))
    return Graph(tuple(ops), ops[-1].name)


def test_a_wrong_smooth_map_is_found(tiny_graph, blob):
    engine = engines.SessionEngine(tiny_graph, threads=1)
    right = engine.smooth_class_map

    def wrong(blob, size):
        classes = right(blob, size).copy()
        classes[5, 7] += 1
        return classes

    report = verify(tiny_graph, [blob], engine=engine)
    assert [(row.image, row.equal) for row in report.differences] == [
        ("image 1", True),
        ("image 1, smooth", True),
    ]
    engine.smooth_class_map = wrong
    report = verify(tiny_graph, [blob], engine=engine)
    assert report.problems == ("not the bits of the oracle: image 1, smooth",)
    assert report.differences[1].differing == 1
    assert report.traced > 40


@pytest.mark.parametrize("enlarged", [True, False])
@pytest.mark.parametrize("against", ["oracle", *PEERS])
def test_class_maps_are_compared(tiny_graph, against, enlarged):
    graph = class_map(tiny_graph, enlarged)
    blobs = [random_blob(graph, seed=seed) for seed in (11, 12)]
    report = verify(graph, blobs, against, threads=1)
    assert report.passed, str(report)
    size = 192 * 192 if enlarged else 48 * 48
    own = [row for row in report.differences if not row.image.endswith("smooth")]
    assert {row.pixels for row in own} == {size}
    assert (len(own) < len(report.differences)) == (against == "oracle")
    assert all(np.isnan(row.largest) for row in report.differences)
    assert (report.traced > 50) == (against == "oracle")


@pytest.mark.parametrize("against", ["oracle", *PEERS])
def test_another_class_map_is_a_mismatch(tiny_graph, against):
    graph = class_map(tiny_graph, True)
    blob = random_blob(graph, seed=11)
    wrong = Oracle(graph, blob).output()
    wrong[:, :, :96] = (wrong[:, :, :96] + 1) % 12
    report = verify(graph, [blob], against, Untraced(wrong), threads=1)
    assert not report.passed


# Trivial results


def _one_class(output):
    result = np.full_like(output, 0.01)
    result[4] = 1 - 0.01 * (len(output) - 1)
    return result


def _nan(output):
    output[0, 0, 0] = np.nan
    return output


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_one_class, "class 4 everywhere"),
        (np.zeros_like, "zero everywhere"),
        (_nan, "NaN or infinity"),
        (lambda output: output * np.float32(0.9), "do not sum to 1"),
    ],
)
def test_trivial_results_do_not_pass(tiny_graph, blob, output, change, reason):
    result = change(output.copy())
    report = verify(tiny_graph, [blob], engine=Untraced(result))
    assert not report.passed
    assert any(reason in problem for problem in report.problems)


def test_equal_and_trivial_does_not_pass(tiny_graph, blob):
    """A network that says the same everywhere agrees with anything: bit equality alone proves nothing."""
    op = tiny_graph["conv6_cls"]
    bias = np.zeros_like(op.bias)
    bias[2] = 100
    graph = changed(tiny_graph, op.name, bias=bias)
    report = verify(graph, [blob], engine=OracleEngine(graph))
    assert report.differences[0].equal
    assert not report.passed
    assert report.trivial == ("image 1: class 2 everywhere: too little variety to compare",)


def test_nothing_compared_does_not_pass():
    assert not Report("oracle", 64, ()).passed


def test_no_blob_and_wrong_blob(tiny_graph, blob):
    with pytest.raises(ValueError, match="at least one picture, found none"):
        verify(tiny_graph, [])
    for wrong in (blob.astype(np.float64), blob[:, 1:], np.stack([blob, blob])):
        with pytest.raises(ValueError, match=r"blob 2: expected float32 of shape \(3, 192, 192\), found"):
            verify(tiny_graph, [blob, wrong])
    with pytest.raises(ValueError, match="against must be oracle, openvino or onnxruntime, found 'torch'"):
        verify(tiny_graph, [blob], "torch")


# Against other runtimes


@pytest.mark.parametrize("against", PEERS)
def test_runtimes_agree_within_the_noise_floor(tiny_graph, against):
    blobs = [random_blob(tiny_graph, seed=seed) for seed in (11, 12, 13)]
    report = verify(tiny_graph, blobs, against, OracleEngine(tiny_graph), threads=1)
    assert report.passed, str(report)
    assert len(report.runtimes) == 2
    assert len(report.differences) == 6
    for row in report.differences:
        assert row.differing < 0.1 * row.pixels
        assert 0 < row.largest < 1


@pytest.mark.parametrize("against", PEERS)
def test_another_network_is_a_mismatch(tiny_graph, blob, against):
    """One layer of 64 whose biases are off by a tenth of its range."""
    op = tiny_graph["conv2_1/reduce"]
    reach = np.float32(0.1 * 255 * tiny_graph["conv2_1/reduce/codes"].quantizer.scale)
    wrong = changed(tiny_graph, op.name, bias=op.bias + reach)
    report = verify(tiny_graph, [blob], against, OracleEngine(wrong), threads=1)
    assert not report.passed
    assert len(report.problems) == 2
    assert all("pixels differ in class, at most" in problem for problem in report.problems)


@pytest.mark.parametrize("against", PEERS)
def test_trivial_runtime_does_not_pass(tiny_graph, blob, output, against):
    """The other side may be the one that is broken."""
    graph = changed(tiny_graph, "conv6_cls", bias=np.eye(12, dtype=np.float32)[5] * 100)
    report = verify(graph, [blob], against, Untraced(output), threads=1)
    assert not report.passed
    assert sum("class 5 everywhere" in line for line in report.trivial) == 2


def test_layer_by_layer_finds_the_wrong_layer(tiny_graph, blob):
    pytest.importorskip("openvino", reason="needs the extra `reference`")
    op = tiny_graph["conv3_2/3x3"]
    weight = op.weight.copy()
    weight[7] = -weight[7]
    wrong = changed(tiny_graph, op.name, weight=weight)

    def peer(graph, **cut):
        return OpenVinoModel(wrong, 1, **cut)

    layers = layer_by_layer(tiny_graph, blob, peer)
    differing = [layer.tensor for layer in layers if layer.differing > 1e-3 * layer.codes]
    assert differing == ["conv3_2/3x3/codes"]


def test_onnxruntime_int8_rounds_biases(tiny_graph, blob):
    """`with_int32_biases` is what ONNX Runtime computes: without it many more codes differ."""
    pytest.importorskip("onnx", reason="needs the extra `onnx`")
    pytest.importorskip("onnxruntime", reason="needs the extra `reference`")
    rounded = with_int32_biases(tiny_graph)
    unrounded = sum(
        np.array_equal(rounded[op.name].bias, op.bias) for op in tiny_graph.convolutions if op.bias.any()
    )
    assert unrounded == len([op for op in tiny_graph.convolutions if op.name.endswith(NOT_FUSED)])
    peer = partial(OnnxRuntimeModel, threads=1)
    exact, floating = (
        sum(layer.differing for layer in layer_by_layer(graph, blob, peer)) for graph in (rounded, tiny_graph)
    )
    assert exact * 5 < floating


NOT_FUSED = (
    "/increase",
    "/proj",
    "/low",
    "/high",
    "conv6_cls",
)  # read by an addition or not quantized at all


# The rule


def test_rule():
    """1.5 times the floor; below about 85 cells the floor and three standard deviations of chance."""
    assert allowed_pixels(0, 64) == 3 * 64
    assert allowed_pixels(1000 * 64, 64) == 1500 * 64
    for cells in range(0, 400):
        allowed = allowed_pixels(cells * 64, 64)
        assert allowed >= 1.5 * cells * 64
        assert (allowed == 96 * cells) == (cells >= 84)


def test_floor_and_allowance_add_up_over_images():
    row = Difference("X", "a", 10_000, 0, 0.1, 0.01, False, floor=50 * 64)
    near = Report("openvino", 64, (row, replace(row, image="b", differing=150 * 64)))
    assert near.passed
    assert near.allowed("X") == 150 * 64
    far = replace(near, differences=(row, replace(row, differing=151 * 64)))
    assert not far.passed
    assert "X: 9664 pixels differ in class, at most 9600 may" in str(far)


def test_cell_size(tiny_graph):
    """2x before the classifier and 4x behind it: 8x8 pixels share one class."""
    assert cell_size(tiny_graph) == 64
    without = tuple(op for op in tiny_graph if op.name not in ("logits_up", "probabilities"))
    assert cell_size(Graph(without, "conv6_cls")) == 4
    assert cell_size(Graph(tiny_graph.ops, "cff421/codes")) == 1
    assert isinstance(tiny_graph["cff421_up"], Resize)


def test_evaluation_keeps_what_it_is_asked_for(tiny_graph, blob):
    names = ("conv1_1", "pyramid/codes", tiny_graph.output)
    some = evaluate_float(tiny_graph, blob, np.float32, names)
    assert set(some) == set(names)
    every = evaluate_float(tiny_graph, blob, np.float32)
    assert set(every) == {op.name for op in tiny_graph}
    for name in names:
        np.testing.assert_array_equal(some[name], every[name])
