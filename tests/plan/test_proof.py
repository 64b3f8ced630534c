"""That a plan stays inside its memory is proven before it runs: what the proof accepts, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from any_graphs import any_graphs
from engine import WINOGRAD, Net, assert_equals_oracle, forced
from guarded import fields_of, unproven
from hypothesis import event, given, settings
from hypothesis import strategies as st

import sparse_icnet
from sparse_icnet import bundled, formats
from sparse_icnet.formats.errors import FormatError
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
from sparse_icnet.operators import KERNELS
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.elementwise.params import CombineParams, ShiftParams
from sparse_icnet.operators.float_convolution.params import FloatConvolutionParams
from sparse_icnet.operators.input.params import BlobParams, ImageParams
from sparse_icnet.operators.interpolation.pack import Axis
from sparse_icnet.operators.params import RUN_VECTORS
from sparse_icnet.operators.record import Table, kinds_of
from sparse_icnet.operators.storage import CodesMap, PlanError
from sparse_icnet.operators.taps import int32_table
from sparse_icnet.operators.winograd.params import Elements, WinogradParams
from sparse_icnet.plan import plan_for
from sparse_icnet.plan.arena import Piece
from sparse_icnet.plan.axis import prove_axis
from sparse_icnet.plan.program import End, Plan, Step
from sparse_icnet.plan.proof import ProofError, access, prove
from sparse_icnet.target import TARGET

HERE = Path(__file__).parents[1] / "helpers"
# What decides where a kernel reads and writes, by the last part of its name.  Everything else in a record are values.
STORED = {"address", "source", "classes", "out"}
TABLES = {
    "planes", "offsets", "indptr", "weights", "initial", "multiplier", "bias", "entries", "masks", "copies", "codes",
    "constants", "factors", "biases", "table", "in_order",
    "scattered", "stages", "lines", "multipliers", "counts", "windows", "fused", "row_starts",
    "row_weights", "column_starts", "column_weights",
}  # fmt: skip
STRIDES = {
    "stride",
    "source_stride",
    "out_stride",
    "pitch",
    "element_bytes",
    "sums_element_bytes",
    "sums",
    "offsets_phase",
    "scattered_bytes",
}
COUNTS = {"phases", "vectors", "height", "width", "count", "groups", "rows", "columns", "taps", "parts"}
MOVES = (4, -4, 1 << 32, -(1 << 32), 1 << 62, -(1 << 62))


def matters(plan: Plan, step: Step, name: str) -> bool:
    """Whether the kernel of `step` reads memory, or decides how far, by the field `name`."""
    holder, field = fields_of(step.record[0])[name]
    if not holder[field]:
        return False
    if name.endswith("copies.planes"):  # a count
        return False
    if step.kind in (ImageParams, BlobParams) and name == "output.stride":  # one group
        return False
    if (
        step.kind is FloatConvolutionParams
        and name == "output.map.stride"
        and not step.record[0]["output"]["real"]
    ):
        return bool(step.record[0]["groups"] > 1)
    if field == "offsets_phase":
        return step.kind not in (WinogradParams, Elements) and bool(step.record[0]["phases"] > 1)
    if step.kind is WinogradParams:
        if name in ("inputs.source", "inputs.source_stride"):
            return not step.record[0]["inputs"]["address"]
        if name == "epilogue.output.map.planes":
            return not step.record[0]["scattered"]
        if name in (
            "vectors",
            "columns",
        ):  # beyond the last chunk there are no vectors; columns are of phases
            return False
    if field in ("stride", "source_stride"):
        address = int(holder["source" if field == "source_stride" else "address"])
        memory = plan.placement.memory
        maps = [s for s in (*step.reads, *step.writes) if isinstance(s, CodesMap)]
        return not any(memory.start(map) == address and map.groups == 1 for map in maps)
    return True


@pytest.fixture(scope="module")
def plans(tiny_graph) -> list[Plan]:
    """Plans with a step of every kind."""
    net = Net((32, 64))
    x = net.codes(net.relu(net.convolution(net.image, 8, 3, 2)))
    y = net.codes(net.sum(net.convolution(x, 8, 3), net.resize(net.mean(x, (2, 2)), (16, 32))))
    z = net.codes(net.convolution(x, 8, 3, dilation=3))
    other = net.classify(y, z, net.max_pool(x, 3, 1, 1), net.codes(net.sum(x, y)), grid=(8, 16))
    found = [plan_for(tiny_graph, 2), plan_for(other, 1)]
    bilinear = Net((24, 48))
    logits = bilinear.convolution(bilinear.image, 5, 3, 2)
    bilinear.add(Bilinear("up", logits, (31, 77)))
    found.append(plan_for(bilinear.softmax("up"), 2))
    found.append(plan_for(other, 3, keep_tensors=True, policy=forced(WINOGRAD)))
    floats = Net((32, 64))
    x = floats.relu(floats.float_convolution("image", 6, 3, 2))
    x = floats.max_pool(x, 3, 1, 1)
    y = floats.sum(x, floats.resize(floats.mean(x, (3, 2)), (16, 32)))
    y = floats.codes(floats.float_convolution(y, 6, 3, dilation=2))
    found.append(plan_for(floats.classify(y, floats.codes("image"), grid=(8, 16)), 2))
    return found


def steps_with(plans: list[Plan], fields: set[str]) -> list[tuple[Plan, Step, str]]:
    """Every field of every step that matters."""
    return [
        (plan, step, name)
        for plan in plans
        for step in plan.steps()
        for name in fields_of(step.record[0])
        if name.rpartition(".")[2] in fields and matters(plan, step, name)
    ]


def value_of(step: Step, name: str) -> int:
    holder, field = fields_of(step.record[0])[name]
    return int(holder[field])


def assert_refused(plan: Plan, step: Step, name: str, value: int) -> None:
    holder, field = fields_of(step.record[0])[name]
    before = int(holder[field])
    holder[field] = np.int64(value) if abs(value) < 1 << 63 else np.iinfo(np.int64).max
    with pytest.raises(ProofError, match=re.escape(repr(step.name))) as caught:
        prove(plan)
    holder[field] = before
    assert len(str(caught.value).splitlines()) == 1


def test_every_table_of_a_record_is_known_here():
    """A new one must be moved and cut short by the tests below."""
    for kind in KERNELS:
        known = {name.rpartition(".")[2] for name in _tables(kind)}
        assert known <= TABLES, kind.__name__


def _tables(record: type) -> set[str]:
    found = set()
    for name, kind in kinds_of(record).items():
        found |= {name} if kind == Table else set() if kind in (int, float) else _tables(kind)
    return found


def test_the_plans_have_every_kind_of_step(plans):
    assert {step.kind for plan in plans for step in plan.steps()} == set(KERNELS)
    for plan in plans:
        prove(plan)


def test_a_moved_address_is_refused(plans):
    cases = steps_with(plans, STORED | TABLES)
    assert len(cases) > 500
    for number, (plan, step, name) in enumerate(cases):
        assert_refused(plan, step, name, value_of(step, name) + MOVES[number % len(MOVES)])


def test_an_enlarged_stride_is_refused(plans):
    cases = steps_with(plans, STRIDES)
    assert len(cases) > 200
    for number, (plan, step, name) in enumerate(cases):
        assert_refused(plan, step, name, value_of(step, name) * (1 << 20, -(1 << 20), 1 << 40)[number % 3])


def test_an_enlarged_count_is_refused(plans):
    cases = steps_with(plans, COUNTS)
    assert len(cases) > 200
    for number, (plan, step, name) in enumerate(cases):
        assert_refused(plan, step, name, (value_of(step, name) * 1000, -1, 1 << 40)[number % 3])
        if (step.kind, name) != (ShiftParams, "count"):  # there may be no copies at all
            assert_refused(plan, step, name, 0)


def test_an_offset_in_a_table_that_leads_outside_is_refused(plans):
    cases = steps_with(plans, {"offsets", "planes"})
    assert len(cases) > 100
    for plan, step, name in cases:
        pieces = plan.placement.arena.pieces
        piece = next(p for p in pieces if p.address == value_of(step, name) and p.constant)
        table = piece.memory.view(np.int32 if name.endswith("offsets") else np.int64)
        for index, value in ((0, np.iinfo(table.dtype).min), (table.size - 1, np.iinfo(table.dtype).max)):
            before = table[index].copy()
            table[index] = value
            with pytest.raises(ProofError, match=re.escape(repr(step.name))):
                prove(plan)
            table[index] = before
    for plan in plans:
        prove(plan)


def test_a_run_longer_than_its_rows_of_scratch_is_refused(plans):
    found = 0
    for plan in plans:
        for step in plan.steps():
            if step.kind is ConvolutionParams and step.record[0]["chunks"] == 1:
                before = step.record[0]["vectors_per_task"]
                step.record[0]["vectors_per_task"] = 2 * RUN_VECTORS
                with pytest.raises(ProofError, match=f"expected at most {RUN_VECTORS} vectors of a task"):
                    prove(plan)
                step.record[0]["vectors_per_task"] = before
                found += 1
    assert found


def test_less_scratch_memory_than_is_used_is_refused(plans):
    for plan in plans:
        whole = plan.scratch_bytes
        plan.scratch_bytes = whole // 2
        with pytest.raises(ProofError, match="of scratch memory, which has"):
            prove(plan)
        plan.scratch_bytes = whole


def test_a_constant_that_is_shorter_than_what_is_read_is_refused(plans):
    cases = steps_with(plans, TABLES - {"scattered"})  # which holds the lanes of whole tasks
    for plan, step, name in cases:
        pieces = plan.placement.arena.pieces
        place = next(i for i, p in enumerate(pieces) if p.address == value_of(step, name) and p.constant)
        whole = pieces[place]
        pieces[place] = Piece(whole.memory[:-1], True)
        with pytest.raises(ProofError, match=re.escape(repr(step.name))):
            prove(plan)
        pieces[place] = whole


def test_tensors_that_share_memory_while_both_are_alive_are_refused(plans):
    plan = plans[0]
    step = next(step for step in plan.body if step.kind is ConvolutionParams)
    pieces, output, source = plan.placement.pieces, step.writes[0], step.reads[0]
    before = pieces[output]
    pieces[output] = pieces[source]
    with pytest.raises(ProofError, match="alive at a time and share memory"):
        prove(plan)
    pieces[output] = before


def test_classes_beyond_those_of_the_smooth_map_are_refused(plans):
    """A class that is read names corners in scratch memory."""
    argmax, smooth = plans[0].output_steps[End.SMOOTH_CLASSES]
    channels = value_of(argmax, "channels")
    argmax.record["channels"] = channels + 1
    argmax.record["logits"]["stride"] //= 2  # so that what is read stays inside
    with pytest.raises(ProofError, match=f"{smooth.name}.*expected an argmax of at most {channels} classes"):
        prove(plans[0])
    argmax.record["channels"] = channels
    argmax.record["logits"]["stride"] *= 2


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
    monkeypatch.delitem(access.PROOFS, CombineParams)
    plan = next(plan for plan in plans if any(step.kind is CombineParams for step in plan.body))
    with pytest.raises(ProofError, match=r"\(CombineParams\): nothing says what its kernel touches"):
        prove(plan)


def test_every_kind_has_a_proof():
    assert access.PROOFS.keys() == set(KERNELS)


@settings(deadline=None, max_examples=60, print_blob=True)
@given(any_graphs(), st.sampled_from([None, *TARGET.kernels, WINOGRAD]), st.booleans())
def test_what_the_planner_makes_is_proven(graph, kernel, keep_tensors):
    plan = unproven(graph, keep_tensors, forced(kernel))
    event("refused" if plan is None else "planned")
    if plan is not None:
        prove(plan)


@pytest.mark.parametrize("name", bundled.names())
@pytest.mark.parametrize("size", [(96, 96), (768, 960), (1536, 1920)])
def test_bundled_models_are_proven(name, size):
    plan_for(resized(formats.load(bundled.resolve(name)), size), 2)


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
    plan_for(Graph((*net.ops, Argmax("classes", logits)), "classes"))
    plan_for(Graph((*net.ops, Softmax("classes", logits)), "classes"))
