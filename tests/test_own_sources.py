"""What a process makes for others is named by the sources that it runs, not by those that replaced them on disk."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparse_icnet
from sparse_icnet import own_sources

PACKAGE = Path(sparse_icnet.__file__).parent

_SERVER = """
import sys
from pathlib import Path
from sparse_icnet import kept_plans
from sparse_icnet.run import code_files, machine_code

def names():
    return kept_plans.key("digest"), *(code_files.key(entry) for entry in (machine_code.RUN, machine_code.PACK))

def keep():
    kept_plans.keep("0" * 32, [bytes(64)])
    for entry in (machine_code.RUN, machine_code.PACK):
        code_files.keep(entry, b"name" + bytes(64))
    return sorted({path.name.partition("-")[0] for path in Path(sys.argv[1]).iterdir() if path.suffix != ".json"})

before = names()
for changed in sys.argv[3:]:
    with open(Path(sys.argv[2], changed), "a") as file:
        file.write("# of another version\\n")
assert names() == before
print(*keep(), sep=",")
"""


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ([], "pack,plan,run"),
        (["plan/select.py"], "pack,run"),
        (["deflate_kernel.py"], "plan,run"),
        (["operators/convolution/params.py"], ""),
    ],
)
def test_a_process_goes_on_with_its_own_sources_and_keeps_nothing_of_others(tmp_path, changed, kept):
    copy, cache = tmp_path / "sparse_icnet", tmp_path / "cache"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    cache.mkdir(0o700)
    done = subprocess.run(
        [sys.executable, "-c", _SERVER, str(cache), str(copy), *changed],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(cache)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, kept), done.stderr


_NAMES = """
from sparse_icnet import kept_plans
from sparse_icnet.run import code_files, machine_code
assert kept_plans.__file__.endswith(".pyc")
print(kept_plans.key("digest"), code_files.key(machine_code.RUN), code_files.key(machine_code.PACK))
"""


def test_an_installation_without_sources_is_named_by_what_python_made_of_them(tmp_path):
    copy = tmp_path / "sparse_icnet"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(copy, quiet=2, legacy=True)
    for path in copy.rglob("*.py"):
        path.unlink()

    def names() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", _NAMES]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()

    plan, run, pack = names()
    for changed, same in (("plan/select", {run, pack}), ("deflate_kernel", {plan, run}), ("floats", set())):
        path = copy / f"{changed}.pyc"
        content = path.read_bytes()
        path.write_bytes(content + b"of another version")
        assert {plan, run, pack} & set(names()) == same
        path.write_bytes(content)


def test_a_source_that_is_gone_is_another(tmp_path):
    path = tmp_path / "source.py"
    path.write_text("1")

    def listed(*_arguments):
        return [path]

    own_sources.digest(listed)
    assert not own_sources.are_replaced(listed)
    path.unlink()
    assert own_sources.are_replaced(listed)
