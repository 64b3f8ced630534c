"""Whatever other libraries set about floats in the threads that call: the bits stay, and so does what they set."""

from __future__ import annotations

import numpy as np
import pytest
from engine import SPECIAL_FLOATS, bits, random_blob
from llvmlite import binding, ir
from networks import random_blob as random_network_blob
from test_session import small_graph

from sparse_icnet import bundled, floats, formats
from sparse_icnet.network.digest import digest
from sparse_icnet.plan import plan_for
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.simd import environment
from sparse_icnet.simd.llvm import I64
from sparse_icnet.target import is_arm64, is_x86

MXCSR = {
    "up": 0x5F80,
    "down": 0x3F80,
    "to zero": 0x7F80,
    "flush to zero, denormals are zero": 0x9FC0,
    "all at once": 0xFFC0,
    "traps": 0x1F80 & ~0x0F80,  # all but that of inexact results, which Python's own arithmetic would meet
}
FPCR = {"up": 1 << 22, "down": 2 << 22, "to zero": 3 << 22, "flush to zero": 1 << 24}
SETTINGS = MXCSR if is_x86() else FPCR if is_arm64() else {}
FLAGS = 0x3F  # of MXCSR: what has happened, no setting


def small_numbers(shape: tuple[int, ...]) -> np.ndarray:
    blob = random_blob(shape)
    blob.reshape(-1)[: len(SPECIAL_FLOATS)] = SPECIAL_FLOATS
    return blob


def test_the_settings_of_this_test_have_an_effect():
    """Otherwise the tests below would prove nothing."""
    if not SETTINGS:
        pytest.skip("no settings are known of this CPU")
    one, half = np.float32(1), np.float32(2**-25)
    before = floats.exchange()(SETTINGS["up"])
    try:
        above = one + half
    finally:
        floats.exchange()(before)
    assert above > one == one + half


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_foreign_settings_change_no_bit(name, threads):
    graph = small_graph()
    session = Session(plan_for(graph, threads))
    blob = small_numbers(graph.input.shape)
    wanted = Oracle(graph, blob).output()
    out = np.empty_like(wanted)
    before = floats.exchange()(SETTINGS[name])
    try:
        for _ in range(3):  # workers inherit the settings of the thread that starts them
            session.probabilities(blob, out=out)
    finally:
        found = floats.exchange()(before)
    np.testing.assert_array_equal(bits(out), bits(wanted))
    assert found & ~FLAGS == SETTINGS[name] & ~FLAGS


def test_arm_reads_and_writes_its_control_register():
    """The instructions as LLVM assembles them; which CPU runs this test does not matter."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    try:
        machine = binding.Target.from_triple(triple).create_target_machine()
    except RuntimeError:
        pytest.skip("this LLVM does not know Arm")
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(I64, [I64]), "exchange")
    builder = ir.IRBuilder(function.append_basic_block())
    before = environment.read_fpcr(builder)
    environment.write_fpcr(builder, function.args[0])
    builder.ret(before)
    assembly = machine.emit_assembly(binding.parse_assembly(str(module))).lower()
    lines = [" ".join(line.split()) for line in assembly.splitlines()]
    read, write = (
        next(i for i, line in enumerate(lines) if line.startswith(name) and "fpcr" in line)
        for name in ("mrs x", "msr fpcr")
    )
    assert read < write


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "traps"])
def test_what_is_standard_is_seen_by_calculating(name):
    assert floats.are_standard()
    before = floats.exchange()(SETTINGS[name])
    try:
        seen = floats.are_standard()
        with floats.standard_floats():
            inside = floats.are_standard()
        after = floats.are_standard()
    finally:
        found = floats.exchange()(before)
    assert (seen, inside, after) == (False, True, False)
    assert found & ~FLAGS == SETTINGS[name] & ~FLAGS


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "traps"])
def test_models_are_read_and_planned_alike(name, tiny_graph):
    file = bundled.resolve(None)
    graph, blob = formats.load(file), random_network_blob(tiny_graph)
    wanted = Session(plan_for(tiny_graph, 1)).probabilities(blob)
    before = floats.exchange()(SETTINGS[name])
    try:
        other, session = formats.load(file), Session(plan_for(tiny_graph, 1))
    finally:
        floats.exchange()(before)
    assert digest(other) == digest(graph)
    np.testing.assert_array_equal(bits(session.probabilities(blob)), bits(wanted))
