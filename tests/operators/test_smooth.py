"""Smooth class maps (Q11): the definition, the oracle, the kernels, the session, the model."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from engine import Net, blob_of, random_blob, random_image, soil
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_picture
from numba import njit
from numpy.typing import NDArray

import sparse_icnet
from sparse_icnet import formats
from sparse_icnet.formats import native
from sparse_icnet.image import MAX_PIXELS, enlarge, fitted
from sparse_icnet.network import arithmetic
from sparse_icnet.network.bilinear import bilinear
from sparse_icnet.network.graph import (
    Argmax,
    Bilinear,
    Graph,
    GraphError,
    Relu,
    Resize,
    Size,
    Softmax,
    resized,
)
from sparse_icnet.operators.interpolation import kernel as interpolation
from sparse_icnet.operators.interpolation.pack import Axis, Stretch
from sparse_icnet.operators.interpolation.params import SmoothClassesParams
from sparse_icnet.operators.interpolation.plan import SmoothClassesStep
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.output import kernel as ends
from sparse_icnet.operators.output.params import ArgmaxParams, LogitsParams
from sparse_icnet.operators.output.plan import ArgmaxStep, LogitsStep
from sparse_icnet.operators.record import written
from sparse_icnet.operators.storage import Block, Grid, MapLayout, RealMap, View
from sparse_icnet.plan import PlanError, plan_for
from sparse_icnet.plan.arena import Arena, memory_at
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.reference.smooth import smooth_class_map, unbeaten
from sparse_icnet.run.session import Session
from sparse_icnet.simd.record import at

CAMVID_GRID = (96, 120)
SIZES = [(1, 1), (7, 5), (97, 101), (95, 119), (96, 120), (360, 480), (720, 960), (768, 960), (1080, 1920)]
EXTREMES = (0.0, -0.0, 1e36, -1e36, 1.0, np.float32(1) + np.finfo(np.float32).eps, 1e-45, -1e-45, 3.0)


def blocky_logits(shape: tuple[int, int, int], seed: int = 0, levels: int = 0) -> NDArray[np.float32]:
    """float32 (C, h, w): areas of one class with noise; with `levels`, few different values, so that many are equal."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    areas = rng.normal(0, 4, (channels, -(-height // 5), -(-width // 5)))
    x = areas.repeat(5, 1).repeat(5, 2)[:, :height, :width] + rng.normal(0, 1, shape)
    if levels:
        x = np.rint(x * levels / 8)
    return x.astype(np.float32)


