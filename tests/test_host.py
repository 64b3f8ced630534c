"""What the CPU is: LLVM's answer, kept under what the CPU itself answers."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from sparse_icnet import host, private_files

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="CPUID is asked on x86-64 Linux alone"
)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """An empty cache folder, and how often LLVM was asked."""
    asked = []
    usual = host._asked

    def counted() -> host.Host:
        asked.append(1)
        return usual()

    monkeypatch.setattr(host, "_asked", counted)
    monkeypatch.setattr(
        private_files, "cache_folders", lambda: iter((tmp_path / "none" / "x", tmp_path / "cache"))
    )
    (tmp_path / "none").write_bytes(b"")  # a folder that cannot be made
    return asked


def ask() -> host.Host:
    return host.host.__wrapped__()


def test_llvm_is_asked_once(kept, tmp_path):
    found = [ask() for _ in range(3)]
    assert len(kept) == 1
    assert found[0] == found[1] == found[2] == host._asked()
    assert len(os.listdir(tmp_path / "cache")) == 1
    from llvmlite import binding

    assert found[1].flattened() == binding.get_host_cpu_features().flatten()
    assert found[1].name == binding.get_host_cpu_name()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "others may write it", "no JSON"])
def test_a_damaged_answer_is_asked_anew(kept, tmp_path, damage):
    found = ask()
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    if damage == "others may write it":
        file.chmod(0o666)
    else:
        new = {"cut": content[:-1], "empty": b"", "no JSON": host._MAGIC + b"{}"}
        flipped = content[:70] + bytes([content[70] ^ 1]) + content[71:]
        file.write_bytes(new.get(damage, flipped))
    assert ask() == found
    assert len(kept) == 2
    assert ask() == found
    assert len(kept) == 2, "and kept again"


def test_another_cpu_is_asked_anew(kept, monkeypatch, tmp_path):
    ask()
    answers = host._cpuid()
    assert len(answers) >= 6
    monkeypatch.setattr(host, "_cpuid", lambda: [*answers[:-1], (1, 2, 3)])
    ask()
    assert len(kept) == 2
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_the_answers_of_the_cpu_are_the_same_on_every_core():
    before = os.sched_getaffinity(0)
    try:
        answers = []
        for cpu in sorted(before):
            os.sched_setaffinity(0, {cpu})
            answers.append(host._cpuid())
    finally:
        os.sched_setaffinity(0, before)
    assert all(one == answers[0] for one in answers)


@pytest.mark.parametrize("how", ["no CPUID", "no memory for code"])
def test_llvm_is_asked_where_the_cpu_cannot_be(kept, monkeypatch, tmp_path, how):
    def refused() -> list[tuple[int, ...]]:
        raise PermissionError("mprotect")

    if how == "no CPUID":
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    else:
        monkeypatch.setattr(host, "_cpuid", refused)
    assert ask() == ask()
    assert len(kept) == 2
    assert not (tmp_path / "cache").exists()
