"""A graph is checked when it is built; a complaint names the operation, what was expected and what came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import graphs, quantizers
from hypothesis import given, settings

from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Convolution,
    FloatConvolution,
    Graph,
    GraphError,
    Input,
    MaxPool,
    Normalization,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
    pruned,
    rename_inputs,
    resized,
    size_step,
)
from sparse_icnet.network.icnet import (
    LayerWeights,
    activation_names,
    icnet,
    layer_specs,
)
from sparse_icnet.reference.oracle import Oracle

CODES = Quantizer(0.5)
START = (Input("image", (2, 6, 10)), Quantize("q", "image", CODES))


def graph(*ops, start=START) -> Graph:
    return Graph((*start, *ops), ops[-1].name if ops else start[-1].name)


def convolution(shape=(4, 2, 3, 3), source="q", **changes) -> Convolution:
    outputs = shape[0]
    op = Convolution(
        "c", source, np.ones(shape, np.int8), np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    )
    return replace(op, **changes)


def floating(source="image", **changes) -> FloatConvolution:
    op = FloatConvolution("f", source, np.ones((4, 2, 3, 3), np.float32), np.zeros(4, np.float32))
    return replace(op, **changes)


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        ({"scale": 0.0}, "scale must be finite and positive, found 0.0"),
        ({"scale": -1.0}, "scale must be finite and positive"),
        ({"scale": float("nan")}, "scale must be finite and positive, found nan"),
        ({"scale": 1e39}, "scale must be finite and positive, found inf"),
        ({"scale": 1e-60}, "scale must be finite and positive, found 0.0"),
        ({"scale": 1.0, "low": 5, "high": 5, "zero_point": 5}, r"2\.\.256 codes, found 5\.\.5"),
        ({"scale": 1.0, "low": 0, "high": 256}, r"2\.\.256 codes, found 0\.\.256"),
        ({"scale": 1.0, "zero_point": 256}, r"zero point must lie in 0\.\.255 .*, found 256"),
        ({"scale": 1.0, "zero_point": -1}, "found -1"),
        ({"scale": 1e-40}, r"scale must be at least 1\.17549e-38, found 9\.99995e-41"),
        ({"scale": 10**400}, "scale must be a number, found a int"),
        ({"scale": "x"}, "scale must be a number, found a str"),
        ({"scale": 1.0, "low": 0.0}, "low must be an integer, found 0.0"),
        ({"scale": 1.0, "zero_point": True}, "zero_point must be an integer, found True"),
        ({"scale": 1.0, "high": 10**5000}, "64-bit integers"),
        (
            {"scale": 1.0, "low": -32769, "zero_point": -32700, "high": -32600},
            r"-32768\.\.32767, found -32769\.\.",
        ),
        (
            {"scale": 1.0, "low": 32600, "zero_point": 32700, "high": 32768},
            r"-32768\.\.32767, found 32600\.\.32768",
        ),
        (
            {"scale": 1.0, "low": -(1 << 31), "zero_point": -(1 << 31), "high": 255 - (1 << 31)},
            r"-32768\.\.32767",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_quantizer_refuses(quantizer, message):
    with pytest.raises(GraphError, match=message):
        Quantizer(**quantizer)


@given(quantizer=quantizers())
def test_quantizer_holds_float32_scale_and_counts_codes(quantizer):
    assert quantizer.scale == np.float32(quantizer.scale)
    assert 2 <= quantizer.levels <= 256
    assert quantizer == replace(quantizer)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (convolution(), (4, 4, 8)),
        (convolution(padding=(1, 1, 1, 1)), (4, 6, 10)),
        (convolution(padding=(1, 1, 1, 1), stride=(2, 2)), (4, 3, 5)),
        (convolution(padding=(2, 2, 2, 2), dilation=(2, 2)), (4, 6, 10)),
        (convolution(padding=(0, 0, 1, 0), stride=(3, 1)), (4, 2, 8)),
        (convolution((3, 2, 1, 5), dilation=(1, 2)), (3, 6, 2)),
        (MaxPool("m", "q", (3, 3), (2, 2), (1, 1, 1, 1)), (2, 3, 5)),
        (MaxPool("m", "q", (2, 2), (2, 2)), (2, 3, 5)),
        (AveragePool("a", "q", (3, 2)), (2, 3, 2)),
        (floating(), (4, 4, 8)),
        (floating("q", padding=(2, 2, 2, 2), dilation=(2, 2), stride=(2, 1)), (4, 3, 10)),
        (MaxPool("m", "image", (3, 3), (2, 2), (1, 1, 1, 1)), (2, 3, 5)),
        (AveragePool("a", "image", (3, 2)), (2, 3, 2)),
        (Resize("r", "q", (7, 1)), (2, 7, 1)),
        (Add("s", "q", "image"), (2, 6, 10)),
        (Argmax("a", "q"), (1, 6, 10)),
        (Softmax("s", "image"), (2, 6, 10)),
    ],
)
def test_shapes(op, shape):
    g = graph(op)
    assert g.shape(op.name) == shape
    assert Oracle(g, np.ones((2, 6, 10), np.float32)).output().shape == shape


@settings(max_examples=60, deadline=None)
@given(drawn=graphs())
def test_shapes_are_those_of_the_values(drawn):
    oracle = Oracle(drawn, np.ones(drawn.input.shape, np.float32))
    for op in drawn:
        if not isinstance(op, Input):
            assert oracle.value(op.name).shape == drawn.shape(op.name), op.name


NOT_FINITE = np.array([1, np.inf, 1, 1], np.float32)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([Relu("q", "image")], "operation 'q': names must be unique"),
        (
            [Relu("r", "later"), Relu("later", "q")],
            "operation 'r': input 'later' must be an earlier operation",
        ),
        ([Input("second", (1, 2, 2))], r"exactly one input, found \['image', 'second'\]"),
        (
            [convolution(source="image")],
            r"'c' \(Convolution\): expected a quantized input, found the real tensor",
        ),
        (
            [floating(weight=np.ones((4, 2, 1, 1)))],
            r"'f' \(FloatConvolution\): .*float32 weights .* found float64",
        ),
        ([floating(weight=np.full((4, 2, 1, 1), np.inf, np.float32))], "finite weights"),
        ([floating(bias=np.ones(3, np.float32))], r"bias float32 of shape \(4,\)"),
        ([floating(bias=np.full(4, np.nan, np.float32))], "finite bias"),
        ([floating(stride=(0, 1))], r"stride of 2 integers within 1\.\.4096"),
        ([floating(weight=np.ones((4, 2, 9, 1), np.float32))], "kernel no larger than the padded map"),
        ([convolution((4, 3, 1, 1))], r"int8 weights of shape \(O, 2, kh, kw\), found int8 \(4, 3, 1, 1\)"),
        ([convolution(weight=np.ones((4, 2, 1, 1)))], "found float64"),
        ([convolution(weight=np.ones((4, 2, 0, 1), np.int8))], "int8 weights of shape"),
        ([convolution(weight_scale=np.ones(3, np.float32))], r"weight_scale float32 of shape \(4,\)"),
        ([convolution(bias=np.ones(4))], r"bias float32 of shape \(4,\), found float64"),
        ([convolution(weight_scale=NOT_FINITE)], "finite weight_scale"),
        ([convolution(bias=NOT_FINITE * np.float32(np.nan))], "finite bias"),
        ([convolution(weight_scale=np.zeros(4, np.float32))], "non-zero weight scales"),
        ([convolution(stride=(0, 1))], r"stride of 2 integers within 1\.\.4096, found \(0, 1\)"),
        ([convolution(dilation=(1, 0))], r"dilation of 2 integers within 1\.\.4096"),
        ([convolution(dilation=(1, 1 << 40))], r"dilation of 2 integers within 1\.\.4096"),
        ([convolution(stride=(1, True))], "stride of 2 integers"),
        ([convolution(stride=(1, 2.0))], "stride of 2 integers"),
        ([convolution(stride=(1,))], "stride of 2 integers"),
        ([convolution(padding=(0, -1, 0, 0))], r"padding of 4 integers within 0\.\.4096"),
        ([convolution(padding=(0, 0, 5000, 0))], "padding of 4 integers"),
        ([convolution(dilation=(3, 3))], r"kernel no larger than the padded map.*6x10"),
        ([MaxPool("m", "q", (0, 1), (1, 1))], r"kernel of 2 integers within 1\.\.65536"),
        ([MaxPool("m", "q", (1, 1), (1, 1 << 31))], r"stride of 2 integers within 1\.\.4096"),
        ([MaxPool("m", "q", (2, 2), (1, 1), (2, 0, 0, 0))], "padding smaller than the kernel"),
        ([MaxPool("m", "q", (7, 2), (1, 1))], "window no larger than the padded map"),
        ([AveragePool("a", "q", (0, 1))], "bins"),
        ([Resize("r", "q", (0, 4))], r"size of 2 integers within 1\.\.65536"),
        ([Resize("r", "q", (1 << 17, 4))], "size of 2 integers"),
        ([Resize("r", "q", (6, 5)), Add("s", "r", "q")], r"one shape, found \(2, 6, 5\) and \(2, 6, 10\)"),
        ([Affine("a", "q", np.ones(2, np.float32), np.ones(2, np.float32))], "network input as its input"),
        ([Affine("a", "image", np.ones(1, np.float32), np.ones(2, np.float32))], r"shape \(2,\)"),
        ([Affine("a", "image", np.ones(2, np.float32), NOT_FINITE[:2])], "finite scale and shift"),
    ],
)
def test_graph_refuses(ops, message):
    with pytest.raises(GraphError, match=message):
        graph(*ops)


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 4), (3, 1 << 17, 4)])
def test_input_shape_is_bounded(shape):
    with pytest.raises(GraphError, match="operation 'image'"):
        Graph((Input("image", shape),), "image")


@pytest.mark.parametrize("shape", [(1 << 15, 1, 1), (1, 1 << 16, 1 << 16), (1 << 14, 1 << 9, 1 << 9)])
def test_products_of_sizes_are_bounded(shape):
    with pytest.raises(GraphError, match=r"operation 'image' \(Input\): expected at most .* elements, found"):
        Graph((Input("image", shape),), "image")


WIDE = (Input("image", (2, 4, 1 << 15)), Quantize("q", "image", CODES))


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (MaxPool("m", "q", (2, 1 << 13), (1, 1), (1, 0, 0, 0)), None),
        (MaxPool("m", "q", (3, 1 << 13), (1, 1), (1, 0, 0, 0)), r"16384 positions, found 3x8192"),
        (convolution((1, 2, 1, 1 << 14)), None),
        (convolution((1, 2, 1, (1 << 14) + 1)), "16384 positions, found 1x16385"),
        (convolution((1, 2, 1, 20), dilation=(1, 4096)), "dilated kernel of at most 65536 .* 77825"),
        (convolution((1 << 12, 2, 1, 1 << 14)), "at most 67108864 weights, found 134217728"),
        (convolution(((1 << 14) + 1, 2, 1, 1)), "16384 channels, .* found 16385x4x32768"),
        (AveragePool("a", "q", (4, 1 << 12)), None),
        (AveragePool("a", "q", (5, 1 << 12)), "at most 16384 bins"),
    ],
)
def test_windows_and_their_products_are_bounded(op, message):
    if message is None:
        assert graph(op, start=WIDE).shape(op.name)
    else:
        with pytest.raises(GraphError, match=f"operation '{op.name}' .*{message}"):
            graph(op, start=WIDE)


def test_unknown_output_and_missing_input():
    with pytest.raises(GraphError, match="output 'nothing' must be an operation"):
        Graph(START, "nothing")
    with pytest.raises(GraphError, match=r"exactly one input, found \[\]"):
        Graph((), "nothing")


def test_too_many_classes_for_a_byte():
    start = (Input("image", (257, 1, 1)),)
    assert graph(Softmax("s", "image"), start=start).shape("s") == (257, 1, 1)
    with pytest.raises(GraphError, match="at most 256 channels, found 257"):
        graph(Argmax("a", "image"), start=start)


@pytest.mark.parametrize("value", [127, -128])
def test_accumulators_that_could_overflow_are_refused(value):
    """The bound is 255 * sum of |w| < 2**31."""
    most = ((1 << 31) - 1) // (255 * abs(value))
    start = (Input("image", (8, 1, 8400)), Quantize("q", "image", CODES))
    for count, fits in ((most, True), (most + 1, False)):
        weight = np.zeros((1, 8, 1, 8400), np.int8)
        weight.ravel()[:count] = value
        op = convolution((1, 8, 1, 1), weight=weight)
        if fits:
            assert graph(op, start=start).shape("c") == (1, 1, 1)
        else:
            with pytest.raises(GraphError, match=r"accumulators below 2\*\*31"):
                graph(op, start=start)


def test_quantizer_is_found_behind_resizes_and_pools():
    g = graph(
        MaxPool("m", "q", (2, 2), (2, 2)),
        Resize("r", "m", (9, 9)),
        Relu("relu", "r"),
        Resize("s", "relu", (3, 3)),
    )
    assert [g.quantizer(op.name) for op in g] == [None, CODES, CODES, CODES, None, None]


def test_consumers_count_both_sides_of_a_sum():
    g = graph(Add("s", "q", "q"), Relu("r", "s"))
    assert {name: [op.name for op in ops] for name, ops in g.consumers().items()} == {
        "image": ["q"],
        "q": ["s", "s"],
        "s": ["r"],
        "r": [],
    }


def test_rename_inputs():
    assert rename_inputs(Add("s", "a", "b"), {"a": "x", "s": "y"}) == Add("s", "x", "b")
    assert rename_inputs(Relu("r", "a"), {"a": "x"}) == Relu("r", "x")
    assert rename_inputs(START[0], {"image": "x"}) is START[0]


def test_pruned_orders_and_drops():
    ops = (Add("s", "r", "q"), Relu("unused", "q"), Relu("r", "q"), *reversed(START))
    order = [op.name for op in pruned(ops, "s")]
    assert order[:2] == ["image", "q"]
    assert sorted(order) == ["image", "q", "r", "s"]
    assert order.index("r") < order.index("s")
    Graph(pruned(ops, "s"), "s")


def test_pruned_refuses_cycles_and_gaps():
    with pytest.raises(GraphError, match="cycle"):
        pruned((Relu("a", "b"), Relu("b", "a")), "a")
    with pytest.raises(GraphError, match="'gone' is read but never defined"):
        pruned((Relu("a", "gone"),), "a")


def test_pruned_takes_long_chains():
    """Deeper than Python's recursion limit."""
    ops = [Input("n0", (1, 1, 1)), *(Relu(f"n{i}", f"n{i - 1}") for i in range(1, 5000))]
    assert [op.name for op in pruned(reversed(ops), "n4999")] == [f"n{i}" for i in range(5000)]


