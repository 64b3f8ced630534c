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

import sparse_icnet
from sparse_icnet import bundled, files, host, own_sources, pages, private_files
from sparse_icnet.operators import KERNELS
from sparse_icnet.run import code_files, compiler, compiling, linking, machine_code
from sparse_icnet.run.code_files import Entry
from sparse_icnet.run.control import DONE, control_words
from sparse_icnet.run.machine_code import RUN
from sparse_icnet.run.tracing import RUN_TRACED
from sparse_icnet.target import TARGET

# What writes the cache and links what it holds, and what names the CPU, which the key has.
FILES = {Path(str(module.__file__)) for module in (files, host, linking, own_sources, pages, private_files)}
CODE = b"entry\0" + bytes(range(256))


def machine_code_of(entry: Entry = RUN) -> bytes:
    """As a process that has not loaded it: from a cache folder, or compiled."""
    return machine_code._machine_codes([entry])[entry]


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """An empty cache folder, and how often the (stand-in) compiler was called."""
    calls = []

    def compile_(entry: Entry) -> bytes:
        calls.append(entry)
        return CODE

    monkeypatch.setattr(compiler, "compiled", compile_)
    monkeypatch.setattr(compiling, "_extra_processes", lambda entries: 0)  # which would compile indeed
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return calls


def test_compiled_once_then_read(compiled, tmp_path):
    assert [machine_code_of() for _ in range(3)] == [CODE] * 3
    assert len(compiled) == 1
    (file,) = (tmp_path / "cache").iterdir()
    assert stat.S_ISREG(file.stat().st_mode)


def test_is_cached_says_whether_the_compiler_is_needed(compiled, monkeypatch, tmp_path):
    assert not machine_code.is_cached([RUN])
    assert not compiled
    machine_code_of()
    assert machine_code.is_cached([RUN])
    monkeypatch.setenv("NUMBA_OPT", "1")  # other settings, other code
    assert not machine_code.is_cached([RUN])
    assert len(compiled) == 1


