"""The stored and the packed form of a layer: exact round trips, density, refused arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparse_icnet.sparse.block_csr import BlockCSR, block_density
from sparse_icnet.sparse.csr import CSR

several = settings(deadline=None, max_examples=100, print_blob=True)


@st.composite
def dense_weights(draw: st.DrawFn) -> NDArray[np.int8]:
    """int8 (O, I, kh, kw) of every density; -128 and empty rows included."""
    shape = tuple(draw(st.integers(1, high)) for high in (13, 13, 3, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.02, 0.4, 1.0]))
    weight = rng.choice(draw(st.sampled_from([[-128], [1], np.arange(-128, 128)])), shape)
    keep = (rng.random(shape) < density) & (rng.random((shape[0], 1, 1, 1)) < draw(st.sampled_from([0.5, 1])))
    return (weight * keep).astype(np.int8)


@several
@given(weight=dense_weights())
def test_csr_round_trip(weight):
    csr = CSR.from_dense(weight)
    np.testing.assert_array_equal(csr.to_dense(), weight)
    assert csr.to_dense().dtype == np.int8
    assert csr.density == np.count_nonzero(weight) / weight.size
    assert csr.data.size == csr.indices.size == np.count_nonzero(weight)
    assert csr.indptr.dtype == np.int32
    # The documented order: row o, column (i * kh + y) * kw + x.
    matrix = weight.reshape(len(weight), -1)
    for row in range(len(weight)):
        part = slice(csr.indptr[row], csr.indptr[row + 1])
        np.testing.assert_array_equal(csr.indices[part], np.flatnonzero(matrix[row]))
        np.testing.assert_array_equal(csr.data[part], matrix[row][matrix[row] != 0])


def test_csr_indices_are_as_small_as_they_may_be():
    narrow, wide = np.zeros((1, 1 << 14, 2, 2), np.int8), np.zeros((1, (1 << 14) + 1, 2, 2), np.int8)
    for weight, dtype in ((narrow, np.uint16), (wide, np.uint32)):
        weight[0, -1, 1, 1] = -128
        csr = CSR.from_dense(weight)
        assert csr.indices.dtype == dtype
        np.testing.assert_array_equal(csr.to_dense(), weight)


@several
@given(weight=dense_weights(), rows=st.sampled_from([1, 2, 3, 4, 8]))
def test_block_csr_round_trip(weight, rows):
    packed = BlockCSR.from_dense(weight, rows)
    np.testing.assert_array_equal(packed.to_dense(), weight)
    assert packed.data.shape == (packed.blocks, rows, 4)
    assert packed.data.any((1, 2)).all(), "an empty block is stored"
    # Counted block by block, as the definition says.
    outputs, inputs, height, width = weight.shape
    occupied = [
        weight[o : o + rows, i : i + 4, y, x].any()
        for o in range(0, outputs, rows)
        for i in range(0, inputs, 4)
        for y in range(height)
        for x in range(width)
    ]
    assert packed.blocks == sum(occupied)
    assert packed.density == block_density(weight, rows) == pytest.approx(np.mean(occupied))


def test_block_csr_order():
    """Row group r, column (g * kh + y) * kw + x; four input channels of each output channel together."""
    weight = np.arange(1, 4 * 8 * 1 * 3 + 1).reshape(4, 8, 1, 3).astype(np.int8)
    packed = BlockCSR.from_dense(weight, 2)
    np.testing.assert_array_equal(packed.indptr, [0, 6, 12])
    np.testing.assert_array_equal(packed.indices, [*range(6), *range(6)])
    np.testing.assert_array_equal(packed.data[4], weight[:2, 4:8, 0, 1])
    np.testing.assert_array_equal(packed.data[6], weight[2:, 0:4, 0, 0])


def test_block_density_is_never_below_density():
    rng = np.random.default_rng(0)
    weight = (rng.integers(1, 100, (64, 64, 3, 3)) * (rng.random((64, 64, 3, 3)) < 0.2)).astype(np.int8)
    densities = [CSR.from_dense(weight).density, *(block_density(weight, rows) for rows in (1, 2, 4))]
    assert densities == sorted(densities)
    assert densities[0] == pytest.approx(0.2, abs=0.01)
    assert densities[1] == pytest.approx(1 - 0.8**4, abs=0.02)
    assert densities[3] == pytest.approx(1 - 0.8**16, abs=0.02)


@pytest.mark.parametrize("convert", [CSR.from_dense, lambda weight: BlockCSR.from_dense(weight, 4)])
@pytest.mark.parametrize(
    "weight",
    [
        np.ones((2, 2, 1, 1), np.int16),
        np.ones((2, 2, 1, 1), np.uint8),
        np.ones((2, 2, 1, 1), np.float64),
        np.ones((2, 2), np.int8),
    ],
)
def test_only_weights_of_layers_are_converted(convert, weight):
    with pytest.raises(ValueError, match=r"expected int8 (or float32 )?weights"):
        convert(weight)


def test_float_weights_are_stored_without_their_zeros():
    weight = np.float32([[[[0.0, 1.5]], [[-0.0, 0.0]]], [[[1e-40, 0.0]], [[0.0, -2.0]]]])
    matrix = CSR.from_dense(weight)
    assert matrix.data.dtype == np.float32
    assert matrix.data.tolist() == [1.5, float(np.float32(1e-40)), -2.0]
    np.testing.assert_array_equal(matrix.to_dense(), weight)
    with pytest.raises(ValueError, match="expected int8 weights"):
        BlockCSR.from_dense(weight, 4)


def test_a_block_has_rows():
    with pytest.raises(ValueError, match="at least one row in a block, found 0"):
        BlockCSR.from_dense(np.ones((2, 2, 1, 1), np.int8), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (2, 3, 1)}, "shape"),
        ({"shape": (0, 3, 1, 1)}, "shape"),
        ({"shape": (2, -3, -1, 1)}, "shape"),
        ({"shape": (3, 3, 1, 1)}, "indptr"),
        ({"indptr": np.int32([0, 3])}, "indptr"),
        ({"indptr": np.int32([1, 2, 3])}, "indptr"),
        ({"indptr": np.int32([0, 4, 3])}, "indptr"),
        ({"indptr": np.int32([[0, 2, 3]])}, "indptr"),
        ({"indptr": np.int32([0, -(2**31), 3])}, "indptr"),
        ({"indptr": np.int32([0, 2, 4])}, "data"),
        ({"data": np.int8([1, 2])}, "data"),
        ({"data": np.int16([1, 2, 3])}, "data"),
        ({"data": np.int8([1, 0, 3])}, "zeros"),
        ({"indices": np.uint16([0, 2])}, "indices"),
        ({"indices": np.int32([0, 2, 1])}, "indices"),
        ({"indices": np.uint16([2, 0, 1])}, "ascend"),
        ({"indices": np.uint16([2, 2, 1])}, "ascend"),
        ({"indices": np.uint16([0, 3, 1])}, "below 3"),
        ({"indices": np.uint16([0, 65535, 1])}, "below 3"),
    ],
)
def test_wrong_arrays_are_refused(change, message):
    csr = CSR.from_dense(np.int8([[1, 0, -2], [0, 3, 0]])[:, :, None, None])
    with pytest.raises(ValueError, match=message) as caught:
        replace(csr, **change)
    assert len(str(caught.value).splitlines()) == 1