# --- the definition ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    points=st.integers(1, 1 << 16),
    length=st.one_of(st.integers(1, 300), st.integers(1, MAX_PIXELS)),
    at=st.floats(0, 1),
    align_corners=st.booleans(),
)
def test_coordinates_are_those_of_exact_arithmetic(points, length, at, align_corners):
    pixels = np.unique(np.clip([0, int(at * length), int(at * length) + 1, length - 1], 0, length - 1))
    cells, near, far = arithmetic.interpolation(points, length, pixels, align_corners)
    for i, cell, u, t in zip(pixels.tolist(), cells.tolist(), near, far, strict=True):
        if align_corners:
            position = Fraction(i * (points - 1), max(length - 1, 1))
        else:
            position = Fraction((2 * i + 1) * points - length, 2 * length)
        position = min(max(position, Fraction(0)), Fraction(points - 1))
        assert cell == min(position.numerator // position.denominator, max(points - 2, 0))
        rest = position - cell
        assert 0 <= rest <= 1
        for weight, exact in ((t, rest), (u, 1 - rest)):
            assert weight == np.float32(
                exact.numerator / exact.denominator
            )  # Python rounds a true quotient once
            assert u >= 0 <= t


def test_half_pixel_centres_and_corners():
    cells, near, far = arithmetic.interpolation(2, 4, np.arange(4))
    assert (cells == 0).all()
    assert far.tolist() == [0, 0.25, 0.75, 1]
    assert near.tolist() == [1, 0.75, 0.25, 0]
    cells, _, far = arithmetic.interpolation(3, 5, np.arange(5), True)
    assert (cells + far).tolist() == [0, 0.5, 1, 1.5, 2]
    assert cells.tolist() == [0, 0, 1, 1, 1]


def test_interpolation_is_that_of_torch():
    torch = pytest.importorskip("torch")
    x = blocky_logits((3, 7, 9), 1)
    for size in [(14, 18), (5, 4), (1, 1), (31, 77), (7, 9)]:
        for align_corners in (False, True):
            wanted = torch.nn.functional.interpolate(
                torch.from_numpy(x)[None], size, mode="bilinear", align_corners=align_corners
            )
            np.testing.assert_allclose(bilinear(x, size, align_corners), wanted[0].numpy(), atol=2e-5)


def test_interpolation_of_a_constant_row_depends_on_its_values_alone():
    """Equal logits stay equal: a class never loses to its twin by rounding."""
    x = np.repeat(blocky_logits((1, 6, 6), 2), 2, 0)
    one, other = bilinear(x, (50, 50))
    assert np.array_equal(one, other)


def slow_classes(x: NDArray[np.float32], size: Size) -> NDArray[np.uint8]:
    """(Q11) pixel by pixel, from its sentences."""
    values = bilinear(x, size)
    channels, height, width = x.shape
    rows, _, _ = arithmetic.interpolation(height, size[0], np.arange(size[0]))
    columns, _, _ = arithmetic.interpolation(width, size[1], np.arange(size[1]))
    result = np.empty(size, np.uint8)
    for y in range(size[0]):
        for x_pixel in range(size[1]):
            above, left = int(rows[y]), int(columns[x_pixel])
            below, right = min(above + 1, height - 1), min(left + 1, width - 1)
            corners = [x[:, i, j] for i in (above, below) for j in (left, right)]

            def beats(c: int, d: int, corners=corners) -> bool:
                return all(v[c] > v[d] or (v[c] == v[d] and c < d) for v in corners)

            winners = {int(v.argmax()) for v in corners}
            v = values[:, y, x_pixel]
            result[y, x_pixel] = next(
                c for c in range(channels) if v[c] == v.max() and not any(beats(w, c) for w in winners)
            )
    return result


@pytest.mark.parametrize("levels", [0, 1, 8])
@pytest.mark.parametrize("size", [(13, 17), (4, 3), (1, 1), (30, 2)])
def test_oracle_reads_as_the_equation(size, levels):
    x = blocky_logits((4, 6, 7), 3, levels)
    np.testing.assert_array_equal(smooth_class_map(x, size), slow_classes(x, size))


def test_rounding_does_not_lift_a_class_over_one_that_beats_it_at_all_corners():
    """Class 1 is larger at every grid point by one unit in the last place; the weights round both to one value."""
    rng = np.random.default_rng(0)
    low = rng.uniform(1, 2, (1, 6, 6)).astype(np.float32)
    x = np.concatenate([low, np.nextafter(low, np.float32(3))])
    values = bilinear(x, (61, 61))
    assert (values[0] == values[1]).any()
    assert (smooth_class_map(x, (61, 61)) == 1).all()
    assert (run_kernel(x, (61, 61)) == 1).all()


logits_arrays = st.builds(
    lambda shape, seed, kind: {
        "areas": blocky_logits(shape, seed),
        "equal": blocky_logits(shape, seed, 1),
        "extreme": np.random.default_rng(seed).choice(np.array(EXTREMES, np.float32), shape),
    }[kind],
    st.tuples(st.sampled_from([1, 2, 5, 12, 19]), st.integers(1, 9), st.integers(1, 12)),
    st.integers(0, 1 << 20),
    st.sampled_from(["areas", "equal", "extreme"]),
)
sizes = st.tuples(st.integers(1, 70), st.integers(1, 90))


@settings(deadline=None, max_examples=60)
@given(x=logits_arrays, size=sizes, align_corners=st.booleans())
def test_what_the_definition_promises(x, size, align_corners):
    classes, values = smooth_class_map(x, size, align_corners), bilinear(x, size, align_corners)
    best = x.argmax(0)
    assert np.isfinite(values).all()
    # The class has the largest value.
    np.testing.assert_array_equal(np.take_along_axis(values, classes[None].astype(int), 0)[0], values.max(0))
    # Where the corners agree, so do the pixels.
    above, _, far_rows = arithmetic.interpolation(x.shape[1], size[0], np.arange(size[0]), align_corners)
    left, _, far_columns = arithmetic.interpolation(x.shape[2], size[1], np.arange(size[1]), align_corners)
    below, right = np.minimum(above + 1, x.shape[1] - 1), np.minimum(left + 1, x.shape[2] - 1)
    corners = [best[np.ix_(rows, columns)] for rows in (above, below) for columns in (left, right)]
    agree = np.logical_and.reduce([corner == corners[0] for corner in corners])
    np.testing.assert_array_equal(classes[agree], corners[0][agree])
    # At a grid point it is the point's.
    at_point = (far_rows == 0)[:, None] & (far_columns == 0)[None]
    np.testing.assert_array_equal(classes[at_point], corners[0][at_point])
    np.testing.assert_array_equal(smooth_class_map(x, x.shape[1:], align_corners), best)


# --- the kernels ----------------------------------------------------------------------------------------------------


_as_argmax, _as_smooth, _as_logits = at(ArgmaxParams), at(SmoothClassesParams), at(LogitsParams)


@njit
def _argmax_task(step, task, scratch):
    ends.argmax(_as_argmax(step), task, scratch)


@njit
def _smooth_task(step, task, scratch):
    interpolation.smooth_classes(_as_smooth(step), task, scratch)


@njit
def _logits_task(step, task, scratch):
    ends.logits(_as_logits(step), task, scratch)


def stored(x: NDArray[np.float32], arena: Arena) -> tuple[View, Block, Memory]:
    """`x` (C, h, w) as the engine keeps a real map: in phases of a grid that divides it; and room for classes."""
    channels, height, width = x.shape
    phases = tuple(next(k for k in (4, 3, 2, 1) if n % k == 0) for n in (height, width))
    grid = Grid.for_size(height // phases[0], width // phases[1])
    view, classes = View.of(RealMap("logits", channels, phases, grid)), Block("classes", height * width)
    layout = MapLayout(view.map)
    sizes = {view.map: layout.bytes, classes: classes.size}
    places = {storage: arena.take(size).ctypes.data for storage, size in sizes.items()}
    places[view.map] += layout.slack
    memory = Memory({view.map: layout}, places)
    for c in range(channels):
        for plane, (i, j) in enumerate(np.ndindex(phases)):
            start = memory.start(view.map) + c * layout.stride + layout.plane_offset(plane)
            rows = memory_at(start, grid.rows * grid.pitch).view(np.float32).reshape(grid.rows, -1)
            rows[:, : grid.columns] = x[c, i :: phases[0], j :: phases[1]]
    return view, classes, memory


def run_kernel(x: NDArray[np.float32], size: Size, align_corners: bool = False) -> NDArray[np.uint8]:
    """The smooth class map of `x` by the kernels, between guards that they must leave alone."""
    arena = Arena()
    logits, classes, memory = stored(x, arena)
    smooth = SmoothClassesStep(x.shape, logits, classes, Stretch.of(x.shape[1:], size, align_corners))
    guard = 256
    out = np.full(size[0] * size[1] + 2 * guard, 77, np.uint8)
    scratch = np.full(smooth.scratch + guard, 78, np.uint8)
    for step, task in ((ArgmaxStep(x.shape, logits, classes), _argmax_task), (smooth, _smooth_task)):
        record = written(step.params(memory), arena.put)
        if step is smooth:
            record["out"] = out.ctypes.data + guard
        for index in range(step.tasks):
            task(record.ctypes.data, index, scratch.ctypes.data)
    assert (out[:guard] == 77).all()
    assert (out[-guard:] == 77).all()
    assert (scratch[-guard:] == 78).all()
    return out[guard:-guard].reshape(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [2, 12, 19])
def test_kernel_equals_oracle(classes, size):
    x = blocky_logits((classes, *CAMVID_GRID), classes)
    found = run_kernel(x, size)
    np.testing.assert_array_equal(found, smooth_class_map(x, size))
    assert size == (1, 1) or len(np.unique(found)) > 1


@pytest.mark.parametrize("levels", [0, 1])
def test_kernel_equals_oracle_for_256_classes(levels):
    x = blocky_logits((256, 12, 20), 1, levels)
    for size in [(1, 1), (11, 23), (96, 160), (67, 131)]:
        np.testing.assert_array_equal(run_kernel(x, size), smooth_class_map(x, size))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 1 << 17), (1 << 17, 2)])