def test_resized_scales_every_target():
    g = graph(Resize("half", "q", (3, 5)), Resize("up", "half", (12, 20)))
    assert resized(g, (6, 10)) is g
    twice = resized(g, (12, 30))
    assert [twice.shape(op.name)[1:] for op in g] == [(12, 30), (12, 30), (6, 15), (24, 60)]
    assert size_step(g) == (2, 2)
    message = r"size 7x10: expected a positive multiple of 2 as height and of 2 as width"
    with pytest.raises(GraphError, match=message):
        resized(g, (7, 10))
    with pytest.raises(GraphError, match="size 0x10: expected a positive"):
        resized(g, (0, 10))


def test_size_steps_are_exactly_the_sizes_that_give_whole_pixels():
    g = graph(Resize("third", "q", (2, 10)), Resize("fifth", "q", (6, 4)), Resize("up", "q", (15, 25)))
    assert size_step(g) == (
        6,
        10,
    )  # 2, 6 and 15 of 6 rows: multiples of 3, 1 and 2; 10, 4 and 25 of 10 columns
    for height in range(1, 40):
        whole = all(op.size[0] * height % 6 == 0 for op in g if isinstance(op, Resize))
        assert whole == (height % 6 == 0)
    assert size_step(graph(AveragePool("a", "q", (3, 2)))) == (1, 1)
    full = icnet(constant_weights(), dict.fromkeys(activation_names(), CODES))
    assert size_step(full) == (32, 32)


