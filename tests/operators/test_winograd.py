"""Winograd's filtering: the identities behind it, its transforms, its tilings, and convolutions equal to the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from engine import UNSIGNED, WINOGRAD, Net, assert_equals_oracle, forced
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, Quantizer
from sparse_icnet.operators.storage import Grid
from sparse_icnet.operators.winograd import tiling as planning
from sparse_icnet.operators.winograd.pack import pack_weights, weight_bytes
from sparse_icnet.operators.winograd.tiling import Tiling
from sparse_icnet.operators.winograd.transforms import (
    shared_sums,
    transform_bytes,
    transform_last,
    transform_pairs,
    transform_sums,
)
from sparse_icnet.sparse import winograd
from sparse_icnet.sparse.winograd import ELEMENTS, INPUTS, OUTPUTS, SUM_LIMIT, TAPS, A, B, G
from sparse_icnet.target import TARGET

few = settings(deadline=None, max_examples=25, print_blob=True)


def direct(codes: NDArray[np.uint8], weight: NDArray[np.int8]) -> NDArray[np.int64]:
    """(I, 6, 6), (O, I, 3, 3) -> (O, 4, 4): the sums of products of one tile."""
    windows = np.lib.stride_tricks.sliding_window_view(codes.astype(np.int64), (TAPS, TAPS), (1, 2))
    return np.einsum("iyxab,oiab->oyx", windows, weight.astype(np.int64))


def filtered(codes: NDArray[np.uint8], weight: NDArray[np.int8]) -> NDArray[np.int64]:
    """The same by (W1) and (W2), every intermediate in the integers that the kernels use."""
    elements = np.einsum("eu,iuv,fv->efi", B, codes.astype(np.int64), B)
    weights = winograd.transformed(weight.transpose(2, 3, 0, 1)).astype(np.int64)
    assert max(np.abs(elements).max(), np.abs(weights).max()) < 2**15
    sums = np.einsum("ei,eoi->eo", elements.reshape(ELEMENTS, -1), weights)
    sums = sums.astype(np.uint64).astype(np.uint32).view(np.int32)  # modulo 2**32
    whole = np.einsum("ye,xf,efo->oyx", A, A, sums.reshape(INPUTS, INPUTS, -1).astype(np.int64))
    whole = (whole * winograd.INVERSE).astype(np.uint64).astype(np.uint32).view(np.int32)
    return (whole >> winograd.SHIFT).astype(np.int64)


def test_the_matrices_are_those_of_the_literature():
    """Lavin and Gray's F(4, 3), its rows multiplied so that all are integers."""
    assert winograd.SCALE == 24
    assert winograd.SCALE**2 % (1 << winograd.SHIFT) == 0
    assert (winograd.SCALE**2 >> winograd.SHIFT) * winograd.INVERSE % (1 << 32) == 1
    np.testing.assert_array_equal(B[0], [4, 0, -5, 0, 1, 0])
    np.testing.assert_array_equal(B[5], [0, 4, 0, -5, 0, 1])
    np.testing.assert_array_equal(A[:, 3], [1, 2, 4, 8])
    rng = np.random.default_rng(0)
    d, g = rng.integers(-(10**6), 10**6, INPUTS), rng.integers(-(10**6), 10**6, TAPS)
    expected = [int((d[i : i + TAPS] * g).sum()) * winograd.SCALE for i in range(OUTPUTS)]
    assert (A @ ((G @ g) * (B @ d))).tolist() == expected


@few
@given(
    seed=st.integers(0, 2**32 - 1),
    codes=st.sampled_from(["random", "ends", 0, 255]),
    weights=st.sampled_from(["random", "ends", -128, 127]),
    channels=st.sampled_from([1, 3, 16, 113]),
)
def test_filtering_is_exact(seed, codes, weights, channels):
    """113 channels of -128 and 255 almost reach the bound of (W2): the int32 sums overflow, the result does not."""
    rng = np.random.default_rng(seed)

    def draw(kind: str | int, ends: tuple[int, int], shape: tuple[int, ...]) -> NDArray:
        if kind == "random":
            return rng.integers(ends[0], ends[1] + 1, shape)
        return rng.choice(ends, shape) if kind == "ends" else np.full(shape, kind)

    u8 = draw(codes, (0, 255), (channels, INPUTS, INPUTS)).astype(np.uint8)
    s8 = draw(weights, (-128, 127), (2, channels, TAPS, TAPS)).astype(np.int8)
    assert winograd.largest_sum(s8) < SUM_LIMIT
    np.testing.assert_array_equal(filtered(u8, s8), direct(u8, s8))


