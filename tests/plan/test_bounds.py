"""The bounds that let a plan leave out the clip before the conversion to integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine import Net, random_blob
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_icnet.network.graph import Affine, Argmax, Convolution, Graph, Input, Quantizer, Softmax
from sparse_icnet.plan.bounds import largest_values
from sparse_icnet.reference.oracle import Oracle


@settings(deadline=None, max_examples=60)
@given(graph=graphs(), seed=st.integers(0, 1000))
def test_no_value_exceeds_its_bound(graph, seed):
    largest = largest_values(graph)
    assert set(largest) == {op.name for op in graph}
    oracle = Oracle(graph, random_blob(graph.input.shape, seed) * np.float32(100))
    for op in graph:
        bound = largest[op.name]
        if math.isfinite(bound):
            assert np.abs(oracle.real(op.name, 1.0)).max() <= bound * (1 + 1e-6), op
        else:  # what no quantizer has bounded
            assert isinstance(op, Input | Affine | Softmax | Argmax) or math.inf in map(
                largest.get, op.inputs
            )


@pytest.mark.parametrize("quantizer", [Quantizer(0.5, 200), Quantizer(0.5, -128, -128, 127)])
def test_extreme_codes_and_weights_reach_the_bound(quantizer):
    """Codes farthest from the zero point, signs of weights all alike: the bound is the value itself."""
    net = Net((2, 16), quantizer)
    name = net.convolution(net.image, 4)
    op = net.ops.pop()
    weight = np.full_like(op.weight, -128)
    scale, bias = np.float32([0.5, 1, -2, -2]), np.float32([0, 8, 16, -16])
    net.ops.append(Convolution(name, op.input, weight, scale, bias))
    total = net.sum(name, net.relu(name))
    graph = Graph(tuple(net.ops), total)
    far = np.float32(-1e6 if quantizer.zero_point > 0 else 1e6)
    oracle = Oracle(graph, np.full(graph.input.shape, far))
    largest = largest_values(graph)
    assert np.abs(oracle.real(net.image, 1.0)).max() == largest[net.image]
    assert np.abs(oracle.real(name, 1.0)).max() == largest[name]
    assert largest[total] == 2 * largest[name]
    assert largest[graph.input.name] == math.inf
