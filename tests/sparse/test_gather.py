"""Gathering zeros permutes channels: fewer occupied blocks, the same results bit for bit."""

import numpy as np
import pytest
from hostile import hostile_network

from sparse_icnet.network.graph import Graph, Quantizer
from sparse_icnet.network.icnet import LayerWeights, activation_names, icnet, layer_specs
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.sparse.gather import block_work, gains, gather_zeros, scatter_zeros


def hidden_structure(seed: int) -> Graph:
    """ICNet at 96x96 whose zeros lie in whole channels, scattered: a good order empties many blocks."""
    rng = np.random.default_rng(seed)
    weights = {}
    for layer in layer_specs():
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        weight = rng.integers(1, 128, shape).astype(np.int8) * rng.choice([-1, 1], shape).astype(np.int8)
        if layer.inputs > 3:
            weight[:, rng.random(layer.inputs) < 0.5] = 0
        scale = 1.5 / np.sqrt(1 + np.square(weight.astype(float)).sum((1, 2, 3)).mean())
        bias = rng.normal(0, 0.3, layer.outputs).astype(np.float32)
        weights[layer.name] = LayerWeights(weight, np.full(layer.outputs, scale, np.float32), bias)
    activations = {name: Quantizer(0.02) for name in activation_names()} | {"input": Quantizer(0.02, 114)}
    return icnet(weights, activations, (96, 96))


@pytest.fixture(scope="module")
def pair() -> tuple[Graph, Graph]:
    graph = hidden_structure(0)
    return graph, gather_zeros(graph, rounds=1)


def test_same_output_fewer_blocks(pair: tuple[Graph, Graph]) -> None:
    graph, gathered = pair
    blob = np.random.default_rng(1).normal(size=(3, 96, 96)).astype(np.float32)
    before, after = Oracle(graph, blob).output(), Oracle(gathered, blob).output()
    assert len(np.unique(before.argmax(0))) > 1, "a constant class map would prove nothing"
    np.testing.assert_array_equal(before, after)
    rows = gains(graph, gathered)
    occupied = [sum(getattr(row, side) * row.macs for row in rows) for side in ("before", "after")]
    assert occupied[1] < 0.8 * occupied[0]


def test_keeps_weights_and_sparsity(pair: tuple[Graph, Graph]) -> None:
    for a, b in zip(pair[0].convolutions, pair[1].convolutions, strict=True):
        np.testing.assert_array_equal(np.sort(a.weight, None), np.sort(b.weight, None))


def test_image_and_classes_keep_their_order(pair: tuple[Graph, Graph]) -> None:
    graph, gathered = pair
    for op in graph.convolutions:
        if op.weight.shape[1] == 3:  # the image's channels: rows may move, columns may not
            rows = {row.tobytes() for row in op.weight}
            assert {row.tobytes() for row in gathered[op.name].weight} == rows
    np.testing.assert_array_equal(gathered["conv6_cls"].bias, graph["conv6_cls"].bias)


def test_a_network_that_ends_in_an_argmax_keeps_the_order_of_its_classes() -> None:
    graph = hostile_network()
    last = graph.convolutions[-1]
    for other in (gather_zeros(graph), scatter_zeros(graph, seed=3)):
        assert np.array_equal(other[last.name].bias, last.bias)
        blob = np.random.default_rng(2).normal(size=(3, 32, 48)).astype(np.float32)
        found = Oracle(other, blob).output()
        assert len(np.unique(found)) > 1
        np.testing.assert_array_equal(found, Oracle(graph, blob).output())


def test_scattering_moves_channels_and_no_results(pair: tuple[Graph, Graph]) -> None:
    graph, gathered = pair
    scattered = scatter_zeros(gathered)
    assert block_work(scattered) > 1.2 * block_work(gathered)
    blob = np.random.default_rng(1).normal(size=(3, 96, 96)).astype(np.float32)
    np.testing.assert_array_equal(Oracle(scattered, blob).output(), Oracle(graph, blob).output())
