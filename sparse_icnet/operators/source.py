"""Where a function of the package stands: file:line, as an editor opens it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]


def place_of(function: Callable[..., Any]) -> str:
    """'sparse_icnet/network/rewrite/sampling.py:29' of a function of the package."""
    function = inspect.unwrap(function)
    file = Path(inspect.getsourcefile(function) or "").resolve()
    return f"{file.relative_to(PACKAGE.parent).as_posix()}:{function.__code__.co_firstlineno}"


def place_in(file: str, *names: str) -> str:
    """'sparse_icnet/FILE:LINE' of the function `names[-1]` inside `names[-2]` and so on; the file is read, not imported.

    file  from the folder of the package

    Raises LookupError where there is no such function.
    """
    line = 1
    parent: ast.AST = _tree(file)
    for name in names:
        inside = (node for node in ast.walk(parent) if node is not parent)
        found = next((node for node in inside if getattr(node, "name", None) == name), None)
        if not isinstance(found, ast.FunctionDef | ast.ClassDef):
            raise LookupError(f"{file} holds no {'.'.join(names)}")
        line, parent = found.lineno, found
    return f"{PACKAGE.name}/{file}:{line}"


@lru_cache(maxsize=32)
def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
