"""Every kernel against the oracle, through the functions that the engine itself calls: Graph -> Session."""

from __future__ import annotations

import numpy as np
import pytest
from any_graphs import any_graphs
from engine import (
    IMAGE,
    SPECIAL_FLOATS,
    UNSIGNED,
    WINOGRAD,
    Net,
    assert_equals_oracle,
    bits,
    blob_of,
    expected_classes,
    forced,
    random_blob,
    random_image,
)
from graphs import quantizers
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparse_icnet.network.graph import (
    Convolution,
    Graph,
    Input,
    Normalization,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
)
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.elementwise.params import ExpandParams
from sparse_icnet.operators.pooling.pack import bins_of
from sparse_icnet.operators.pooling.params import AveragePoolParams
from sparse_icnet.plan import PlanError, plan_for
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.target import TARGET, MicroKernel

COLUMNS = [1, 3, 15, 16, 17, 30, 48]  # around the vector of 16 pixels
ROWS = [1, 2, 3, 5, 6, 7, 11, 12, 13, 19]  # around the tiles of 1 to 12 vectors
CHANNELS = [1, 2, 3, 4, 5, 7, 8, 13]  # around the lane of 4
SIGNED = Quantizer(0.03, 0, -128, 127)
QUANTIZERS = {
    "unsigned": UNSIGNED,
    "signed": SIGNED,
    "asymmetric": Quantizer(0.02, 77),
    "asymmetric signed": Quantizer(0.02, -31, -128, 127),
    "highest zero": Quantizer(0.02, 255),
    "narrow": Quantizer(0.3, 3, 0, 15),
    "signed at its lowest": Quantizer(0.02, -128, -128, 127),
}
few = settings(deadline=None, max_examples=25, print_blob=True)


def kernel_name(kernel: object) -> str:
    return kernel.name if isinstance(kernel, MicroKernel) else kernel or "chosen"


each_kernel = pytest.mark.parametrize("kernel", [None, *TARGET.kernels, WINOGRAD], ids=kernel_name)


# --- convolution -----------------------------------------------------------------------------------------