def test_the_bound_is_needed():
    """One channel of extremes more, and the filtering of the largest sum is wrong: such layers are not filtered."""
    s8 = np.full((1, 115, TAPS, TAPS), -128, np.int8)
    u8 = np.full((115, INPUTS, INPUTS), 255, np.uint8)
    assert winograd.largest_sum(s8) == 115 * 9 * 128 * 255 >= SUM_LIMIT
    assert (filtered(u8, s8) != direct(u8, s8)).all()
    assert tiling(s8) is None
    assert tiling(s8[:, :113]) is not None


@given(st.lists(st.lists(st.integers(-9, 9), min_size=5, max_size=5), min_size=1, max_size=7))
def test_shared_sums_are_the_matrix(rows):
    matrix = np.array(rows, np.int64)
    sums, terms = shared_sums(matrix)
    x = np.random.default_rng(0).integers(-1000, 1000, 5)
    values = x.tolist()
    for shared in sums:
        values.append(sum(c * values[i] for i, c in shared.items()))
    assert [sum(c * values[i] for i, c in row.items()) for row in terms] == (matrix @ x).tolist()


def test_shared_sums_halve_the_additions():
    """Points p and -p share their even and their odd part."""
    for matrix, plain in ((B, 14), (A, 14)):
        sums, rows = shared_sums(matrix)
        additions = sum(len(row) - 1 for row in (*sums, *rows))
        assert additions <= plain < (matrix != 0).sum() - len(matrix) + 1


_bytes, _pairs, _sums = transform_bytes(B), transform_pairs(B), transform_sums(A)
_last = transform_last(A, winograd.INVERSE, winograd.SHIFT)


@njit
def _transform_all(codes, offsets, pairs, sums, extra, out):
    zero = np.int32(0)
    _bytes(codes, offsets, 4, out, 64, 64 * INPUTS)
    _pairs(pairs, 64, out + 128 * INPUTS, 64, zero)
    _sums(sums, 64, out + 192 * INPUTS, 64, zero)
    _last(sums, 64, out + 192 * INPUTS + 64 * OUTPUTS, 64, extra)


