"""The history of a graph: every rewrite in order, with what it did to which layer, down to what is executed."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import sparse_icnet
from sparse_icnet.network import rewrite
from sparse_icnet.network.graph import Convolution, FloatConvolution, Relu
from sparse_icnet.network.rewrite import applications, optimize
from sparse_icnet.operators.source import PACKAGE, place_in, place_of
from sparse_icnet.study.history import history, waterfall


@pytest.fixture(scope="module")
def told(tiny_graph):
    return history(tiny_graph)


def test_applications_lead_from_the_graph_to_the_optimized_one(tiny_graph):
    found = list(applications(tiny_graph))
    graphs = [tiny_graph, *(application.after for application in found)]
    assert all(application.before is graph for application, graph in zip(found, graphs, strict=False))
    assert all(application.rewrite in rewrite.REWRITES for application in found)
    assert [op.name for op in graphs[-1]] == [op.name for op in optimize(tiny_graph)]
    assert list(applications(graphs[-1])) == []


def test_steps_account_for_every_product(tiny_graph, told):
    assert told.macs_as_written == tiny_graph.macs()
    assert told.macs == optimize(tiny_graph).macs() < told.macs_as_written
    assert [step.macs_before for step in told.steps[1:]] == [step.macs_after for step in told.steps[:-1]]
    for step in told.steps:
        assert step.saved == sum(change.saved for change in step.layers)
    assert sum(told.saved_by_rewrite().values()) == told.macs_as_written - told.macs
    assert sum(layer.before.macs for layer in told.layers) == told.macs_as_written


def test_which_rewrites_touched_a_layer(told):
    (step,) = told.of("conv6_cls")
    assert step.rewrite == "push_upsampling"
    change = step.change_of("conv6_cls")
    assert change.before.output_shape == (12, 48, 48)
    assert change.after.output_shape == (12, 24, 24)
    assert change.saved == change.before.macs * 3 // 4
    assert step.summary == "Operations before an upsampling by whole factors instead of after it."
    assert told.of("conv3_1/increase") == ()
    dilated = next(step.change_of("cff42/low") for step in told.of("cff42/low"))
    assert (dilated.before.dilation, dilated.after.dilation) == ((2, 2), (1, 1))
    strided = next(step.change_of("conv2_3/3x3") for step in told.of("conv2_3/3x3"))
    assert (strided.before.stride, strided.after.stride) == ((1, 1), (2, 2))
    assert [step.rewrite for step in told.of("logits_up")] == ["push_upsampling"]


def test_operations_that_the_output_does_not_need_are_the_first_step(tiny_graph):
    from dataclasses import replace

    last = tiny_graph["conv6_cls"]
    spare = replace(last, name="spare")
    ops = (*tiny_graph.ops, spare, Relu("spare/relu", "spare"))
    graph = replace(tiny_graph, ops=ops)
    told = history(graph)
    first = told.steps[0]
    assert (first.rewrite, first.removed) == ("prune", ("spare", "spare/relu"))
    change = first.change_of("spare")
    assert change.after is None
    assert change.saved == first.saved > 0
    (layer,) = (layer for layer in told.layers if layer.layer == "spare")
    assert layer.after is None


def test_waterfall_ends_in_what_is_executed(tiny_net, told):
    bars = waterfall(told, tiny_net.plan).bars
    info = tiny_net.info()
    assert (bars[0].macs, bars[-1].macs) == (info.macs_as_written, info.macs)
    assert [bar.name for bar in bars if bar.kind == "total"] == ["as written", "rewritten", "executed"]
    assert all(b.macs == a.macs + b.change for a, b in pairwise(bars))
    assert next(bar.macs for bar in bars if bar.name == "rewritten") == info.dense_macs
    assert all(bar.text for bar in bars)


def test_history_becomes_json(tiny_net, told):
    figures = json.loads(json.dumps(told.to_dict()))
    assert figures["layers"][0]["layer"] == "conv1_sub1"
    assert json.loads(json.dumps(waterfall(told, tiny_net.plan).to_dict()))["bars"]


def test_places_lead_to_the_source(told):
    for step in told.steps:
        file, _, line = step.source.rpartition(":")
        text = (PACKAGE.parent / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert text.startswith(f"def {step.rewrite}(")
    assert place_of(optimize) == place_in("network/rewrite/__init__.py", "optimize")
    kernel = "operators/convolution/kernel.py"
    file, _, line = place_in(kernel, "_micro_kernel", "accumulate").rpartition(":")
    assert (
        "def accumulate(" in (PACKAGE.parent / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    )
    with pytest.raises(LookupError, match=r"kernel.py holds no _micro_kernel.nothing"):
        place_in(kernel, "_micro_kernel", "nothing")


def test_filled_products_are_those_of_whole_fours(tiny_net):
    for report in tiny_net.plan.convolutions():
        op = tiny_net.plan.graph[report.name]
        assert isinstance(op, Convolution)
        outputs, inputs = (-(-n // 4) * 4 for n in op.weight.shape[:2])
        pixels = report.dense_macs // op.weight.size
        assert report.filled_macs == outputs * inputs * op.weight[0, 0].size * pixels >= report.dense_macs


def test_blocks_of_float32_fill_no_input_channels(tiny_graph):
    """Nine input channels are nine blocks at a tap, ten output channels three."""
    source = tiny_graph.input
    weights = np.ones((9, 3, 1, 1), np.float32), np.ones((10, 9, 1, 1), np.float32)
    first, second = (
        FloatConvolution(name, before, weight, np.zeros(len(weight), np.float32))
        for name, before, weight in zip(("first", "second"), (source.name, "first"), weights, strict=True)
    )
    graph = replace(tiny_graph, ops=(source, first, second), output="second")
    net = sparse_icnet.Model(graph, 1)
    pixels = source.shape[1] * source.shape[2]
    assert [report.filled_macs for report in net.plan.convolutions()] == [12 * 3 * pixels, 12 * 9 * pixels]
    bars = waterfall(history(graph), net.plan).bars
    assert {bar.name: bar.change for bar in bars if bar.change} == {
        "channels to fours": (3 * 3 + 2 * 9) * pixels
    }
