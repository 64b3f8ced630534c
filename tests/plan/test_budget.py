"""Small files that ask for ever or for everything: what is refused before it is planned, and deep networks that run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine import Net, assert_equals_oracle

import sparse_icnet
from sparse_icnet import bundled, formats
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import (
    Add,
    Convolution,
    Graph,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
    resized,
)
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.operators.storage import Grid
from sparse_icnet.plan import PlanError, budget, plan_for
from sparse_icnet.reference.oracle import Oracle

SIZE = (8, 16)


def convolution(
    name: str, source: str, inputs: int, outputs: int = 4, **geometry: tuple[int, ...]
) -> Convolution:
    rng = np.random.default_rng(len(name) + inputs)
    weight = rng.integers(-90, 91, (outputs, inputs, 1, 1)).astype(np.int8)
    scale = np.full(outputs, 1 / 150, np.float32)
    return Convolution(name, source, weight, scale, np.full(outputs, 0.1, np.float32), **geometry)


def chain(length: int) -> Graph:
    """Convolution, ReLU, quantizer, `length` times."""
    net = Net(SIZE)
    ops: list[Op] = list(net.ops)
    last, channels = net.image, 3
    for i in range(length):
        ops.append(convolution(f"c{i}", last, channels))
        ops.append(Relu(f"r{i}", f"c{i}"))
        ops.append(Quantize(f"q{i}", f"r{i}", Quantizer(0.015)))
        last, channels = f"q{i}", 4
    ops += [convolution("logits", last, channels, 5), Softmax("end", "logits")]
    return Graph(tuple(ops), "end")


def doublings(length: int, sampled: bool = False) -> Graph:
    """x + x, then that plus itself, and so on: 2**length paths from the output to the convolution."""
    net = Net(SIZE)
    last = net.convolution(net.image, 5, 3)
    ops: list[Op] = list(net.ops)
    for i in range(length):
        ops.append(Add(f"a{i}", last, last))
        last = f"a{i}"
    if sampled:
        ops.append(Resize("half", last, (4, 8)))
        last = "half"
    return Graph((*ops, Softmax("end", last)), "end")


def sums_of_the_last_two(length: int) -> Graph:
    net = Net(SIZE)
    before, last = net.convolution(net.image, 5), net.convolution(net.image, 5, 3)
    ops: list[Op] = list(net.ops)
    for i in range(length):
        ops.append(Add(f"a{i}", before, last))
        before, last = last, f"a{i}"
    return Graph((*ops, Softmax("end", last)), "end")


# --- what runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(500),
        lambda: doublings(60),
        lambda: doublings(60, sampled=True),
        lambda: sums_of_the_last_two(60),
    ],
    ids=["500 convolutions", "60 doublings", "60 doublings, sampled", "60 sums"],
)
def test_deep_networks_run(make):
    assert_equals_oracle(make())


def test_deep_networks_are_read_from_every_format(tmp_path):
    graph = chain(300)
    for suffix in (".npz", ".onnx", ".xml"):
        if suffix == ".onnx":
            pytest.importorskip("onnx")
        formats.save(graph, tmp_path / f"deep{suffix}")
        model = sparse_icnet.load(tmp_path / f"deep{suffix}", threads=1)
        assert len(model.plan.convolutions()) == 301


def test_a_thousand_convolutions_need_no_recursion():
    graph = chain(1000)
    assert len(plan_for(graph).convolutions()) == 1001
    blob = np.zeros(graph.input.shape, np.float32)
    assert Oracle(graph, blob).output().shape == (5, *SIZE)


def test_rewrites_look_at_each_sum_once():
    assert {op.name for op in optimize(doublings(60, sampled=True))} >= {"a0", "a59"}


@pytest.mark.parametrize("name", bundled.names())
def test_the_largest_known_use_is_within_the_budget(name):
    graph = resized(formats.load(bundled.resolve(name)), (1536, 1920))
    plan = plan_for(graph, 2, keep_tensors=True)
    assert plan.placement.arena.bytes < budget.MAX_KEPT / 10
    assert _packed(optimize(graph), plan.grid) < budget.MAX_PACKED / 4
    assert len(graph.ops) < budget.MAX_OPERATIONS / 10
    assert sum(op.weight.size for op in graph.convolutions) < budget.MAX_WEIGHTS / 10


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_more_operations_than_the_budget_are_refused():
    with pytest.raises(PlanError, match="the network has 4504 operations, expected at most 4096"):
        plan_for(chain(1500))


@pytest.mark.parametrize("make", [doublings, lambda n: doublings(n, sampled=True), sums_of_the_last_two])
def test_longer_expressions_than_the_budget_are_refused(make):
    with pytest.raises(PlanError, match="operation 'a100': expected at most 100 operations in a row"):
        plan_for(make(1000))


def chained_quantizers(length: int) -> Graph:
    net = Net(SIZE)
    last = net.codes(net.convolution(net.image, 4))
    ops: list[Op] = list(net.ops)
    for i in range(length):
        ops.append(Quantize(f"q{i}", last, Quantizer(0.02 + i / 1000, i % 5)))
        last = f"q{i}"
    return Graph((*ops, convolution("logits", last, 4, 5), Softmax("end", "logits")), "end")


def chained_residuals(length: int) -> Graph:
    net = Net(SIZE)
    first = last = net.codes(net.convolution(net.image, 4))
    ops: list[Op] = list(net.ops)
    for i in range(length):
        ops += [Add(f"a{i}", last, first), Quantize(f"q{i}", f"a{i}", Quantizer(0.03, i % 5))]
        last = f"q{i}"
    return Graph((*ops, convolution("logits", last, 4, 5), Softmax("end", "logits")), "end")


@pytest.mark.parametrize(("make", "fits"), [(chained_quantizers, 95), (chained_residuals, 48)])
def test_the_longest_expressions_that_are_accepted_run(make, fits):
    """Whatever they consist of, Python's stack is deep enough."""
    assert_equals_oracle(make(fits))
    with pytest.raises(PlanError, match="operations in a row"):
        plan_for(make(200))


