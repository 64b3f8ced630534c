"""The kernel that readers change: equal to the oracle as it is, and a wrong one is found out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from networks import random_blob

from sparse_icnet.network.graph import Convolution, Graph, Input, Quantize, Quantizer, Relu
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.study import own_kernel
from sparse_icnet.study.own_kernel import trial


@pytest.fixture(scope="module")
def oracle(tiny_graph):
    return Oracle(tiny_graph, random_blob(tiny_graph, 2))


@pytest.mark.parametrize("layer", ["conv1_2", "conv2_2/reduce", "conv3_1/3x3", "conv5_1/3x3", "conv5_4_k1"])
def test_equals_the_oracle(tiny_graph, oracle, layer):
    found = trial(tiny_graph, oracle, layer, runs=1)
    assert found.different == 0
    assert found.codes == np.prod(tiny_graph.shape(layer))
    assert np.unique(oracle.codes(f"{layer}/codes")).size > 50
    assert 0 < found.stored <= found.blocks
    assert found.seconds > 0


@pytest.mark.parametrize(("size", "channels"), [((5, 7), (3, 6)), ((1, 1), (1, 1)), ((16, 33), (9, 4))])
def test_padding_holds_the_zero_point(size, channels):
    """Codes from -20 on with a zero point inside, odd sizes, channels that are no fours, empty blocks."""
    rng = np.random.default_rng(4)
    inputs, outputs = channels
    weight = rng.integers(-127, 128, (outputs, inputs, 3, 3)) * (rng.random((outputs, inputs, 3, 3)) < 0.5)
    weight[0] = 0
    ones = np.ones(outputs, np.float32)
    ops = (
        Input("x", (inputs, *size)),
        Quantize("q", "x", Quantizer(0.05, 7, -20, 200)),
        Convolution("c", "q", weight.astype(np.int8), 0.01 * ones, ones, padding=(1, 1, 1, 1)),
        Relu("r", "c"),
        Quantize("end", "r", Quantizer(0.02)),
    )
    graph = Graph(ops, "end")
    found = trial(graph, Oracle(graph, random_blob(graph, 1)), "c", runs=1)
    assert (found.different, found.codes) == (0, outputs * size[0] * size[1])


def test_a_wrong_kernel_is_found_out(tiny_graph, oracle, monkeypatch):
    monkeypatch.setattr(own_kernel, "own_kernel", lambda *arguments: None)
    assert trial(tiny_graph, oracle, "conv3_1/3x3", runs=1).different > 100


@pytest.mark.parametrize("layer", ["conv1_sub1", "conv3_2/increase", "conv6_cls", "pool1", "nothing"])
def test_layers_that_it_cannot_compute(tiny_graph, oracle, layer):
    with pytest.raises(ValueError, match=f"{layer}: expected a convolution of stride 1"):
        trial(tiny_graph, oracle, layer)


def test_report(tiny_net, monkeypatch, capsys):
    line = own_kernel.report("tiny", tiny_net, "conv3_1/3x3")
    assert "blocks" in line
    assert line.endswith("9,216 codes, all equal the oracle's")
    monkeypatch.setattr(sys, "argv", ["own_kernel", "pool1"])
    with pytest.raises(SystemExit):
        own_kernel.main()
    assert "pool1: expected a convolution" in capsys.readouterr().err
