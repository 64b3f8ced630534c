"""Several kernels compiled at once: the same objects whoever makes them; an extra process that fails costs time only."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading

import pytest

from sparse_icnet.operators.elementwise.params import ShiftParams
from sparse_icnet.operators.output.params import ArgmaxParams, LogitsParams
from sparse_icnet.run import compiler, compiling, machine_code
from sparse_icnet.run.code_files import Entry

ENTRIES = [*map(machine_code.entry_of, (ShiftParams, LogitsParams, ArgmaxParams)), machine_code.RUN]


@pytest.fixture
def stand_in(monkeypatch):
    """A compiler that takes no time; the entries that it was asked for."""
    calls: list[Entry] = []

    def compile_(entry: Entry) -> bytes:
        calls.append(entry)
        return str(entry).encode()

    monkeypatch.setattr(compiler, "compiled", compile_)
    return calls


@pytest.fixture
def started(monkeypatch):
    """The extra processes that were started; two CPUs."""
    processes: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(compiling.subprocess, "Popen", Popen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    return processes


@pytest.fixture
def told(stand_in, started, monkeypatch):
    """This process compiles nothing before the other has been given an entry, of which this tells."""
    given = threading.Event()
    send, alone = compiling._send, compiler.compiled

    def sent(to, value) -> None:
        if value[0] == ENTRIES[-1].module:  # an entry, which is its from now on
            given.set()
        send(to, value)

    def here(entry: Entry) -> bytes:
        assert given.wait(30)
        return alone(entry)

    monkeypatch.setattr(compiling, "_send", sent)
    monkeypatch.setattr(compiler, "compiled", here)
    return given


def compiled_all(entries: list[Entry] = ENTRIES) -> dict[Entry, bytes]:
    codes: dict[Entry, bytes] = {}
    compiling.compile_all(entries, codes.__setitem__)
    return codes


def test_the_objects_are_the_same_whoever_makes_them_and_in_whatever_order(started, monkeypatch):
    begun = threading.Event()
    alone = compiler.compiled

    def here(entry: Entry) -> bytes:
        begun.wait(120)  # until the other process has made one
        return alone(entry)

    monkeypatch.setattr(compiler, "compiled", here)
    codes: dict[Entry, bytes] = {}
    other: list[Entry] = []

    def take(entry: Entry, code: bytes) -> None:
        codes[entry] = code
        if threading.current_thread() is not threading.main_thread():
            other.append(entry)
            begun.set()

    compiling.compile_all(ENTRIES, take)
    assert len(started) == 1
    assert other[0] == ENTRIES[-1]
    assert started[0].poll() is not None
    assert codes == {entry: alone(entry) for entry in reversed(ENTRIES)}


_FAULTS = {
    "dies": "raise SystemExit(1)",
    "dies when told": "import os, sys; sys.stdin.buffer.readline(); sys.stdin.buffer.readline(); os._exit(1)",
    "hangs": "import time; time.sleep(300)",
    "sends something else": "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stdout.flush()",
    "sends too much": "import sys; sys.stdout.buffer.write(b'x' * 50_000)",
    "cannot import the package": "import sys; sys.path.clear(); import sparse_icnet",
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_what_an_extra_process_does_not_bring_is_compiled_here(stand_in, started, told, monkeypatch, fault):
    monkeypatch.setattr(compiling, "_START", _FAULTS[fault])
    monkeypatch.setattr(compiling, "PATIENCE", 0.2)
    assert compiled_all() == {entry: str(entry).encode() for entry in ENTRIES}
    assert sorted(map(str, stand_in)) == sorted(map(str, ENTRIES))
    assert [process.poll() is not None for process in started] == [True]


def test_one_of_another_cpu_or_other_sources_does_not_help(stand_in, started, told, monkeypatch):
    monkeypatch.setattr(compiling, "key", lambda entry: "another")
    assert len(compiled_all()) == len(stand_in) == len(ENTRIES)
    assert told.is_set()
    assert started[0].poll() is not None


@pytest.mark.parametrize("error", [OSError("no more processes"), MemoryError("none left")])
def test_without_an_extra_process(stand_in, monkeypatch, error):
    monkeypatch.setattr(compiling, "_extra_processes", lambda entries: 2)

    def refuse(*_arguments, **_options):
        raise error

    monkeypatch.setattr(compiling.subprocess, "Popen", refuse)
    assert len(compiled_all()) == len(ENTRIES)


def test_no_thread_can_be_started(stand_in, started, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert len(compiled_all()) == len(stand_in) == len(ENTRIES)
    assert started[0].poll() is not None


def test_the_garbage_collector_is_as_before(stand_in, monkeypatch):
    monkeypatch.setattr(compiling, "_extra_processes", lambda entries: 0)
    seen: list[tuple[int, int, int]] = []
    for thresholds in ((700, 10, 10), (0, 10, 10)):
        before = gc.get_threshold()
        try:
            gc.set_threshold(*thresholds)
            compiling.compile_all(ENTRIES[:1], lambda *_: seen.append(gc.get_threshold()))
            assert gc.get_threshold() == thresholds
        finally:
            gc.set_threshold(*before)
    assert seen == [compiling._COLLECTIONS, (0, 10, 10)]


def test_how_many(monkeypatch):
    def count(cpus: int, entries: int) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
        return compiling._extra_processes(entries)

    assert [count(cpus, 12) for cpus in (1, 2, 3, 64)] == [0, 1, 2, compiling.MOST]
    assert [count(64, entries) for entries in (1, 2)] == [0, 1]
    for executable in ("", None, "/usr/bin/blender", "/x/pythonservice.exe", "/x/python-wrapper"):
        monkeypatch.setattr(sys, "executable", executable)
        assert count(2, 12) == 0
    for name in ("python", "Python", "python3.11", "python3.14t", "pythonw.exe", "pypy3", "python3d"):
        monkeypatch.setattr(sys, "executable", f"/x/{name}")
        assert count(2, 12) == 1
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert count(2, 12) == 0


def test_an_interruption_ends_both(started, monkeypatch):
    def interrupted(entry: Entry) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler, "compiled", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled_all()
    assert started[0].poll() is not None


def test_an_error_of_the_compiler_is_told_once_all_else_is_done(started, monkeypatch):
    """Also one of the extra process, which this one then meets itself."""
    wrong = Entry("run.loop", "no_such_function")
    with pytest.raises(AttributeError, match="no_such_function"):
        compiled_all([ENTRIES[0], wrong])
    assert started[0].poll() is not None


def test_an_interruption_while_they_are_started_ends_those_that_run(started, monkeypatch):
    monkeypatch.setattr(compiling, "_extra_processes", lambda entries: 2)
    start = compiling._Extra.__init__

    def interrupted(extra, *arguments) -> None:
        if started:
            raise KeyboardInterrupt
        start(extra, *arguments)

    monkeypatch.setattr(compiling._Extra, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled_all()
    assert [process.poll() is not None for process in started] == [True]


_PIPE = """
import os, signal, sys, time
from sparse_icnet.run import compiler, compiling, machine_code
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
send = compiling._send
def late(to, value):
    while compiling_process.poll() is None:
        time.sleep(0.01)
    send(to, value)
