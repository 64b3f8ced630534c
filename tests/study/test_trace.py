"""Trace events: they nest, cover every step, overlap on no thread, add up, and are what viewers take."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from networks import random_picture

import sparse_icnet
from sparse_icnet.study.trace import trace, trace_events

PICTURE = random_picture(100, 140, seed=2)


@pytest.fixture(scope="module", params=[1, 2])
def traced(request, tiny_graph, tmp_path_factory) -> tuple[sparse_icnet.Model, Any, dict[str, Any]]:
    """A model, the recording of an inference, and what the file of its trace holds."""
    net = sparse_icnet.Model(tiny_graph, request.param)
    path = tmp_path_factory.mktemp("trace") / "t.json"
    recording = trace(net, PICTURE, path)
    return net, recording, json.loads(path.read_text())


def nanoseconds(event: dict[str, Any]) -> tuple[int, int]:
    """Begin and end."""
    begin, duration = round(1000 * event["ts"]), round(1000 * event["dur"])
    return begin, begin + duration


def test_the_file_is_in_the_trace_event_format(traced):
    _, recording, content = traced
    assert set(content) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert content["displayTimeUnit"] in ("ms", "ns")
    for event in content["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
        else:
            assert event["ph"] == "X"
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert event["cat"] in ("step", "thread", "task", "wait")
    threads = recording.taken.shape[1]
    names = {e["tid"]: e["args"]["name"] for e in content["traceEvents"] if e["name"] == "thread_name"}
    assert names == {1: "steps", **{2 + i: f"thread {i}" for i in range(threads)}}


def test_slices_of_a_track_nest(traced):
    tracks = defaultdict(list)
    for event in traced[2]["traceEvents"]:
        if event["ph"] == "X":
            tracks[event["tid"]].append(nanoseconds(event))
    assert len(tracks) >= 2
    for slices in tracks.values():
        inside: list[int] = []
        for begin, end in sorted(slices, key=lambda one: (one[0], -one[1])):
            while inside and inside[-1] <= begin:
                inside.pop()
            assert not inside or end <= inside[-1]
            inside.append(end)


def test_steps_follow_each_other_and_add_up(traced):
    net, recording, content = traced
    steps = [event for event in content["traceEvents"] if event.get("cat") == "step"]
    assert [event["name"] for event in steps] == [step.name for step in recording.steps]
    spans = [nanoseconds(event) for event in steps]
    assert spans[0][0] == 0
    assert [begin for begin, _ in spans[1:]] == [end for _, end in spans[:-1]]
    assert spans[-1][1] == pytest.approx(1e9 * recording.seconds().sum(), abs=1)
    assert content["otherData"]["seconds"] == pytest.approx(spans[-1][1] / 1e9)
    assert sum(event["args"]["products"] for event in steps) == net.info().macs
    assert sum(event["args"]["products_with_zeros"] for event in steps) == net.info().dense_macs
    kernels = {event["name"]: event["args"]["kernel"] for event in steps}
    assert kernels["conv4_2/3x3"] == net.info()["conv4_2/3x3"].kernel
    assert all(event["args"]["bytes"] > 0 for event in steps)
    assert all(event["args"]["function"] for event in steps)


def test_every_task_lies_in_its_step_and_threads_run_one_at_a_time(traced):
    _, recording, content = traced
    events = content["traceEvents"]
    steps = {e["args"]["step"]: nanoseconds(e) for e in events if e.get("cat") == "step"}
    tasks = [event for event in events if event.get("cat") == "task"]
    found = sorted((event["args"]["step"], event["args"]["task"]) for event in tasks)
    assert found == [(k, t) for k, step in enumerate(recording.steps) for t in range(step.tasks)]
    by_thread = defaultdict(list)
    for event in tasks:
        begin, end = nanoseconds(event)
        first, last = steps[event["args"]["step"]]
        assert first <= begin <= end <= last
        assert event["name"] == f"{recording.steps[event['args']['step']].name} {event['args']['task']}"
        by_thread[event["tid"]].append((begin, end))
    for spans in by_thread.values():
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_waits_reach_from_the_last_task_to_the_next_step(traced):
    recording, content = traced[1], traced[2]
    visits = {
        (event["tid"], event["args"]["step"]): nanoseconds(event)
        for event in content["traceEvents"]
        if event.get("cat") == "thread"
    }
    waits = [event for event in content["traceEvents"] if event.get("cat") == "wait"]
    assert len(waits) == len(visits) >= len(recording.steps)
    for event in waits:
        begin, end = nanoseconds(event)
        visit = visits[event["tid"], event["args"]["step"]]
        assert visit[0] <= begin
        assert end == visit[1]
    ran = [event["args"]["ran"] for event in content["traceEvents"] if event.get("cat") == "thread"]
    assert sum(ran) == len(recording.tasks)


def test_a_class_map_in_blocks_ends_in_an_argmax(tiny_net, tmp_path):
    recording = tiny_net.trace(PICTURE, smooth=False)
    assert recording.steps[-1].name == "argmax"
    assert not list(tmp_path.iterdir())
    assert len(trace_events(recording, "a <title>")["traceEvents"]) > len(recording.tasks)


def test_a_file_that_cannot_be_written_leaves_nothing(tiny_net, tmp_path):
    with pytest.raises(OSError, match="none"):
        tiny_net.trace(PICTURE, tmp_path / "none" / "t.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="expected"):
        tiny_net.trace(b"no picture", tmp_path / "t.json")
    assert not list(tmp_path.iterdir())
