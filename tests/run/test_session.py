"""A session in use: many threads, many sessions, wrong arguments, memory, profile."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine import Net, assert_equals_oracle, bits, expected_classes, random_blob, random_image
from networks import random_blob as random_network_blob

from sparse_icnet.model import Model
from sparse_icnet.network.graph import Argmax, Graph, Resize
from sparse_icnet.operators.interpolation.pack import Stretch
from sparse_icnet.plan import plan_for
from sparse_icnet.plan.proof import ProofError
from sparse_icnet.processes import default_threads
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session


def small_graph(seed: int = 0, size: tuple[int, int] = (24, 64)) -> Graph:
    """A residual network of five convolutions on an image of `size`."""
    net = Net(size, seed=seed)
    x = net.codes(net.relu(net.convolution(net.image, 8, 3, stride=2)))
    y = net.codes(net.relu(net.convolution(x, 12, 3, density=0.4)))
    x = net.codes(net.relu(net.sum(net.convolution(y, 8), x)))
    return net.classify(x, net.codes(net.convolution(x, 8, 3, stride=2)))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return small_graph()


@pytest.fixture
def session(graph) -> Session:
    return Session(plan_for(graph, 1))


def expected(graph: Graph, seed: int) -> np.ndarray:
    return Oracle(graph, random_blob(graph.input.shape, seed)).output()


# --- threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_any_number_of_threads_gives_the_same_bits(tiny_graph, threads):
    blob = random_network_blob(tiny_graph, seed=threads)
    assert_equals_oracle(tiny_graph, blob, threads=threads)


def test_threads_by_default_are_those_of_the_process(graph):
    assert Model(graph).session.threads == default_threads() >= 1


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(graph, threads):
    with pytest.raises(ValueError, match=f"threads must be at least 1, found {threads}"):
        plan_for(graph, threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_python_threads_share_a_session(graph, threads):
    session = Session(plan_for(graph, threads))
    wanted = [expected(graph, seed) for seed in range(8)]
    blobs = [random_blob(graph.input.shape, seed) for seed in range(8)]

    def use(job: int) -> bool:
        seed = job % 8
        if job % 3:
            return np.array_equal(bits(session.probabilities(blobs[seed])), bits(wanted[seed]))
        classes = expected_classes(session.graph, blobs[seed])
        return np.array_equal(session.class_map(blobs[seed]), classes)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(use, range(200)))


def test_two_sessions_run_at_once():
    graphs = [small_graph(1), small_graph(2, (12, 48))]
    sessions = [Session(plan_for(graph, 2)) for graph in graphs]
    wanted = [[expected(graph, seed) for seed in range(4)] for graph in graphs]

    def use(job: int) -> bool:
        which, seed = job % 2, job // 2 % 4
        blob = random_blob(graphs[which].input.shape, seed)
        return np.array_equal(bits(sessions[which].probabilities(blob)), bits(wanted[which][seed]))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(200)))


def test_one_plan_of_a_graph_does_not_touch_another(graph):
    first, second = (Session(plan_for(graph, 1, keep_tensors=True)) for _ in range(2))
    blobs = [random_blob(graph.input.shape, seed) for seed in (1, 2)]
    one = first.probabilities(blobs[0])
    second.probabilities(blobs[1])
    for name in first.tensors():
        oracle = Oracle(first.graph, blobs[0])
        np.testing.assert_array_equal(first.tensor(name), oracle.codes(name))
    np.testing.assert_array_equal(one, expected(graph, 1))


def test_other_python_threads_run_during_an_inference(tiny_graph):
    session = Session(plan_for(tiny_graph, 1))
    blob = random_network_blob(tiny_graph)
    session.probabilities(blob)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    spans = []
    other = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # so that only a call that lets go of the interpreter lets the other thread run
    try:
        other.start()
        for _ in range(40):
            start = time.perf_counter()
            session.probabilities(blob)
            spans.append((start, time.perf_counter()))
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        other.join()
    # Ticks well inside a call, away from its Python beginning and end.
    inside = sum(any(a + (b - a) * 0.1 < t < b - (b - a) * 0.1 for a, b in spans) for t in ticks)
    assert inside >= 20, (
        f"{inside} ticks inside {len(spans)} calls of {np.median(np.diff(spans)) * 1e3:.1f} ms"
    )


def test_sessions_leave_no_threads_and_no_memory_behind(graph):
    blob = random_blob(graph.input.shape)
    gc.collect()
    before = native_threads()

    def use(times: int) -> None:
        for _ in range(times):
            session = Session(plan_for(graph, 3))
            session.probabilities(blob)

    use(5)
    gc.collect()
    resident = resident_bytes()
    use(40)
    gc.collect()
    deadline = time.monotonic() + 10
    while native_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert native_threads() <= before
    assert resident_bytes() - resident < 40 << 20


def native_threads() -> int:
    """Threads of this process, also those that `threading` does not know."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("threads are counted in /proc")
    return len(list(tasks.iterdir()))