def test_a_size_once_given_is_no_longer_free():
    g = replace(graph(Resize("up", "q", (12, 20))), size_is_free=True)
    assert not resized(g, (6, 10)).size_is_free
    assert not resized(g, (12, 10)).size_is_free
    assert replace(g, output="q").size_is_free


def test_normalization_is_the_model_cards():
    table = Normalization().table()
    assert table.shape == (3, 256)
    assert table.dtype == np.float32
    red = (np.arange(256) / 255 - 0.39068785) / 0.29652068
    np.testing.assert_allclose(table[0], red, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(Normalization(1.0, (0.0,) * 3, (1.0,) * 3).table()[2], np.arange(256))


# ICNet as a graph.


def constant_weights(classes: int = 12) -> dict[str, LayerWeights]:
    return {
        layer.name: LayerWeights(
            np.ones((layer.outputs, layer.inputs, layer.kernel, layer.kernel), np.int8),
            np.ones(layer.outputs, np.float32),
            np.zeros(layer.outputs, np.float32),
        )
        for layer in layer_specs(classes)
    }


def test_icnet_is_the_network_of_the_design():
    g = icnet(constant_weights(), dict.fromkeys(activation_names(), CODES))
    assert len(g.convolutions) == 64
    assert sum(op.weight.size for op in g.convolutions) == pytest.approx(6.66e6, rel=1e-3)
    assert g.macs() == pytest.approx(10.01e9, rel=1e-3)
    shapes = {
        "conv3_sub1/codes": (32, 96, 120),
        "pool1": (64, 96, 120),
        "conv3_1/codes": (256, 48, 60),
        "conv5_3/codes": (1024, 24, 30),
        "pyramid/codes": (1024, 24, 30),
        "conv5_4_k1/codes": (256, 24, 30),
        "cff42/codes": (128, 48, 60),
        "cff421/codes": (128, 96, 120),
        "probabilities": (12, 768, 960),
    }
    for name, shape in shapes.items():
        assert g.shape(name) == shape, name
    assert {op.name.removesuffix("/codes") for op in g if isinstance(op, Quantize)} == set(activation_names())


@pytest.mark.parametrize("size", [(192, 192), (192, 384), (384, 576), (32, 64), (160, 224)])
@pytest.mark.parametrize("classes", [2, 12])
def test_icnet_of_other_sizes_and_classes(size, classes):
    activations = dict.fromkeys(activation_names(), CODES)
    g = icnet(constant_weights(classes), activations, size)
    assert g.shape(g.output) == (classes, *size)
    again = resized(icnet(constant_weights(classes), activations), size)
    assert [g.shape(op.name) for op in g] == [again.shape(op.name) for op in g]


@pytest.mark.parametrize("size", [(0, 96), (100, 96), (-96, 96), (96, 95), (96, 48)])
def test_icnet_refuses_other_sizes(size):
    with pytest.raises(ValueError, match="positive multiples of 32"):
        icnet(constant_weights(), dict.fromkeys(activation_names(), CODES), size)


def test_icnet_names_what_is_missing():
    weights, activations = constant_weights(), dict.fromkeys(activation_names(), CODES)
    with pytest.raises(KeyError, match="conv4_3/3x3"):
        icnet({k: v for k, v in weights.items() if k != "conv4_3/3x3"}, activations)
    with pytest.raises(KeyError, match="activation quantizer 'cff42' is missing"):
        icnet(weights, {k: v for k, v in activations.items() if k != "cff42"})
    with pytest.raises(ValueError, match=r"layer 'conv1_2': expected weights of shape \(32, 32, 3, 3\)"):
        icnet(weights | {"conv1_2": weights["conv1_1"]}, activations)
