"""The inner loops of the machine code: found in the object that is loaded, and in the forms of both readers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.pooling.params import MaxPoolParams
from sparse_icnet.operators.winograd.params import WinogradParams
from sparse_icnet.run import machine_code
from sparse_icnet.study import machine
from sparse_icnet.study.machine import _does, _from_assembly, _from_objdump, _innermost, demangled, inner_loop
from sparse_icnet.target import TARGET, Dot

SYMBOL = "_ZN12sparse_icnet9operators11convolution6kernel13_micro_kernel12_3clocals_3e5chunkB3v12B62c8tJ"

GNU = f"""
000000000000f220 <{SYMBOL}>:
    f220:	push   %rbp
    f5a0:	movslq (%rcx,%r8,4),%rax
    f5a4:	vpbroadcastd 0x4(%r9),%zmm8
    f5aa:	vmovdqu64 0x40(%r15),%zmm13
    f5b0:	vpdpbusd %zmm8,%zmm13,%zmm5
    f5b6:	vpdpbusd 0x40(%r15,%rdx,1){{1to16}},%zmm13,%zmm6
    f784:	jg     f5a0 <{SYMBOL}+0x380>
    f78a:	vmovdqu64 %zmm5,(%rdi)
    f790:	jne    f220 <{SYMBOL}>
"""
COMPILER = f"""
	.globl	{SYMBOL}
{SYMBOL}:
	.cfi_startproc
.LBB33_1:                               # the outer loop
	pushq	%rbp
	.p2align	4
.LBB33_2:
	movslq	(%rcx,%r8,4), %rax
	vpbroadcastd	4(%r9), %zmm8
	vmovdqu64	64(%r15), %zmm13
	vpdpbusd	%zmm8, %zmm13, %zmm5
	vpdpbusd	64(%r15,%rdx){{1to16}}, %zmm13, %zmm6
	jg	.LBB33_2
	vmovdqu64	%zmm5, (%rdi)
	jne	.LBB33_1
"""


@pytest.mark.parametrize("functions", [_from_objdump(GNU), _from_assembly(COMPILER)])
def test_loops_of_both_forms(functions):
    (body,) = _innermost(functions[SYMBOL])
    assert [text.partition(" ")[0] for _, text, _ in body] == [
        *("movslq", "vpbroadcastd", "vmovdqu64", "vpdpbusd", "vpdpbusd", "jg")
    ]
    does = [_does(text) for _, text, _ in body]
    assert does == [("offset",), ("broadcast",), ("load",), ("dot",), ("dot", "broadcast"), ()]


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("vmovdqu64 %zmm5,(%rdi)", ("store",)),
        ("vpmaddubsw (%rsi),%ymm1,%ymm2", ("dot", "load")),
        ("lea 0x40(%rsi),%rax", ()),
        ("pshufd $0x0,%xmm4,%xmm6", ("broadcast",)),
        ("vpaddd %zmm1,%zmm2,%zmm3", ()),
        ("cmpq $0x0,(%rax)", ()),
        ("sdot v0.4s, v1.16b, v2.4b[1]", ("dot",)),
        ("ld1r {v3.4s}, [x1]", ("broadcast",)),
        ("ldp q0, q1, [x2, #32]", ("load",)),
        ("ldrsw x9, [x8], #4", ("offset",)),
        ("stp q0, q1, [x2]", ("store",)),
    ],
)
def test_what_an_instruction_does(text, does):
    assert _does(text) == does


def test_names_of_functions():
    name = "sparse_icnet.operators.convolution.kernel._micro_kernel.chunk"
    assert demangled(SYMBOL) == demangled(f"_{SYMBOL}") == (name, 12)
    assert demangled("memcpy") == ("", 0)


@pytest.fixture(scope="module")
def listing():
    if not any(map(shutil.which, machine.DISASSEMBLERS)):
        pytest.skip("no objdump here to read the machine code")
    return {kind: machine.listed(kind) for kind in (ConvolutionParams, WinogradParams, MaxPoolParams)}


@pytest.mark.parametrize("kernel", TARGET.kernels, ids=lambda kernel: kernel.name)
def test_loops_of_the_micro_kernels(listing, kernel):
    loop = inner_loop(ConvolutionParams, kernel.name, listing=listing[ConvolutionParams])
    assert loop.function.startswith("convolution.kernel.")
    assert loop.dots > 0
    assert loop.offsets > 0
    if TARGET.x86_registers == 1:
        assert loop.stores == 0  # all sums stay in registers
    if TARGET.x86_registers:
        assert loop.blocks > 0
        assert loop.unit == ("couple of blocks" if TARGET.couples else "stored block")
    if TARGET.dot is Dot.BYTES and TARGET.x86_registers:
        assert loop.blocks > 0
        assert loop.dots == loop.blocks * kernel.rows * kernel.vectors * TARGET.x86_registers
        assert loop.broadcasts == loop.blocks * kernel.rows


def test_loop_of_filtering(listing):
    for vectors in TARGET.filtering.vectors:
        loop = inner_loop(WinogradParams, vectors=vectors, listing=listing[WinogradParams])
        assert loop.function.startswith("winograd.kernel.")
        assert loop.dots > 0
        assert loop.unit == "pair of input channels"
        if TARGET.x86_registers == 1:
            assert loop.stores == 0
        if TARGET.x86_registers:
            assert loop.dots == loop.blocks * 4 * vectors * TARGET.x86_registers


def test_loop_of_another_kernel(listing):
    loop = inner_loop(MaxPoolParams, listing=listing[MaxPoolParams])
    assert loop.function == "pooling.kernel.max_pool"
    assert loop.loads > 0
    assert loop.to_dict()["instructions"]


def test_without_a_disassembler_the_same_object_counts(monkeypatch, compiled_kernels):
    monkeypatch.setattr(machine, "DISASSEMBLERS", ())
    code = machine_code.load([machine_code.entry_of(ConvolutionParams)])[0].content
    made = [code]

    def compiled_again(command):
        place = Path(command[-2])
        place.with_suffix(".o").write_bytes(made[0])
        place.with_suffix(".s").write_text(COMPILER, "utf-8")
        return ""

    monkeypatch.setattr(machine, "_ran", compiled_again)
    assert SYMBOL in machine.listed(ConvolutionParams).functions
    made[0] = code[:-1]
    with pytest.raises(
        machine.MachineCodeError,
        match=r"another object than the one that is loaded: .* install a disassembler",
    ):
        machine.listed(ConvolutionParams)


def test_a_disassembler_that_fails(monkeypatch, tmp_path):
    tool = tmp_path / "objdump"
    tool.write_text("#!/bin/sh\necho no such format >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(machine, "DISASSEMBLERS", (str(tool),))
    monkeypatch.setattr(machine_code, "load", lambda entries: [machine_code.Code(0, b"x")])
    with pytest.raises(machine.MachineCodeError, match="objdump failed: no such format"):
        machine.listed(ConvolutionParams)
