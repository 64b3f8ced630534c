"""Every constant is a finite float32 in the unit of each reader, or the file is refused when it is loaded."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import graphs
import numpy as np
import pytest
from hypothesis import given, settings

import sparse_icnet
from sparse_icnet import formats
from sparse_icnet.formats import native
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.constants import check_constants, smallest_units
from sparse_icnet.network.graph import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    Graph,
    GraphError,
    Input,
    Normalization,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
)
from sparse_icnet.reference.oracle import Oracle

PLAIN = Normalization(1.0, (0.0,) * 3, (1.0,) * 3)


def network(
    affine: tuple[float, float] = (1.0, 0.0),
    first: float = 0.02,
    weight_scale: float = 0.01,
    bias: float = 0.0,
    second: float = 0.05,
    normalization: Normalization = PLAIN,
) -> Graph:
    """image > affine > codes > convolution + mean > ReLU > resize > codes > convolution > softmax."""
    scale, shift = (np.full(3, value, np.float32) for value in affine)
    weight = np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1, 1)
    scales, biases = np.full(4, weight_scale, np.float32), np.array([0, bias, 0, 0], np.float32)
    square = np.eye(4, dtype=np.int8).reshape(4, 4, 1, 1)
    ops = (
        Input("image", (3, 32, 32)),
        Affine("affine", "image", scale, shift),
        Quantize("codes", "affine", Quantizer(first, 114)),
        Convolution("convolution", "codes", weight, scales, biases),
        Relu("relu", "convolution"),
        Quantize("more", "relu", Quantizer(second)),
        AveragePool("mean", "more", (2, 2)),
        Resize("up", "mean", (32, 32)),
        Add("sum", "up", "more"),
        Quantize("last", "sum", Quantizer(second)),
        Convolution("logits", "last", square, np.ones(4, np.float32), np.zeros(4, np.float32)),
        Softmax("probabilities", "logits"),
    )
    return Graph(ops, "probabilities", normalization)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"affine": (1e37, 0)}, "'affine' .*scale, shift and the values of an image"),
        ({"affine": (1.0, 3e38)}, r"'affine' .*found 3e\+38 in units of 0\.02"),
        ({"affine": (1e30, 0), "first": 1e-9}, "'affine'"),
        ({"weight_scale": 1e38, "second": 1e-3}, "'convolution' .*scales and biases"),
        ({"bias": -3e38}, "'convolution' .*scales and biases"),
        ({"first": 1e38, "second": 1e-3}, "'convolution'"),
        (
            {"normalization": Normalization(1e-37, (0.0,) * 3, (1.0,) * 3)},
            "normalization that gives finite values",
        ),
        (
            {"normalization": Normalization(1.0, (1e300,) * 3, (1.0,) * 3)},
            "normalization that float32 can hold",
        ),
        (
            {"normalization": Normalization(1.0, (0.0,) * 3, (1e-60,) * 3)},
            "normalization that float32 can hold",
        ),
        (
            {"normalization": Normalization(1e39, (0.0,) * 3, (1.0,) * 3)},
            "normalization that float32 can hold",
        ),
        ({"normalization": Normalization(1.0, (0.0,) * 3, (1e-36,) * 3), "affine": (10, 0)}, "'affine'"),
    ],
)
def test_overflow_is_refused_at_load(changes, message, tmp_path):
    graph = network(**changes)
    with pytest.raises(GraphError, match=message):
        check_constants(graph)
    path = tmp_path / "m.npz"
    native.save(graph, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for load in (formats.load, sparse_icnet.load):
            with pytest.raises(FormatError, match=message) as caught:
                load(path)
            assert str(caught.value).startswith(f"{path}: ")
        with pytest.raises(GraphError, match=message):
            sparse_icnet.Model(graph)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"affine": (1e33, -1e33), "first": 1e33},
        {"affine": (1e-30, 0.0), "first": 1e-3},
        {"weight_scale": 1e30, "bias": 1e32, "second": 1e33},
        {"normalization": Normalization(1e-30, (0.0,) * 3, (1.0,) * 3), "affine": (1e-30, 0.0)},
    ],
)
def test_large_constants_that_stay_finite_are_taken(changes):
    """The oracle multiplies with finite numbers alone; no warning."""
    graph = network(**changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_constants(graph)
        Oracle(graph, np.ones((3, 32, 32), np.float32)).output()


def test_the_limit_is_where_float32_overflows():
    """The largest bias that is finite in the unit of its reader, and the next one."""
    unit = float(np.float32(0.05))
    limit = np.float32(np.finfo(np.float32).max * unit)
    with np.errstate(over="ignore"):
        for bias in (limit, np.nextafter(limit, np.float32(np.inf)), np.nextafter(limit, np.float32(0))):
            fits = bool(np.isfinite(np.float32(float(bias) / unit)))
            try:
                check_constants(network(bias=float(bias)))
            except GraphError:
                assert not fits
            else:
                assert fits


def test_smallest_units():
    units = smallest_units(network(first=0.25, second=0.5))
    inf = math.inf
    assert units == {
        "image": inf,
        "affine": 0.25,
        "codes": inf,
        "convolution": 0.5,
        "relu": 0.5,
        "more": 0.5,
        "mean": 0.5,
        "up": 0.5,
        "sum": 0.5,
        "last": inf,
        "logits": 1.0,
        "probabilities": 1.0,
    }


@settings(deadline=None, max_examples=60)
@given(graph=graphs.graphs())
def test_units_are_those_that_the_oracle_asks_for(graph):
    """Every unit in which an evaluation asks for a real value, and the smallest of them."""
    asked: dict[str, set[float]] = {}

    class Watched(Oracle):
        def real(self, name, unit):
            asked.setdefault(name, set()).add(unit)
            return super().real(name, unit)

    watched = Watched(graph, np.ones(graph.input.shape, np.float32))
    watched.output()
    units = smallest_units(replace(graph))
    for name, found in asked.items():
        assert units[name] <= min(found), name
    check_constants(graph)
