"""The package is typed: a user's script passes the strict type checkers, and it runs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from networks import random_picture
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "typing" / "user_script.py"


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False, timeout=500)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """What mypy has found out about NumPy and the package."""
    return tmp_path_factory.mktemp("mypy")


def test_mypy(tmp_path, cache):
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed (extra lint)")
    result = run("-m", "mypy", "--strict", "--cache-dir", cache, SCRIPT, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_pyright(tmp_path):
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed (extra lint)")
    if run("-m", "pyright", "--version", cwd=tmp_path).returncode:
        pytest.skip("pyright is installed without the Node.js that it runs on")
    result = run("-m", "pyright", "--pythonpath", sys.executable, SCRIPT, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_checkers_see_a_wrong_script(tmp_path, cache, checker):
    """What the tests above rely on: types of the package reach the script, and a wrong one is an error."""
    if find_spec(checker) is None or run("-m", checker, "--version", cwd=tmp_path).returncode:
        pytest.skip(f"{checker} is not installed (extra lint)")
    script = tmp_path / "wrong.py"
    script.write_text("import sparse_icnet\nx: int = sparse_icnet.load().predict('a.jpg').summary()\n")
    options = ["--cache-dir", cache] if checker == "mypy" else ["--pythonpath", sys.executable]
    result = run("-m", checker, *options, script, cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "wrong.py:2" in result.stdout


def test_the_script_runs(tiny_file, tmp_path):
    picture = tmp_path / "p.png"
    Image.fromarray(random_picture(60, 80)).save(picture)
    result = run(SCRIPT, tiny_file, picture, tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "expected a picture that Pillow can read" in result.stdout
    assert (tmp_path / "overlay.png").is_file()
