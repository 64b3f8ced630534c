"""The table of CPUs: whole, consistent with itself, and never passed over in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparse_icnet import target
from sparse_icnet.host import Host
from sparse_icnet.sparse.winograd import OUTPUTS
from sparse_icnet.target import TARGET, TARGETS, Dot, chosen_target

PACKAGE = Path(target.__file__).parent

each_target = pytest.mark.parametrize("entry", TARGETS, ids=lambda entry: entry.name)


def test_one_entry_a_class_best_first():
    assert TARGET in TARGETS
    names = [entry.name for entry in TARGETS]
    assert len(set(names)) == len(names)
    cpus = [cpu for entry in TARGETS for cpu in entry.cpus]
    assert len(set(cpus)) == len(cpus), "a CPU belongs to its best class alone"
    # What needs no feature takes every CPU of its family: nothing of that family may follow.
    for place, entry in enumerate(TARGETS):
        if not entry.feature:
            assert not any(other.family == entry.family for other in TARGETS[place + 1 :])
    assert TARGETS[-1].family == "any"


@each_target
def test_names_say_what_they_name(entry):
    for kernel in entry.kernels:
        assert kernel.name == f"{kernel.rows}x{kernel.vectors}_{entry.name}"
    assert entry.filtering.name == f"winograd{OUTPUTS}x{OUTPUTS}_{entry.name}"


@each_target
def test_every_fact_is_there(entry):
    assert entry.kernels[0].speed == 1.0
    assert all((kernel.couple_speed > 0) == entry.couples for kernel in entry.kernels)
    assert (entry.byte_dot is not None) == (entry.dot is Dot.BYTES)
    assert (entry.lanes_per_row, entry.blocks_per_entry) == {
        Dot.BYTES: (1, 1),
        Dot.COUPLES: (2, 2),
        Dot.PAIRS: (2, 1),
    }[entry.dot]
    assert (entry.x86_registers > 0) == (entry.family == "x86")
    for kernel in entry.kernels:  # one more micro-kernel takes the vectors that whole tiles leave over
        assert any(other.rows == kernel.rows for other in entry.kernels)
    assert min(entry.filtering.vectors) >= 1


def test_a_kernel_name_stands_in_the_source_once():
    """From what `sparse-icnet info` prints one search leads to the source."""
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for entry in TARGETS:
        for name in (*(kernel.name for kernel in entry.kernels), entry.filtering.name):
            assert len(re.findall(re.escape(f'"{name}"'), text)) == 1, name


def test_a_cpu_without_an_entry_is_an_error(monkeypatch):
    monkeypatch.setattr(target, "TARGETS", TARGETS[:1])
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    with pytest.raises(RuntimeError, match="no entry for the CPU 'haswell'"):
        chosen_target()


# Features of named CPUs that decide between classes.
@pytest.mark.parametrize(
    ("cpu", "features"),
    [
        ("cascadelake", {"avx512vnni", "avx512bw", "avx2"}),
        ("icelake-server", {"avx512vnni", "avx512bw", "avx2", "avx512vbmi"}),
        ("cannonlake", {"avx512bw", "avx2", "avx512vbmi"}),
        ("alderlake", {"avxvnni", "avx2"}),
        ("znver3", {"avx2"}),
        ("neoverse-v2", {"dotprod"}),
        ("x86-64", set()),
        ("", set()),
    ],
)
def test_features_of_a_name(cpu, features):
    assert target._named_features(cpu) == dict.fromkeys(features, True)


def test_a_feature_taken_away_leaves_the_next_class(monkeypatch):
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("NUMBA_CPU_NAME", "znver4")
    for features, expected in (
        ("", "avx512vnni"),
        ("-avx512vnni", "avx512bw"),
        ("-avx512vnni,-avx512bw", "avx2"),
        ("-avx512vnni,+avxvnni", "avxvnni"),
    ):
        monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
        assert chosen_target().name == expected


@pytest.mark.parametrize(
    ("machine", "cpu", "expected"),
    [
        ("aarch64", "neoverse-n1", "dotprod"),
        ("arm64", "apple-m2", "dotprod"),
        ("aarch64", "cortex-a72", "generic"),
        ("riscv64", "neoverse-n1", "generic"),
        ("x86_64", "znver4", "avx512vnni"),
        ("x86_64", "neoverse-n1", "sse2"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_instruction_set_of_a_cpu(monkeypatch, machine, cpu, expected, named):
    """Of a CPU that NUMBA_CPU_NAME names, and of a host, of which LLVM knows features on x86 alone."""
    monkeypatch.setattr(target.platform, "machine", lambda: machine)
    features = {"avx512vnni": cpu == "znver4"} if machine.startswith("x86") else {"neon": True}
    monkeypatch.setattr(target, "host", lambda: Host("" if named else cpu, features))
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    monkeypatch.setenv("NUMBA_CPU_NAME", cpu if named else "")
    assert chosen_target().name == expected