def test_a_map_of_too_many_planes_is_refused():
    net = Net((512, 512))
    x = net.codes(net.convolution(net.image, 4, 3))
    y = net.convolution(net.codes(net.mean(x, (1, 1))), 4)
    graph = net.softmax(net.sum(net.convolution(x, 4), net.resize(y, (512, 512))))
    with pytest.raises(
        PlanError, match=r"'image': expected a map of at most 65536 times .* 1x1, found 512x512"
    ):
        plan_for(graph)


def test_too_many_taps_are_refused():
    net = Net((256, 256), Quantizer(0.02))
    net.add(MaxPool("pool", net.image, (127, 127), (1, 1), (63,) * 4))
    net.add(convolution("small", "pool", 3, 5, stride=(4, 4)))
    with pytest.raises(PlanError, match=r"'pool': expected at most 4194304 taps .*, found \d+"):
        budget.check_work(net.softmax("small"), Grid.for_size(8, 16))


def test_too_many_weights_are_refused(monkeypatch):
    graph = chain(3)
    weights = sum(op.weight.size for op in graph.convolutions)
    monkeypatch.setattr(budget, "MAX_WEIGHTS", weights)
    plan_for(graph)
    monkeypatch.setattr(budget, "MAX_WEIGHTS", weights - 1)
    with pytest.raises(PlanError, match=f"{weights} weights, expected at most {weights - 1}"):
        plan_for(graph)


def test_too_many_packed_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(budget, "MAX_PACKED", 1000)
    with pytest.raises(
        PlanError, match=r"'c\d+': expected at most 1000 bytes of packed weights .* found \d{4} up to here"
    ):
        plan_for(chain(20))


@pytest.mark.parametrize("keep_tensors", [False, True])
def test_too_much_memory_is_refused_before_it_is_taken(monkeypatch, keep_tensors):
    monkeypatch.setattr(budget, "MAX_KEPT" if keep_tensors else "MAX_MEMORY", 9_000)
    with pytest.raises(PlanError, match=r"expected at most 9000 bytes of memory for tensors, found \d{5}"):
        plan_for(chain(8), keep_tensors=keep_tensors)


def test_too_much_scratch_memory_is_refused():
    """Each thread keeps the sums of a row of pixels for every row of bins."""
    net = Net((4096, 1024))
    x = net.codes(net.convolution(net.image, 4))
    y = net.resize(net.mean(x, (4096, 4)), (4096, 1024))
    graph = net.softmax(net.sum(net.convolution(x, 4), y))
    with pytest.raises(
        PlanError, match=r"'mean\d+': expected at most 1073741824 bytes of scratch memory on 256 threads"
    ):
        plan_for(graph, 256)
    plan_for(graph, 1)