def resident_bytes() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_FORK = """
import os, signal, sys
from test_session import small_graph
from engine import random_blob
from sparse_icnet.plan import plan_for
from sparse_icnet.run.session import Session
graph = small_graph()
session = Session(plan_for(graph, int(sys.argv[1])))
blobs = [random_blob(graph.input.shape, seed) for seed in range(3)]
wanted = [session.probabilities(blob).tobytes() for blob in blobs]
children = []
for blob, result in zip(blobs[1:], wanted[1:]):
    children.append(os.fork())
    if not children[-1]:
        signal.alarm(30)
        same = all(session.probabilities(blob).tobytes() == result for _ in range(300))
        os._exit(0 if same else 3)
same = all(session.probabilities(blobs[0]).tobytes() == wanted[0] for _ in range(300))
print(same, *(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_processes_may_go_on_with_the_session(threads):
    """Pools of processes fork: a child has none of the threads of its parent, and its memory is its own."""
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, str(threads)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "True 0 0\n", f"{done.stdout}{done.stderr[-2000:]}"


# --- results and memory ------------------------------------------------------------------------------------


def test_out_is_filled_and_returned(session, graph):
    out = np.full(session.plan.output_shape, np.nan, np.float32)
    blob, image = random_blob(graph.input.shape, 1), random_image(graph.input.shape, 1)
    assert session.probabilities(blob, out=out) is out
    np.testing.assert_array_equal(bits(out), bits(expected(graph, 1)))
    fresh = session.probabilities_of_image(image)
    assert session.probabilities_of_image(image, out=out) is out
    np.testing.assert_array_equal(bits(out), bits(fresh))


def test_results_are_the_callers_to_keep(session, graph):
    blob = random_blob(graph.input.shape, 1)
    first, classes = session.probabilities(blob), session.class_map(blob)
    copies = first.copy(), classes.copy()
    session.probabilities(random_blob(graph.input.shape, 2))
    session.class_map(random_blob(graph.input.shape, 2))
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(classes, copies[1])
    assert first.flags.writeable
    assert first.flags.c_contiguous


def test_the_input_stays_as_it_is(session, graph):
    blob, image = random_blob(graph.input.shape, 1), random_image(graph.input.shape, 1)
    copies = blob.copy(), image.copy()
    blob.flags.writeable = image.flags.writeable = False
    session.probabilities(blob)
    session.class_map_of_image(image)
    np.testing.assert_array_equal(blob, copies[0])
    np.testing.assert_array_equal(image, copies[1])


def test_strided_input_is_read_in_its_own_order(session, graph):
    channels, height, width = graph.input.shape
    wide = random_blob((channels, 2 * height, 3 * width), 1)
    view = wide[:, ::2, ::-3]
    np.testing.assert_array_equal(session.probabilities(view), session.probabilities(view.copy()))
    image = random_image((6, height, width), 1)[..., ::-2]
    np.testing.assert_array_equal(session.class_map_of_image(image), session.class_map_of_image(image.copy()))


def test_an_inference_allocates_nothing_but_its_result(tiny_graph):
    session = Session(plan_for(tiny_graph, 2))
    blob = random_network_blob(tiny_graph)
    image = random_image(tiny_graph.input.shape)
    out = session.probabilities(blob)

    def use(times: int) -> None:
        for _ in range(times):
            session.probabilities(blob, out=out)
            session.class_map(blob)
            session.class_map_of_image(image)

    use(10)
    gc.collect()
    resident = resident_bytes()
    tracemalloc.start()
    try:
        use(5)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        use(50)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
    assert peak - before < 100_000, "more than class maps and the rows of a program"
    assert resident_bytes() - resident < 4 << 20


# --- wrong arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["probabilities", "class_map"])
@pytest.mark.parametrize(
    "change",
    [
        lambda blob: blob[:, 1:],
        lambda blob: blob[None],
        lambda blob: blob.astype(np.float64),
        lambda blob: blob.astype(np.float16),
        lambda blob: blob.astype(">f4"),
        lambda blob: blob.view(np.int32),
        lambda blob: blob.transpose(0, 2, 1),
        lambda blob: blob.tolist(),
        lambda blob: None,
    ],
)
def test_wrong_blobs_are_refused(session, graph, call, change):
    with pytest.raises(ValueError, match=r"expected float32 of shape \(3, 24, 64\), found ") as caught:
        getattr(session, call)(change(random_blob(graph.input.shape)))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("call", ["probabilities_of_image", "class_map_of_image"])
@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[1:],
        lambda image: image[..., :2],
        lambda image: image.transpose(2, 0, 1),
        lambda image: image.astype(np.float32),
        lambda image: image.view(np.int8),
        lambda image: image.tolist(),
    ],
)
def test_wrong_images_are_refused(session, graph, call, change):
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(24, 64, 3\), found "):
        getattr(session, call)(change(random_image(graph.input.shape)))


@pytest.mark.parametrize("call", ["probabilities", "probabilities_of_image"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: out[:, 1:], r"float32 of shape \(5, 12, 32\), found float32 \(5, 11, 32\)"),
        (lambda out: out.astype(np.float64), "found float64"),
        (lambda out: out.astype(">f4"), "found >f4"),
        (lambda out: np.empty((5, 12, 64), np.float32)[..., ::2], "C-contiguous"),
        (lambda out: np.asfortranarray(out), "C-contiguous"),
        (lambda out: out.tolist(), "found list"),
    ],
)
def test_wrong_out_is_refused_and_stays_untouched(session, graph, call, change, message):
    blob, image = random_blob(graph.input.shape), random_image(graph.input.shape)
    out = change(np.zeros(session.plan.output_shape, np.float32))
    with pytest.raises(ValueError, match=message):
        getattr(session, call)(blob if call == "probabilities" else image, out=out)


@pytest.mark.parametrize("call", ["probabilities", "probabilities_of_image"])
def test_read_only_out_is_refused(session, graph, call):
    source = random_blob(graph.input.shape) if call == "probabilities" else random_image(graph.input.shape)
    out = np.zeros(session.plan.output_shape, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        getattr(session, call)(source, out=out)
    assert not out.any()


def test_a_refused_call_leaves_the_session_usable(session, graph):
    with pytest.raises(ValueError, match="expected float32"):
        session.probabilities(np.zeros(3, np.float32))
    np.testing.assert_array_equal(
        bits(session.probabilities(random_blob(graph.input.shape, 3))), bits(expected(graph, 3))
    )


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_tables_that_come_with_a_call_are_proven(session, graph, monkeypatch, axis):
    good, size = Stretch.of(session.plan.logits_shape[1:], (50, 70)), (50, 70)
    table = getattr(good, axis)
    wrong = replace(good, **{axis: replace(table, starts=table.starts + 1)})
    monkeypatch.setattr(Stretch, "of", lambda *_: wrong)
    monkeypatch.setattr(Session, "_run", lambda *_: None)  # what would leave its memory
    with pytest.raises(ProofError, match="do not belong to them"):
        session.smooth_class_map(random_blob(graph.input.shape, 1), size)


# --- what a session tells ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_has_a_row_for_every_step(tiny_graph, threads):
    session = Session(plan_for(tiny_graph, threads))
    blob = random_network_blob(tiny_graph)
    before = session.probabilities(blob)
    rows = session.profile(repeats=3)
    names = [row.name for row in rows]
    assert names[0] == "quantize image"
    assert names[-2:] == ["argmax", "smooth classes"]
    assert names[1:-2] == [step.name for step in session.plan.body]
    assert all(0 < row.seconds < 10 for row in rows)
    convolutions = [row for row in rows if row.kind == "convolution"]
    assert all(row.kernel and 0 < row.macs <= 4 / 3 * row.dense_macs for row in convolutions)
    assert all(0 < row.block_density <= 1 for row in convolutions)
    assert sum(row.dense_macs for row in rows) == sum(s.dense_macs for s in session.plan.convolutions())
    np.testing.assert_array_equal(session.probabilities(blob), before)


def test_a_graph_of_classes_runs_as_well(graph):
    ops = [op for op in graph.ops if op.name != graph.output]
    logits = graph[graph.output].inputs[0]
    height, width = graph.shape(logits)[1:]
    by_class = Graph(
        (*ops, Argmax("classes", logits), Resize("up", "classes", (2 * height, 2 * width))), "up"
    )
    session = Session(plan_for(by_class, 1))
    blob = random_blob(graph.input.shape, 4)
    np.testing.assert_array_equal(session.class_map(blob), Oracle(by_class, blob).value("classes")[0])


def test_only_a_session_that_keeps_its_tensors_shows_them(session):
    assert session.tensors() == ()
    with pytest.raises(ValueError, match="keep_tensors=True"):
        session.tensor("input/codes")


def test_tensors_share_memory_unless_they_are_kept(graph):
    shared, kept = plan_for(graph, 1), plan_for(graph, 1, keep_tensors=True)
    assert (shared.keeps_tensors, kept.keeps_tensors) == (False, True)
    assert kept.placement.shared.size == 0 < shared.placement.shared.size
    assert shared.placement.arena.bytes < kept.placement.arena.bytes


def test_tensors_are_known_and_unknown_names_are_refused(graph):
    session = Session(plan_for(graph, 1, keep_tensors=True))
    names = session.tensors()
    order = [op.name for op in session.graph if op.name in set(names)]
    assert len(set(names)) == len(names) >= 4
    assert set(order) == set(names)
    with pytest.raises(KeyError):
        session.tensor("no such tensor")