def test_transforms_of_vectors():
    """Every lane by itself; int16 and int32 wrap around."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (INPUTS, 16, 4), dtype=np.uint8)
    order = rng.permutation(INPUTS)
    shuffled = np.ascontiguousarray(codes[np.argsort(order)])
    offsets = (64 * order).astype(np.int32)
    pairs = rng.integers(-(2**15), 2**15, (INPUTS, 32)).astype(np.int16)
    sums = rng.integers(-(2**31), 2**31, (INPUTS, 16)).astype(np.int32)
    out = np.zeros(192 * INPUTS + 128 * OUTPUTS, np.uint8)
    extra = np.int32(-12345)
    arrays = (shuffled, offsets, pairs, sums)
    _transform_all(*(a.ctypes.data for a in arrays), extra, out.ctypes.data)
    halves = out[: 192 * INPUTS].view(np.int16).reshape(3, INPUTS, 32)
    for parity in (0, 1):
        expected = np.tensordot(B, codes[:, :, parity::2].astype(np.int64), 1).reshape(INPUTS, 32)
        np.testing.assert_array_equal(halves[parity], expected)
    np.testing.assert_array_equal(halves[2], (B @ pairs.astype(np.int64)).astype(np.int16))
    words = out[192 * INPUTS :].view(np.int32).reshape(2, OUTPUTS, 16)
    product = A @ sums.astype(np.int64)
    np.testing.assert_array_equal(words[0], product.astype(np.int32))
    exact = (product * winograd.INVERSE).astype(np.int32) >> np.int32(winograd.SHIFT)
    np.testing.assert_array_equal(words[1], (exact.astype(np.int64) + extra).astype(np.int32))


# --- tilings -------------------------------------------------------------------------------------------------------


def tiling(
    weight: NDArray[np.int8], size=(12, 16), phases=(1, 1), grid=None, alone=True, **geometry
) -> Tiling | None:
    one = np.ones(len(weight), np.float32)
    geometry = {"padding": (1, 1, 1, 1)} | geometry
    op = Convolution("convolution", "codes", weight, one, one, **geometry)
    grid = Grid.for_size(size[0] // phases[0], size[1] // phases[1]) if grid is None else grid
    return planning.tiling(op, size, phases, grid, alone)


def test_what_cannot_be_tiled():
    weight = np.ones((4, 4, 3, 3), np.int8)
    assert tiling(weight) is not None
    assert tiling(np.ones((4, 4, 1, 1), np.int8)) is None
    assert tiling(np.ones((4, 4, 3, 1), np.int8)) is None
    assert tiling(weight, stride=(2, 2)) is None
    assert tiling(weight, padding=(0, 0, 0, 0)) is None
    assert tiling(weight, dilation=(2, 1), padding=(2, 1, 2, 1)) is None
    assert tiling(weight, alone=False) is None, "what is added lies in planes, the tiles do not"
    assert tiling(weight, (48, 64), (4, 4), alone=False) is not None
    assert tiling(weight, (1024, 1088)) is None, "a table of every pixel would be as large as the map"


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), dilation=st.sampled_from([1, 2, 3, 4, 7]))
def test_tiles_cover_every_output_once(rows, columns, dilation):
    tiles = tiling(
        np.ones((4, 4, 3, 3), np.int8),
        (rows, columns),
        dilation=(dilation, dilation),
        padding=(dilation,) * 4,
    )
    covered = np.zeros((rows + 4 * dilation, columns + 4 * dilation), int)
    for y, x in tiles.starts:
        covered[y : y + OUTPUTS * dilation : dilation, x : x + OUTPUTS * dilation : dilation] += 1
    assert (covered[:rows, :columns] == 1).all()
    assert tiles.all_vectors * 16 >= len(tiles.starts)


def test_weights_as_the_kernel_reads_them():
    """[groups at once][element][group][pair][output], a pair of channels in a word; missing channels are zeros."""
    weight = np.random.default_rng(2).integers(-128, 128, (10, 6, 3, 3)).astype(np.int8)
    one = np.ones(10, np.float32)
    op = Convolution("convolution", "codes", weight, one, one)
    expected = np.zeros((ELEMENTS, 12, 8), np.int16)
    expected[:, :10, :6] = winograd.transformed(weight.transpose(2, 3, 0, 1))
    for at_once in (1, 2, 3):
        place, words = 0, pack_weights(op, at_once).view(np.int16).reshape(-1, 2)
        for first in range(0, 3, at_once):
            groups = range(first, min(first + at_once, 3))
            for element in range(ELEMENTS):
                for group in groups:
                    for pair in range(4):
                        channel = pair // 2 * 4 + pair % 2
                        rows = expected[element, 4 * group : 4 * group + 4]
                        np.testing.assert_array_equal(
                            words[place : place + 4], rows[:, [channel, channel + 2]]
                        )
                        place += 4
        assert place == len(words)
        assert weight_bytes(op) == words.nbytes


# --- the engine --------------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn):
    """image -> map -> 3x3 convolution [+ residual] [ReLU] -> codes or real values -> classifier."""
    phases = draw(st.sampled_from([(1, 1), (2, 2), (3, 1), (4, 4), (4, 8)]))
    limit = 1 if max(phases) >= 4 else 3
    grid = draw(st.sampled_from([1, 2, 5, 6, 7])), draw(st.sampled_from([1, 4, 15, 16, 17, 30]))
    grid = max(1, grid[0] * limit // 3), grid[1]
    size = grid[0] * phases[0], grid[1] * phases[1]
    more = -(-16 // size[1])
    code = draw(
        st.sampled_from(
            [UNSIGNED, Quantizer(0.03, 0, -128, 127), Quantizer(0.02, 77), Quantizer(0.3, 3, 0, 15)]
        )
    )
    net = Net((size[0], size[1] * more), code, draw(st.integers(0, 2**32 - 1)))
    x = net.image if more == 1 else net.resize(net.image, size)
    inputs, outputs = draw(st.sampled_from([1, 3, 4, 9])), draw(st.sampled_from([1, 4, 7, 12]))
    source = net.codes(net.convolution(x, inputs), code)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = draw(st.sampled_from([np.arange(-128, 128), np.array([-128, 127]), np.array([0, 0, 1, -3])]))
    weight = rng.choice(values, (outputs, inputs, 3, 3)).astype(np.int8)
    x = net.convolution(source, outputs, 3, dilation=draw(st.sampled_from([1, 1, 2, 4])), weight=weight)
    kind = draw(st.sampled_from(["none", "inner", "residual", "real"]))
    event(f"{kind}, phases {phases}")
    if kind == "inner":
        x = net.sum(net.codes(x, code), net.convolution(source, outputs))
    if kind == "residual":
        x = net.sum(x, source if inputs == outputs else net.codes(net.convolution(source, outputs), code))
    if draw(st.booleans()):
        x = net.relu(x)
    if kind == "real":  # the sum of its resize and another map reads it as real values
        x = (
            net.sum(net.resize(x, (2 * size[0], 2 * size[1])), net.resize(source, (2 * size[0], 2 * size[1])))
            if inputs == outputs
            else x
        )
    x = net.codes(x, draw(st.sampled_from([UNSIGNED, Quantizer(0.02, 77)])))
    again = net.codes(net.convolution(x, 5, 3), UNSIGNED)  # reads shifted copies and padding of the first
    shape = net.shapes[again][1:]
    return net.classify(again, grid=None if shape == grid else grid)


@few
@given(graph=convolutions(), seed=st.integers(0, 1000), threads=st.sampled_from([1, 2]))
def test_convolution_equals_oracle(graph, seed, threads):
    session = assert_equals_oracle(graph, seed=seed, threads=threads, policy=forced(WINOGRAD))
    kernels = {step.kernel.partition("_")[0] for step in session.plan.convolutions()}
    event(f"filtered: {'winograd4x4' in kernels}")


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels", [8, 100, 260])
@pytest.mark.parametrize("threads", [1, 3])
def test_own_and_common_inputs(channels, threads, dense, monkeypatch):
    """Tasks that transform their own inputs, and steps that do it for all; rows with a gap and without."""
    make = Grid.for_size
    monkeypatch.setattr(Grid, "for_size", lambda rows, columns: make(rows, columns, dense))
    net = Net((4 * 12, 4 * 20), seed=channels)
    x = net.codes(net.relu(net.convolution(net.image, channels)))
    x = net.codes(net.relu(net.convolution(x, 9, 3, density=0.3)))
    x = net.codes(net.relu(net.convolution(x, 13, 3)))
    graph = net.classify(x, grid=(12, 20))
    session = assert_equals_oracle(graph, threads=threads, policy=forced(WINOGRAD))
    steps = {step.name: step for step in session.plan.body}
    own = f"{session.plan.convolutions()[1].name}/elements" not in steps
    assert own == (channels == 8 and threads == 1), (
        "tasks that transform their own inputs must suffice for all threads"
    )
    assert sum(step.kernel.startswith("winograd") for step in steps.values()) == 2


@pytest.mark.parametrize(("channels", "filtered"), [(113, True), (115, False)])
def test_sums_at_the_bound(channels, filtered):
    """Codes 255 times weights -128: the largest sum that is filtered, and the first that is not."""
    net = Net((8, 16))
    stem = net.convolution(net.image, channels)
    op = net.ops.pop()
    one = np.ones(channels, np.float32)
    net.ops.append(Convolution(stem, op.input, np.zeros_like(op.weight), one, 1e6 * one))
    source = net.codes(stem)
    x = net.convolution(source, 4, 3, weight=np.full((4, channels, 3, 3), -128, np.int8))
    unit = 128 * 9 * channels * float(np.abs(net.ops[-1].weight_scale).max()) * UNSIGNED.scale
    x = net.codes(x, Quantizer(unit, 255))
    session = assert_equals_oracle(net.classify(x), policy=forced(WINOGRAD))
    assert (session.tensor(source) == 255).all()
    (step,) = (step for step in session.plan.convolutions() if step.shape[2:] == (3, 3))
    assert step.kernel.startswith("winograd") == filtered


@pytest.mark.skipif(
    TARGET.name == "dotprod", reason="sdot multiplies so many bytes at once that filtering never pays"
)
def test_the_planner_filters_where_it_pays():
    """Dense layers of many channels, and none whose blocks are mostly zeros; a reason is given."""
    net = Net((24, 32))
    x = net.codes(net.convolution(net.image, 64))
    dense = net.convolution(x, 64, 3)
    weight = np.zeros((64, 64, 3, 3), np.int8)
    weight[::8, ::16] = 1
    sparse = net.convolution(net.codes(dense), 64, 3, weight=weight)
    session = assert_equals_oracle(net.classify(net.codes(sparse)))
    steps = {step.name: step for step in session.plan.convolutions()}
    assert steps[dense].kernel.startswith("winograd")
    assert TARGET.kernels[0].name in steps[dense].reason
    assert not steps[sparse].kernel.startswith("winograd")
    assert 0 < steps[dense].macs < steps[dense].dense_macs / 2
