"""That a plan stays inside its memory is proven before it runs: what the proof accepts, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from any_graphs import any_graphs
from engine import WINOGRAD, Net, assert_equals_oracle, forced_kernel
from guarded import steps_of, unproven
from hypothesis import event, given, settings
from hypothesis import strategies as st

import sparse_icnet
from sparse_icnet import bundled, formats
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.network.graph import (
    Argmax,
    Bilinear,
    Convolution,
    Graph,
    MaxPool,
    Quantizer,
    Softmax,
    resized,
)
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.runtime import plan as planner
from sparse_icnet.runtime.layout import Piece
from sparse_icnet.runtime.proof import ProofError, access, prove
from sparse_icnet.runtime.proof.ends import prove_axis
from sparse_icnet.runtime.smooth import Axis
from sparse_icnet.runtime.steps import Plan, PlanError, Step, int32_table
from sparse_icnet.target import TARGET

HERE = Path(__file__).parent
# What decides where a kernel reads and writes.  Everything else in a row are values.
ADDRESSES = {
    f.OUT, f.OUT_PLANES, f.IN, f.IN_PLANES, f.RESIDUAL, f.RESIDUAL_PLANES, f.OFFSETS, f.INDPTR, f.WEIGHTS, f.INITIAL,
    f.MULTIPLIER, f.BIAS, f.COPIES, f.PADDING, f.TABLE, f.WORDS, f.SCATTER, f.CLASSES,
    f.ROW_STARTS, f.ROW_WEIGHTS, f.COLUMN_STARTS, f.COLUMN_WEIGHTS,
}  # fmt: skip
STRIDES = {
    f.OUT_GROUP,
    f.IN_GROUP,
    f.RESIDUAL_GROUP,
    f.PITCH,
    f.WORDS_ELEMENT,
    f.SUMS_ELEMENT,
    f.SUMS,
    f.OFFSETS_PHASE,
}
COUNTS = {f.OUT_HEIGHT, f.OUT_WIDTH, f.PHASES, f.VECTORS, f.HEIGHT, f.WIDTH, f.COUNT, f.GROUPS, f.IN_GROUPS}
MOVES = (4, -4, 1 << 32, -(1 << 32), 1 << 62, -(1 << 62))
# What rows hold and the kernel of their kind does not read, or does no harm with.
IDLE = {
    Kind.MAX_POOL: {f.IN_PLANES},
    Kind.ARGMAX: {f.PHASES, f.VECTORS},
    Kind.SOFTMAX: {f.PHASES, f.HEIGHT, f.WIDTH, f.PITCH},
    Kind.UPSAMPLE: {f.COUNT},  # of rows of a task: none is beyond the last
    Kind.QUANTIZE_IMAGE: {f.OUT_GROUP},
    Kind.QUANTIZE_BLOB: {f.OUT_GROUP},
}
READ_BY_TRANSFORM = {f.IN, f.IN_GROUP, f.IN_GROUPS, f.OFFSETS, f.OFFSETS_PHASE, f.WORDS, f.WORDS_ELEMENT}


def matters(step: Step, field: int) -> bool:
    """Whether the kernel of `step` reads memory, or decides how far, by `field`."""
    if field in IDLE.get(step.kind, ()) or not step.fields[field]:
        return False
    phases, gathered = step.fields.get(f.PHASES, 1), bool(step.fields.get(f.GATHER))
    if field == f.OFFSETS_PHASE and (phases == 1 or step.kind in (Kind.WINOGRAD, Kind.WINOGRAD_INPUT)):
        return False
    if step.kind == Kind.WINOGRAD_INPUT:
        return field in READ_BY_TRANSFORM or (field == f.TABLE and gathered)
    if step.kind == Kind.WINOGRAD:
        if field in (f.IN, f.IN_GROUP, f.OFFSETS, f.TABLE):
            return not step.fields.get(f.WORDS)
        if field in (f.OUT_PLANES, f.PHASES):
            return not gathered
        return field != f.VECTORS  # beyond the last block there are none
    if field in (f.IN_GROUP, f.OUT_GROUP):
        return step.output is None or step.output.buffer.groups > 1 or bool(step.fields.get(f.OUT_REAL))
    return True


@pytest.fixture(scope="module")
def plans(tiny_graph) -> list[Plan]:
    """Plans with a step of every kind."""
    net = Net((32, 64))
    x = net.codes(net.relu(net.convolution(net.image, 8, 3, 2)))
    y = net.codes(net.sum(net.convolution(x, 8, 3), net.resize(net.mean(x, (2, 2)), (16, 32))))
    z = net.codes(net.convolution(x, 8, 3, dilation=3))
    other = net.classify(y, z, net.max_pool(x, 3, 1, 1), net.codes(net.sum(x, y)), grid=(8, 16))
    found = [planner.build_plan(optimize(tiny_graph), 2), planner.build_plan(optimize(other), 1)]
    bilinear = Net((24, 48))
    logits = bilinear.convolution(bilinear.image, 5, 3, 2)
    bilinear.add(Bilinear("up", logits, (31, 77)))
    found.append(planner.build_plan(optimize(bilinear.softmax("up")), 2))
    with forced_kernel(WINOGRAD):
        found.append(planner.build_plan(optimize(other), 3, keep_tensors=True))
    return found


def steps_with(plans: list[Plan], fields: set[int]) -> list[tuple[Plan, Step, int]]:
    """Every field of every step that matters."""
    return [
        (plan, step, field)
        for plan in plans
        for step in steps_of(plan)
        for field in sorted(fields & step.fields.keys())
        if matters(step, field)
    ]


def assert_refused(plan: Plan, step: Step, field: int, value: int) -> None:
    before = step.fields[field]
    step.fields[field] = value
    with pytest.raises(ProofError, match=re.escape(repr(step.name))) as caught:
        prove(plan)
    step.fields[field] = before
    assert len(str(caught.value).splitlines()) == 1


def test_the_plans_have_every_kind_of_step(plans):
    assert {step.kind for plan in plans for step in steps_of(plan)} == set(Kind)
    for plan in plans:
        prove(plan)


def test_a_moved_address_is_refused(plans):
    cases = steps_with(plans, ADDRESSES)
    assert len(cases) > 500
    for number, (plan, step, field) in enumerate(cases):
        assert_refused(plan, step, field, step.fields[field] + MOVES[number % len(MOVES)])


def test_an_enlarged_stride_is_refused(plans):
    cases = steps_with(plans, STRIDES)
    assert len(cases) > 200
    for number, (plan, step, field) in enumerate(cases):
        assert_refused(plan, step, field, step.fields[field] * (1 << 20, -(1 << 20), 1 << 40)[number % 3])


def test_an_enlarged_count_is_refused(plans):
    cases = steps_with(plans, COUNTS)
    assert len(cases) > 200
    for number, (plan, step, field) in enumerate(cases):
        assert_refused(plan, step, field, (step.fields[field] * 1000, -1, 1 << 40)[number % 3])
        if (step.kind, field) != (Kind.SHIFT, f.COUNT):  # there may be no copies at all
            assert_refused(plan, step, field, 0)


def test_an_offset_in_a_table_that_leads_outside_is_refused(plans):
    cases = steps_with(plans, {f.OFFSETS, f.IN_PLANES, f.OUT_PLANES, f.RESIDUAL_PLANES})
    assert len(cases) > 100
    for plan, step, field in cases:
        piece = next(p for p in plan.arena.pieces if p.address == step.fields[field])
        table = piece.memory.view(np.int32 if field == f.OFFSETS else np.int64)
        for index, value in ((0, np.iinfo(table.dtype).min), (table.size - 1, np.iinfo(table.dtype).max)):
            before = table[index].copy()
            table[index] = value
            with pytest.raises(ProofError, match=re.escape(repr(step.name))):
                prove(plan)
            table[index] = before
    for plan in plans:
        prove(plan)


def test_less_scratch_memory_than_is_used_is_refused(plans):
    for plan in plans:
        whole = plan.scratch_bytes
        plan.scratch_bytes = whole // 2
        with pytest.raises(ProofError, match="of scratch memory, which has"):
            prove(plan)
        plan.scratch_bytes = whole


def test_a_constant_that_is_shorter_than_what_is_read_is_refused(plans):
    cases = steps_with(plans, ADDRESSES - {f.IN, f.OUT, f.RESIDUAL, f.WORDS, f.TABLE, f.SCATTER, f.CLASSES})
    for plan, step, field in cases:
        pieces = plan.arena.pieces
        place = next(i for i, p in enumerate(pieces) if p.address == step.fields[field])
        whole = pieces[place]
        pieces[place] = Piece(whole.memory[:-1], True)
        with pytest.raises(ProofError, match=re.escape(repr(step.name))):
            prove(plan)
        pieces[place] = whole


def test_tensors_that_share_memory_while_both_are_alive_are_refused(plans):
    plan = plans[0]
    step = next(step for step in plan.body if step.kind == Kind.CONVOLUTION)
    output, source = step.output.buffer, step.reads[0]
    before = output.memory
    output.memory = source.memory
    with pytest.raises(ProofError, match="alive at a time and share memory"):
        prove(plan)
    output.memory = before


def test_classes_beyond_those_of_the_smooth_map_are_refused(plans):
    """A class that is read names corners in scratch memory."""
    argmax = plans[0].smooth_tail[0]
    assert_refused(plans[0], argmax, f.CHANNELS, argmax.fields[f.CHANNELS] + 1)


@pytest.mark.parametrize(
    ("cut", "name"), [(slice(1, None), "starts"), (slice(None, -1), "starts"), (slice(None, -1), "weights")]
)
def test_tables_of_an_axis_must_belong_to_it(cut, name):
    axis = Axis.of(6, 50)
    tables = {"starts": axis.starts, "weights": axis.weights}
    prove_axis(6, 50, **tables)
    tables[name] = np.ascontiguousarray(tables[name][..., cut])
    with pytest.raises(ProofError, match="tables of 50 pixels over 6 grid points"):
        prove_axis(6, 50, **tables)


def test_a_kind_of_step_without_a_proof_is_an_error(plans, monkeypatch):
    monkeypatch.delitem(access.PROOFS, Kind.COMBINE)
    plan = next(plan for plan in plans if any(step.kind == Kind.COMBINE for step in plan.body))
    with pytest.raises(ProofError, match=r"\(<Kind.COMBINE: 4>\): nothing says what its kernel touches"):
        prove(plan)


def test_every_kind_has_a_proof():
    assert access.PROOFS.keys() == set(Kind)


@settings(deadline=None, max_examples=60, print_blob=True)
@given(any_graphs(), st.sampled_from([None, *TARGET.kernels, WINOGRAD]), st.booleans())
def test_what_the_planner_makes_is_proven(graph, kernel, keep_tensors):
    with forced_kernel(kernel):
        plan = unproven(graph, keep_tensors)
    event("refused" if plan is None else "planned")
    if plan is not None:
        prove(plan)


@pytest.mark.parametrize("name", bundled.names())
@pytest.mark.parametrize("size", [(96, 96), (768, 960), (1536, 1920)])
def test_bundled_models_are_proven(name, size):
    planner.plan_for(resized(formats.load(bundled.resolve(name)), size), 2)


@pytest.mark.skipif(sys.platform != "linux", reason="forbids pages by mprotect")
def test_what_the_proof_accepts_touches_nothing_else():
    """Between forbidden pages, with little slack, and with random damage: the proof accepts it, or it would crash."""
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(HERE / "guarded.py"), "60", "40"],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    assert result.returncode == 0, result.stderr
    found = dict(zip(*[iter(result.stdout.split())] * 2, strict=True))
    assert int(found["accepted"]) > 500
    assert int(found["refused"]) > 300


# --- what came from outside ----------------------------------------------------------------------------------------------


def wide_pool(kernel: tuple[int, int], size: tuple[int, int]) -> Graph:
    """A max pool of a window that reads far more shifted copies of a wide map than 32-bit offsets reach."""
    net = Net(size, Quantizer(0.02))
    padding = tuple(k // 2 for k in kernel) * 2
    net.add(MaxPool("pool", net.image, kernel, (1, 1), padding))
    ones = np.ones(5, np.float32)
    net.add(Convolution("c", "pool", np.ones((5, 3, 2, 2), np.int8), ones, ones, (2, 2)))
    return net.softmax("c")


def test_a_pool_whose_offsets_exceed_32_bits_is_refused_when_loaded(tmp_path):
    path = tmp_path / "pool.npz"
    formats.save(wide_pool((1, 1501), (768, 960)), path)
    with pytest.raises(FormatError, match=f"{path}: .*'pool'"):
        sparse_icnet.load(path, size=None)


@pytest.mark.parametrize("what", ["2147483648..2147483648", "-2147483649..0"])
def test_no_table_of_int32_wraps(what):
    low, high = map(int, what.split(".."))
    with pytest.raises(PlanError, match=rf"pool 'p': .* found {re.escape(what)}"):
        int32_table(np.array([low, high], np.int64), "pool 'p'")
    table = int32_table(np.array([-(1 << 31), (1 << 31) - 1], np.int64), "x")
    assert table.dtype == np.int32
    assert table.tolist() == [-(1 << 31), (1 << 31) - 1]


def test_a_pool_of_a_wide_window_that_fits_runs():

    assert_equals_oracle(wide_pool((1, 61), (8, 64)))


def test_class_maps_are_proven_as_well():
    net = Net((16, 32))
    logits = net.convolution(net.image, 5, 3)
    planner.plan_for(Graph((*net.ops, Argmax("classes", logits)), "classes"))
    planner.plan_for(Graph((*net.ops, Softmax("classes", logits)), "classes"))
