"""Rewritten graphs give the bits of the original, tensor by tensor, with less work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import as_exported, dyadic_blob, graphs, random_convolution, random_icnet
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_blob

from sparse_icnet.network import rewrite
from sparse_icnet.network.graph import (
    Add,
    Argmax,
    AveragePool,
    Convolution,
    Graph,
    GraphError,
    Input,
    MaxPool,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
)
from sparse_icnet.network.icnet import LayerWeights, activation_names, icnet, layer_specs
from sparse_icnet.reference.oracle import Oracle

seeds = st.integers(0, 2**32 - 1)


def assert_equal_bits(graph: Graph, rewritten: Graph, blob: np.ndarray) -> None:
    """The output, and every tensor that both graphs name, where `sampled` says that it is."""
    expected, found = Oracle(graph, blob), Oracle(rewritten, blob)
    np.testing.assert_array_equal(found.output(), expected.output(), strict=True)
    assert_equal_tensors(graph, rewritten, expected, found)


def assert_equal_tensors(graph: Graph, rewritten: Graph, expected: Oracle, found: Oracle) -> None:
    names = {op.name for op in graph} & {op.name for op in rewritten}
    for name in sorted(names):
        y, x = rewrite.sampled(graph, rewritten, name)
        both_codes = graph.quantizer(name) is not None and rewritten.quantizer(name) is not None
        if both_codes or _shows_classes(graph, name):
            pairs = [(expected.value(name), found.value(name))]
        else:
            pairs = [(expected.real(name, unit), found.real(name, unit)) for unit in (1.0, 0.037)]
        for want, got in pairs:
            np.testing.assert_array_equal(got, want[:, ::y, ::x], err_msg=name, strict=True)


def _shows_classes(graph: Graph, name: str) -> bool:
    while isinstance(op := graph[name], Resize):
        name = op.input
    return isinstance(op, Argmax)


@pytest.mark.parametrize("rule", rewrite.REWRITES, ids=lambda rule: rule.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=seeds)
def test_each_rewrite_keeps_every_bit(rule, data, seed):
    graph = data.draw(graphs())
    assert_equal_bits(graph, rule(graph), dyadic_blob(graph, seed))


@settings(max_examples=200, deadline=None)
@given(graph=graphs(), exported=st.booleans(), seed=seeds)
def test_optimize_keeps_every_bit_and_ends(graph, exported, seed):
    if exported:
        graph = as_exported(graph, seed)
    rewritten = rewrite.optimize(graph)
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, seed))
    assert rewritten.macs() <= graph.macs()
    assert rewrite.optimize(rewritten) is rewritten


@settings(max_examples=100, deadline=None)
@given(graph=graphs(), seed=seeds)
def test_class_map_is_the_argmax_of_what_goes_into_the_softmax(graph, seed):
    blob = dyadic_blob(graph, seed)
    rewritten = rewrite.for_class_map(graph)
    found = Oracle(rewritten, blob).output()
    np.testing.assert_array_equal(found, Oracle(rewrite.to_class_map(graph), blob).output(), strict=True)
    assert not any(isinstance(op, Softmax) and op.name == rewritten.output for op in rewritten)
    if not _shows_classes(graph, graph.output):
        values = Oracle(graph, blob).output()
        chosen = np.take_along_axis(values, found.astype(np.intp), 0)
        np.testing.assert_array_equal(chosen[0], values.max(0))


# Each rule by itself, on the smallest graph that shows it.

CODES = Quantizer(0.05, 0, 0, 255)
SIGNED = Quantizer(0.04, 7, -128, 127)


def chain(*ops, shape=(2, 8, 8), output: str | None = None) -> Graph:
    """image -> codes `q` -> `ops`."""
    return Graph((Input("image", shape), Quantize("q", "image", CODES), *ops), output or ops[-1].name)


def convolution(name: str, source: str, kernel=(1, 1), inputs: int = 2, **geometry) -> Convolution:
    return random_convolution(
        np.random.default_rng(len(name)), name, source, (2, inputs, *kernel), **geometry
    )


def names(graph: Graph) -> set[str]:
    return {op.name for op in graph}


@pytest.mark.parametrize(
    ("between", "inner", "outer", "idle"),
    [
        ([], CODES, CODES, True),
        ([Resize("r", "q", (4, 16))], CODES, CODES, True),
        ([MaxPool("m", "q", (3, 3), (2, 2), (1, 1, 1, 1))], CODES, CODES, True),
        ([Relu("r", "q"), Resize("s", "r", (5, 3))], CODES, CODES, True),
        ([Relu("r", "q")], SIGNED, SIGNED, False),
        ([], replace(CODES, high=15), CODES, True),
        ([], CODES, replace(CODES, high=15), False),
        ([], replace(CODES, low=-128, high=127), replace(CODES, high=127), False),
        ([], CODES, replace(CODES, low=1, zero_point=1), False),
        ([], CODES, replace(CODES, zero_point=3), False),
        ([], CODES, replace(CODES, scale=0.050001), False),
    ],
)
def test_idle_quantizers_disappear_and_others_stay(between, inner, outer, idle):
    source = between[-1].name if between else "q"
    graph = Graph(
        (
            Input("image", (2, 8, 8)),
            Quantize("q", "image", inner),
            *between,
            Quantize("again", source, outer),
            convolution("c", "again"),
        ),
        "c",
    )
    rewritten = rewrite.optimize(graph, (rewrite.drop_idle_relus, rewrite.drop_idle_quantizers))
    assert ("again" not in names(rewritten)) == idle
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 0))


@pytest.mark.parametrize(("zero", "low"), [(0, 0), (-128, -128), (3, 3), (127, -128)])
def test_quantizers_of_a_relu_take_no_codes_below_their_zero_point(zero, low):
    graph = _signed_pool(zero)
    narrow = rewrite.narrow_quantizers(graph)
    assert narrow["codes"] == replace(graph["codes"], quantizer=Quantizer(0.1, zero, low, 127))
    assert narrow["others"] == graph["others"]  # whose input may be negative
    assert_equal_bits(graph, narrow, random_blob(graph, 5))
    assert (narrow is graph) == (low == -128)


def _signed_pool(zero: int) -> Graph:
    """Signed codes of a ReLU, behind a resize, read by a padded max pool."""
    rng = np.random.default_rng(4)
    first = random_convolution(rng, "first", "image/codes", (4, 3, 3, 3), padding=(1, 1, 1, 1))
    ops = (
        Input("image", (3, 8, 16)),
        Quantize("image/codes", "image", Quantizer(0.02, 128)),
        first,
        Quantize("others", "first", Quantizer(0.1, zero, -128, 127)),
        Relu("relu", "others"),
        Resize("resized", "relu", (16, 32)),
        Quantize("codes", "resized", Quantizer(0.1, zero, -128, 127)),
        MaxPool("pool", "codes", (3, 3), (2, 2), (1, 1, 1, 1)),
        random_convolution(rng, "head", "pool", (3, 4, 1, 1)),
        Softmax("end", "head"),
    )
    return Graph(ops, "end")


def test_relu_of_codes_stays_where_the_output_shows_it():
    graph = chain(Relu("relu", "q"), Resize("up", "relu", (16, 16)))
    assert "relu" in names(rewrite.optimize(graph))
    assert Oracle(rewrite.optimize(graph), dyadic_blob(graph, 0)).output().dtype == np.float32


def test_resizes_merge_exactly_where_the_indices_agree():
    """Every triple of sizes up to 12: whatever merges is equal, and both whole-number cases do merge."""
    for a in range(1, 13):
        x = np.arange(a, dtype=np.float32)[None, :, None] / 8
        for b in range(1, 13):
            for c in range(1, 13):
                graph = chain(Resize("r", "q", (b, 1)), Resize("s", "r", (c, 1)), shape=(1, a, 1))
                rewritten = rewrite.merge_resizes(graph)
                np.testing.assert_array_equal(Oracle(rewritten, x).output(), Oracle(graph, x).output())
                count = sum(isinstance(op, Resize) for op in rewritten)
                if b % a == 0 or b % c == 0:
                    assert count == (a != c), (a, b, c)


@pytest.mark.parametrize("factor", [(1, 2), (2, 2), (3, 2), (4, 4)])
@pytest.mark.parametrize("multiple", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (5, 5), (2, 2)])
def test_dilated_convolution_of_an_enlarged_map_shrinks(factor, multiple, kernel):
    dilation = (factor[0] * multiple, factor[1] * multiple)
    near = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
    # Unequal ends: the far padding is one step longer.
    padding = (*near, near[0] + factor[0], near[1])
    conv = convolution("c", "up", kernel, dilation=dilation, padding=padding)
    up = Resize("up", "q", (5 * factor[0], 7 * factor[1]))
    graph = chain(up, conv, Relu("relu", "c"), Quantize("out", "relu", SIGNED), shape=(2, 5, 7))
    rewritten = rewrite.push_upsampling(graph)
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 1))
    assert graph.macs() == rewritten.macs() * factor[0] * factor[1]
    assert rewritten["out/up"] == Resize("out/up", "out", graph.shape("out")[1:])


@pytest.mark.parametrize(
    "geometry",
    [
        {"dilation": (3, 3), "padding": (2, 2, 2, 2)},
        {"dilation": (2, 1), "padding": (2, 2, 2, 2)},
        {"dilation": (2, 2), "padding": (1, 2, 1, 2)},
        {"dilation": (2, 2), "padding": (2, 2, 2, 1)},
        {"dilation": (2, 2), "padding": (1, 2, 2, 2)},
        {"dilation": (2, 2), "padding": (2, 2, 2, 2), "stride": (2, 1)},
    ],
)
def test_convolution_stays_where_the_factor_does_not_divide(geometry):
    graph = chain(Resize("up", "q", (16, 16)), convolution("c", "up", (3, 3), **geometry))
    assert rewrite.push_upsampling(graph) is graph


def test_sum_of_maps_enlarged_from_different_sizes_stays():
    small = AveragePool("mean", "q", (2, 2))
    graph = chain(small, Resize("a", "mean", (16, 16)), Resize("b", "q", (16, 16)), Add("sum", "a", "b"))
    assert rewrite.push_upsampling(graph) is graph


def bottleneck_before_stride(height: int, stride: int = 2) -> Graph:
    """conv2_3 and the head of conv3_1: a residual block that only 1x1 convolutions of stride 2 read."""
    padding = (1, 1, 1, 1)
    return chain(
        convolution("reduce", "q"),
        Quantize("reduce/codes", "reduce", CODES),
        convolution("3x3", "reduce/codes", (3, 3), padding=padding),
        Quantize("3x3/codes", "3x3", CODES),
        convolution("increase", "3x3/codes"),
        Add("sum", "increase", "q"),
        Relu("relu", "sum"),
        Quantize("block", "relu", CODES),
        convolution("next", "block", stride=(stride, stride)),
        convolution("proj", "block", stride=(2, 2)),
        *(
            [Quantize("a", "next", SIGNED)]
            if stride == 2
            else [Resize("a", "next", (height // 2, height // 2))]
        ),
        Add("out", "a", "proj"),
        shape=(2, height, height),
    )


def test_stride_moves_up_to_the_3x3_convolution():
    graph = bottleneck_before_stride(8)
    rewritten = rewrite.merge_resizes(rewrite.pull_sampling(graph))
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 2))
    strides = {op.name: op.stride for op in rewritten.convolutions}
    assert strides == {"reduce": (1, 1), "3x3": (2, 2), "increase": (1, 1), "next": (1, 1), "proj": (1, 1)}
    assert {op.name for op in rewritten if isinstance(op, Resize)} == {"q/sampled"}
    assert rewrite.sampled(graph, rewritten, "block") == (2, 2)
    assert rewrite.sampled(graph, rewritten, "reduce/codes") == (1, 1)


def test_readers_of_different_steps_keep_the_common_one():
    graph = bottleneck_before_stride(8, stride=4)
    rewritten = rewrite.optimize(graph)
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 2))
    assert rewrite.sampled(graph, rewritten, "block") == (2, 2)
    assert rewritten["next"].stride == (2, 2)
    assert rewritten["proj"].stride == (1, 1)


def test_output_is_not_sampled_whatever_else_reads_it():
    graph = chain(
        convolution("c", "q"), Quantize("out", "c", SIGNED), Resize("r", "out", (4, 4)), output="out"
    )
    assert rewrite.pull_sampling(graph) is graph


def test_strided_convolution_that_reads_odd_rows_keeps_its_input():
    first = convolution("first", "q", (3, 3), padding=(1, 1, 1, 1))
    second = convolution("second", "codes", (3, 3), stride=(2, 2), dilation=(2, 2), padding=(1, 3, 2, 2))
    graph = chain(first, Quantize("codes", "first", SIGNED), second)
    assert rewrite.pull_sampling(graph) is graph


def test_real_tensor_with_a_reader_of_every_row_stays_inside_its_expression():
    """Sampling one of the two quantizers would leave a resize of the real tensor `c`."""
    graph = chain(
        convolution("c", "q"),
        Quantize("all", "c", SIGNED),
        Quantize("half", "c", CODES),
        Resize("all/half", "all", (4, 4)),
        convolution("a", "all", (3, 3), padding=(1, 1, 1, 1), stride=(2, 2)),
        convolution("b", "half", stride=(2, 2)),
        Add("sum", "a", "b"),
        Add("out", "sum", "all/half"),
    )
    assert rewrite.pull_sampling(graph) is graph


def test_odd_map_is_not_sampled():
    graph = bottleneck_before_stride(9)
    assert rewrite.pull_sampling(graph) is graph


@pytest.mark.parametrize("size", [4, 6, 7, 12])
@pytest.mark.parametrize("far", [0, 1, 2, 3])
def test_strided_dilated_convolution_reads_a_sampled_map(size, far):
    """Stride 2, dilation 2, even padding reads even rows only, whatever the far padding."""
    first = convolution("first", "q", (3, 3), padding=(1, 1, 1, 1))
    geometry = {"stride": (2, 2), "dilation": (2, 2), "padding": (2, 2, far, far)}
    second = convolution("second", "codes", (3, 3), **geometry)
    graph = chain(first, Quantize("codes", "first", SIGNED), second, shape=(2, size, size))
    rewritten = rewrite.pull_sampling(graph)
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 3))
    assert rewritten["first"].stride == ((1, 1) if size % 2 else (2, 2))


def test_image_is_quantized_once_for_both_branches():
    graph = Graph(
        (
            Input("image", (2, 8, 8)),
            Resize("half", "image", (4, 4)),
            Quantize("half/codes", "half", CODES),
            Quantize("codes", "image", CODES),
            convolution("high", "codes", stride=(2, 2)),
            convolution("medium", "half/codes"),
            Add("sum", "high", "medium"),
        ),
        "sum",
    )
    rewritten = rewrite.optimize(graph)
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 4))
    assert [op.name for op in rewritten if isinstance(op, Quantize)] == ["codes"]
    assert rewritten["half/codes"] == Resize("half/codes", "codes", (4, 4))


def test_twins_are_computed_once():
    graph = chain(
        Quantize("a", "q", SIGNED),
        Quantize("b", "q", SIGNED),
        Add("sum", "a", "b"),
        Add("sum2", "b", "a"),
        Add("s", "sum", "sum2"),
    )
    rewritten = rewrite.merge_duplicates(graph)
    assert names(graph) - names(rewritten) == {"b", "sum2"}
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 5))


def test_new_names_avoid_those_of_the_original():
    """`c/up` is dropped in one round, and what is created later under that name must not pass for it."""
    graph = chain(
        Quantize("c/up", "q", CODES),
        Resize("up", "c/up", (16, 16)),
        convolution("c", "up"),
        Quantize("out", "c", CODES),
        Resize("q/sampled", "out", (8, 8)),
        Resize("out/up", "out", (32, 32)),
    )
    rewritten = rewrite.optimize(graph)
    assert "c/up" not in names(rewritten)
    assert_equal_bits(graph, rewritten, dyadic_blob(graph, 6))
    later = chain(Quantize("c/up", "q", CODES), Resize("up", "c/up", (16, 16)), convolution("c", "up"))
    assert rewrite.optimize(later).output == "c/up.2"


def test_sampled_refuses_what_is_no_sample():
    big, small = chain(Resize("r", "q", (6, 6))), chain(Resize("r", "q", (4, 6)))
    with pytest.raises(GraphError, match="operation 'r': expected every k-th row"):
        rewrite.sampled(big, small, "r")
    with pytest.raises(KeyError):
        rewrite.sampled(big, small, "absent")


def test_operations_that_nothing_reads_disappear():
    graph = chain(Relu("unused", "q"), convolution("c", "q"), Relu("unused2", "c"), output="c")
    assert names(rewrite.optimize(graph)) == {"image", "q", "c"}


def test_input_stays_even_as_the_output():
    graph = Graph((Input("image", (1, 2, 2)), Relu("unused", "image")), "image")
    assert names(rewrite.optimize(graph)) == {"image"}


# Classes.


def logits_graph(shape=(3, 1, 1), *tail) -> Graph:
    return Graph((Input("image", shape), *tail), tail[-1].name)


def test_larger_logit_wins_where_probabilities_are_equal():
    """Logits apart by less than exp can tell, and logits whose probabilities underflow."""
    graph = logits_graph((3, 1, 1), Softmax("p", "image"))
    blob = np.array([1e-3, np.nextafter(np.float32(1e-3), np.float32(1)), -200], np.float32).reshape(3, 1, 1)
    probabilities = Oracle(graph, blob).output().ravel()
    assert probabilities[0] == probabilities[1]
    assert Oracle(rewrite.for_class_map(graph), blob).output().item() == 1


def test_lowest_class_wins_among_equal_logits():
    graph = logits_graph((3, 1, 1), Softmax("p", "image"))
    blob = np.array([0.5, 2, 2], np.float32).reshape(3, 1, 1)
    assert Oracle(rewrite.for_class_map(graph), blob).output().item() == 1


@pytest.mark.parametrize("order", ["softmax first", "resize first"])
def test_classes_are_enlarged_as_bytes(order):
    if order == "softmax first":
        tail = (Softmax("p", "c"), Resize("up", "p", (16, 16)))
    else:
        tail = (Resize("up", "c", (16, 16)), Softmax("p", "up"))
    graph = chain(convolution("c", "q"), *tail)
    rewritten = rewrite.for_class_map(graph)
    assert rewritten.shape("classes") == (1, 8, 8)
    last = rewritten[rewritten.output]
    assert isinstance(last, Resize)
    assert last.input == "classes"
    found = Oracle(rewritten, dyadic_blob(graph, 7)).output()
    assert found.dtype == np.uint8
    assert found.shape == (1, 16, 16)


def test_class_map_of_a_class_map_is_itself():
    graph = chain(Argmax("a", "q"), Resize("up", "a", (16, 16)))
    assert rewrite.to_class_map(graph) is graph


# ICNet.


@pytest.fixture(scope="module")
def small_icnet() -> Graph:
    return random_icnet((192, 192), seed=11)


def full_size_icnet() -> Graph:
    """The real shapes, constant weights: for counting only."""
    weights = {
        layer.name: LayerWeights(
            np.ones((layer.outputs, layer.inputs, layer.kernel, layer.kernel), np.int8),
            np.ones(layer.outputs, np.float32),
            np.zeros(layer.outputs, np.float32),
        )
        for layer in layer_specs()
    }
    return icnet(weights, dict.fromkeys(activation_names(), CODES))


@pytest.mark.parametrize("exported", [False, True], ids=["own", "as exported"])
def test_icnet_shrinks_from_10_to_8_billion(exported):
    graph = full_size_icnet()
    if exported:
        graph = as_exported(graph)
    rewritten = rewrite.optimize(graph)
    assert graph.macs() == 10_010_787_840
    assert rewritten.macs() == 7_931_658_240
    assert rewrite.for_class_map(graph).macs() == 7_931_658_240
    assert not any(op.dilation == (2, 2) for op in rewritten.convolutions if op.name.startswith("cff"))
    assert rewritten.shape("probabilities") == (12, 96, 120)


def test_icnet_survivors():
    """Which tensors of ICNet are gone, new, or computed in part; all others are whole."""
    graph = full_size_icnet()
    rewritten = rewrite.optimize(graph)
    assert names(graph) - names(rewritten) == {"cff42/up", "cff421/up", "cff421_up", "logits_up"}
    assert names(rewritten) - names(graph) == {
        "conv2_2/codes/sampled",
        "cff42/low/up",
        "cff421/low/up",
        "probabilities/up",
    }
    partly = {n: rewrite.sampled(graph, rewritten, n) for n in names(graph) & names(rewritten)}
    assert {name: steps for name, steps in partly.items() if steps != (1, 1)} == {
        **{
            f"conv2_3/{n}": (2, 2)
            for n in ("3x3", "3x3/relu", "3x3/codes", "increase", "sum", "relu", "codes")
        },
        "cff42/low": (2, 2),
        "cff421/low": (2, 2),
        "conv6_cls": (2, 2),
        "probabilities": (8, 8),
    }


@pytest.mark.parametrize("exported", [False, True], ids=["own", "as exported"])
def test_icnet_keeps_every_bit(small_icnet, exported):
    graph = as_exported(small_icnet, seed=2) if exported else small_icnet
    blob = random_blob(graph, 3)
    expected = Oracle(graph, blob)
    rewritten, by_class = rewrite.optimize(graph), rewrite.for_class_map(graph)
    found = Oracle(rewritten, blob)
    np.testing.assert_array_equal(found.output(), expected.output(), strict=True)
    assert_equal_tensors(graph, rewritten, expected, found)
    probabilities = expected.output()
    chosen = Oracle(by_class, blob).output()
    assert len(np.unique(chosen)) > 3, "a constant class map would test nothing"
    picked = np.take_along_axis(probabilities, chosen.astype(np.intp), 0)[0]
    np.testing.assert_array_equal(picked, probabilities.max(0))


@pytest.mark.parametrize(
    "between", [[], [Resize("r", "relu", (8, 8))], [MaxPool("r", "relu", (2, 2), (1, 1))]]
)
def test_a_relu_before_an_average_pool_stays(between):
    """Without it the pool would add integers (Q6) in place of real values (Q13)."""
    source = between[-1].name if between else "relu"
    start = (Input("image", (3, 4, 4)), Quantize("codes", "image", Quantizer(0.1)), Relu("relu", "codes"))
    graph = Graph((*start, *between, AveragePool("mean", source, (1, 1))), "mean")
    assert rewrite.drop_idle_relus(graph) is graph
    other = Graph((*start, *between, Quantize("more", source, Quantizer(0.2))), "more")
    assert "relu" not in {op.name for op in rewrite.drop_idle_relus(other)}
