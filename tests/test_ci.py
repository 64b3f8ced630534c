"""The scripts beside the gate: what they read of the project is there, and two builds of the same files are one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from tests.hard.versions import summed

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / ".ci").iterdir())
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@needs_bash
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_core_is_there():
    (core,) = re.findall(r"^core=\(\n(.*?)^\)", (ROOT / ".ci" / "versions").read_text(), re.M | re.S)
    assert len(core.split()) > 10
    assert [path for path in core.split() if not (ROOT / path).exists()] == []


@needs_bash
def test_lowest_versions_are_those_declared():
    """`.ci/versions` reads them from pyproject.toml with sed: in the form in which they stand there."""
    text = (ROOT / ".ci" / "versions").read_text()
    function = text[text.index("lowest() {") : text.index("check() {")]
    command = ["bash", "-c", f"{function}\nlowest"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    declared = re.search(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    names = re.findall(r'"([a-z]+)>=([\d.]+)', declared[1])
    assert {name for name, _ in names} == {"numpy", "numba", "pillow"}
    assert [line.partition(";")[0] for line in found if line] == [f"{name}=={least}" for name, least in names]


@needs_bash
@pytest.mark.skipif(not find_spec("hatchling"), reason="needs hatchling")
@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a checkout")
def test_builds_are_reproducible():
    script = ROOT / ".ci" / "reproducible"
    done = subprocess.run(
        ["bash", str(script)],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {line.rpartition(".")[2] for line in done.stdout.splitlines()} == {"whl", "gz"}


def test_a_run_is_summed_up(tmp_path):
    cases = "".join(
        f"<testcase classname='tests.test_x' name={quoteattr(name)}>{child}</testcase>"
        for name, child in (("one", ""), ("two", "<skipped/>"), ("three", "<failure/>"), ("four", ""))
    )
    (tmp_path / "r.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    record = summed(tmp_path / "r.xml", "versions-x")
    assert record.counts == {"passed": 2, "skipped": 1, "failed": 1}
    assert record.faults == ["tests.test_x::three"]
