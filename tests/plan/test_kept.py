"""A plan as a later process takes it: the same bits from memory elsewhere, and no plan that cannot be moved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from any_graphs import any_graphs
from engine import bits, random_blob, random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_icnet.operators.record import dtype_of
from sparse_icnet.plan import PlanError, plan_for
from sparse_icnet.plan import keep as keeping
from sparse_icnet.plan.arena import Arena
from sparse_icnet.plan.keep import SHIFT, ImmovableError, kept_form
from sparse_icnet.plan.kept import LENGTH, KeptPlan, UnknownContentError, restored
from sparse_icnet.run.session import Session


def form(plan) -> bytes:
    """What is kept of a plan."""
    return b"".join(bytes(part) for part in kept_form(plan, {"said": ["of", 1]}))


def again(content: bytes, plan=None) -> KeptPlan:
    """The plan in `content`, in new memory."""
    arena = Arena()
    memory = arena.take(len(content))
    memory[:] = np.frombuffer(content, np.uint8)
    return restored(arena, memory, lambda: plan)


def assert_same_results(first: Session, second: Session, seed: int) -> None:
    """Of a blob and of a picture, of all ends."""
    blob, image = random_blob(first.input_shape, seed), random_image(first.input_shape, seed)
    size = (image.shape[0] + 5, image.shape[1] + 3)
    for one, other in (
        (first.logits(blob), second.logits(blob)),
        (first.probabilities_of_image(image), second.probabilities_of_image(image)),
        (first.probabilities(blob), second.probabilities(blob)),
    ):
        np.testing.assert_array_equal(bits(one), bits(other))
    np.testing.assert_array_equal(first.output(blob), second.output(blob))
    np.testing.assert_array_equal(first.class_map(blob), second.class_map(blob))
    np.testing.assert_array_equal(
        first.smooth_class_map_of_image(image, size), second.smooth_class_map_of_image(image, size)
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_icnet_runs_from_a_kept_plan(tiny_graph, threads):
    plan = plan_for(tiny_graph, threads)
    kept = again(form(plan), plan)
    assert kept.facts == {"said": ["of", 1]}
    assert kept.threads == threads
    assert kept.class_map_size == plan.class_map_size
    first, second = Session(plan), Session(kept)
    assert_same_results(first, second, seed=1)
    assert_same_results(second, first, seed=2)  # nothing that the other left behind


@settings(max_examples=25)
@given(graph=any_graphs(), seed=st.integers(0, 1000), threads=st.integers(1, 2))
def test_every_plan_can_be_kept(graph, seed, threads):
    try:
        plan = plan_for(graph, threads)
    except PlanError:
        return
    kept = again(form(plan), plan)
    assert_same_results(Session(plan), Session(kept), seed)


def test_records_and_constants_are_those_of_the_plan_moved(tiny_graph):
    """Where they differ an address was moved: an address of the plan's memory, by the same distance."""
    plan = plan_for(tiny_graph, 1)
    kept = again(form(plan), plan)
    assert len(kept.body) == len(plan.body)
    distances = set()
    for one, other in zip(plan.body, kept.body, strict=True):
        assert (one.name, one.kind, one.tasks) == (other.name, other.kind, other.tasks)
        first, second = (step.record.view(np.uint8).view(np.int64) for step in (one, other))
        distances |= set((second - first)[first != second].tolist())
    assert 1 < len(distances) <= 3  # of the memory that tensors share, and of constants: two chunks at most


def test_a_plan_does_not_depend_on_where_it_lies(tiny_graph):
    """Two plans of one graph are kept as the same bytes: nothing in them is left from memory that was there before."""
    first = plan_for(tiny_graph, 2)
    rubbish = np.full(1 << 22, 0xA5, np.uint8)
    second = plan_for(tiny_graph, 2)
    assert rubbish.size
    assert form(first) == form(second)


def test_a_plan_that_keeps_its_tensors_is_not_kept(tiny_graph):
    with pytest.raises(ImmovableError, match="keeps its tensors"):
        kept_form(plan_for(tiny_graph, 1, keep_tensors=True), {})


def _bytes(*words: int) -> np.ndarray:
    return np.array(words, np.int64).view(np.uint8)


def test_addresses_are_what_is_moved_by_the_shift():
    address = 0x7F00_1234_5640
    found = keeping._addresses(_bytes(5, address, 0), _bytes(5, address + SHIFT, 0))
    assert found.tolist() == [1]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(_bytes(5, 7), id="another number"),
        pytest.param(_bytes(5, 6 + (SHIFT & 0xFFFFFFFF)), id="the lower half of an address"),
        pytest.param(_bytes(5, 6 + 2 * SHIFT), id="the sum of two addresses"),
        pytest.param(_bytes(5, 6 - SHIFT), id="an address that is taken away"),
    ],
)
def test_what_differs_otherwise_cannot_be_moved(second):
    with pytest.raises(ImmovableError, match="more than addresses"):
        keeping._addresses(_bytes(5, 6), second)


def test_a_tail_of_less_than_a_word_must_be_the_same():
    with pytest.raises(ImmovableError):
        keeping._addresses(np.uint8([1, 2, 3]), np.uint8([1, 2, 4]))


def test_another_number_of_constants_is_found(tiny_graph, monkeypatch):
    """A second encoding that is not that of the same program."""
    plan = plan_for(tiny_graph, 1)
    usual = keeping.written

    def cut(params, put):
        record = usual(params, put)
        if "taps" in (record.dtype.names or ()):
            record["taps"] = put(np.zeros(1, np.uint8)) & 0xFFFF_FFFF
        return record

    monkeypatch.setattr(keeping, "written", cut)
    with pytest.raises(ImmovableError):
        kept_form(plan, {})


@pytest.mark.parametrize("damage", ["empty", "short", "long", "no JSON", "kind", "number", "missing"])
def test_content_of_another_form_is_refused(tiny_graph, damage):
    content = form(plan_for(tiny_graph, 1))
    (length,) = LENGTH.unpack_from(content)
    header = json.loads(content[LENGTH.size : LENGTH.size + length])
    rest = content[-(-(LENGTH.size + length) // 64) * 64 :]
    match damage:
        case "empty":
            changed = b""
        case "short":
            changed = content[:-4]
        case "long":
            changed = content + bytes(4)
        case "no JSON":
            changed = LENGTH.pack(8) + bytes(56) + rest
        case _:
            if damage == "kind":
                header["body"][0][1] = "NoParams"
            elif damage == "number":
                header["image"] = -header["image"]
            else:
                del header["threads"]
            text = json.dumps(header).encode()
            changed = LENGTH.pack(len(text)) + text + bytes(-(4 + len(text)) % 64) + rest
    with pytest.raises(UnknownContentError, match="no kept plan"):
        again(changed)


def test_records_lie_where_kernels_take_them(tiny_graph):
    """On multiples of 64 bytes, as constants do."""
    kept = again(form(plan_for(tiny_graph, 1)))
    for step in kept.body:
        assert step.record.ctypes.data % 64 == 0
        assert step.record.dtype == dtype_of(step.kind)
