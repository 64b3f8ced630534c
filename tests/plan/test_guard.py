"""Buffers that end or begin at forbidden pages: some sizes and graphs, and that a byte beyond them is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_icnet.operators import KERNELS
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.plan.program import Plan
from sparse_icnet.plan.proof import ProofError, prove

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forbids pages by mprotect")
ROOT = Path(__file__).parents[2]


def test_nothing_is_touched_beyond_any_buffer(tmp_path):
    """Every kind of step at two sizes and some random graphs; `python -m tests.guard` runs all sizes and code paths."""
    record = tmp_path / "guard.json"
    command = [
        sys.executable,
        "-m",
        "tests.guard",
        "--paths",
        "native",
        "--largest",
        "96x192",
        "--graphs",
        "8",
    ]
    done = subprocess.run(
        [*command, "--record", str(record)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(record.read_text("utf-8"))["paths"]["native"]
    assert set(found["kernels"]) == {kind.__name__ for kind in KERNELS}
    assert found["counts"]["runs"] >= 20
    assert found["counts"]["damaged, accepted, ran"] > 20
    assert found["counts"]["damaged, refused, killed at a page when run"] > 5


@pytest.fixture(scope="module", params=[True, False], ids=["end", "beginning"])
def plan(request) -> Plan:
    from guard import cases

    found = cases.plan_of(cases.Case("operators", (96, 96), request.param))
    assert found is not None
    return found


def test_a_plan_as_it_is_ends_well(plan):
    from guard import cases

    prove(plan)
    assert cases._fate(plan) == "harmless when run"


@pytest.mark.parametrize("field", ["source", "output"])
def test_a_mutated_offset_is_refused_before_it_meets_the_page(plan, field):
    from guard import cases

    step = next(step for step in plan.body if step.kind is ConvolutionParams)
    record = step.record[0]
    holder, name = (
        (record, "source") if field == "source" else (record["epilogue"]["output"]["map"], "address")
    )
    before = int(holder[name])
    for distance in (1 << 16, -(1 << 16)):
        holder[name] = before + distance
        with pytest.raises(ProofError):
            prove(plan)
        assert cases._fate(plan) == "killed at a page when run"
    holder[name] = before
