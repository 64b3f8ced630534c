"""Recorded inferences: every task once, steps behind each other, the same bits, and nothing of it in the usual loop."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from networks import random_picture

from sparse_icnet.plan import plan_for
from sparse_icnet.run import code_files, machine_code
from sparse_icnet.run.session import Session
from sparse_icnet.run.tracing import RUN_TRACED, Recording, step_times

PICTURE = random_picture(192, 192, seed=3)


@pytest.fixture(scope="module", params=[1, 3])
def session(request, tiny_graph) -> Session:
    return Session(plan_for(tiny_graph, request.param))


def assert_consistent(recording: Recording, threads: int) -> None:
    steps, visits, ends = recording.steps, recording.visits, recording.ends()
    assert visits.shape == (len(steps), threads, 3)
    assert [int(n) for n in recording.taken.sum(axis=1)] == [step.tasks for step in steps]
    assert (np.diff(ends) > 0).all()
    assert recording.seconds().sum() == pytest.approx(ends[-1])
    arrived, finished, left = (visits[..., i] for i in range(3))
    took = recording.taken > 0
    assert not np.isnan(visits[took]).any()
    assert (arrived <= finished)[took].all()
    assert (finished <= left)[took].all()
    before = np.concatenate([[0.0], ends[:-1]])
    for thread in range(threads):
        there = ~np.isnan(arrived[:, thread])
        assert (arrived[there, thread] >= before[there]).all()
        assert (left[there, thread] >= ends[there]).all()
        assert (left[there, thread][:-1] <= arrived[there, thread][1:]).all()
    assert (recording.busy() <= threads * recording.seconds() + 1e-12).all()


@pytest.mark.parametrize(("size", "last"), [(None, "argmax"), ((192, 192), "smooth classes")])
def test_what_threads_did_in_each_step(session, size, last):
    recording = session.record(PICTURE, size)
    assert recording.steps[-1].name == last
    assert recording.tasks.shape == (0, 5)
    assert_consistent(recording, session.threads)


def test_every_task_is_recorded_once(session):
    recording = session.record(PICTURE, each_task=True)
    assert_consistent(recording, session.threads)
    thread, step, task, begin, end = recording.tasks.T
    expected = [(k, t) for k, one in enumerate(recording.steps) for t in range(one.tasks)]
    assert sorted(zip(step.astype(int), task.astype(int), strict=True)) == expected
    assert (begin <= end).all()
    assert (np.diff(begin) >= 0).all()
    for number in range(session.threads):
        own = thread == number
        assert (end[own][:-1] <= begin[own][1:]).all(), "a thread runs one task at a time"
    ends = recording.ends()
    for k in range(1, len(recording.steps)):
        assert begin[step == k].min() >= end[step == k - 1].max(), (
            "a step begins when the one before is complete"
        )
        assert ends[k] >= end[step == k].max()
    visits = recording.visits[step.astype(int), thread.astype(int)]
    assert (visits[:, 0] <= begin).all()
    assert (end <= visits[:, 1]).all()


@pytest.mark.parametrize("each_task", [False, True])
def test_a_recorded_inference_computes_the_same_bits(tiny_graph, each_task):
    usual, recorded = (Session(plan_for(tiny_graph, 2, keep_tensors=True)) for _ in range(2))
    usual.smooth_class_map_of_image(PICTURE, (192, 192))
    recorded.record(PICTURE, (192, 192), each_task)
    assert len(usual.tensors()) > 40
    for name in usual.tensors():
        np.testing.assert_array_equal(recorded.tensor(name), usual.tensor(name))


def test_recorded_and_usual_inferences_take_turns(tiny_graph):
    session = Session(plan_for(tiny_graph, 2))
    pictures = [random_picture(192, 192, seed=seed) for seed in range(4)]
    expected = [session.class_map_of_image(picture) for picture in pictures]

    def use(job: int) -> bool:
        if job % 3 == 0:
            assert_consistent(session.record(pictures[job % 4]), 2)
            return True
        return np.array_equal(session.class_map_of_image(pictures[job % 4]), expected[job % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(60)))


def test_a_profile_is_made_of_recordings(session):
    recordings = [session.record(PICTURE) for _ in range(4)]
    rows = step_times(recordings)
    seconds = np.array([one.seconds() for one in recordings])
    for i, row in enumerate(rows):
        assert row.low <= row.seconds <= row.high
        assert row.seconds == pytest.approx(np.median(seconds[:, i]))
        assert 0 <= row.waiting <= 1


def test_the_usual_loop_knows_nothing_of_it(compiled_kernels):
    """It reads no clock, and its sources do not name the loop that does."""
    usual, traced = (code.content for code in machine_code.load([machine_code.RUN, RUN_TRACED]))
    assert b"clock" not in usual
    assert b"clock" in traced or b"QueryPerformanceCounter" in traced
    paths = code_files.sources(machine_code.RUN)
    assert not [path for path in paths if "trace" in path.name and path.parent.name == "run"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_records_with_threads_of_its_own(tiny_graph):
    session = Session(plan_for(tiny_graph, 2))
    session.record(PICTURE)
    child = os.fork()
    if not child:
        signal.alarm(60)
        assert_consistent(session.record(PICTURE, each_task=True), 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert_consistent(session.record(PICTURE), 2)


def test_pictures_of_another_size_are_refused(session):
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        session.record(PICTURE[:96])