def test_kernel_equals_oracle_at_extreme_aspects(size):
    x = blocky_logits((12, 24, 30), 5)
    np.testing.assert_array_equal(run_kernel(x, size), smooth_class_map(x, size))


@pytest.mark.parametrize("grid", [(1, 1), (1, 16), (16, 1), (2, 2), (5, 17)])
def test_kernel_equals_oracle_on_small_grids(grid):
    x = blocky_logits((3, *grid), 6)
    for size in [(1, 1), (2, 3), (40, 70), (1, 64), (64, 1), (33, 200)]:
        for align_corners in (False, True):
            expected = smooth_class_map(x, size, align_corners)
            np.testing.assert_array_equal(run_kernel(x, size, align_corners), expected)


@settings(deadline=None, max_examples=150)
@given(x=logits_arrays, size=sizes, align_corners=st.booleans())
def test_kernel_equals_oracle_on_anything(x, size, align_corners):
    np.testing.assert_array_equal(
        run_kernel(x, size, align_corners), smooth_class_map(x, size, align_corners)
    )


def test_the_kernel_interpolates_no_beaten_class():
    """Few classes can win in a cell: the test of the bound that makes smooth maps cheap."""
    x = blocky_logits((12, *CAMVID_GRID), 7)
    candidates = unbeaten(x)
    best = x.argmax(0)
    agree = (
        (best[:-1, :-1] == best[1:, 1:])
        & (best[:-1, 1:] == best[1:, :-1])
        & (best[:-1, :-1] == best[1:, :-1])
    )
    assert (candidates.sum(0)[agree] == 1).all()
    assert 1 < candidates.sum(0)[~agree].mean() < 6


