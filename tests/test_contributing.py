"""The documents for contributors name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparse_icnet.target import TARGETS

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("kernel", "rewrite", "format")


def recipe(name: str) -> list[str]:
    """The lines of a recipe of CONTRIBUTING.md."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = text.partition(f"<!-- recipe: {name} -->")[2].partition("\n\n")[0]
    return re.findall(r"^\d+\. .*$", part, re.MULTILINE)


@pytest.mark.parametrize("name", RECIPES)
def test_files_of_a_recipe_exist(name):
    lines = recipe(name)
    assert len(lines) >= 3
    for line in lines:
        paths = [
            path for path in re.findall(r"`([^`]+)`", line) if path.startswith(("sparse_icnet/", "tests/"))
        ]
        assert paths, f"a step without a file: {line}"
        assert not [path for path in paths if not (ROOT / path).is_file()], line


def test_the_map_names_what_exists():
    text = (ROOT / "sparse_icnet" / "README.md").read_text(encoding="utf-8")
    paths = {
        path for path in re.findall(r"`([\w/]+(?:\.py|/))`", text) if "/" in path or path.endswith(".py")
    }
    assert len(paths) > 20
    rooms = ("kernel.py", "params.py", "plan.py", "pack.py", "transforms.py", "epilogue.py")
    for path in paths:
        found = [
            ROOT / folder / path for folder in ("", "sparse_icnet", "sparse_icnet/plan", "sparse_icnet/run")
        ]
        found.append(ROOT / "sparse_icnet" / "formats" / path)
        assert path in rooms or any(place.exists() for place in found), path


def test_the_map_names_every_class_of_cpus():
    text = (ROOT / "sparse_icnet" / "README.md").read_text(encoding="utf-8")
    assert [target.name for target in TARGETS if f"`{target.name}`" not in text] == []