class Popen(compiling.subprocess.Popen):
    def __init__(self, *arguments, **options):
        global compiling_process
        compiling_process = self
        super().__init__(*arguments, **options)
compiling._send, compiling.subprocess.Popen = late, Popen
compiling._START = "raise SystemExit(3)"
compiling._extra_processes = lambda entries: 1
def stand_in(entry):
    time.sleep(1.0)
    return b"made"
compiler.compiled = stand_in
compiling.compile_all(machine_code.usual()[:2], lambda entry, code: print(entry))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGPIPE is POSIX's")
def test_one_that_dies_does_not_end_a_program_that_sigpipe_ends():
    done = subprocess.run([sys.executable, "-c", _PIPE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == 2


def test_it_imports_nothing_from_the_current_folder(stand_in, started, told, monkeypatch, tmp_path):
    """Which may be that of a foreign program by now: "" is in the path of an interactive session."""
    foreign, out = tmp_path / "sparse_icnet", tmp_path / "imported"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    package = os.path.dirname(os.path.dirname(os.path.abspath(str(compiling.__file__))))
    others = [one for one in sys.path if os.path.abspath(one) != os.path.dirname(package)]
    monkeypatch.setattr(sys, "path", ["", ".", *others])
    monkeypatch.chdir(tmp_path)
    begin = compiling._START.partition("from")[0]
    monkeypatch.setattr(
        compiling,
        "_START",
        f"{begin}import sparse_icnet; open({str(out)!r}, 'w').write(sparse_icnet.__file__)",
    )
    compiled_all()
    assert out.read_text() == os.path.join(package, "__init__.py")


def test_it_writes_compiled_sources_where_this_process_does(stand_in, started, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(compiling, "_START", "import sys; sys.stdin.buffer.readline(); import sparse_icnet")
    compiled_all()
    assert started[0].args[1:4] == ["-I", "-X", f"pycache_prefix={tmp_path}"]


def test_an_extra_process_ends_with_the_one_that_started_it():
    """Whose end of the pipe is closed then, in the middle of its work."""
    process = subprocess.Popen(
        [sys.executable, "-c", compiling._START], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    entry = machine_code.entry_of(ShiftParams)
    line = [entry.module, entry.function, entry.record, entry.sources, compiling.key(entry)]
    for value in (sys.path, line, line, line, line):
        process.stdin.write(json.dumps(value).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout is not None
    assert len(process.stdout.read(compiling._DIGEST + 8)) == compiling._DIGEST + 8  # it works
    process.stdin.close()
    assert process.wait(60) == 0


_BOTH = """
import hashlib, os, sys
from sparse_icnet.run import code_files, machine_code
from sparse_icnet.operators.output.params import ArgmaxParams, LogitsParams
entries = [*map(machine_code.entry_of, (ArgmaxParams, LogitsParams))]
print(flush=True)
sys.stdin.readline()
codes = machine_code.load(entries)
assert machine_code.is_cached(entries)
print(*(hashlib.sha256(code.content).hexdigest() for code in codes), flush=True)
"""


def test_two_processes_compile_at_the_same_time(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _BOTH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        results.append(process.communicate(timeout=300)[0])
        assert process.returncode == 0
    assert results[0] == results[1]
    assert len(results[0].split()) == 2
    assert sorted(path.name.partition("-")[0] for path in tmp_path.glob("*.o")) == ["argmax", "logits"]