def _packed(graph: Graph, grid: Grid) -> int:
    planes = {op.name: math.prod(grid.phases(*graph.shape(op.name)[1:])) for op in graph.convolutions}
    return sum(budget._packed_bytes(op, planes[op.name]) for op in graph.convolutions)


def test_packed_bytes_are_no_estimate_below_what_is_packed(tiny_graph):
    plan = plan_for(tiny_graph)
    constants = sum(piece.bytes for piece in plan.placement.arena.pieces if piece.constant)
    assert sum(step.weight_bytes for step in plan.convolutions()) <= constants
    assert constants <= _packed(plan.graph, plan.grid)


def _large_layer(shape: tuple[int, int, int, int]) -> Graph:
    """Weights that a native file stores in a few bytes, all being zero; written without a check of their size."""
    net = Net(SIZE)
    outputs, inputs = shape[:2]
    x = net.convolution(net.image, inputs, weight=np.zeros((inputs, 3, 1, 1), np.int8))
    codes = net.codes(x)
    ones = np.ones(outputs, np.float32)
    window = shape[2] // 2
    net.add(Convolution("large", codes, np.zeros(shape, np.int8), ones, ones, padding=(window,) * 4))
    return net.softmax(net.convolution(net.codes("large"), 5))


def _pool(kernel: int) -> Graph:
    net = Net((64, 64), Quantizer(0.02))
    net.add(MaxPool("large", net.image, (kernel, kernel), (1, 1), (kernel // 2,) * 4))
    return net.softmax(net.convolution("large", 5))


@pytest.mark.parametrize(
    ("bound", "make"),
    [
        ("MAX_CHANNELS", lambda: _large_layer((1 << 16, 4, 1, 1))),
        ("MAX_WEIGHTS", lambda: _large_layer((3000, 3000, 3, 3))),
        ("MAX_TAPS", lambda: _pool(2001)),
    ],
    ids=["65536 channels", "81 million weights", "2001x2001"],
)
def test_small_files_that_ask_for_everything_are_refused_when_loaded(bound, make, tmp_path, monkeypatch):
    from sparse_icnet.network import shapes

    limit = getattr(shapes, bound)
    monkeypatch.setattr(shapes, bound, 1 << 40)
    path = tmp_path / "small.npz"
    formats.save(make(), path)
    monkeypatch.setattr(shapes, bound, limit)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(
        FormatError, match=f"small.npz: operation 'large' .*expected at most|'large' .*at most {limit}"
    ):
        sparse_icnet.load(path)


def _pools(count: int, kernel: int, size: tuple[int, int]) -> Graph:
    net = Net(size, Quantizer(0.02))
    last = net.image
    for i in range(count):
        last = net.add(MaxPool(f"pool{i}", last, (kernel, kernel), (1, 1), (kernel // 2,) * 4))
    return net.softmax(net.convolution(last, 5))


def test_an_inference_that_would_take_minutes_is_refused():
    """Thirty pools of 63x63: 370 billion comparisons from 2 kB."""
    with pytest.raises(
        PlanError, match=r"'pool\d+': expected at most 2199023255552 products .* found \d{13}"
    ):
        plan_for(_pools(30, 63, (1024, 1024)))
    plan_for(_pools(2, 7, (64, 64)))


def test_products_count_up_to_the_budget(monkeypatch, tiny_graph):
    graph = plan_for(tiny_graph).graph
    work = graph.macs() + sum(
        budget.COMPARISON * math.prod(graph.shape(op.name)) * math.prod(op.kernel)
        for op in graph
        if isinstance(op, MaxPool)
    )
    monkeypatch.setattr(budget, "MAX_WORK", work)
    plan_for(tiny_graph)
    monkeypatch.setattr(budget, "MAX_WORK", work - 1)
    with pytest.raises(PlanError, match=f"expected at most {work - 1} products .* found {work} up to here"):
        plan_for(tiny_graph)


def test_tables_of_shifted_copies_have_a_budget():
    """Windows of 127x127 read 126 copies of each map: minutes of planning from 40 kB."""
    net = Net((512, 512), Quantizer(0.02))
    last = net.image
    for _ in range(5):
        last = net.codes(net.relu(net.convolution(last, 4, kernel=127)))
    graph = net.softmax(net.convolution(last, 5))
    with pytest.raises(PlanError, match=r"expected at most 268435456 bytes of tables for the shifted copies"):
        plan_for(graph)
