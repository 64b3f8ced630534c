"""The figures of an analysis: spreads, lookups, JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sparse_icnet.study.timing import Analysis, Difference, LayerTiming, Noise, Spread, Timing


def layer(name: str, seconds: float, **fields: object) -> LayerTiming:
    spread = Spread(seconds, 0.9 * seconds, 1.2 * seconds, 5)
    known = LayerTiming(
        name=name,
        kind="convolution",
        kernel="4x6_x",
        steps=(name,),
        convolutions=(name, f"{name}/projection"),
        time=spread,
        share=0.5,
        waiting=0.1,
        macs=60,
        dense_macs=100,
        filtered=False,
        zeros=0.5,
        stored=0.6,
        bytes=64,
        peak_share=0.8,
        dense_kernel="4x6_x",
        dense=spread,
        saved=Spread(0.0, -1e-6, 1e-6, 5),
    )
    return replace(known, **fields)


def timing(label: str = "m", **fields: object) -> Timing:
    known = Timing(
        model="m.npz",
        label=label,
        size=(96, 96),
        threads=2,
        target="x",
        cpu="c",
        rounds=5,
        runs=3,
        time=Spread(3e-3, 2.9e-3, 3.1e-3, 5),
        dense=None,
        saved=None,
        peak=None,
        peak_of_pairs=None,
        best_peak=None,
        best_peak_of_pairs=None,
        layers=(layer("conv1", 1e-3), layer("conv2", 2e-3)),
        kinds=(),
        noise=Noise(False, (), None),
    )
    return replace(known, **fields)


def test_spread_of_a_sample():
    spread = Spread.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert spread == Spread(3.0, 2.0, 4.0, 5)
    assert spread.width == pytest.approx(2 / 3)
    assert Spread.of([0.0]).width == 0.0


@pytest.mark.parametrize(
    ("values", "clear"), [([1, 2, 3], True), ([-3, -2, -1], True), ([-9, 1, 2, 3, 4], True), ([-1, 1], False)]
)
def test_a_difference_is_clear_where_its_quartiles_have_one_sign(values, clear):
    assert Spread.of(values).clear is clear


def test_a_layer_is_found_by_each_of_its_names():
    found = timing()
    assert found["conv2"] is found["conv2/projection"] is found.layers[1]
    assert (found.macs, found.dense_macs) == (120, 200)
    assert found.layers[0].skipped == 40
    assert layer("filtered", 1.0, macs=150).skipped == 0
    with pytest.raises(KeyError, match=r"'conv3' is no layer of this inference, did you mean conv"):
        found["conv3"]


def test_figures_become_json_and_a_line():
    difference = Spread(1e-3, -1e-3, 2e-3, 5)
    noisy = timing("b", noise=Noise(True, ("busy",), 3.0))
    both = Analysis(timing("a"), noisy, difference, (Difference("conv1", 1e-3, 2e-3, difference),))
    assert both.noisy
    assert not Analysis(timing(), None, None, ()).noisy
    figures = json.loads(json.dumps(both.to_dict()))
    assert figures["second"]["layers"][1]["time"]["median"] == 2e-3
    assert "not told apart" in repr(both)
    assert "noisy" in repr(both)
    assert "3.00 ms (2.90 to 3.10) in 2 layers on 2 threads" in repr(timing())
