"""A little of `python -m tests.exact`, and that it sees what it should see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exact import calls, requantization

from sparse_icnet.network.graph import Quantizer
from sparse_icnet.target import TARGET

ROOT = Path(__file__).parents[2]


def test_a_little_of_everything(tmp_path):
    record = tmp_path / "exact.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.exact", "--quick", "--paths", "native", "--record", str(record)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    results = json.loads(record.read_text("utf-8"))["paths"]["native"]
    assert not any(part["faults"] for part in results.values())
    assert sum(results["requantization"]["counts"].values()) > 20_000_000
    assert results["sums"]["counts"]["largest"] > 2**27
    assert results["calls"]["counts"]["floats set to up"] or not calls.SETTINGS


@pytest.mark.parametrize("saturates", [True, False])
def test_one_wrong_code_is_seen(saturates):
    epilogue = requantization.Epilogue(TARGET.kernels[0], Quantizer(1.0), saturates)
    batch = [np.full(requantization.CHANNELS, value) for value in (-100, np.float32(0.5), np.float32(0))]
    assert epilogue.differences(*batch) == (0, "")
    found = epilogue.session.tensor

    def wrong(name: str) -> np.ndarray:
        codes = found(name)
        codes[3, 0, 105] += 1
        return codes

    epilogue.session.tensor = wrong
    count, message = epilogue.differences(*batch)
    assert count == 1
    assert "expected 2, found 3" in message  # (105 - 100) / 2 to even


def test_the_sums_are_consecutive():
    epilogue = requantization.Epilogue(TARGET.kernels[0], Quantizer(1.0), True)
    codes = epilogue.blob.reshape(3, -1)
    sums = codes[0] + 127 * codes[1]
    np.testing.assert_array_equal(sums, epilogue.index)
    assert np.unique(sums).size == requantization.SUMS
    assert (codes >= 0).all()
    assert (codes <= 255).all()


def test_other_digests_are_seen():
    model = calls._Model(calls.NAMES[0], 1)
    assert model.wrong_of(1) == 0
    model.wanted = model.wanted[::-1]
    assert model.wrong_of(2) == 2
    assert calls._in_threads([lambda: model.wrong_of(1)] * 3) == 3
    assert calls._forked(model, 1) == 1
