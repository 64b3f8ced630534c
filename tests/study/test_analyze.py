"""Measuring: layers are those of the plan, models take turns, and what is said of the figures follows from them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from engine import Net
from networks import random_picture

from sparse_icnet.model import Model
from sparse_icnet.study.analyze import analyze, compare
from sparse_icnet.study.measure import Facts, Layer, Round, dense_twin, layers_of
from sparse_icnet.study.peak import Peak


def a_layer(name: str, number: int, macs: int = 0, **fields: object) -> Layer:
    convolutions = (name,) if macs else ()
    known = Layer(
        name,
        "convolution",
        "4x6" if macs else "",
        (number,),
        (name,),
        convolutions,
        macs,
        2 * macs,
        False,
        False,
        0.5,
        0.6,
        9,
    )
    return replace(known, **fields)


class Scripted:
    """A subject whose rounds are known."""

    def __init__(self, label: str, rounds: list[Round], log: list[str], **fields: object) -> None:
        layers = (
            a_layer("input", 0),
            a_layer("conv1", 1, 1000),
            a_layer("conv2", 2, 4000, filtered=True, kernel="w"),
        )
        twin = tuple(layer for layer in layers[1:])
        self.facts = replace(Facts("m", label, (96, 96), 2, "t", "c", layers, twin), **fields)
        self._rounds, self._log = rounds, log

    def round(self, number: int) -> Round:
        self._log.append(self.facts.label)
        return self._rounds[number]


def rounds(*own: tuple[float, float, float], twin: tuple[float, float] = (4.0, 5.0)) -> list[Round]:
    return [Round(list(of), [0.0, 0.1, 0.2], sum(of), list(twin), 2000.0, 1000.0) for of in own]


def test_models_take_turns():
    log: list[str] = []
    same = rounds(*[(1.0, 2.0, 3.0)] * 4)
    compare([Scripted("A", same, log), Scripted("B", same, log)], rounds=4)
    assert "".join(log) == "ABBAABBA"


def test_figures_of_one_model():
    steady = [(1.0, 2.0, 3.0), (1.0, 2.1, 3.0), (1.0, 2.2, 3.1)]
    found = compare([Scripted("A", rounds(*steady), [])], rounds=3)
    assert (found.second, found.difference, found.differences) == (None, None, ())
    timing = found.first
    assert timing.time.median == pytest.approx(6.1)
    assert [layer.time.median for layer in timing.layers] == pytest.approx([1.0, 2.1, 3.0])
    assert timing["conv1"].share == pytest.approx(2.1 / 6.1)
    assert timing["conv1"].saved.median == pytest.approx(1.9)
    assert timing["input"].saved is timing["input"].dense is None
    assert timing.saved.median == pytest.approx(3.9)  # of the rounds 4, 3.9, 3.7
    assert timing.dense.median == pytest.approx(10.0)
    assert timing["conv1"].peak_share == pytest.approx(1000 / 2000 / 2.1)
    assert timing["conv2"].peak_share == pytest.approx(4000 / 1000 / 3.0)  # of the peak of int16
    assert timing["input"].peak_share is None
    assert [kind.kernel for kind in timing.kinds] == ["w", "4x6", "convolution"]
    assert timing.kinds[0].saved.median == pytest.approx(2.0)
    assert timing.kinds[2].saved is None
    assert (timing.macs, timing.dense_macs) == (5000, 10000)
    assert not timing.noise.noisy
    assert "zeros save 3900.00 ms" in repr(found)


def test_differences_of_two_models_are_those_of_the_rounds():
    first = rounds((1.0, 2.0, 3.0), (1.0, 3.0, 3.0), (1.0, 4.0, 3.0))
    second = rounds((1.0, 2.5, 2.0), (1.0, 3.5, 2.0), (1.0, 4.5, 2.0))
    found = compare([Scripted("A", first, []), Scripted("B", second, [])], rounds=3)
    assert found.difference.median == pytest.approx(-0.5)
    assert found.difference.clear
    assert [one.name for one in found.differences] == ["conv2", "conv1", "input"]
    assert found.differences[1].difference.median == pytest.approx(0.5)
    assert not found.differences[2].difference.clear
    renamed = tuple(replace(layer, name=f"new {layer.name}") for layer in Scripted("A", [], []).facts.layers)
    other = compare([Scripted("A", first, []), Scripted("A", second, [], layers=renamed)], rounds=3)
    assert other.second is not None
    assert [one.label for one in (other.first, other.second)] == ["A (A)", "A (B)"]
    assert {one.name: (one.first, one.second) for one in other.differences}["conv1"] == (3.0, 0.0)
    assert {one.name: (one.first, one.second) for one in other.differences}["new conv1"] == (0.0, 3.5)
    assert len(other.differences) == 6


def test_a_busy_machine_is_said():
    wild = rounds((1.0, 2.0, 3.0), (1.0, 20.0, 3.0), (1.0, 2.0, 30.0))
    wild[0] = replace(wild[0], peak=9000.0)
    noise = compare([Scripted("A", wild, [])], rounds=3).first.noise
    assert noise.noisy
    assert "an inference took 15000.00 to 28500.00 ms between its quartiles" in noise.reasons[0]
    assert "in the median" in noise.reasons[-1]
    assert compare([Scripted("A", wild, [])], rounds=3).noisy


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1, found 0"):
        compare([Scripted("A", [], [])], rounds=0)


def test_facts_travel_as_json():
    facts = Scripted("A", [], []).facts
    assert Facts.of(json.loads(json.dumps(asdict(facts)))) == facts


def test_a_twin_has_no_zeros_and_keeps_the_rest(tiny_graph):
    twin = dense_twin(tiny_graph)
    for op in tiny_graph.convolutions:
        weight = twin[op.name].weight
        assert weight.dtype == np.int8
        assert (weight != 0).all()
        kept = op.weight != 0
        assert np.array_equal(weight[kept], op.weight[kept])
        assert abs(int(weight[~kept].astype(int).sum())) <= (~kept).sum() // 2
        assert set(np.unique(weight[~kept])) <= {-1, 1}


def test_layers_of_float32_are_measured_without_a_peak():
    net = Net((48, 64))
    codes = net.codes(net.relu(net.convolution(net.image, 8, 3, density=0.5)))
    real = net.float_convolution(codes, 8, 3, density=0.25)
    graph = net.classify(codes, net.codes(net.relu(real)))
    twin = dense_twin(graph)
    (name,) = (op.name for op in graph.layers if op not in graph.convolutions)
    zeros = graph[name].weight == 0
    assert 0.5 < zeros.mean() < 1
    assert (twin[name].weight != 0).all()
    assert twin[name].weight.dtype == np.float32
    assert np.abs(twin[name].weight[zeros]).max() == np.abs(graph[name].weight[~zeros]).min()
    timing = analyze(Model(graph, 1), rounds=1).first
    assert timing[name].peak_share is None
    assert timing[name].saved is not None
    assert timing[name].dense_macs > timing[name].macs > 0
    kinds = {kind.kernel: kind.peak_share for kind in timing.kinds if kind.macs}
    assert kinds.pop(timing[name].kernel) is None
    assert all(share > 0 for share in kinds.values())
    assert len(kinds) > 0


def test_layers_hold_every_step_of_the_inference_once(tiny_net):
    steps = tiny_net.session.record(random_picture(192, 192, seed=1), (192, 192)).steps
    layers = layers_of(steps)
    assert sorted(number for layer in layers for number in layer.numbers) == list(range(len(steps)))
    assert all(layer.steps == tuple(steps[number].name for number in layer.numbers) for layer in layers)
    assert sum(layer.macs for layer in layers) == tiny_net.info().macs
    assert sum(layer.dense_macs for layer in layers) == tiny_net.info().dense_macs
    names = [name for layer in layers for name in layer.convolutions]
    assert sorted(names) == sorted(one.name for one in tiny_net.plan.convolutions())
    alone = {layer.name for layer in layers if not layer.convolutions}
    assert not [name for name in alone if name.endswith(("/elements", "/shift"))]
    assert all(layer.bytes > 0 for layer in layers)
    zeros = tiny_net.info()["conv4_2/3x3"].zeros
    assert next(layer for layer in layers if layer.name == "conv4_2/3x3").zeros == pytest.approx(zeros)


def test_analyze_measures_a_model_and_its_twin(tiny_net):
    found = analyze(tiny_net, tiny_net, rounds=2, peak=False)
    for timing in (found.first, found.second):
        assert timing.size == (192, 192)
        assert timing.rounds == 2
        assert timing.peak is timing.best_peak is None
        assert timing.macs == tiny_net.info().macs
        for layer in timing.layers:
            assert layer.time.median > 0
            assert (layer.dense is not None) == bool(layer.convolutions)
            assert layer.peak_share is None
        assert timing.saved is not None
        # Half a layer's zeros are in the twin what nothing is skipped for.
        assert timing["conv4_2/3x3"].dense_kernel
    assert len(found.differences) == len(found.first.layers)
    json.dumps(found.to_dict(), allow_nan=False)
    alone = analyze(tiny_net, rounds=1, dense=False, peak=False)
    assert alone.first.dense is alone.first.saved is None


@pytest.mark.parametrize("pairs", [False, True])
def test_peak_is_measured_on_all_threads(pairs, compiled_kernels):
    peak = Peak(2, pairs)
    rates = [peak.measure() for _ in range(2)]
    assert rates == peak.rates
    assert all(rate > 1e8 for rate in rates)
