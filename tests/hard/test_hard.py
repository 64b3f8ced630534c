"""Each campaign of hard use for a few seconds; at full length `python -m tests.hard`."""

from __future__ import annotations

import importlib
import json
import os

import pytest

from .__main__ import CAMPAIGNS, FULL, QUICK
from .record import Record

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not os.path.exists("/proc/self/stat"), reason="needs Linux"
)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_hard_use(name):
    record = importlib.import_module(f"tests.hard.{name}").run(seed=1, **QUICK[name])
    assert record.faults == []
    assert sum(record.counts.values()) > 10


def test_every_campaign_has_both_lengths():
    assert set(CAMPAIGNS) == set(FULL) == set(QUICK)


def test_a_fault_is_counted_told_and_recorded(tmp_path, capsys):
    record = Record("signals", seed=7)
    record.check(True, "tries", "")
    record.check(False, "tries", "ended\nbadly")
    values = json.loads(record.write(tmp_path / "new").read_text())
    assert values["counts"] == {"tries": 2}
    assert values["faults"] == ["tries: ended badly"]
    assert values["seed"] == 7
    assert {"cpu", "target", "python", "versions"} <= values["machine"].keys()
    assert "FAULT" in capsys.readouterr().out
    assert "1 faults" in record.text()