def test_logits_come_out_as_they_are():
    arena = Arena()
    x = blocky_logits((5, 12, 32), 8)
    logits, _, memory = stored(x, arena)
    step = LogitsStep(x.shape, logits)
    out = np.zeros_like(x)
    record = written(step.params(memory), arena.put)
    record["out"] = out.ctypes.data
    for task in range(step.tasks):
        _logits_task(record.ctypes.data, task, 0)
    np.testing.assert_array_equal(out, x)


# --- tables of an axis ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 95, 96, 960, (1 << 20) + 3])
def test_tables_of_an_axis(length):
    axis = Axis.of(96, length)
    cells, near, far = arithmetic.interpolation(96, length, np.arange(length))
    np.testing.assert_array_equal(axis.starts, np.searchsorted(cells, np.arange(96)))
    np.testing.assert_array_equal(axis.weights[:, :length], [near, far])


def test_tables_of_short_axes_are_made_once():
    assert Axis.of(96, 961) is Axis.of(96, 961)
    assert Axis.of(96, 1 << 17) is not Axis.of(96, 1 << 17)


# --- the session ----------------------------------------------------------------------------------------------------


def small_graph(classes: int = 5, size: Size = (24, 64)) -> Graph:
    net = Net(size)
    x = net.codes(net.relu(net.convolution(net.image, 8, 3, stride=2)))
    return net.classify(x, net.codes(net.convolution(x, 8, 3, stride=2)), classes=classes)


