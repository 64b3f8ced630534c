"""Couples of blocks: no sum leaves int16 whatever the activations, every block is stored once, the results are exact."""

from __future__ import annotations

import numpy as np
import pytest
from engine import IMAGE, Net, assert_equals_oracle, forced
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, Quantizer
from sparse_icnet.operators.convolution import pack
from sparse_icnet.sparse.block_csr import BlockCSR
from sparse_icnet.sparse.couples import LIMIT, BlockOrder, block_order, sign_sums
from sparse_icnet.target import TARGET

INT16 = np.iinfo(np.int16)


@st.composite
def packed_weights(draw: st.DrawFn) -> BlockCSR:
    """Blocks of weights of every magnitude, -128 and those around the limit included, dense to empty."""
    outputs, inputs, kernel = (draw(st.integers(1, high)) for high in (9, 40, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(
        st.sampled_from(
            [
                np.arange(-128, 128),
                np.arange(-40, 41),
                [-33, -32, 31, 32, 33],
                [-64, 64, 65],
                [-128, 127],
                [1],
            ]
        )
    )
    weight = rng.choice(values, (outputs, inputs, kernel, kernel))
    weight *= rng.random(weight.shape) < draw(st.sampled_from([0.0, 0.05, 0.4, 1.0]))
    return BlockCSR.from_dense(weight.astype(np.int8), draw(st.sampled_from([2, 4])))


def extremes(weights: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Least and greatest sum of products over the last axis for activations 0 to 255, found by trying the ends."""
    products = weights[..., None] * np.array([0, 255])
    return products.min(-1).sum(-1), products.max(-1).sum(-1)


@settings(deadline=None, max_examples=200, print_blob=True)
@given(packed=packed_weights())
def test_couples_never_leave_int16(packed):
    """Each vpmaddubsw and the sum of both of a couple fit int16 for all activations."""
    stored = block_order(packed, couple=True)
    event(
        f"couples: {'some' if stored.couples else 'none'}, single blocks: {'some' if stored.singles else 'none'}"
    )
    pairs = packed.data.astype(np.int64).reshape(-1, 2 * packed.rows, 2)[stored.blocks[stored.coupled]]
    for sums in (extremes(pairs), extremes(np.concatenate([pairs[:, 0], pairs[:, 1]], -1))):
        assert all(((s >= INT16.min) & (s <= INT16.max)).all() for s in sums)


@settings(deadline=None, max_examples=200, print_blob=True)
@given(packed=packed_weights(), couple=st.booleans())
def test_every_block_is_in_one_entry_of_its_row_group(packed, couple):
    stored = block_order(packed, couple)
    assert (np.diff(stored.indptr) >= 0).all()
    assert stored.indptr[-1] == len(stored.blocks)
    assert stored.singles + 2 * stored.couples == packed.blocks
    assert couple or not stored.couples
    for group in range(packed.indptr.size - 1):
        first, middle, last = stored.indptr[2 * group : 2 * group + 3]
        assert stored.coupled[first:middle].all()
        assert not stored.coupled[middle:last].any()
        blocks = [*stored.blocks[first:middle].flat, *stored.blocks[middle:last, 0]]
        assert sorted(blocks) == list(range(packed.indptr[group], packed.indptr[group + 1]))


def couples_of(*blocks: list[int]) -> BlockOrder:
    """The order of blocks of one row group, each given by the weights of its first row."""
    data = np.zeros((len(blocks), 2, 4), np.int8)
    data[:, 0] = blocks
    columns = np.arange(len(blocks), dtype=np.int32)
    shape = (2, 4 * len(blocks), 1, 1)
    return block_order(BlockCSR(shape, 2, np.int32([0, len(blocks)]), columns, data), couple=True)


@pytest.mark.parametrize(
    ("blocks", "couples"),
    [
        (([64, 64, 0, 0], [0, 0, 64, 64]), 1),
        (([32, 32, 1, 1], [32, 32, 1, 1]), 1),  # exactly at the limit
        (([32, 32, 1, 1], [32, 33, 1, 1]), 0),
        (([-32, -32, 1, 1], [-32, -33, 1, 1]), 0),
        (([127, -128, 0, 0], [-1, -0, 5, 5]), 0),
        (([127, -128, 0, 0], [1, 0, 5, 5]), 1),  # signs do not add up
        (([-128, 0, 0, -128], [0, 127, 127, 0]), 1),
        (([127, 2, 0, 0], [0, 0, 1, 0]), 0),  # alone beyond the limit
        (([-128, -128, 0, 0], [0, 0, 1, 0]), 0),  # the one sum that 8 bits cannot hold
        (([1, 0, 0, 0],), 0),
    ],
)
def test_the_limit(blocks, couples):
    assert couples_of(*blocks).couples == couples


def test_sums_of_signs():
    data = np.int8([[[127, 127, -128, -128], [-128, 127, 0, -1]]])
    assert sign_sums(data).tolist() == [[254, 0, 127, 0, 0, 256, 128, 1]]
    assert 255 * LIMIT <= INT16.max < 255 * (LIMIT + 1)


def test_light_blocks_all_find_a_partner():
    """An upper bound for the couples is reached where nothing stands against it."""
    weight = np.random.default_rng(0).integers(-32, 33, (8, 64, 3, 3)).astype(np.int8)
    stored = block_order(BlockCSR.from_dense(weight, 4), couple=True)
    assert stored.singles == 0


@pytest.mark.parametrize("kernel", TARGET.kernels, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(
    "values", [[127], [-128], [-127], [-128, 127], [64], [-64], [32], [-32], [32, -32, 127, 0]]
)
def test_extreme_weights_on_the_largest_activations(kernel, values):
    """Every sum that vpmaddubsw would saturate, and those that just fit, on activations of 255."""
    rng = np.random.default_rng(1)
    net = Net((4, 32), IMAGE)
    stem = net.convolution(net.image, 37)
    op = net.ops.pop()
    one = np.ones(37, np.float32)
    net.ops.append(Convolution(stem, op.input, np.zeros_like(op.weight), one, 1e6 * one))
    codes = net.codes(stem)
    weight = rng.choice(np.int8(values), (9, 37, 3, 3))
    name = net.convolution(codes, 9, 3, weight=weight)
    graph = net.classify(net.codes(name, Quantizer(0.1, 128)))
    session = assert_equals_oracle(graph, policy=forced(kernel))
    assert (session.tensor(codes) == 255).all()
    packed = BlockCSR.from_dense(np.pad(weight, ((0, 3), (0, 0), (0, 0), (0, 0))), kernel.rows)
    stored = block_order(packed, TARGET.couples)
    if TARGET.couples and values in ([32], [-32]):
        assert stored.couples, "these weights come in couples"
    if values in ([127], [-128], [-127]):
        assert stored.singles, "these weights leave int16"


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("outputs", [6, 28, 40, 256])
def test_entries_are_estimated_from_a_sample(rows, outputs):
    """Exactly for few output channels; to a fiftieth of all for many, whose search would take most of the time to plan."""
    rng = np.random.default_rng(outputs)
    weight = (rng.normal(0, 35, (outputs, 256, 1, 1)) * (rng.random((outputs, 256, 1, 1)) < 0.4)).clip(
        -127, 127
    )
    one = np.ones(outputs, np.float32)
    op = Convolution("convolution", "codes", weight.astype(np.int8), one, one)
    stored = pack.order_of(op, rows)
    found = pack.estimated_entries(op, rows)
    error = 0.02 * len(stored.blocks) if outputs >= 32 else 1e-9
    assert found == pytest.approx((stored.singles, stored.couples), abs=error)
    assert bool(found[1]) == TARGET.couples
