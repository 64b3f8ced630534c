"""The cache of machine code: found again, never half read, never that of other sources, settings or CPUs."""

from __future__ import annotations

import ast
import logging
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparse_icnet import files, host, pages, private_files
from sparse_icnet.run import linking, machine_code
from sparse_icnet.run.control import DONE, control_words
from sparse_icnet.run.tracing import RUN_TRACED
from sparse_icnet.target import TARGET

# What writes the cache and links what it holds, and what names the CPU, which the key has.
FILES = {Path(str(module.__file__)) for module in (files, host, linking, pages, private_files)}
CODE = b"entry\0" + bytes(range(256))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """An empty cache folder, and how often the (stand-in) compiler was called."""
    calls = []

    def compile_(entry: machine_code.Entry) -> bytes:
        calls.append(1)
        return CODE

    monkeypatch.setattr(machine_code, "_compile", compile_)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return calls


def test_compiled_once_then_read(compiled, tmp_path):
    assert [machine_code._machine_code() for _ in range(3)] == [CODE] * 3
    assert len(compiled) == 1
    (file,) = (tmp_path / "cache").iterdir()
    assert stat.S_ISREG(file.stat().st_mode)


def test_is_cached_says_whether_the_compiler_is_needed(compiled, monkeypatch, tmp_path):
    assert not machine_code.is_cached()
    assert not compiled
    machine_code._machine_code()
    assert machine_code.is_cached()
    monkeypatch.setenv("NUMBA_OPT", "1")  # other settings, other code
    assert not machine_code.is_cached()
    assert len(compiled) == 1