def oracle_logits(session: Session, blob: NDArray[np.float32]) -> NDArray[np.float32]:
    return Oracle(session.graph, blob).logits()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_session_equals_oracle(threads):
    session = Session(plan_for(small_graph(), threads))
    soil(session)
    for seed, size in enumerate([(24, 64), (1, 1), (11, 23), (12, 32), (101, 203), (300, 7)]):
        image = random_image(session.input_shape, seed)
        blob = blob_of(session.graph, image)
        logits = oracle_logits(session, blob)
        expected = smooth_class_map(logits, size)
        np.testing.assert_array_equal(session.smooth_class_map_of_image(image, size), expected)
        np.testing.assert_array_equal(session.smooth_class_map(blob, size), expected)
        np.testing.assert_array_equal(session.logits_of_image(image), logits)
        np.testing.assert_array_equal(session.logits(blob), logits)
        np.testing.assert_array_equal(session.class_map_of_image(image), logits.argmax(0))


def test_a_class_map_as_output_is_smoothed_too():
    """The logits are there before an argmax as they are before a softmax."""
    graph = small_graph()
    ops = tuple(Argmax(op.name, op.input) if isinstance(op, Softmax) else op for op in graph)
    classes = Session(plan_for(Graph(ops, graph.output), 1))
    image = random_image(graph.input.shape, 9)
    expected = Session(plan_for(graph, 1)).smooth_class_map_of_image(image, (50, 70))
    np.testing.assert_array_equal(classes.smooth_class_map_of_image(image, (50, 70)), expected)


def test_python_threads_share_a_session_at_many_sizes():
    session = Session(plan_for(small_graph(), 2))
    image = random_image(session.input_shape)
    logits = oracle_logits(session, blob_of(session.graph, image))
    wanted = {size: smooth_class_map(logits, size) for size in [(9, 9), (40, 70), (70, 40), (200, 1)]}

    def use(job: int) -> bool:
        size = list(wanted)[job % 4]
        return np.array_equal(session.smooth_class_map_of_image(image, size), wanted[size])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(use, range(200)))


def test_tables_live_as_long_as_the_run():
    session = Session(plan_for(small_graph(), 1))
    image = random_image(session.input_shape)
    long = (2, (1 << 16) + 5)  # whose tables nobody else keeps
    first = session.smooth_class_map_of_image(image, long)
    gc.collect()
    np.testing.assert_array_equal(session.smooth_class_map_of_image(image, long), first)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (1, (1 << 30) + 1)])
def test_impossible_sizes(size):
    session = Session(plan_for(small_graph(), 1))
    with pytest.raises(ValueError, match=r"the size of a picture must lie within 1\.\.\d+, found"):
        session.smooth_class_map_of_image(random_image(session.input_shape), size)


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(192, 192), (1, 1), (37, 53), (400, 100)])
def test_segment_is_smooth_by_default(tiny_net, size):
    picture = random_picture(*size)
    pixels = np.ascontiguousarray(tiny_net.blob(picture)[0])
    expected = smooth_class_map(oracle_logits(tiny_net.session, pixels), size)
    np.testing.assert_array_equal(tiny_net.segment(picture), expected)
    np.testing.assert_array_equal(tiny_net.segment([picture])[0], expected)


def test_blocks_on_demand(tiny_net):
    picture = random_picture(100, 150)
    blocks = tiny_net.segment(picture, smooth=False)
    assert blocks.shape == (100, 150)
    assert not np.array_equal(blocks, tiny_net.segment(picture))
    np.testing.assert_array_equal(tiny_net.segment([picture], smooth=False)[0], blocks)


