"""The rooms of the package: who may import whom, and what every operator has."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import sparse_icnet
from sparse_icnet.network.graph import Op
from sparse_icnet.operators import KERNELS, kernel_name

PACKAGE = Path(sparse_icnet.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
OPERATORS = sorted(path.parent.name for path in (PACKAGE / "operators").glob("*/__init__.py"))
# What each package of the engine may import of the others: arrows point down only.
BELOW = {
    "target.py": {"host"},
    "sparse": {"network"},
    "network": set(),
    "simd": {"floats", "target", "network.arithmetic", "operators.record"},
    "operators": {"target", "network", "sparse", "simd"},
    "plan": {"floats", "target", "network", "sparse", "operators"},
    "run": {
        "target",
        "network",
        "operators",
        "plan",
        "simd",
        "host",
        "pages",
        "processes",
        "own_sources",
        "private_files",
    },
}


def imports(file: str) -> set[str]:
    """Modules that a file imports when it runs (not for type checkers alone)."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))
    return found


def compiled(file: str) -> bool:
    """Whether a file holds what Numba compiles."""
    name = file.rpartition("/")[2]
    return (
        file.startswith("simd/")
        or name.endswith("kernel.py")
        or name in ("transforms.py", "epilogue.py", "loop.py", "traced_loop.py")
    )


@pytest.mark.parametrize("file", FILES)
def test_only_kernels_import_numba(file):
    """The planner and everything above run without: Numba takes half a second to import."""
    lazily = file == "run/compiler.py"  # inside the function that compiles
    if not compiled(file) and not lazily:
        assert not [name for name in imports(file) if name.partition(".")[0] == "numba"]


@pytest.mark.parametrize("file", [file for file in FILES if file.partition("/")[0] in BELOW])
def test_arrows_point_down(file):
    package = file.partition("/")[0]
    own = package.removesuffix(".py")
    for name in imports(file):
        if not name.startswith("sparse_icnet."):
            continue
        rest = name.removeprefix("sparse_icnet.")
        allowed = {own, *BELOW[package]}
        assert any(rest == one or rest.startswith(one + ".") for one in allowed), f"{file} imports {name}"


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_the_same_rooms(operator):
    folder = PACKAGE / "operators" / operator
    for room in ("params", "plan", "kernel"):
        assert (folder / f"{room}.py").exists(), room


def test_kernels_are_where_the_table_says():
    assert len(OPERATORS) >= 7
    for record, place in KERNELS.items():
        module, _, name = place.partition(":")
        function = getattr(import_module(f"sparse_icnet.operators.{module}"), name)
        assert list(inspect.signature(function.py_func).parameters)[1:] == ["task", "scratch"]
        assert kernel_name(record) == name


@pytest.mark.parametrize("file", FILES)
def test_files_are_short(file):
    lines = (PACKAGE / file).read_text(encoding="utf-8").count("\n")
    assert lines <= 350, lines


OPERATIONS = {kind.__name__ for kind in get_args(Op)}


@pytest.mark.parametrize("file", FILES)
def test_a_match_over_operations_is_exhaustive(file):
    """It ends in `assert_never`, so that the type checker names each place that a new operation must be added to."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Match):
            patterns = [
                p for case in node.cases for p in ast.walk(case.pattern) if isinstance(p, ast.MatchClass)
            ]
            names = {pattern.cls.id for pattern in patterns if isinstance(pattern.cls, ast.Name)}
            if len(names & OPERATIONS) > 2:  # one or two are exceptions, not a list of operations
                assert "assert_never" in ast.dump(node.cases[-1]), f"{file}:{node.lineno}"


def test_no_text_names_a_module_that_is_gone():
    """Also in programs inside strings, and in documents beside the code."""
    root = Path(__file__).parents[1]
    texts = [path for folder in ("sparse_icnet", "tests", "bench") for path in (root / folder).rglob("*.py")]
    texts += PACKAGE.rglob("*.md")
    assert len(texts) > 200
    for path in texts:
        for name in re.findall(r"from (sparse_icnet(?:\.\w+)+) import", path.read_text(encoding="utf-8")):
            place = root / name.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").exists(), f"{path}: {name}"
