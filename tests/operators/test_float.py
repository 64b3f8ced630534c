"""Convolutions of float32 and pools of real values, (Q12) to (Q14): the engine equals the oracle bit for bit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from engine import (
    SPECIAL_FLOATS,
    Net,
    assert_equals_oracle,
    blob_of,
    random_blob,
    random_image,
)

import sparse_icnet
from sparse_icnet import formats
from sparse_icnet.cli import main
from sparse_icnet.network.graph import (
    AveragePool,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Normalization,
    Quantize,
    Quantizer,
    Relu,
    pruned,
)
from sparse_icnet.network.icnet import layer_specs
from sparse_icnet.operators.storage import Grid, PlanError
from sparse_icnet.plan import plan_for
from sparse_icnet.reference.equations import float_sums, real_average_pool
from sparse_icnet.reference.evaluate import evaluate_float
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.study.arithmetic import arithmetic_of
from sparse_icnet.study.equations import equations
from sparse_icnet.target import TARGET

VECTORS = TARGET.float_kernel.vectors


def test_the_order_of_additions():
    """(Q12) term by term in Python: taps row by row, then input channels; each product and each sum rounded."""
    rng = np.random.default_rng(1)
    weight = (rng.normal(size=(2, 3, 2, 3)) * (rng.random((2, 3, 2, 3)) < 0.7)).astype(np.float32)
    op = FloatConvolution("f", "x", weight, np.float32([0.1, -3]), (1, 2), (2, 1), (1, 0, 0, 2))
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    found = float_sums(x, op)
    padded = np.pad(x, ((0, 0), (1, 0), (0, 2)))
    rough = np.zeros(found.shape)
    for o, y, column in np.ndindex(*found.shape):
        total = np.float32(0)
        for i, j in np.ndindex(2, 3):
            for channel in range(3):
                pixel = padded[channel, y + 2 * i, 2 * column + j]
                if weight[o, channel, i, j]:
                    total = np.float32(total + np.float32(weight[o, channel, i, j] * pixel))
                rough[o, y, column] += float(weight[o, channel, i, j]) * float(pixel)
        assert found[o, y, column] == total
    np.testing.assert_allclose(found, rough, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(found, rough.astype(np.float32))  # so rounding matters here


def test_the_order_of_a_mean():
    x = np.random.default_rng(2).normal(size=(2, 5, 7)).astype(np.float32)
    found = real_average_pool(x, (2, 2))
    columns = [np.float32(np.float32(x[1, 0, j] + x[1, 1, j]) + x[1, 2, j]) for j in range(3, 7)]
    total = np.float32(np.float32(np.float32(columns[0] + columns[1]) + columns[2]) + columns[3])
    assert found[1, 0, 1] == total * np.float32(1 / 12)
    np.testing.assert_allclose(found[1, 0, 1], x[1, 0:3, 3:7].mean(), rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_a_convolution_of_codes(density, threads):
    net = Net((16, 48), seed=threads)
    x = net.codes(net.relu(net.float_convolution(net.image, 7, 3, density=density)))
    y = net.codes(net.float_convolution(x, 9, (2, 5), 2, (1, 3), density=density))
    assert_equals_oracle(net.classify(y, x), threads=threads)


WIDTHS = [1, 15, 16, 17, 16 * VECTORS - 1, 16 * VECTORS, 16 * VECTORS + 1, 16 * VECTORS + 37]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_planes_around_the_width_of_a_tile(monkeypatch, width, dense):
    """One row in each plane: whole tiles, their remainder, rows with and without a gap."""
    make = Grid.for_size
    monkeypatch.setattr(Grid, "for_size", lambda rows, columns: make(rows, columns, dense))
    net = Net((16, 16 * width), seed=width)
    x = net.codes(net.float_convolution(net.image, 5, 3, 4))
    logits = net.float_convolution(net.relu(net.float_convolution(x, 5, (1, 3), 4)), 4)
    assert_equals_oracle(net.softmax(logits))


def _several(net: Net) -> Graph:
    """Layers of float32 in every place: the input, between codes, between real values, the logits."""
    x = net.max_pool(
        net.relu(net.float_convolution("image" if "affine" not in net.shapes else "affine", 6, 3, 2)), 3, 2, 1
    )
    side = net.codes(net.convolution(net.image, 8, 3, 4))
    y = net.sum(net.float_convolution(x, 8, 3, dilation=2), side)
    y = net.sum(y, net.resize(net.mean(y, (3, 2)), net.shapes[y][1:]))
    z = net.codes(net.relu(net.float_convolution(y, 7, 3, 2)))
    z = net.sum(net.float_convolution(z, 5), net.convolution(z, 5))
    up = net.resize(z, net.shapes[y][1:])
    return net.softmax(net.sum(net.float_convolution(net.relu(y), 5), up), net.shapes["image"][1:])


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("affine", [False, True])
def test_layers_anywhere(affine, threads):
    settings = {"normalization": Normalization(1.0, (0.0,) * 3, (100.0,) * 3)} if affine else {}
    graph = _several(Net((48, 64), seed=threads, affine=affine, **settings))
    session = assert_equals_oracle(graph, threads=threads)
    image = random_image(graph.input.shape)
    expected = Oracle(graph, blob_of(graph, image)).output()
    np.testing.assert_array_equal(session.probabilities_of_image(image), expected)
    reports = {report.name: report for report in session.plan.convolutions()}
    floats = [op.name for op in graph if isinstance(op, FloatConvolution)]
    assert {reports[name].kernel for name in floats} == {TARGET.float_kernel.name}
    assert {reports[name].reason for name in floats} == {"float32 in the file"}


def test_numbers_that_are_none():
    """NaN and infinities in the input: what quantizers make of them is defined, and the same."""
    net = Net((16, 64))
    x = net.max_pool(net.relu(net.float_convolution("image", 6, 3, 2, density=0.5)), 3, 1, 1)
    y = net.codes(net.float_convolution("image", 6, 3, 2, density=0.5))
    mean = net.codes(net.resize(net.mean(x, (2, 2)), (8, 32)))
    graph = net.classify(net.codes(x), y, mean)
    blob = random_blob(graph.input.shape)
    places = np.random.default_rng(0).permutation(blob.size)[: 8 * len(SPECIAL_FLOATS)]
    blob.reshape(-1)[places] = np.tile(np.float32(SPECIAL_FLOATS), 8)
    with np.errstate(all="ignore"):
        assert_equals_oracle(graph, blob)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (1, 5), (4, 1)])
@pytest.mark.parametrize("width", [16, 24, 80])
def test_max_pools_of_real_values(kernel, width):
    net = Net((16, 2 * width), seed=width)
    x = net.float_convolution(net.image, 5, 3, 2)
    padding = tuple((k - 1) // 2 for k in kernel) + tuple(k // 2 for k in kernel)
    pooled = net.add(MaxPool("pool", x, kernel, (2, 2), padding))
    logits = net.float_convolution(pooled, 4)
    assert_equals_oracle(net.softmax(logits))


@pytest.mark.parametrize("bins", [(1, 1), (2, 3), (8, 16), (5, 7)])
def test_average_pools_of_real_values(bins):
    """Windows that tile the map and that overlap; one bin, and as many as the map of the logits has pixels."""
    net = Net((32, 64))
    x = net.relu(net.convolution(net.image, 6, 3, 2))
    mean = net.add(AveragePool("mean", x, bins))
    y = net.codes(net.sum(x, net.resize(mean, (16, 32))))
    assert_equals_oracle(net.classify(y, grid=(8, 16)), threads=2)


def test_a_mean_that_is_a_map_of_its_own():
    net = Net((32, 64))
    x = net.codes(net.mean(net.float_convolution(net.image, 6, 3), (16, 32)))
    assert_equals_oracle(net.classify(x, net.codes(net.mean(net.image, (16, 32)))))


def test_rewrites_move_float_layers():
    """A dilated one before an enlargement, a strided one behind it: fewer products, the same bits."""
    net = Net((32, 64))
    x = net.codes(net.float_convolution(net.image, 4, 3, 4))
    up = net.resize(x, (16, 32))
    logits = net.float_convolution(up, 5, 3, dilation=2)
    graph = net.softmax(logits)
    session = assert_equals_oracle(graph)
    assert session.graph.macs() < 0.7 * graph.macs()


def with_float_layers(graph: Graph, names: set[str], bypass: bool) -> Graph:
    """`graph` with convolutions in float32, of the network input before its quantizer where `bypass`."""
    ops = []
    for op in graph.ops:
        if op.name in names:
            weight = op.weight * op.weight_scale[:, None, None, None]
            source = op.input
            while (
                bypass
                and isinstance(before := graph[source], Quantize)
                and isinstance(graph[before.input], Input)
            ):
                source = before.input
            op = FloatConvolution(op.name, source, weight, op.bias, op.stride, op.dilation, op.padding)
        ops.append(op)
    return replace(graph, ops=pruned(ops, graph.output))


@pytest.mark.parametrize(
    "names",
    [
        {"conv1_sub1"},
        {"conv6_cls"},
        {"conv4_1/3x3"},
        {
            "conv1_sub1",
            "conv1_1",
            "conv2_1/reduce",
            "conv3_2/increase",
            "conv5_4_k1",
            "cff42/low",
            "conv6_cls",
        },
    ],
    ids=lambda names: "+".join(sorted(names)),
)
def test_icnet_with_layers_in_float32(tiny_graph, names):
    known = {spec.name for spec in layer_specs()}
    chosen = {name for name in names if name in known}
    assert chosen, sorted(known)
    graph = with_float_layers(tiny_graph, chosen, bypass=True)
    blob = random_blob(graph.input.shape)
    session = Session(plan_for(graph, 2))
    expected = Oracle(graph, blob).output()
    np.testing.assert_array_equal(session.output(blob), expected)
    reasons = {report.name: report.reason for report in session.plan.convolutions()}
    assert {name for name, reason in reasons.items() if reason == "float32 in the file"} == chosen
    double = evaluate_float(graph, blob)[graph.output]
    assert np.mean(double.argmax(0) != expected.argmax(0)) < 0.1


def test_native_files_keep_float_layers(tmp_path, capsys):
    graph = _several(Net((48, 64)))
    layers, floats = len(graph.layers), sum(isinstance(op, FloatConvolution) for op in graph)
    formats.save(graph, tmp_path / "net.npz")
    loaded = formats.load(tmp_path / "net.npz")
    for one, other in zip(graph.layers, loaded.layers, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)
    net = sparse_icnet.load(tmp_path / "net.npz", threads=1)
    blob = random_blob(graph.input.shape)
    np.testing.assert_array_equal(net(blob[None])[0], Oracle(graph, blob).output())
    layer = next(layer for layer in net.info().layers if layer.name.startswith("float"))
    assert (layer.kernel, layer.reason) == (TARGET.float_kernel.name, "float32 in the file")
    weight = graph[layer.name].weight
    groups = np.logical_or.reduceat(weight != 0, np.arange(0, len(weight), 4), axis=0)
    assert {layer.dtype for layer in net.info().layers} == {"int8", "float32"}
    assert main(["info", str(tmp_path / "net.npz")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"float32 in the file, which takes some five to ten times as long as int8: {floats} of {layers}"
        in said
    )
    assert layer.weight_bytes == 20 * np.count_nonzero(groups)


def test_more_than_float32_holds_is_refused():
    net = Net((16, 32))
    op = FloatConvolution("f", net.image, np.full((4, 3, 1, 1), 1e35, np.float32), np.zeros(4, np.float32))
    net.add(op)
    x = net.codes("f", Quantizer(0.001))
    with pytest.raises(PlanError, match=re.escape("convolution 'f': its scales allow values of")):
        plan_for(net.classify(x))


def test_real_values_of_a_deep_chain_of_pools_are_refused():
    """The planner looks at an expression at once; pools of real values do not end one."""
    net = Net((16, 32))
    x = net.float_convolution(net.image, 2)
    for number in range(101):
        x = net.add(MaxPool(f"pool{number}", x, (1, 1), (1, 1)))
    net.add(Relu("end", x))
    with pytest.raises(PlanError, match="100 operations in a row"):
        plan_for(net.classify(net.codes("end")))


def test_values_are_explained():
    """Each value by its products and roundings: the last line is what the oracle has there."""
    graph = _several(Net((48, 64)))
    oracle = Oracle(graph, random_blob(graph.input.shape))
    numbers: set[str] = set()
    for op in graph:
        found = arithmetic_of(graph, oracle, op.name, (1, 0, 1))
        last = graph.quantizer(found.tensor)
        expected = oracle.real(found.tensor, 1.0) if last is None else oracle.codes(found.tensor)
        assert found.value == expected[1, 0, 1]
        numbers |= {line.equation for line in found.lines}
    assert numbers >= {"Q12", "Q13", "Q14"}
    assert {"Q12", "Q13", "Q14"} <= set(equations())


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_written_files_keep_float_layers(tmp_path, suffix):
    """As ONNX and as IR: read again they are the same layers, with the bits of the graph that was written."""
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="needs onnx (extra peers)")
    net = Net((48, 64))
    x = net.max_pool(net.relu(net.float_convolution("image", 6, 3, 2)), 3, 2, 1)
    x = net.codes(net.sum(x, net.resize(net.mean(x, (3, 2)), (12, 16))))
    graph = net.softmax(net.float_convolution(x, 5))
    formats.save(graph, tmp_path / f"net{suffix}")
    loaded = formats.load(tmp_path / f"net{suffix}")
    assert [op.name for op in loaded.layers] == [op.name for op in graph.layers]
    assert all(isinstance(op, FloatConvolution) for op in loaded.layers)
    kinds = (sorted(type(op).__name__ for op in ops) for ops in (loaded, pruned(graph.ops, graph.output)))
    assert next(kinds) == next(kinds)
    blob = random_blob(graph.input.shape)
    found, expected = (Oracle(one, blob).output() for one in (loaded, graph))
    np.testing.assert_allclose(found, expected, atol=0.02)  # an IR states scales by ranges