# --- networks that end in a bilinear upsampling ---------------------------------------------------------------------


def upsampled(
    size: Size, align_corners: bool = False, last: type = Softmax, classes: int = 5, image: Size = (24, 64)
) -> Graph:
    """`small_graph` whose logits a bilinear upsampling enlarges before the softmax or argmax."""
    graph = small_graph(classes, image)
    (softmax_op,) = (op for op in graph if isinstance(op, Softmax))
    ops = [op for op in graph if op is not softmax_op]
    ops.append(Bilinear("up", softmax_op.input, size, align_corners))
    ops.append(last("end", "up"))
    return Graph(tuple(ops), "end")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "size", [(24, 64), (96, 256), (13, 37), (1, 1), (12, 32), (7, 300), (40, 16), (101, 529)]
)
def test_probabilities_of_interpolated_logits_equal_the_oracle(size, align_corners):
    graph = upsampled(size, align_corners)
    session = Session(plan_for(graph, 2))
    soil(session)
    image = random_image(graph.input.shape, 3)
    blob = blob_of(graph, image)
    oracle = Oracle(graph, blob)
    np.testing.assert_array_equal(
        session.probabilities(blob).view(np.uint32), oracle.output().view(np.uint32)
    )
    np.testing.assert_array_equal(session.probabilities_of_image(image), oracle.output())
    logits = oracle_logits(session, blob)
    np.testing.assert_array_equal(
        session.class_map_of_image(image), smooth_class_map(logits, size, align_corners)
    )
    assert session.logits(blob).shape == logits.shape
    np.testing.assert_array_equal(
        Oracle(session.graph, blob).smooth_class_map(size), smooth_class_map(logits, size, align_corners)
    )
    # To another size the logits go straight, by the network's own kind of coordinates.
    expected = smooth_class_map(logits, (50, 30), align_corners)
    np.testing.assert_array_equal(session.smooth_class_map_of_image(image, (50, 30)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("classes", [2, 19])
def test_interpolated_class_maps_equal_the_oracle(threads, classes):
    graph = upsampled((50, 130), last=Argmax, classes=classes)
    session = Session(plan_for(graph, threads))
    blob = blob_of(graph, random_image(graph.input.shape, threads))
    np.testing.assert_array_equal(session.output(blob), Oracle(graph, blob).output())
    np.testing.assert_array_equal(session.class_map(blob), Oracle(graph, blob).output()[0])
    scores = Oracle(upsampled((50, 130), classes=classes), blob).output()
    np.testing.assert_array_equal(session.probabilities(blob), scores)


def test_probabilities_into_memory_of_any_alignment():
    graph = upsampled((24, 64))
    session = Session(plan_for(graph, 1))
    blob = blob_of(graph, random_image(graph.input.shape))
    expected = Oracle(graph, blob).output()
    memory = np.zeros(expected.size + 32, np.float32)
    for start in (0, 1, 7, 16):
        out = memory[start : start + expected.size].reshape(expected.shape)
        np.testing.assert_array_equal(session.probabilities(blob, out), expected)
    assert not memory[-8:].any()


def test_a_model_with_a_bilinear_end():
    graph = upsampled((48, 128))
    net = sparse_icnet.Model(graph, 1)
    picture = random_picture(60, 70)
    assert net.probabilities(picture).shape == (5, 48, 128)
    assert net(net.blob(picture)).shape == (1, 5, 48, 128)
    assert net.segment(picture).shape == (60, 70)
    own = net.session.class_map_of_image(fitted(picture, net.size)[0])
    assert own.shape == (48, 128)
    np.testing.assert_array_equal(net.segment(picture, smooth=False), enlarge(own, (48, 128), (60, 70)))


def test_size_follows_the_input():
    graph = resized(upsampled((48, 128)), (48, 128))
    assert graph.shape("end") == (5, 96, 256)
    assert resized(upsampled((48, 128), True), (12, 64))["up"] == Bilinear(
        "up", graph["up"].input, (24, 128), True
    )
    with pytest.raises(GraphError, match="expected a positive multiple of 8 as height and of 64"):
        resized(upsampled((3, 1)), (12, 64))


@pytest.mark.parametrize("size", [(0, 4), (4, 1 << 17), (4,), (4.0, 4)])
def test_impossible_upsamplings_are_refused(size):
    with pytest.raises(
        GraphError, match=r"operation 'up' \(Bilinear\): expected size of 2 integers within 1\.\.65536"
    ):
        upsampled(size)


def test_what_the_engine_cannot_run_is_refused():
    graph = upsampled((48, 128))
    behind = Graph((*graph.ops, Resize("twice", "end", (96, 256))), "twice")
    with pytest.raises(PlanError, match="expected no resize behind the bilinear one, 'up'"):
        Session(plan_for(behind))
    early = [*graph.ops[:-1], Relu("relu", "up"), Softmax("end", "relu")]
    with pytest.raises(
        PlanError, match="'up': a bilinear upsampling must be read by the last softmax or argmax"
    ):
        Session(plan_for(Graph(tuple(early), "end")))


@settings(deadline=None, max_examples=40)
@given(graph=graphs(), seed=st.integers(0, 99))
def test_float_evaluation_agrees_with_the_oracle(graph, seed):
    """The independent reading, in float64: within roundings, for whatever a bilinear upsampling follows."""
    blob = random_blob(graph.input.shape, seed)
    for op in graph:
        if isinstance(op, Bilinear):
            source = Oracle(graph, blob).real(op.input, 1.0)
            exact = bilinear(source.astype(np.float64), op.size, op.align_corners)
            found = Oracle(graph, blob).real(op.name, 1.0)
            np.testing.assert_allclose(
                found, exact, rtol=1e-6, atol=2e-6 * max(1.0, float(np.abs(source).max()))
            )


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [Softmax, Argmax])
@pytest.mark.parametrize("align_corners", [False, True])
def test_native_file_keeps_it(tmp_path, last, align_corners):
    graph = upsampled((31, 67), align_corners, last)
    native.save(graph, tmp_path / "m.npz")
    again = native.load(tmp_path / "m.npz")
    assert again["up"] == graph["up"]
    blob = blob_of(graph, random_image(graph.input.shape))
    np.testing.assert_array_equal(Oracle(again, blob).output(), Oracle(graph, blob).output())


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("last", [Softmax, Argmax])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(48, 128), (31, 67), (9, 20)])
def test_exchange_files_keep_it_and_other_runtimes_agree(tmp_path, suffix, last, align_corners, size):
    pytest.importorskip("onnx" if suffix == ".onnx" else "openvino")
    graph = upsampled(size, align_corners, last)
    path = tmp_path / f"m{suffix}"
    formats.save(graph, path)
    again = formats.load(path)
    (op,) = (op for op in again if isinstance(op, Bilinear))
    assert (op.size, op.align_corners) == (size, align_corners)
    blob = blob_of(graph, random_image(graph.input.shape, 4))
    expected = Oracle(graph, blob).output()
    np.testing.assert_array_equal(Oracle(again, blob).output(), expected)
    found = other_runtime(path, blob)
    if last is Argmax:
        assert (found != expected).mean() < 0.02
    else:
        np.testing.assert_allclose(found, expected, atol=0.05)
        assert np.abs(found - expected).mean() < 2e-3


def other_runtime(path: Path, blob: NDArray[np.float32]) -> NDArray:
    """What ONNX Runtime or OpenVINO makes of the file, in float32."""
    if path.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: blob[None]})[0][0]
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    return compiled(blob[None])[0][0]
