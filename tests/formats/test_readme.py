"""The page that lists which files are read names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sparse_icnet

TESTS = Path(__file__).parents[1]
PAGE = (Path(sparse_icnet.__file__).parent / "formats" / "README.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("| ") and not re.match(r"\| (what|option)[^|]*\| *\| test", line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_row_names_a_test(row):
    _, what, verdict, test, _ = (cell.strip() for cell in row.split("|"))
    assert what
    assert re.match(r"(read|refused)\b", verdict), verdict
    file, name = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", test).groups()
    (path,) = TESTS.glob(f"*/{file}")
    assert f"\ndef {name}(" in path.read_text(encoding="utf-8")


def test_the_page_has_every_kind_of_tool():
    assert len(ROWS) > 35
    for word in ("NNCF", "PrePostProcessor", "quantize_static", "torch.onnx.export", "convert"):
        assert word in PAGE