def test_is_cached_does_not_import_numba():
    code = (
        "import sys; from sparse_icnet.run.machine_code import is_cached;"
        "assert is_cached() in (True, False); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture
def unloaded(monkeypatch):
    """As if this process had no machine code yet, and took any for some."""
    monkeypatch.setattr(machine_code, "_loaded", {})
    monkeypatch.setattr(
        machine_code, "_linked", lambda codes: dict.fromkeys(codes, machine_code.Code(0, b""))
    )


def test_warm_up_compiles_the_usual_kernels_once_and_names_the_folder(compiled, unloaded, tmp_path):
    assert machine_code.warm_up() == tmp_path / "cache"
    assert set(compiled) == set(machine_code.usual())
    assert machine_code.warm_up() == tmp_path / "cache"
    assert len(compiled) == len(set(compiled))
    assert machine_code.is_cached()


def test_one_kernel_that_is_missing_is_compiled_alone(compiled, unloaded, monkeypatch, tmp_path):
    machine_code.warm_up()
    (file,) = (tmp_path / "cache").glob("pyramid-*.o")
    file.write_bytes(file.read_bytes()[:-1])
    assert not machine_code.is_cached()
    monkeypatch.setattr(machine_code, "_loaded", {})
    before = len(compiled)
    machine_code.warm_up()
    assert [entry.function for entry in compiled[before:]] == ["pyramid"]
    assert machine_code.is_cached()


def test_warm_up_names_no_folder_where_none_can_keep_it(compiled, unloaded, monkeypatch):
    monkeypatch.setattr(code_files, "cache_folders", lambda: iter(()))
    assert machine_code.warm_up() is None
    assert set(compiled) == set(machine_code.usual())


def test_what_is_loaded_says_before_that_it_must_be_compiled(compiled, unloaded):
    told: list[int] = []
    for _ in range(2):
        machine_code.load([RUN], lambda: told.append(len(compiled)))
    assert told == [0]


@pytest.mark.parametrize("model", bundled.all_names())
def test_warm_up_is_all_that_bundled_models_need(model):
    plan = sparse_icnet.load(model, size=(96, 96), threads=1).plan
    steps = [
        *plan.body,
        *(step for some in (plan.input_steps, plan.output_steps) for one in some.values() for step in one),
    ]
    assert {machine_code.entry_of(step.kind) for step in steps} <= set(machine_code.usual())


def messages(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
@pytest.mark.parametrize("how", ["open folder", "open file", "FIFO", "link", "endless device", "too large"])
def test_what_others_may_have_written_is_compiled_anew(compiled, caplog, monkeypatch, tmp_path, how):
    machine_code_of()
    (file,) = (tmp_path / "cache").iterdir()
    if how == "open folder":
        file.parent.chmod(0o777)
    elif how == "open file":
        file.chmod(0o666)
    elif how == "too large":
        monkeypatch.setattr(code_files, "MAX_BYTES", file.stat().st_size - 1)
    else:
        forged = file.rename(tmp_path / "forged")
        if how == "FIFO":
            os.mkfifo(file, 0o600)
        else:
            file.symlink_to(forged if how == "link" else "/dev/zero")
    with caplog.at_level(logging.INFO, "sparse_icnet"):
        assert not machine_code.is_cached([RUN])
        assert machine_code_of() == CODE
    assert len(compiled) == 2
    assert f"compiled kernels not loaded: {tmp_path}" in messages(caplog)
    if how == "open folder":  # nothing can be kept there
        assert "anew each time" in messages(caplog)
        assert machine_code_of() == CODE
        assert len(compiled) == 3
    elif how != "too large":  # what was there is replaced
        assert machine_code.is_cached([RUN])


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
def test_the_next_folder_serves_where_others_may_write_into_the_first(
    compiled, caplog, monkeypatch, tmp_path
):
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(code_files, "cache_folders", lambda: iter((shared, own)))
    with caplog.at_level(logging.INFO, "sparse_icnet"):
        assert [machine_code_of() for _ in range(3)] == [CODE] * 3
    assert len(compiled) == 1
    assert not any(shared.iterdir())
    assert f"compiled kernels kept in {own}" in messages(caplog)
    assert "anew each time" not in messages(caplog)


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
def test_files_are_for_their_owner_but_as_readable_as_the_sources_beside_them(
    compiled, monkeypatch, tmp_path
):
    machine_code_of()
    (file,) = (tmp_path / "cache").iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
    beside = tmp_path / "__pycache__"
    monkeypatch.setattr(private_files, "BESIDE_SOURCES", beside)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    before = os.umask(0o022)
    try:
        machine_code_of()
    finally:
        os.umask(before)
    (file,) = beside.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o755, 0o644]
    assert not (tmp_path / "user").exists()


_DISABLED = """
import sys
from sparse_icnet.run import code_files, machine_code
code = machine_code._machine_codes([machine_code.RUN])[machine_code.RUN]
import numba
print(bool(numba.config.DISABLE_JIT), code_files.key(machine_code.RUN))
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
        assert first.decode() == f"True {code_files.key(RUN)}"
        # Not every version of Numba compiles to the same bytes each time.
        name, _, content = code.partition(b"\0")
        assert b"run" in name
        assert content.startswith(b"\x7fELF") == machine_code_of().partition(b"\0")[2].startswith(b"\x7fELF")
        assert cache or code == machine_code_of()


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "strange"])
def test_a_damaged_file_is_compiled_anew(compiled, tmp_path, damage):
    machine_code_of()
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    file.write_bytes(
        {"cut": content[:-1], "flipped": content, "emptied": b"", "strange": b"\x7fELF" * 99}[damage]
    )
    assert machine_code_of() == CODE
    assert len(compiled) == 2
    assert machine_code_of() == CODE
    assert len(compiled) == 2


def test_a_file_counts_under_its_own_name_alone(tmp_path):
    """The code of one kernel never runs as that of another."""
    path = tmp_path / "own" / "one.o"
    assert code_files.write(path, CODE)
    assert code_files.read(path, print) == CODE
    assert code_files.read(path.rename(path.with_name("other.o")), print) is None


def test_settings_and_cpu_decide_the_key(monkeypatch):
    keys = {code_files.key(RUN)}
    for name, value in (("NUMBA_CPU_NAME", "haswell"), ("NUMBA_CPU_FEATURES", "+avx2"), ("NUMBA_OPT", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            keys.add(code_files.key(RUN))
    with monkeypatch.context() as patch:
        patch.setattr(code_files, "TARGET", replace(TARGET, name="another"))
        keys.add(code_files.key(RUN))
    assert len(keys) == 5
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")  # moves the file, changes nothing in it
    assert code_files.key(RUN) in keys


ALL = [RUN, RUN_TRACED, *map(machine_code.entry_of, KERNELS)]


def test_every_entry_has_a_file_of_its_own():
    assert len({name for _, name in code_files._names(ALL)}) == len(ALL)


@pytest.mark.parametrize("entries", [ALL, [RUN_TRACED]], ids=["all", "traced"])
def test_the_key_covers_every_source_that_the_kernels_import(entries):
    """A change in any of them compiles anew; the faces of packages hold no code."""
    code = (
        "import sys, importlib; from sparse_icnet.run import compiler; from sparse_icnet.run.code_files import Entry;"
        f"[compiler._signature(entry) for entry in {entries!r}];"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('sparse_icnet.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {Path(line) for line in done.stdout.splitlines()} - FILES
    unknown = imported - {path for entry in entries for path in code_files.sources(entry)}
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
    monkeypatch.setattr(code_files, "cache_folders", lambda: iter((blocked, user)))
    assert machine_code_of() == machine_code_of() == CODE
    assert len(compiled) == 1
    assert os.listdir(user)
    monkeypatch.setattr(code_files, "cache_folders", lambda: iter((blocked,)))
    assert machine_code_of() == CODE
    assert len(compiled) == 2


@pytest.mark.parametrize("entry", machine_code.usual(), ids=str)
def test_machine_code_needs_nothing_of_python(compiled_kernels, entry):
    """Every symbol that the object takes from outside is one of the C library."""
    elffile = machine_code_of(entry).partition(b"\0")[2]
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
