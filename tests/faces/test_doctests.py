"""The examples in the docstrings of the public modules, and in the map of the code, give what they say."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import sparse_icnet


@pytest.mark.parametrize("name", ["", ".model", ".result", ".render", ".study.analyze"])
def test_examples(name):
    module = import_module(f"sparse_icnet{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_walk_through():
    """The fences of Markdown are no output."""
    path = Path(sparse_icnet.__file__).parent / "README.md"
    text = re.sub(r"^```.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(path), 0)
    assert len(test.examples) > 20
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)
