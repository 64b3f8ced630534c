"""Freed memory of a process of one's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sparse_icnet import freed_memory
from sparse_icnet.cli import main

_ROUNDS = """
import resource, sys
from sparse_icnet import freed_memory
if "keep" in sys.argv and not freed_memory.keep():
    sys.exit(3)
faults = []
for _ in range(10):
    blocks = [bytearray(3 << 20) for _ in range(6)]
    del blocks
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[3])
"""


def faults(*words: str, **environment: str) -> int | None:
    usual = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    command = [sys.executable, "-c", _ROUNDS, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=usual | environment, timeout=120)
    assert done.returncode in (0, 3), done.stderr
    return None if done.returncode else int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_blocks_are_not_fetched_again():
    kept = faults("keep")
    if kept is None:
        pytest.skip("this C library has no such setting")
    assert kept < faults() / 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_the_environment_decides(monkeypatch, name):
    monkeypatch.setenv(name, "100000")
    assert not freed_memory.keep()


def test_nothing_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert not freed_memory.keep()


def test_only_a_process_of_the_command_line_is_set(monkeypatch):
    """A program that calls `main` with arguments of its own keeps its memory as it was."""
    kept = []
    monkeypatch.setattr(freed_memory, "keep", lambda: kept.append(True))
    monkeypatch.setattr(sys, "argv", ["sparse-icnet", "models", "--json"])
    assert main(["models", "--json"]) == 0
    assert not kept
    assert main() == 0
    assert kept
