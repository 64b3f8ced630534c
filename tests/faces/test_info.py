"""`Model.info`, `Model.profile`, and how the large objects print."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import sparse_icnet
from sparse_icnet.network.graph import Quantizer
from sparse_icnet.sparse.block_csr import block_density
from sparse_icnet.study.timing import NOISY


def test_info(tiny_net):
    info = tiny_net.info()
    assert info.size == (192, 192)
    assert (info.output, info.output_shape) == ("probabilities", (12, 192, 192))
    assert info.class_names == sparse_icnet.CLASSES
    assert info.threads == 1
    assert len(info.layers) == 64
    weights = np.concatenate([op.weight.ravel() for op in tiny_net.graph.convolutions])
    assert info.weights == weights.size
    assert info.zeros == pytest.approx((weights == 0).mean())
    assert info.macs_as_written == tiny_net.graph.macs() > info.dense_macs > info.macs > 0
    assert info.macs == sum(layer.macs for layer in info.layers)
    assert 0 <= info.filtered_macs <= info.macs


def test_info_of_a_layer(tiny_net):
    op = tiny_net.graph["conv4_2/3x3"]
    layer = tiny_net.info()["conv4_2/3x3"]
    assert layer.weight_shape == op.weight.shape
    assert (layer.stride, layer.dilation) == ((1, 1), (2, 2))
    assert layer.output_shape == tiny_net.graph.shape(op.name)
    assert layer.zeros == pytest.approx((op.weight == 0).mean())
    assert layer.empty_1x4 == pytest.approx(1 - block_density(op.weight, 1))
    assert layer.empty_4x4 == pytest.approx(1 - block_density(op.weight, 4))
    assert layer.empty_4x4 <= layer.empty_1x4 <= layer.zeros
    assert layer.kernel
    assert layer.reason
    assert layer.weight_bytes > 0
    with pytest.raises(
        KeyError, match=r"'conv4_2/3x' is no convolution of this model, did you mean conv4_2/3x3"
    ):
        tiny_net.info()["conv4_2/3x"]


def test_profile(tiny_net):
    profile = tiny_net.profile(2)
    assert profile.threads == 1
    assert profile.seconds == pytest.approx(sum(step.seconds for step in profile.steps))
    assert all(step.seconds > 0 for step in profile.steps)
    assert sum(step.macs for step in profile.steps) == tiny_net.info().macs
    assert re.fullmatch(r"Profile\([\d.]+ ms in \d+ steps on 1 thread(, noisy)?: .* %\)", repr(profile))
    assert profile.total.low <= profile.total.median <= profile.total.high
    assert all(step.low <= step.seconds <= step.high for step in profile.steps)
    assert profile.noise.noisy == (profile.total.width > NOISY)
    for repeats in (0, -1):
        with pytest.raises(ValueError, match=f"repeats must be at least 1, found {repeats}"):
            tiny_net.profile(repeats)


def test_figures_become_json(tiny_net):
    info = json.loads(json.dumps(tiny_net.info().to_dict()))
    assert info["layers"][0]["name"] == "conv1_sub1"
    assert info["size"] == [192, 192]
    profile = json.loads(json.dumps(tiny_net.profile(1).to_dict()))
    assert profile["steps"][0]["seconds"] > 0


def test_large_objects_print_a_line(tiny_net):
    graph, plan, session = tiny_net.graph, tiny_net.plan, tiny_net.session
    steps = list(plan.steps())
    views = [*plan.views.values(), *(target for step in steps for target in step.writes)]
    shown = [tiny_net, graph, plan, session, tiny_net.info(), *graph.ops, *steps, *views]
    for thing in shown:
        assert "\n" not in repr(thing)
        assert len(repr(thing)) < 400, type(thing)
    assert repr(graph).startswith("Graph(image 3x192x192 -> probabilities 12x192x192, ")
    assert "conv1_2" in repr(graph["conv1_2"])
    assert "64 convolutions" in repr(graph)
    assert repr(plan) in repr(session)
    assert repr(Quantizer(0.5)) == "Quantizer(scale=0.5, zero_point=0, low=0, high=255)"


def test_model_in_a_notebook(tiny_net, tiny_graph):
    text = tiny_net._repr_html_()
    assert text.startswith("<table>")
    assert "3 x 192 x 192" in text
    assert "tiny.npz" in text
    hostile = sparse_icnet.Model(tiny_graph, 1, ["<b>&"] + [f"c{i}" for i in range(11)])
    assert "<b>" not in hostile._repr_html_()
    assert "made in memory" in hostile._repr_html_()


def test_class_names(tiny_file, tiny_graph):
    names = [f"kind {i}" for i in range(12)]
    net = sparse_icnet.load(tiny_file, threads=1, class_names=names)
    assert net.class_names == net.info().class_names == tuple(names)
    with pytest.raises(ValueError, match="expected 12 class names, found 2"):
        sparse_icnet.Model(tiny_graph, class_names=["a", "b"])
    with pytest.raises(ValueError, match="class 1: expected distinct names"):
        sparse_icnet.load(tiny_file, class_names=["a"] * 12)
