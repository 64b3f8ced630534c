"""A plan once more in other memory: the same bits, no byte of the first one's tensors, constants shared."""

from __future__ import annotations

import numpy as np
import pytest
from any_graphs import any_graphs
from engine import bits, random_blob, random_image
from guarded import fields_of
from hypothesis import given, settings
from networks import random_icnet

from sparse_icnet.plan import PlanError, plan_for, relocate
from sparse_icnet.plan.arena import Arena
from sparse_icnet.plan.keep import kept_form
from sparse_icnet.plan.kept import restored
from sparse_icnet.plan.proof import ProofError
from sparse_icnet.plan.relocate import beside
from sparse_icnet.plan.steps import Runnable
from sparse_icnet.run.session import Session


def results(session: Session, size=(50, 70)) -> list[np.ndarray]:
    blob, image = random_blob(session.input_shape, 1), random_image(session.input_shape, 2)
    logits, classes = session.scores_of_image(image, size)
    return [bits(session.logits(blob)), bits(logits), classes, session.class_map(blob), session.output(blob)]


def kept(plan) -> Runnable:
    """The plan as another process takes it."""
    content = b"".join(map(bytes, kept_form(plan, {})))
    arena = Arena()
    memory = arena.take(len(content))
    memory[:] = np.frombuffer(content, np.uint8)
    return restored(arena, memory, lambda: plan)


def assert_same_beside(plan: Runnable) -> None:
    other = beside(plan)
    expected = results(Session(plan))
    soiled = plan.shared
    soiled[:] = 0xA5
    found = results(Session(other))
    assert all(map(np.array_equal, expected, found))
    assert (soiled == 0xA5).all()


@settings(max_examples=25)
@given(any_graphs())
def test_any_graph(graph):
    try:
        plan = plan_for(graph, 2)
    except PlanError:
        return
    assert_same_beside(plan)
    assert_same_beside(kept(plan))


@pytest.mark.parametrize("threads", [1, 3])
def test_icnet(threads):
    """Pyramid, fused convolutions: records behind records."""
    plan = plan_for(random_icnet((96, 128), seed=3), threads)
    other = kept(plan)
    for one in (plan, other):
        assert sum(len(step.behind) for step in one.body) >= 2
        assert_same_beside(one)
        assert_same_beside(beside(one))


@pytest.mark.parametrize("as_it_is", [True, False])
def test_what_is_shared_and_what_is_not(as_it_is):
    plan = plan_for(random_icnet((96, 96), seed=3), 3)
    if not as_it_is:
        plan = kept(plan)
    other = beside(plan, threads=2)
    assert (other.threads, plan.threads) == (2, 3)
    assert other.arena.bytes < other.shared.size + 20_000  # records, and no weights
    assert not addresses_in(other, plan.shared)
    assert len(addresses_in(other, other.shared)) == len(addresses_in(plan, plan.shared)) > 50
    assert Session(other).threads == 2


def addresses_in(plan: Runnable, memory: np.ndarray) -> list[str]:
    """Names of the fields of all records that are addresses within `memory`."""
    first, end = memory.ctypes.data, memory.ctypes.data + memory.size
    return [
        f"{step.name} {name}"
        for steps in (*plan.input_steps.values(), plan.body, *plan.output_steps.values())
        for step in steps
        for records in (step.record, *step.behind)
        for row in records
        for name, (holder, field) in fields_of(row).items()
        if first <= int(holder[field]) < end
    ]


def test_a_place_that_was_not_moved_is_refused(monkeypatch):
    """What the first plan writes is no memory of the second."""
    plan = plan_for(random_icnet((96, 96), seed=3), 1)
    monkeypatch.setattr(relocate, "_integers", lambda dtype: np.arange(1))
    with pytest.raises(ProofError, match="address"):
        beside(plan)


def test_a_plan_that_keeps_its_tensors():
    with pytest.raises(ValueError, match="share memory, found one that keeps them"):
        beside(plan_for(random_icnet((96, 96), seed=3), 1, keep_tensors=True))
