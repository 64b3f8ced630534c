"""The examples in the docstrings of the public modules give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["", ".model", ".result", ".render", ".study.analyze"])
def test_examples(name):
    module = import_module(f"sparse_icnet{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
