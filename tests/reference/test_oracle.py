"""The oracle against its equations, against float64, and at the extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from graphs import as_exported, dyadic_blob, graphs, random_convolution, random_icnet
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_blob

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import (
    Add,
    Argmax,
    AveragePool,
    Convolution,
    Graph,
    Input,
    MaxPool,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
)
from sparse_icnet.reference.equations import convolve, max_pool, nearest, softmax
from sparse_icnet.reference.evaluate import evaluate_float
from sparse_icnet.reference.oracle import Oracle

seeds = st.integers(0, 2**32 - 1)


def codes_graph(*ops, shape, quantizer: Quantizer) -> Graph:
    start = (Input("image", shape), Quantize("q", "image", quantizer))
    return Graph((*start, *ops), ops[-1].name if ops else "q")


def blob_of(codes: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """The input that quantizes to `codes`."""
    return ((codes - quantizer.zero_point) * np.float64(quantizer.scale)).astype(np.float32)


# Against float64.


@settings(max_examples=100, deadline=None)
@given(graph=graphs(dyadic=True), exported=st.booleans(), seed=seeds)
def test_equals_float64_where_nothing_rounds(graph, exported, seed):
    """With powers of two for scales float32 holds every intermediate value, and both readings agree."""
    if exported:
        graph = as_exported(graph, seed)
    blob = dyadic_blob(graph, seed)
    oracle, values = Oracle(graph, blob), evaluate_float(graph, blob)
    for op in graph:
        if isinstance(op, Input) or _shows_classes(graph, op.name):
            continue
        np.testing.assert_array_equal(oracle.real(op.name, 1.0), values[op.name], err_msg=op.name)
    np.testing.assert_array_equal(_real_output(oracle), values[graph.output])


def _shows_classes(graph: Graph, name: str) -> bool:
    while isinstance(op := graph[name], Resize):
        name = op.input
    return isinstance(op, Argmax)


def _real_output(oracle: Oracle) -> np.ndarray:
    name = oracle.graph.output
    return oracle.value(name) if _shows_classes(oracle.graph, name) else oracle.real(name, 1.0)


@pytest.mark.parametrize("exported", [False, True], ids=["own", "as exported"])
def test_icnet_layer_by_layer_is_within_one_code_of_float64(exported):
    """Each quantizer, fed with the oracle's own codes: codes differ by one at most, and only at ties.

    float32 is off by some 2**-22 of a value of up to 255 codes, so a value lies on the other side of a tie
    for about one code in 10**4 at most.
    """
    graph = random_icnet((192, 192), seed=5)
    if exported:
        graph = as_exported(graph)
    oracle = Oracle(graph, random_blob(graph, 6))
    differing = total = 0
    for op in graph:
        if not isinstance(op, Quantize) or op.input == "image":
            continue
        codes = oracle.codes(op.name).astype(np.int64)
        assert len(np.unique(codes)) > 16, f"{op.name} is trivial"
        want = _codes_from_float64(graph, op, oracle)
        assert np.abs(codes - want).max() <= 1, op.name
        differing += np.count_nonzero(codes != want)
        total += codes.size
    assert total > 1_500_000
    assert differing <= total * 1e-4


def _codes_from_float64(graph: Graph, op: Quantize, oracle: Oracle) -> np.ndarray:
    """(Q1) of the exact expression between `op` and the quantized tensors that it reads."""

    def value(name: str) -> np.ndarray:
        if (quantizer := graph.quantizer(name)) is not None:
            return (oracle.codes(name).astype(np.float64) - quantizer.zero_point) * quantizer.scale
        match node := graph[name]:
            case Convolution():
                scale = graph.quantizer(node.input).scale * node.weight_scale.astype(np.float64)
                sums = oracle.accumulator(name).astype(np.float64)
                return sums * scale[:, None, None] + node.bias.astype(np.float64)[:, None, None]
            case Add():
                return value(node.left) + value(node.right)
            case Relu():
                return np.maximum(value(node.input), 0)
            case Resize():
                return nearest(value(node.input), node.size)
            case AveragePool():
                x = value(node.input)
                c, h, _ = x.shape
                return x.reshape(c, node.bins[0], h // node.bins[0], node.bins[1], -1).mean((2, 4))
        raise TypeError(node)

    q = op.quantizer
    return np.clip(np.rint(value(op.input) / q.scale) + q.zero_point, q.low, q.high).astype(np.int64)


# Equation by equation, from loops that say what the words say.


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0.5, 0),
        (1.5, 2),
        (2.5, 2),
        (-0.5, 0),
        (-1.5, -2),
        (3.49, 3),
        (127.4, 127),
        (127.6, 127),
        (-129.0, -128),
    ],
)
def test_quantizer_rounds_half_to_even_and_clips(x, expected):
    graph = codes_graph(shape=(1, 1, 1), quantizer=Quantizer(0.25, 0, -128, 127))
    assert Oracle(graph, np.full((1, 1, 1), x / 4, np.float32)).codes("q").item() == expected


@pytest.mark.parametrize("zero_point", [0, 1, 128, 255])
def test_zero_point_is_the_code_of_zero_and_extremes_clip(zero_point):
    quantizer = Quantizer(0.1, zero_point)
    graph = codes_graph(shape=(1, 1, 6), quantizer=quantizer)
    huge = np.finfo(np.float32).max
    blob = np.array([0.0, -0.0, huge, -huge, np.inf, -np.inf], np.float32).reshape(1, 1, 6)
    with np.errstate(over="ignore"):
        codes = Oracle(graph, blob).codes("q").ravel().tolist()
    assert codes == [zero_point, zero_point, 255, 0, 255, 0]


def test_not_a_number_becomes_the_lowest_code():
    graph = codes_graph(shape=(1, 1, 1), quantizer=Quantizer(0.1, 3, -5, 100))
    assert Oracle(graph, np.full((1, 1, 1), np.nan, np.float32)).codes("q").item() == -5


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=seeds)
def test_convolution_equals_its_loops(data, seed):
    rng = np.random.default_rng(seed)
    small = st.integers(1, 3)
    inputs, outputs = data.draw(small), data.draw(small)
    kernel, stride, dilation = (data.draw(st.tuples(small, small)) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    height = dilation[0] * (kernel[0] - 1) + data.draw(small)
    width = dilation[1] * (kernel[1] - 1) + data.draw(small)
    quantizer = Quantizer(1.0, data.draw(st.integers(0, 255)))
    codes = rng.choice([0, 1, 127, 128, 254, 255], (inputs, height, width)).astype(np.int16)
    op = random_convolution(
        rng, "c", "q", (outputs, inputs, *kernel), stride=stride, dilation=dilation, padding=padding
    )
    found = convolve(codes, op, quantizer)
    shape = codes_graph(op, shape=codes.shape, quantizer=quantizer).shape("c")
    assert found.shape == shape
    for o, y, x in np.ndindex(shape):
        total = 0
        for i, r, c in np.ndindex(op.weight.shape[1:]):
            row = y * stride[0] + r * dilation[0] - padding[0]
            column = x * stride[1] + c * dilation[1] - padding[1]
            if 0 <= row < height and 0 <= column < width:
                total += (int(codes[i, row, column]) - quantizer.zero_point) * int(op.weight[o, i, r, c])
        assert found[o, y, x] == total


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("weight", [-128, 127])
def test_largest_accumulators_are_exact(code, weight):
    """Sums beyond 2**24, where float32 would round, up to the bound of int32."""
    count = ((1 << 31) - 1) // (255 * 128)
    taps = np.full((1, 8, 1, -(-count // 8)), weight, np.int8)
    taps.ravel()[count:] = 0
    quantizer = Quantizer(1.0, 255 - code)
    ones = np.ones(1, np.float32)
    op = Convolution("c", "q", taps, ones, ones)
    graph = codes_graph(op, shape=taps.shape[1:], quantizer=quantizer)
    blob = blob_of(np.full(taps.shape[1:], code), quantizer)
    expected = (2 * code - 255) * weight * count
    assert Oracle(graph, blob).accumulator("c").item() == expected
    assert abs(expected) > 2**30


def test_convolution_without_weights_is_its_bias():
    op = Convolution(
        "c", "q", np.zeros((2, 1, 3, 3), np.int8), np.ones(2, np.float32), np.array([1.5, -2], np.float32)
    )
    graph = codes_graph(op, shape=(1, 3, 3), quantizer=Quantizer(0.1, 9))
    assert Oracle(graph, np.ones((1, 3, 3), np.float32)).output().ravel().tolist() == [1.5, -2]


def test_rescale_rounds_twice():
    """(Q4): the product rounds to float32 before the bias is added; a fused multiply-add would differ."""
    multiplier, bias = np.float32(1 + 2**-12), np.float32(-1)
    op = Convolution(
        "c",
        "q",
        np.full((1, 1, 1, 1), 1, np.int8),
        np.full(1, multiplier, np.float32),
        np.full(1, bias, np.float32),
    )
    scale = np.float32(1 + 2**-12)
    graph = codes_graph(op, shape=(1, 1, 1), quantizer=Quantizer(float(scale)))
    found = Oracle(graph, np.full((1, 1, 1), scale, np.float32)).output().item()
    product = np.float32(float(scale) * float(multiplier))
    assert found == float(product) - 1
    assert found != float(scale) * float(multiplier) - 1


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), target=st.integers(1, 90))
def test_nearest_is_floor_division(length, target):
    x = np.arange(length)[None, :, None]
    rows = nearest(x, (target, 1))[0, :, 0]
    assert rows.tolist() == [i * length // target for i in range(target)]
    columns = nearest(x.transpose(0, 2, 1), (1, target))[0, 0]
    assert columns.tolist() == rows.tolist()


def test_max_pool_padding_never_wins():
    op = MaxPool("m", "q", (3, 3), (2, 2), (1, 1, 1, 1))
    x = -np.arange(1, 17, dtype=np.int16).reshape(1, 4, 4)
    expected = [
        [max(x[0, r, c] for r in rows for c in cols) for cols in ((0, 1), (1, 2, 3))]
        for rows in ((0, 1), (1, 2, 3))
    ]
    assert max_pool(x, op)[0].tolist() == expected
    assert max_pool(x.astype(np.float64), op)[0].tolist() == expected


def test_average_pool_divides_once():
    """(Q6): the multiplier f32(s / (n * u)) rounds once, and the sum is exact."""
    quantizer = Quantizer(0.25, 10)
    graph = codes_graph(AveragePool("a", "q", (2, 1)), shape=(1, 4, 3), quantizer=quantizer)
    codes = np.arange(12).reshape(1, 4, 3)
    found = Oracle(graph, blob_of(codes, quantizer)).output()
    expected = [
        np.float32(sum(range(6)) - 60) * np.float32(0.25 / 6),
        np.float32(sum(range(6, 12)) - 60) * np.float32(0.25 / 6),
    ]
    assert found.ravel().tolist() == expected


@pytest.mark.parametrize("unit", [1.0, 0.1, 3.7])
def test_units_divide_the_multiplier_and_not_the_value(unit):
    """(Q2): f32(q - z) * f32(s / u)."""
    quantizer = Quantizer(0.3, 4)
    graph = codes_graph(shape=(1, 16, 16), quantizer=quantizer)
    codes = np.arange(256).reshape(1, 16, 16)
    found = Oracle(graph, blob_of(codes, quantizer)).real("q", unit)
    np.testing.assert_array_equal(found, (codes - 4).astype(np.float32) * np.float32(quantizer.scale / unit))


# exp and softmax.


def test_exp_is_accurate_on_its_whole_range():
    x = np.concatenate(
        [
            np.linspace(-87, 0, 200_001, dtype=np.float32),
            -np.geomspace(1e-12, 87, 100_001).astype(np.float32),
            -np.arange(126, dtype=np.float32) * np.float32(math.log(2)),
        ]
    )
    exact = np.exp(x.astype(np.float64))
    found = arithmetic.exp(x)
    assert found.dtype == np.float32
    assert (np.abs(found - exact) / exact).max() < 1.2e-7


def test_exp_never_exceeds_one():
    """What `rewrite.to_class_map` relies on; every float32 from -1e-3 to 0 in steps, and the range at large."""
    near = -np.geomspace(1e-38, 1, 400_001).astype(np.float32)
    assert arithmetic.exp(near).max() <= 1
    assert arithmetic.exp(np.zeros(1, np.float32)).item() == 1
    assert arithmetic.exp(np.array([-0.0], np.float32)).item() == 1


@pytest.mark.parametrize("x", [-87.0, -88.0, -1e30, -np.inf])
def test_exp_is_flat_below_minus_87(x):
    found = arithmetic.exp(np.array([x], np.float32)).item()
    assert found == arithmetic.exp(np.array([-87], np.float32)).item()
    assert 0 < found < 1.7e-38


@settings(max_examples=100, deadline=None)
@given(classes=st.integers(1, 20), spread=st.floats(0, 100), seed=seeds)
def test_softmax_sums_to_one_and_equals_float64(classes, spread, seed):
    logits = (np.random.default_rng(seed).normal(0, 1, (classes, 5, 7)) * spread).astype(np.float32)
    found = softmax(logits)
    assert found.dtype == np.float32
    assert (found > 0).all()
    np.testing.assert_allclose(found.astype(np.float64).sum(0), 1, rtol=0, atol=classes * 1e-7)
    e = np.exp((logits - logits.max(0)).astype(np.float64))
    np.testing.assert_allclose(found, e / e.sum(0), rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize("level", [0.0, 1e30, -1e30, 3.4e38])
def test_softmax_of_equal_logits_is_uniform(level):
    found = softmax(np.full((12, 2, 2), level, np.float32))
    np.testing.assert_array_equal(found, np.float32(1) * (np.float32(1) / np.float32(12)))


def test_softmax_saturates_without_overflow():
    logits = np.array([3e38, -3e38, 0], np.float32).reshape(3, 1, 1)
    with np.errstate(over="ignore"):
        found = softmax(logits).ravel()
    assert found[0] == 1
    assert (found[1:] < 1e-37).all()


def test_argmax_takes_the_lowest_of_equals():
    graph = Graph((Input("image", (3, 1, 2)), Argmax("a", "image"), Resize("up", "a", (2, 2))), "up")
    blob = np.array([[1, 0], [1, 5], [0, 5]], np.float32).reshape(3, 1, 2)
    found = Oracle(graph, blob).output()
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 1], [0, 1]]]


# The object.


@pytest.mark.parametrize(
    "blob", [np.zeros((3, 4, 5), np.float64), np.zeros((3, 5, 4), np.float32), np.zeros((4, 5), np.float32)]
)
def test_wrong_input_is_refused(blob):
    graph = codes_graph(shape=(3, 4, 5), quantizer=Quantizer(1.0))
    with pytest.raises(ValueError, match=r"input must be float32 of shape \(3, 4, 5\), found"):
        Oracle(graph, blob)


def test_real_tensor_has_no_codes():
    graph = codes_graph(Relu("r", "q"), shape=(1, 1, 1), quantizer=Quantizer(1.0))
    with pytest.raises(TypeError, match="operation 'r'"):
        Oracle(graph, np.zeros((1, 1, 1), np.float32)).codes("r")


def test_softmax_in_another_unit():
    graph = Graph(
        (Input("image", (2, 1, 1)), Softmax("p", "image"), Quantize("q", "p", Quantizer(0.25))), "q"
    )
    oracle = Oracle(graph, np.zeros((2, 1, 1), np.float32))
    assert oracle.codes("q").ravel().tolist() == [2, 2]
    assert oracle.output().ravel().tolist() == [0.5, 0.5]
