"""The fuzzer that is guided by coverage: its forms of a model, and a short run of each reader."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from fuzz import bases, coverage


@pytest.mark.parametrize("reader", bases.available())
def test_a_model_is_one_text_and_back(reader):
    for files in bases.bases(reader).values():
        assert coverage.unpacked(reader, coverage.packed(files)) == files
    assert coverage.unpacked(reader, b"")  # any bytes are files


def test_check_sums_of_an_archive_stay_right():
    files = bases.bases("npz")["plain"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        changed = coverage._one_part(files, rng, lambda data, size: data[::-1])
        with zipfile.ZipFile(io.BytesIO(changed[".npz"])) as archive:
            assert archive.testzip() is None
        assert changed != files


@pytest.mark.parametrize("reader", bases.available())
def test_nothing_is_found(reader, tmp_path):
    pytest.importorskip("atheris", reason="needs atheris")
    found = coverage._reader(reader, tmp_path / reader, 600, 3)
    assert found["faults"] == []
    assert found["executions"] == 600
    assert found["counts"]["refused"] > 300
    assert found["coverage_corpus"] > len(bases.bases(reader))  # it is guided
