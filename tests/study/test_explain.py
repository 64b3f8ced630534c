"""`study.explain`: every operation, its step, its equations, and one of its values against oracle and engine."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from graphs import dyadic_blob, graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_blob, random_icnet, random_picture

import sparse_icnet
from sparse_icnet.activations import Activations
from sparse_icnet.cli.explain import lines
from sparse_icnet.network.graph import Argmax, Bilinear, Convolution, FloatConvolution, MaxPool, Quantize
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.study import check
from sparse_icnet.study.arithmetic import arithmetic_of, end_of
from sparse_icnet.study.equations import equations, equations_of_expression
from sparse_icnet.study.explain import explain
from sparse_icnet.study.paper import place_of


def place_in(shape, rng) -> tuple[int, int, int]:
    return tuple(int(rng.integers(n)) for n in shape)


@pytest.fixture(autouse=True)
def planned_once(monkeypatch):
    """Planning takes a second: an engine that keeps its tensors serves all tests of a graph."""
    monkeypatch.setattr(check, "Activations", keeping)


@cache
def keeping(graph, threads):
    return Activations(graph, threads)


@pytest.fixture(scope="module")
def oracle(tiny_graph):
    return Oracle(tiny_graph, random_blob(tiny_graph, 3))


def test_every_value_is_that_of_the_oracle(tiny_graph, oracle):
    rng = np.random.default_rng(5)
    kinds = set()
    for op in tiny_graph:
        at = place_in(tiny_graph.shape(op.name), rng)
        value = arithmetic_of(tiny_graph, oracle, op.name, at)
        expected = oracle.codes(value.tensor) if value.kind == "code" else oracle.value(value.tensor)
        assert np.float32(value.value) == np.float32(expected[at]), (op.name, at)
        for found in value.sums:
            assert found.total == oracle.accumulator(found.layer)[found.at]
            assert found.zeros + len(found.products) == found.weights
            assert all(product.weight for product in found.products)
            assert found.total == sum(product.zero_based * product.weight for product in found.products)
        kinds.add(type(op))
    assert {Convolution, MaxPool, Quantize} <= kinds


@given(graphs(), st.integers(0, 1 << 30))
@settings(max_examples=30)
def test_every_value_of_any_graph(graph, seed):
    oracle, rng = Oracle(graph, dyadic_blob(graph, seed)), np.random.default_rng(seed)
    for op in graph:
        at = place_in(graph.shape(op.name), rng)
        value = arithmetic_of(graph, oracle, op.name, at)
        expected = oracle.codes(value.tensor) if value.kind == "code" else oracle.value(value.tensor)
        np.testing.assert_equal(np.float32(value.value), np.float32(expected[at]), op.name)


def test_layers_of_float32(tiny_graph):
    """Of the graph of codes two layers with the same weights as real values."""
    ops = []
    for op in tiny_graph:
        if op.name in ("conv1_1", "conv3_1/3x3"):
            weight = op.weight * op.weight_scale[:, None, None, None]
            op = FloatConvolution(op.name, op.input, weight, op.bias, op.stride, op.dilation, op.padding)
        ops.append(op)
    net = sparse_icnet.Model(replace(tiny_graph, ops=tuple(ops)), 1)
    for name in ("conv1_1", "conv3_1/3x3"):
        told = explain(net, name, (5, 3, 4), random_picture(192, 192))
        assert told.check.passed
        assert told.check.engine == told.value.value
        assert "Q12" in told.equations
        assert told.engine.function == "float_convolution"
        assert max(len(line) for line in lines(told)) <= 100


def test_float32_sums_of_infinite_values(tiny_graph):
    """(Q12): a weight of 0 meets inf, giving NaN, where another of its four output channels is not 0, and only there."""
    weight = np.zeros((8, 3, 1, 1), np.float32)
    weight[0, 0], weight[4:, 1] = 1, 1
    source = tiny_graph.input
    op = FloatConvolution("real", source.name, weight, np.zeros(8, np.float32))
    graph = replace(tiny_graph, ops=(source, op), output="real")
    blob = np.zeros((3, *source.shape[1:]), np.float32)
    blob[0] = np.inf
    oracle = Oracle(graph, blob)
    expected = [np.inf, np.nan, np.nan, np.nan, 0, 0, 0, 0]
    np.testing.assert_equal(oracle.value("real")[:, 5, 7], np.array(expected, np.float32))
    values = [arithmetic_of(graph, oracle, "real", (channel, 5, 7)).value for channel in range(8)]
    np.testing.assert_equal(np.array(values), np.array(expected))


@pytest.mark.parametrize("corner", [(0, 0), (-1, -1), (0, -1)])
def test_padding_at_the_borders(tiny_graph, oracle, corner):
    for name in ("conv1_sub1", "conv3_1/3x3", "conv5_1/3x3", "cff42/low"):
        if name == "conv1_sub1" and corner == (-1, -1):
            continue  # windows of stride 2 end inside
        channels, height, width = tiny_graph.shape(name)
        at = (channels - 1, corner[0] % height, corner[1] % width)
        value = arithmetic_of(tiny_graph, oracle, name, at)
        found = next(one for one in value.sums if one.layer == name)
        assert any(product.place is None for product in found.products)
        zero = tiny_graph.quantizer(found.source).zero_point
        assert all(product.code == zero for product in found.products if product.place is None)
        assert found.total == oracle.accumulator(name)[at]


@pytest.mark.parametrize("align_corners", [False, True])
def test_smooth_ends(tiny_graph, align_corners):
    """A bilinear upsampling between the logits and an argmax: its values and its classes."""
    ops = [op for op in tiny_graph.ops if op.name not in ("logits_up", "probabilities")]
    up = Bilinear("smooth", "conv6_cls", (192, 192), align_corners)
    graph = replace(tiny_graph, ops=(*ops, up, Argmax("class_map", "smooth")), output="class_map")
    oracle, rng = Oracle(graph, random_blob(graph, 3)), np.random.default_rng(0)
    for _ in range(20):
        at = place_in(graph.shape("smooth"), rng)
        assert arithmetic_of(graph, oracle, "smooth", at).value == float(oracle.real("smooth", 1.0)[at])
        at = (0, *at[1:])
        value = arithmetic_of(graph, oracle, "class_map", at)
        assert (value.kind, value.value) == ("class", oracle.value("class_map")[at])
    if align_corners:
        return
    net = sparse_icnet.Model(graph, 1)
    for name, at in (("class_map", (0, 17, 33)), ("conv6_cls", (3, 6, 7)), ("smooth", (3, 6, 7))):
        told = explain(net, name, at, random_picture(192, 192))
        assert told.check.passed
        assert told.check.values or name == "smooth"


@pytest.fixture(scope="module")
def net():
    return sparse_icnet.Model(random_icnet((192, 192), seed=7), 1)


def test_operations_of_every_part_can_be_explained(net):
    """Not all of the bottlenecks, which are alike."""
    steps = {step.name for step in net.plan.steps()}
    ops = [
        op for op in net.graph if not op.name.startswith(("conv2_2", "conv3_3", "conv3_4", "conv4", "conv5"))
    ]
    assert len(ops) > 80
    for op in ops:
        told = explain(net, op.name)
        assert max(len(line) for line in lines(told)) <= 100, op.name
        assert json.loads(json.dumps(told.to_dict(), allow_nan=False))["layer"] == op.name
        assert (told.engine is None) == bool(told.without)
        assert told.engine is None or told.engine.step in steps
        assert told.place is not None
        assert set(told.equations) <= set(equations())
        if isinstance(op, Convolution):
            assert told.engine.kernel
            assert told.forms.nonzeros == np.count_nonzero(op.weight)
            assert told.work.before.macs == op.macs_per_pixel * np.prod(net.graph.shape(op.name)[1:])
            assert {"Q3", "Q4"} <= set(told.equations)
            assert ("W1" in told.equations) == told.engine.kernel.startswith("winograd")


def test_steps(net):
    found = {name: explain(net, name) for name in ("conv2_1/proj", "conv2_1/relu", "image", "pyramid/pool2")}
    assert found["conv2_1/proj"].engine.step == "conv2_1/increase"
    assert "inside conv2_1/increase" in found["conv2_1/proj"].engine.reason
    assert found["conv2_1/relu"].engine.fused == ("conv2_1/proj",)
    assert found["image"].engine.function == "quantize_image"
    assert found["pyramid/pool2"].engine.function == "pyramid"
    assert explain(net, "probabilities").engine.function == "softmax"
    assert "copies codes" in explain(net, "conv3_1_half").without
    assert "left it out" in explain(net, "cff42/up").without


@pytest.mark.parametrize(
    ("layer", "at", "note"),
    [
        ("conv3_1/3x3", (5, 3, 4), ""),
        ("conv2_3/increase", (5, 2, 4), ""),
        ("conv2_3/increase", (5, 3, 4), "every 2. row"),
        ("conv6_cls", (3, 7, 9), "equal pixels"),
        ("pyramid/pool3", (9, 1, 2), "keeps no tensor"),
        ("probabilities", (2, 100, 50), ""),
        ("cff42/up", (2, 3, 4), "keeps no tensor"),
        ("pool1", (2, 3, 4), ""),
    ],
)
def test_engine_and_oracle_have_the_value(net, layer, at, note):
    told = explain(net, layer, at, random_picture(192, 192))
    assert told.check.passed
    assert note in told.check.note
    assert told.check.values > 100
    assert (told.check.engine is None) == ("every" in note or "keeps" in note)
    assert told.check.oracle == told.check.expected == told.value.value


def test_a_difference_is_found(net, monkeypatch):

    def wrong(graph, threads):
        activations = Activations(graph, threads)
        tensor = activations.session.tensor
        monkeypatch.setattr(activations.session, "tensor", lambda name: tensor(name) + 1)
        return activations

    monkeypatch.setattr(check, "Activations", wrong)
    found = explain(net, "conv3_1/3x3", (5, 3, 4), random_picture(192, 192)).check
    assert not found.passed
    assert found.engine == found.expected + 1
    assert found.different == found.values


def test_errors(net):
    with pytest.raises(
        ValueError, match=r"'conv3_1/3x' is no operation of this network, did you mean conv3_1/3x3"
    ):
        explain(net, "conv3_1/3x")
    with pytest.raises(ValueError, match=r"'conv3_1' is no operation .* but a part of it: conv3_1/reduce, "):
        explain(net, "conv3_1")
    with pytest.raises(ValueError, match=r"conv3_1/3x3: expected a place within 64x12x12 .*, found 64,0,0"):
        explain(net, "conv3_1/3x3", (64, 0, 0))


def test_equations_are_read_from_where_they_are_written(tiny_graph):
    found = equations()
    assert len(found) >= 16
    assert list(found) == [*(f"Q{i}" for i in range(1, len(found) - 1)), "W1", "W2"]
    assert found["Q3"].startswith("convolution: a = sum over taps and channels of (q - z) * w")
    assert "align" not in found["Q11"]
    assert found["Q11"].endswith("f32(far_x * r[k'_x])")
    assert equations_of_expression(tiny_graph, "conv3_2/increase") == ("Q1", "Q2", "Q3", "Q4", "Q5")
    assert equations_of_expression(tiny_graph, "pool1") == ("Q14",)
    assert equations_of_expression(tiny_graph, "pyramid/sum2") == ("Q1", "Q2", "Q5", "Q6", "Q7")
    assert end_of(tiny_graph, "conv3_1/proj") == "conv3_1/codes"


def test_places_in_the_papers(tiny_graph):
    place = place_of(tiny_graph, "conv3_1/3x3")
    assert place.branch.startswith("medium branch")
    assert (place.authors, place.resnet) == ("conv3_1_3x3", "layer2.0.conv2")
    assert "bottleneck 1 of 4 in stage conv3_x" in place.role
    assert place_of(tiny_graph, "conv4_6/proj") is None
    assert place_of(tiny_graph, "cff421/low").authors == "conv_sub2"
    names = {op.name: f"op{i}" for i, op in enumerate(tiny_graph)}
    ops = tuple(replace(op, name=names[op.name], **renamed_inputs(op, names)) for op in tiny_graph)
    renamed = replace(tiny_graph, ops=ops, output=names[tiny_graph.output])
    assert place_of(renamed, names["conv5_2/increase"]).authors == "conv5_2_1x1_increase"
    assert place_of(renamed, names["pool1"]) is None
    other = replace(renamed, ops=ops[:13], output=ops[12].name)
    assert place_of(other, names["conv1_sub1"]) is None


def renamed_inputs(op, names) -> dict[str, str]:
    fields = [field for field in ("input", "left", "right") if hasattr(op, field)]
    return {field: names[getattr(op, field)] for field in fields}