@st.composite
def weights(draw: st.DrawFn, shape: tuple[int, int, int, int]) -> NDArray[np.int8]:
    """int8 `shape`, densities 0 to 1, zeros alone, in blocks or in whole rows; extremes on purpose."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from([np.arange(-128, 128), np.array([-128, -127, 127]), np.array([127])]))
    weight = rng.choice(values, shape)
    density = draw(st.sampled_from([0.0, 0.03, 0.4, 1.0]))
    match draw(st.sampled_from(["alone", "blocks", "rows", "one"])):
        case "alone":
            weight *= rng.random(shape) < density
        case "blocks":
            keep = rng.random((-(-shape[0] // 4), -(-shape[1] // 4), *shape[2:])) < density
            weight *= keep.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]]
        case "rows":
            weight *= rng.random((shape[0], 1, 1, 1)) < density
        case "one":
            place = rng.integers(weight.size)
            weight = np.where(np.arange(weight.size).reshape(shape) == place, weight, 0)
    return weight.astype(np.int8)


@st.composite
def convolutions(draw: st.DrawFn) -> Graph:
    """image -> [map of n channels] -> convolution [+ residual] [ReLU] -> codes -> classifier."""
    grid = draw(st.sampled_from(ROWS)), draw(st.sampled_from(COLUMNS))
    phases = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (2, 1)]))
    output = grid[0] * phases[0], grid[1] * phases[1]
    source_size = output[0] * stride[0], output[1] * stride[1]
    more = -(-16 // source_size[1])  # an image has at least 16 columns
    source_quantizer = draw(quantizers())
    net = Net((source_size[0], source_size[1] * more), source_quantizer, draw(st.integers(0, 2**32 - 1)))
    source = net.image if more == 1 else net.resize(net.image, source_size)
    inputs, outputs = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    if inputs != 3:
        source = net.codes(net.convolution(source, inputs), source_quantizer)
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (1, 3), (3, 1)]))
    weight = draw(weights((outputs, inputs, *kernel)))
    dilation = draw(st.sampled_from([1, 1, 2, 4, (1, 2), (1, 19)]))
    x = net.convolution(source, outputs, kernel, stride, dilation, weight=weight)
    read = []
    kind = draw(st.sampled_from(["none", "none", "codes", "real", "inner", "inner both", "twice"]))
    event(f"residual: {kind}")
    if kind in ("inner", "inner both"):
        x = net.codes(x, draw(quantizers()))
    if kind == "twice":
        x = net.sum(x, x)
    elif kind != "none":
        other = net.convolution(source, outputs, 1, stride)
        if kind != "real":
            other = net.codes(other, draw(quantizers()))
        if kind in ("codes", "inner"):
            read.append(other)  # with two readers it is stored, else it would be computed inside the sum
        x = net.sum(x, other) if draw(st.booleans()) else net.sum(other, x)
    if draw(st.booleans()):
        x = net.relu(x)
    x = net.codes(x, draw(quantizers()))
    return net.classify(x, *read, classes=draw(st.integers(2, 6)), grid=None if output == grid else grid)


@each_kernel
@few
@given(graph=convolutions(), seed=st.integers(0, 1000), threads=st.sampled_from([1, 1, 1, 2]))
def test_convolution_equals_oracle(kernel, graph, seed, threads):
    policy = forced(kernel)
    session = Session(plan_for(graph, threads, keep_tensors=True, policy=policy))
    used = {step.kernel for step in session.plan.convolutions()}
    assert used
    if isinstance(kernel, MicroKernel):
        assert used == {kernel.name}
    assert_equals_oracle(graph, seed=seed, session=session, policy=policy)


@each_kernel
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", [1, 7, 12])
def test_tails_of_tiles(kernel, rows, columns):
    """Every kernel size, stride and dilation in one network, on planes around the tiles."""
    size = 4 * rows, 4 * columns
    net = Net((size[0], size[1] * -(-16 // size[1])), seed=rows * 100 + columns)
    x = net.resize(net.image, size)
    x = net.codes(net.relu(net.convolution(x, 6, 3, stride=2)))
    y = net.codes(net.relu(net.convolution(x, 9, 3, density=0.4)))
    x = net.codes(net.relu(net.sum(net.convolution(y, 6), x)))
    x = net.codes(net.relu(net.sum(net.convolution(x, 5, 3, stride=2), net.convolution(x, 5, stride=2))))
    x = net.codes(net.convolution(x, 8, 3, dilation=2), QUANTIZERS["asymmetric"])
    x = net.codes(net.convolution(x, 7, 3, dilation=4, density=0.4), SIGNED)
    session = assert_equals_oracle(net.classify(x), seed=1, policy=forced(kernel))
    if rows * columns > 1:
        assert all(np.unique(session.tensor(name)).size > 2 for name in session.tensors()), "trivial tensors"


@each_kernel
def test_planes_of_several_runs(kernel):
    """A plane of 75 vectors takes more than one task, and the last of them whole tiles and a remainder."""
    net = Net((50, 96), seed=5)
    x = net.codes(net.relu(net.convolution(net.image, 6, 3, stride=2)))
    y = net.codes(net.relu(net.convolution(x, 9, 3, density=0.4)))
    x = net.codes(net.relu(net.sum(net.codes(net.convolution(y, 6)), net.codes(net.convolution(x, 6)))))
    x = net.codes(net.sum(net.convolution(x, 9), y), QUANTIZERS["asymmetric"])
    graph = net.classify(x, classes=4)
    session = assert_equals_oracle(graph, seed=2, policy=forced(kernel))
    if isinstance(kernel, MicroKernel):
        records = [step.record[0] for step in session.plan.body if step.kind is ConvolutionParams]
        assert records
        assert all(record["vectors"] == 75 and record["chunks"] > 1 for record in records)


@each_kernel
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_largest_accumulators(kernel, code, weight, zero_point):
    """Constant extreme codes times constant extreme weights: no product, pair or sum may saturate."""
    quantizer = Quantizer(0.02, zero_point)
    net = Net((3, 17), quantizer)
    stem = net.convolution(net.image, 130)
    op = net.ops.pop()
    one = np.ones(130, np.float32)
    saturated = (one if code else -one) * 1e6
    net.ops.append(Convolution(stem, op.input, np.zeros_like(op.weight), one, saturated))
    source = net.codes(stem, quantizer)
    full = np.full((6, 130, 3, 3), weight, np.int8)
    x = net.convolution(source, 6, 3, weight=full)
    unit = 255 * 128 * 9 * 130 / 255 * float(np.abs(net.ops[-1].weight_scale).max()) * quantizer.scale
    x = net.codes(x, Quantizer(unit, 128))
    graph = net.classify(x)
    session = assert_equals_oracle(graph, policy=forced(kernel))
    assert (session.tensor(source) == code).all()
    oracle = Oracle(session.graph, random_blob(graph.input.shape))
    centre = oracle.accumulator("convolution4")[0, 1, 8]
    assert centre == (code - zero_point) * weight * 9 * 130


@pytest.mark.parametrize("density", [0.0, 0.03, 0.4, 1.0])
@pytest.mark.parametrize("rows", [4, 2])
def test_stored_blocks_are_the_nonzero_ones(rows, density):
    """Zeros cost nothing: the products of a step are those of the blocks that hold a non-zero weight."""
    rng = np.random.default_rng(5)
    keep = rng.random((8 // rows, 3, 3, 3)) < density
    weight = (rng.choice([-5, 7], (8, 12, 3, 3)) * keep.repeat(rows, 0).repeat(4, 1)).astype(np.int8)
    net = Net((6, 16))
    x = net.codes(net.convolution(net.image, 12))
    name = net.convolution(x, 8, 3, weight=weight)
    kernel = next(k for k in TARGET.kernels if k.rows == rows)
    session = assert_equals_oracle(net.classify(net.codes(name)), policy=forced(kernel))
    step = next(step for step in session.plan.convolutions() if step.name == name)
    assert step.macs == np.count_nonzero(weight) * 6 * 16
    assert step.dense_macs == weight.size * 6 * 16
    assert step.block_density == pytest.approx(keep.mean())


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("target", QUANTIZERS)
def test_quantizer_kinds(name, target):
    """Padding holds the zero point, codes may be signed, on both sides of a convolution and a residual."""
    net = Net((10, 34), QUANTIZERS[name], seed=3)
    x = net.codes(net.convolution(net.image, 5, 3, stride=2), QUANTIZERS[name])
    y = net.codes(net.relu(net.sum(net.convolution(x, 5, 3), x)), QUANTIZERS[target])
    z = net.codes(net.sum(y, x), QUANTIZERS[name])
    assert_equals_oracle(net.classify(y, z), seed=4)


@each_kernel
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("largest", "saturates"), [(2.0**29, True), (2.0**31.5, False), (2.0**40, False)])
def test_values_around_the_range_of_int32(kernel, residual, largest, saturates):
    """Values far beyond the codes, some beyond int32, are the lowest and the highest code; so are those below."""
    net = Net((7, 33), Quantizer(0.02, 128), seed=2)
    name = net.convolution(net.image, 6)
    op = net.ops.pop()
    sums = 128 * 0.02 * np.abs(op.weight.astype(np.float64)).sum((1, 2, 3))
    scale = np.float32(largest * UNSIGNED.scale / sums)
    scale[3:] *= np.float32([1e-3, 1e-7, -1])
    net.ops.append(Convolution(name, op.input, op.weight, scale, op.bias))
    total = net.sum(name, net.codes(net.convolution(net.image, 6))) if residual else name
    codes = net.codes(total)
    session = assert_equals_oracle(net.classify(codes), policy=forced(kernel))
    step = next(step for step in session.plan.body if step.name == name)
    assert step.record[0]["epilogue"]["output"]["saturates"] == saturates
    assert {0, 255} <= set(session.tensor(codes).flat)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_only_codes_of_whole_bytes_saturate(name):
    net = Net((4, 20))
    source = net.convolution(net.image, 4)
    session = assert_equals_oracle(net.classify(net.codes(source, QUANTIZERS[name])))
    step = next(step for step in session.plan.body if step.name == source)
    assert step.record[0]["epilogue"]["output"]["saturates"] == (name in ("unsigned", "signed at its lowest"))


def test_negative_and_tiny_scales():
    """A batch norm with negative gamma leaves negative scales; scales spread over many decades."""
    net = Net((6, 32), seed=1)
    x = net.codes(net.convolution(net.image, 8, 3, stride=2))
    name = net.convolution(x, 8, 3)
    op = net.ops.pop()
    scale = op.weight_scale * np.float32([-1, 1, -1e-6, 1e6, 1e-30, -1, 1, 1e3])
    net.ops.append(Convolution(name, op.input, op.weight, scale, op.bias, padding=op.padding))
    assert_equals_oracle(net.classify(net.codes(name, SIGNED)))


# --- pooling ---------------------------------------------------------------------------------------------


@few
@given(
    grid=st.tuples(st.sampled_from(ROWS), st.sampled_from(COLUMNS)),
    window=st.sampled_from([(3, 2, 1), (2, 2, 0), (3, 1, 1), (1, 2, 0)]),
    channels=st.sampled_from(CHANNELS),
    quantizer=st.sampled_from([UNSIGNED, Quantizer(0.03, -128, -128, 127), Quantizer(0.2, 0, 0, 15)]),
    seed=st.integers(0, 1000),
)
def test_max_pool_equals_oracle(grid, window, channels, quantizer, seed):
    kernel, stride, padding = window
    height, width = 2 * grid[0] * stride, 2 * grid[1] * stride
    net = Net((height, width * -(-16 // width)), seed=seed)
    x = net.codes(net.convolution(net.resize(net.image, (height, width)), channels), quantizer)
    pooled = net.max_pool(x, kernel, stride, padding)
    assert_equals_oracle(net.classify(pooled, grid=grid), seed=seed)


@pytest.mark.parametrize("quantizer", [SIGNED, Quantizer(0.02, 77)], ids=["signed", "asymmetric"])
def test_max_pool_without_padding_takes_any_zero_point(quantizer):
    net = Net((8, 64), quantizer)
    assert_equals_oracle(net.classify(net.max_pool(net.image, 2, 2, 0)))


@st.composite
def pyramids(draw: st.DrawFn) -> Graph:
    """x + sum over bins of nearest-up(mean(x, bins)), with quantizers wherever an exporter may put them."""
    all_bins = draw(
        st.sampled_from(
            [
                [(1, 1), (2, 2), (3, 3), (6, 6)],
                [(6, 6), (1, 1)],
                [(2, 3), (3, 2)],
                [(1, 1)],
                [(4, 4), (6, 6)],
                [(5, 5), (5, 5)],
                [(1, 4), (4, 1), (2, 2)],
            ]
        )
    )
    if draw(st.booleans()):  # bins that divide the map, and bins that overlap
        rows, columns = (int(np.lcm.reduce(n)) * draw(st.integers(1, 3)) for n in zip(*all_bins, strict=True))
    else:
        rows, columns = draw(st.tuples(st.integers(1, 20), st.integers(1, 40)))
    net = Net((rows, columns * -(-16 // columns)), seed=draw(st.integers(0, 2**32 - 1)))
    x = net.resize(net.image, (rows, columns))
    x = net.codes(net.convolution(x, draw(st.sampled_from(CHANNELS))), draw(quantizers()))
    total = x
    for i, bins in enumerate(all_bins):
        pooled = net.mean(x, bins)
        place = draw(st.sampled_from(["nowhere", "nowhere", "before", "after"]))
        if place == "before":
            pooled = net.codes(pooled, draw(quantizers()))
        pooled = net.resize(pooled, (rows, columns))
        if place == "after":
            pooled = net.codes(pooled, draw(quantizers()))
        total = net.sum(total, pooled) if draw(st.booleans()) else net.sum(pooled, total)
        if i + 1 < len(all_bins) and draw(st.booleans()):
            total = net.codes(total, draw(quantizers()))
    return net.classify(net.codes(total, draw(quantizers())))


@settings(few, max_examples=60)
@given(graph=pyramids(), seed=st.integers(0, 1000))
def test_pyramid_equals_oracle(graph, seed):
    assert_equals_oracle(graph, seed=seed)


def test_sums_of_a_window_must_fit():
    bins_of(UNSIGNED, (2901, 2902), (1, 1), 1.0)
    with pytest.raises(PlanError, match="an average of 8421505 pixels: expected at most 8421504"):
        bins_of(UNSIGNED, (8421505, 1), (1, 1), 1.0)


def test_pooled_maps_beyond_the_pyramid():
    """A pooled map may be enlarged onto a map of several phases, and be read by a convolution as codes."""
    net = Net((12, 48))
    x = net.codes(net.convolution(net.image, 6))
    pooled = net.codes(net.resize(net.mean(x, (2, 3)), (12, 48)), SIGNED)
    other = net.resize(net.mean(x, (4, 1)), (12, 48))
    y = net.codes(net.sum(net.sum(x, pooled), other))
    z = net.codes(net.convolution(pooled, 7, 3))
    session = assert_equals_oracle(net.classify(y, z, grid=(6, 24)))
    assert {AveragePoolParams, ExpandParams} <= {step.kind for step in session.plan.body}


# --- resize ----------------------------------------------------------------------------------------------


@few
@given(
    grid=st.tuples(st.sampled_from([1, 3, 7]), st.sampled_from([1, 3, 16, 17])),
    first=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    second=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.sampled_from([1, 3]),
    dilation=st.sampled_from([1, 2]),
    seed=st.integers(0, 1000),
)
def test_resize_up_and_down_equals_oracle(grid, first, second, kernel, dilation, seed):
    """Nearest resizes between any two multiples of the grid, read by a convolution, a sum and a max pool."""
    small, large = ((grid[0] * k[0], grid[1] * k[1]) for k in (first, second))
    net = Net((small[0], small[1] * -(-16 // small[1])), seed=seed)
    x = net.codes(net.convolution(net.resize(net.image, small), 5))
    y = net.resize(x, large)
    z = net.codes(net.sum(net.convolution(y, 5, kernel, dilation=dilation), y))
    assert_equals_oracle(net.classify(z, net.max_pool(z, 3, 1, 1), grid=grid), seed=seed)


# --- the end: softmax, argmax, enlargement ---------------------------------------------------------------


@pytest.mark.parametrize("classes", range(2, 21))
def test_softmax_equals_oracle(classes):
    net = Net((5, 34), seed=classes)
    x = net.codes(net.convolution(net.image, 7, 3))
    logits = net.convolution(x, classes)
    op = net.ops.pop()
    # From nearly equal logits to differences far beyond the range of exp.
    scale = op.weight_scale * np.float32(10.0) ** net.rng.integers(-3, 4, classes)
    net.ops.append(Convolution(logits, op.input, op.weight, scale.astype(np.float32), op.bias))
    graph = net.softmax(logits, (15, 68))
    session = assert_equals_oracle(graph)
    probabilities = session.probabilities(random_blob(graph.input.shape))
    assert probabilities.shape == (classes, 15, 68)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)


def test_argmax_takes_the_lowest_of_equal_classes():
    net = Net((4, 32))
    x = net.codes(net.convolution(net.image, 4))
    logits = net.convolution(x, 6)
    op = net.ops.pop()
    weight = np.repeat(op.weight[:2], 3, 0)[[0, 3, 1, 4, 2, 5]]  # classes 0, 2, 4 are equal, and 1, 3, 5
    scale, bias = np.full(6, 0.01, np.float32), np.zeros(6, np.float32)
    net.ops.append(Convolution(logits, op.input, weight, scale, bias))
    graph = net.softmax(logits)
    session = assert_equals_oracle(graph)
    found = np.unique(session.class_map(random_blob(graph.input.shape)))
    np.testing.assert_array_equal(found, [0, 1])


def test_constant_logits_are_class_0_everywhere():
    net = Net((4, 32))
    x = net.codes(net.convolution(net.image, 4))
    logits = net.convolution(x, 5)
    op = net.ops.pop()
    net.ops.append(
        Convolution(logits, op.input, np.zeros_like(op.weight), op.weight_scale, np.full(5, -3, np.float32))
    )
    graph = net.softmax(logits)
    session = assert_equals_oracle(graph)
    blob = random_blob(graph.input.shape)
    assert not session.class_map(blob).any()
    assert (session.probabilities(blob) == np.float32(0.2)).all()


@pytest.mark.parametrize("phases", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("columns", [1, 15, 17, 32])
@pytest.mark.parametrize("factor", [(1, 1), (4, 4), (3, 2)])
def test_probabilities_of_every_shape(phases, columns, factor):
    """Softmax on planes with and without a gap behind rows, then enlarged; aligned results are streamed."""
    grid = (3, columns)
    size = (grid[0] * phases[0], grid[1] * phases[1])
    net = Net((size[0], size[1] * -(-16 // size[1])), seed=columns)
    x = net.codes(net.convolution(net.resize(net.image, size), 6))
    logits = net.convolution(x, 5)
    if phases != (1, 1):
        logits = net.sum(logits, net.resize(net.convolution(x, 5, stride=phases), size))
    graph = net.softmax(logits, (size[0] * factor[0], size[1] * factor[1]))
    session = assert_equals_oracle(graph)
    blob = random_blob(graph.input.shape)
    expected = Oracle(graph, blob).output()
    memory = np.zeros(expected.nbytes + 128, np.uint8)
    for offset in (0, 4, 32, 3):  # 0: whole cache lines
        start = -memory.ctypes.data % 64 + offset
        out = memory[start : start + expected.nbytes].view(np.float32).reshape(expected.shape)
        memory[:] = 0xA5
        session.probabilities(blob, out=out)
        np.testing.assert_array_equal(out.copy().view(np.uint32), bits(expected))
        assert (memory[:start] == 0xA5).all()
        assert (memory[start + expected.nbytes :] == 0xA5).all()


# --- the beginning: image and blob -----------------------------------------------------------------------


@few
@given(
    quantizer=quantizers(),
    affine=st.booleans(),
    rows=st.sampled_from([1, 2, 5]),
    columns=st.sampled_from([16, 17, 30, 31, 48, 66]),
    phases=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    own=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_image_and_blob_give_the_same_codes(quantizer, affine, rows, columns, phases, own, seed):
    """The table of an image equals (Q9), (Q10) and (Q1) on the blob that the same pixels make."""
    settings = {"normalization": Normalization(1.0, (0, 0, 0), (64, 64, 64))} if own else {}
    net = Net((rows * phases[0], columns * phases[1]), quantizer, seed, affine, **settings)
    x = net.codes(net.convolution(net.image, 5, 3, stride=phases))
    graph = net.classify(net.image, x, classes=4) if phases == (1, 1) else net.classify(x)
    image = random_image(graph.input.shape, seed)
    blob = blob_of(graph, image)
    session = assert_equals_oracle(graph, blob)
    expected = session.probabilities(blob)
    session.class_map(np.zeros_like(blob))
    np.testing.assert_array_equal(bits(session.probabilities_of_image(image)), bits(expected))
    oracle = Oracle(session.graph, blob)
    for name in session.tensors():
        np.testing.assert_array_equal(session.tensor(name), oracle.codes(name), err_msg=name)
    np.testing.assert_array_equal(session.class_map_of_image(image), expected_classes(session.graph, blob))


@pytest.mark.parametrize("phases", [(2, 16), (1, 32), (32, 32), (3, 48), (2, 24)])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 15, 16, 17, 30, 33])
def test_rows_of_an_image_scatter_to_many_phases(phases, columns):
    """Blocks of 16 x 16 pixels, in planes narrower than a vector, of whole vectors and between; any table of codes."""
    size = 2 * phases[0], columns * phases[1]
    grays = {
        "normalization": Normalization(1.0, (90, 100, 110), (1, -0.7, 3))
    }  # one table falls, two saturate
    net = Net(size, Quantizer(1.0, 100), seed=columns, **grays)
    graph = net.softmax(net.convolution(net.image, 3, stride=phases))
    image = random_image(graph.input.shape, columns)
    session = assert_equals_oracle(graph, blob_of(graph, image), threads=1 + columns % 2)
    assert np.unique(session.tensor(net.image)).size > 2
    expected = session.tensor(net.image)
    session.class_map(np.zeros(graph.input.shape, np.float32))
    session.class_map_of_image(image)
    np.testing.assert_array_equal(session.tensor(net.image), expected)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_blobs_with_nan_infinity_and_ties(name, affine):
    """NaN is the lowest code, infinities are the bounds, halves go to the even code; denormals count."""
    quantizer = QUANTIZERS[name]
    net = Net((4, 35), quantizer, affine=affine)
    graph = net.classify(net.codes(net.convolution(net.image, 4, 3)))
    special = [*SPECIAL_FLOATS, 1e30]
    halves = (np.arange(-300, 300) + 0.5) * quantizer.scale
    values = np.concatenate([special, halves, np.nextafter(np.float32(halves), np.float32(0))])
    blob = np.random.default_rng(0).choice(values.astype(np.float32), graph.input.shape)
    blob.flat[: len(special)] = special
    with np.errstate(over="ignore"):
        session = assert_equals_oracle(graph, blob)
    codes = session.tensor(net.image)
    assert codes.flat[0] == quantizer.low
    assert {quantizer.low, quantizer.high} <= set(codes.flat)


# --- any graph -------------------------------------------------------------------------------------------


@settings(few, max_examples=200)
@given(graph=any_graphs(), seed=st.integers(0, 1000))
def test_any_graph_equals_oracle_or_is_refused(graph, seed):
    try:
        session = Session(plan_for(graph, 1, keep_tensors=True))
    except PlanError:
        event("refused")
        return
    event("runs")
    assert_equals_oracle(graph, seed=seed, session=session)


# --- what the engine refuses -----------------------------------------------------------------------------


def _resized_twice() -> Graph:
    net = Net((4, 16))
    graph = net.softmax(net.convolution(net.image, 3))
    return Graph((*graph.ops, Resize("a", graph.output, (6, 24)), Resize("b", "a", (12, 48))), "b")


def _enlarged_by_a_fraction() -> Graph:
    net = Net((4, 16))
    graph = net.softmax(net.convolution(net.image, 3))
    return Graph((*graph.ops, Resize("a", graph.output, (6, 24))), "a")


def _pooled_map_resized_twice() -> Graph:
    net = Net((6, 18))
    x = net.codes(net.convolution(net.image, 4))
    twice = net.resize(net.resize(net.mean(x, (2, 2)), (3, 3)), (6, 18))
    return net.classify(net.codes(net.sum(x, twice)))


def _far_taps() -> Graph:
    net = Net((2, 16))
    return net.classify(net.codes(net.convolution(net.image, 4, 3, dilation=4096)))


def _infinite_values() -> Graph:
    net = Net((2, 16))
    x = net.convolution(net.image, 4)
    op = net.ops.pop()
    net.ops.append(Convolution(x, op.input, op.weight, np.full(4, 3e38, np.float32), op.bias))
    return net.classify(net.codes(net.relu(net.sum(x, net.convolution(net.image, 4))), SIGNED))


def _four_channels() -> Graph:
    ops = Input("image", (4, 2, 16)), Quantize("codes", "image", IMAGE)
    ones = np.ones(2, np.float32)
    convolution = Convolution("convolution", "codes", np.ones((2, 4, 1, 1), np.int8), ones, ones)
    return Graph((*ops, convolution, Softmax("end", "convolution")), "end")


def _no_multiple_of_the_grid() -> Graph:
    net = Net((5, 16))
    x = net.codes(net.convolution(net.image, 4, 3))
    y = net.codes(net.convolution(x, 4, 3, stride=2))
    return net.softmax(net.convolution(net.resize(y, (5, 16)), 3, 3))


def _padded_pool_of_signed_codes() -> Graph:
    net = Net((4, 16), SIGNED)
    return net.classify(net.max_pool(net.image, 3, 1, 1))


def _no_convolution() -> Graph:
    net = Net((4, 16))
    return net.softmax(net.image)


def _narrow_image() -> Graph:
    net = Net((4, 15))
    return net.softmax(net.convolution(net.image, 3))


def _too_many_classes() -> Graph:
    net = Net((4, 16))
    return net.softmax(net.convolution(net.image, 257))


def _sum_of_probabilities() -> Graph:
    net = Net((4, 16))
    graph = net.softmax(net.convolution(net.image, 3))
    return Graph((*graph.ops, Relu("relu", graph.output), Softmax("end", "relu")), "end")


def test_an_input_of_several_quantizers():
    net = Net((2, 16))
    other = net.codes("image", SIGNED)
    graph = net.classify(*(net.codes(net.convolution(x, 4)) for x in (net.image, other)))
    session = assert_equals_oracle(graph)
    image = random_image(graph.input.shape)
    expected = Oracle(graph, blob_of(graph, image)).output()
    np.testing.assert_array_equal(session.probabilities_of_image(image), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_resized_twice, "2 resizes must equal a single nearest resize"),
        (_enlarged_by_a_fraction, "must be a whole multiple of the logits"),
        (_pooled_map_resized_twice, "3x3"),
        (_far_taps, "at most .* columns .* found 4096"),
        (_infinite_values, "its scales allow values of"),
        (_four_channels, "3 channels, found 4"),
        (_no_multiple_of_the_grid, "whole multiple of the smallest convolution output, 3x8"),
        (_padded_pool_of_signed_codes, "zero point as its lowest code, found zero point 0 in -128..127"),
        (_no_convolution, "no convolution"),
        (_narrow_image, "at least 16 pixels wide, found 15"),
        (_too_many_classes, "at most 256 classes, found 257"),
        (_sum_of_probabilities, r"'relu' \(Relu\)|'probabilities' \(Softmax\)"),
    ],
)
def test_what_the_engine_cannot_run_it_refuses(make, message):
    with pytest.raises(PlanError, match=message) as caught:
        Session(plan_for(make(), 1))
    assert len(str(caught.value).splitlines()) == 1