def test_is_cached_does_not_import_numba():
    code = (
        "import sys; from sparse_icnet.run.machine_code import is_cached;"
        "assert is_cached() in (True, False); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_warm_up_compiles_once_and_names_the_file(compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(machine_code, "_loaded", {})
    monkeypatch.setattr(machine_code, "_callable", lambda code: lambda *arguments: None)
    file = machine_code.warm_up()
    assert file is not None
    assert file.parent == tmp_path / "cache"
    assert machine_code.warm_up() == file
    assert len(compiled) == 1


def test_warm_up_names_no_file_where_none_can_be_kept(compiled, monkeypatch):
    monkeypatch.setattr(machine_code, "_loaded", {})
    monkeypatch.setattr(machine_code, "_callable", lambda code: lambda *arguments: None)
    monkeypatch.setattr(machine_code, "cache_folders", lambda: iter(()))
    assert machine_code.warm_up() is None
    assert len(compiled) == 1


def messages(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
@pytest.mark.parametrize("how", ["open folder", "open file", "FIFO", "link", "endless device", "too large"])
def test_what_others_may_have_written_is_compiled_anew(compiled, caplog, monkeypatch, tmp_path, how):
    machine_code._machine_code()
    (file,) = (tmp_path / "cache").iterdir()
    if how == "open folder":
        file.parent.chmod(0o777)
    elif how == "open file":
        file.chmod(0o666)
    elif how == "too large":
        monkeypatch.setattr(machine_code, "_MAX_BYTES", file.stat().st_size - 1)
    else:
        forged = file.rename(tmp_path / "forged")
        if how == "FIFO":
            os.mkfifo(file, 0o600)
        else:
            file.symlink_to(forged if how == "link" else "/dev/zero")
    with caplog.at_level(logging.INFO, "sparse_icnet"):
        assert not machine_code.is_cached()
        assert machine_code._machine_code() == CODE
    assert len(compiled) == 2
    assert f"compiled kernels not loaded: {tmp_path}" in messages(caplog)
    if how == "open folder":  # nothing can be kept there
        assert "anew each time" in messages(caplog)
        assert machine_code._machine_code() == CODE
        assert len(compiled) == 3
    elif how != "too large":  # what was there is replaced
        assert machine_code.is_cached()


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
def test_the_next_folder_serves_where_others_may_write_into_the_first(
    compiled, caplog, monkeypatch, tmp_path
):
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(machine_code, "cache_folders", lambda: iter((shared, own)))
    with caplog.at_level(logging.INFO, "sparse_icnet"):
        assert [machine_code._machine_code() for _ in range(3)] == [CODE] * 3
    assert len(compiled) == 1
    assert not any(shared.iterdir())
    assert f"compiled kernels kept in {own}" in messages(caplog)
    assert "anew each time" not in messages(caplog)


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
def test_files_are_for_their_owner_but_as_readable_as_the_sources_beside_them(
    compiled, monkeypatch, tmp_path
):
    machine_code._machine_code()
    (file,) = (tmp_path / "cache").iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
    beside = tmp_path / "__pycache__"
    monkeypatch.setattr(private_files, "BESIDE_SOURCES", beside)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    before = os.umask(0o022)
    try:
        machine_code._machine_code()
    finally:
        os.umask(before)
    (file,) = beside.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o755, 0o644]
    assert not (tmp_path / "user").exists()


_DISABLED = """
import sys
from sparse_icnet.run import machine_code
code = machine_code._machine_code()
import numba
print(bool(numba.config.DISABLE_JIT), machine_code._key())
sys.stdout.flush()
sys.stdout.buffer.write(code)
"""


def test_numba_disable_jit_changes_nothing(tmp_path):
    """Kernels over vectors cannot run as Python: they are compiled, found and loaded all the same."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    for cache in (None, tmp_path / "empty"):
        if cache:
            environment["NUMBA_CACHE_DIR"] = str(cache)
        done = subprocess.run(
            [sys.executable, "-c", _DISABLED], capture_output=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        first, _, code = done.stdout.partition(b"\n")
        assert first.decode() == f"True {machine_code._key()}"
        # Not every version of Numba compiles to the same bytes each time.
        name, _, content = code.partition(b"\0")
        assert b"run" in name
        assert content.startswith(b"\x7fELF") == machine_code._machine_code().partition(b"\0")[2].startswith(
            b"\x7fELF"
        )
        assert cache or code == machine_code._machine_code()


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "strange"])
def test_a_damaged_file_is_compiled_anew(compiled, tmp_path, damage):
    machine_code._machine_code()
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    file.write_bytes(
        {"cut": content[:-1], "flipped": content, "emptied": b"", "strange": b"\x7fELF" * 99}[damage]
    )
    assert machine_code._machine_code() == CODE
    assert len(compiled) == 2
    assert machine_code._machine_code() == CODE
    assert len(compiled) == 2


def test_settings_and_cpu_decide_the_key(monkeypatch):
    keys = {machine_code._key()}
    for name, value in (("NUMBA_CPU_NAME", "haswell"), ("NUMBA_CPU_FEATURES", "+avx2"), ("NUMBA_OPT", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            keys.add(machine_code._key())
    with monkeypatch.context() as patch:
        patch.setattr(machine_code, "TARGET", replace(TARGET, name="another"))
        keys.add(machine_code._key())
    assert len(keys) == 5
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")  # moves the file, changes nothing in it
    assert machine_code._key() in keys


@pytest.mark.parametrize("entry", [machine_code.RUN, machine_code.RARE, RUN_TRACED])
def test_the_key_covers_every_source_that_the_kernels_import(entry):
    """A change in any of them compiles anew; the faces of packages hold no code."""
    code = (
        "import sys; from sparse_icnet.run import machine_code; from sparse_icnet.run.machine_code import Entry;"
        f"machine_code._compile({entry!r});"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('sparse_icnet.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {Path(line) for line in done.stdout.splitlines()} - FILES
    unknown = imported - set(machine_code.sources(entry))
    assert all(path.name == "__init__.py" for path in unknown), unknown
    for face in unknown:
        assert not [node for node in ast.parse(face.read_text()).body if not isinstance(node, ast.Expr)], face


def test_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    beside, user = private_files.cache_folders()
    assert beside.name == "__pycache__"
    assert user == tmp_path / "sparse-icnet"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "x"))
    assert list(private_files.cache_folders()) == [tmp_path / "x"]


def test_a_folder_that_cannot_be_written_is_passed_over(compiled, monkeypatch, tmp_path):
    blocked, user = tmp_path / "file" / "folder", tmp_path / "user"
    blocked.parent.write_bytes(b"")  # a file where a folder would have to be
    monkeypatch.setattr(machine_code, "cache_folders", lambda: iter((blocked, user)))
    assert machine_code._machine_code() == machine_code._machine_code() == CODE
    assert len(compiled) == 1
    assert os.listdir(user)
    monkeypatch.setattr(machine_code, "cache_folders", lambda: iter((blocked,)))
    assert machine_code._machine_code() == CODE
    assert len(compiled) == 2


def test_machine_code_needs_nothing_of_python():
    """Every symbol that the object takes from outside is one of the C library."""
    elffile = machine_code._machine_code().partition(b"\0")[2]
    if not elffile.startswith(b"\x7fELF"):
        pytest.skip("not an ELF platform")
    for name in (b"Py_", b"PyErr", b"NRT_", b"numba_"):
        assert name not in elffile, name


def test_run_takes_five_integers():
    """Called as a helper with nothing open, it does nothing; called with too few, it is refused before it does any."""
    run = machine_code.run_function()
    control = np.zeros(control_words(0), np.int64)
    with pytest.raises(TypeError):
        run(1)
    assert run(control.ctypes.data, 0, 0, 0, 0) == DONE
    assert not control.any()
