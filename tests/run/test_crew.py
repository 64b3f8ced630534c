"""Threads of a session: interrupted at any instruction, forked, short of threads, late, early; the bits stay right."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from engine import bits, random_blob
from test_session import expected, native_threads, small_graph

from sparse_icnet.plan import plan_for
from sparse_icnet.processes import Once, PerProcess
from sparse_icnet.run import control as c
from sparse_icnet.run import crew as crew_module
from sparse_icnet.run import session as session_module
from sparse_icnet.run.crew import Crew
from sparse_icnet.run.machine_code import run_function
from sparse_icnet.run.session import Session

GRAPH = small_graph()
BLOBS = [random_blob(GRAPH.input.shape, seed) for seed in range(3)]
WANTED = [expected(GRAPH, seed) for seed in range(3)]
TRACED = {crew_module.__file__, session_module.__file__, PerProcess.get.__code__.co_filename}


def right(session: Session, seed: int) -> bool:
    return np.array_equal(bits(session.probabilities(BLOBS[seed])), bits(WANTED[seed]))


def crew_of(session: Session) -> Crew:
    return session._crew.get()


def words(session: Session) -> list[int]:
    control = crew_of(session)._control
    return [int(control[word]) for word in (c.STATE, c.TURN)]


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def script(text: str, *arguments: object, timeout: float = 240) -> str:
    """Standard output of a script in a process of its own, which must end well and say nothing on standard error."""
    prelude = f"import faulthandler; faulthandler.dump_traceback_later({timeout - 20}, exit=True)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", prelude + textwrap.dedent(text), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return done.stdout


# --- between any two instructions ----------------------------------------------------------------------------


class _At:
    """Calls `act` before instruction number `position` of those that the engine's Python side executes."""

    def __init__(self, position: int, act: Callable[[], None]) -> None:
        self.left, self.act = position, act

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        code: CodeType = frame.f_code
        if code.co_filename not in TRACED and code is not run_function().__code__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._local

    def _local(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left == -1:
                self.act()
        return self._local


@contextlib.contextmanager
def at(position: int, act: Callable[[], None]) -> Iterator[_At]:
    before, tracer = sys.gettrace(), _At(position, act)
    sys.settrace(tracer)
    try:
        yield tracer
    finally:
        sys.settrace(before)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_interruption_before_any_instruction_does_no_harm(threads, fresh):
    """The next call gives the right bits, nobody is left inside, and there are no more workers than there should be."""
    session = Session(plan_for(GRAPH, threads))
    for position in itertools.count():
        if fresh:
            session = Session(plan_for(GRAPH, threads))
        out = np.empty(session.plan.output_shape, np.float32)
        try:
            with at(position, interrupt) as tracer:
                session.probabilities(BLOBS[0], out=out)
        except KeyboardInterrupt:
            assert words(session) == [0, 0]
            del out
            assert right(session, position % 2)
        else:
            assert tracer.left >= 0
            np.testing.assert_array_equal(bits(out), bits(WANTED[0]))
            break
    assert position > 100
    del session
    gc.collect()
    assert wait_for(lambda: native_threads() < 20)


def test_an_inference_may_begin_between_any_two_instructions_of_another():
    """As one in a signal handler, or in a finalizer that the garbage collector calls."""
    session = Session(plan_for(GRAPH, 2))
    assert right(session, 0)
    inner: list[bool] = []
    for position in itertools.count():
        with at(position, lambda: inner.append(right(session, 1))) as tracer:
            out = session.probabilities(BLOBS[0])
        np.testing.assert_array_equal(bits(out), bits(WANTED[0]))
        if tracer.left >= 0:
            break
        assert len(inner) == position + 1
    assert all(inner)
    assert len(inner) > 100


def test_interrupted_between_asking_for_help_and_the_own_run(monkeypatch):
    """A real SIGINT: the workers come, the caller never does, and the memory of the call is gone."""
    session = Session(plan_for(GRAPH, 4))
    assert right(session, 0)
    ask = Crew._ask_for_help

    def ask_and_interrupt(self: Crew, ticket: int) -> None:
        ask(self, ticket)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for seed in (0, 1, 2) * 30:
            with monkeypatch.context() as patch:
                patch.setattr(Crew, "_ask_for_help", ask_and_interrupt)
                with pytest.raises(KeyboardInterrupt):
                    session.probabilities(BLOBS[seed].copy())
            assert right(session, seed)
    finally:
        signal.signal(signal.SIGINT, before)


_STORM = """
import os, random, signal, sys, threading, time
import numpy as np
from test_crew import BLOBS, GRAPH, WANTED, Session, bits, plan_for
threads, callers, interruptions = map(int, sys.argv[1:])
sessions, done, wrong = [Session(plan_for(GRAPH, threads)) for _ in range(5)], [], []
armed = False  # one exception for each time it is set: none comes while the last is dealt with

def interrupt(number, frame):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)

def right(seed):
    session = sessions[caught * 5 // (interruptions + 1)]
    return np.array_equal(bits(session.probabilities(BLOBS[seed].copy())), bits(WANTED[seed]))

def call():
    while not done:
        if not right(1):
            wrong.append("a thread beside")

def send():
    while not done:
        time.sleep(random.random() * 0.002)
        os.kill(os.getpid(), signal.SIGINT)

beside = [threading.Thread(target=call) for _ in range(callers)]
sender = threading.Thread(target=send)
caught = calls = 0
for thread in (*beside, sender):
    thread.start()
while caught < interruptions:
    calls += 1
    try:
        armed = True
        if not right(calls % 3):
            wrong.append("the main thread")
        armed = False
    except KeyboardInterrupt:
        caught += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
done.append(True)
for thread in (*beside, sender):
    thread.join()
print(len(wrong), all(map(right, range(3))))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process there")
@pytest.mark.parametrize(("threads", "callers"), [(1, 0), (2, 0), (4, 0), (3, 2)])
def test_many_interruptions_at_random(threads, callers):
    assert script(_STORM, threads, callers, 400) == "0 True\n"


# --- fewer threads than wanted ---------------------------------------------------------------------------------


def test_threads_that_cannot_start_are_not_missed(monkeypatch, caplog):
    session = Session(plan_for(GRAPH, 4))

    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    before = native_threads()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "sparse_icnet"):
        patch.setattr("_thread.start_new_thread", refuse)
        assert all(right(session, seed) for seed in (0, 1, 2))
    assert native_threads() == before
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 4 threads run: can't start new thread"
    ]
    assert right(session, 0)  # now they can
    assert wait_for(lambda: native_threads() == before + 3)
    assert right(session, 1)


_NO_MEMORY = """
import logging
import resource
logging.basicConfig()
from test_crew import GRAPH, Session, crew_of, native_threads, plan_for, right
session = Session(plan_for(GRAPH, 8))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (24 << 20)  # room for some stacks of 8 MiB
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
before = native_threads()
print(all(right(session, seed) for seed in (0, 1, 2) * 10), native_threads() - before < 7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="stacks are counted as Linux does")
def test_too_little_memory_for_stacks():
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _NO_MEMORY],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "True True\n", done.stderr[-2000:]
    assert "of 8 threads run: " in done.stderr


@pytest.mark.parametrize("threads", [16, 64])
def test_more_threads_than_cores(threads):
    before = native_threads()
    session = Session(plan_for(GRAPH, threads))
    assert all(right(session, seed) for seed in (0, 1, 2) * 5)
    assert wait_for(lambda: native_threads() == before + threads - 1)
    assert all(right(session, seed) for seed in (0, 1, 2) * 5)
    del session
    gc.collect()
    assert wait_for(lambda: native_threads() == before)


# --- turns, late and early helpers -------------------------------------------------------------------------------


def test_a_caller_waits_while_another_is_inside(monkeypatch):
    session = Session(plan_for(GRAPH, 2))
    assert right(session, 0)
    control = crew_of(session)._control
    control[c.TURN] = 1  # as while another thread is inside
    crew = crew_of(session)
    run = run_function()
    assert run(crew._address, 10**6, 8, 0, 0) == c.BUSY  # an address that nobody may read
    assert control[c.STATE] == 0
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(right, session, 1)
        time.sleep(3 * crew_module.LOOK)
        assert not result.done()
        control[c.TURN] = 0  # without a hint
        assert result.result(20)


def test_a_late_helper_reads_nothing():
    """An address that nobody may read stands where the steps were."""
    session = Session(plan_for(GRAPH, 2))
    assert right(session, 0)
    crew = crew_of(session)
    crew._control[[c.STEPS, c.SCRATCH]] = 8
    for _ in range(1000):
        assert run_function()(crew._address, 0, 0, 0, 0) == c.DONE
    assert words(session) == [0, 0]


def test_a_helper_beyond_the_number_of_threads_leaves():
    session = Session(plan_for(GRAPH, 2))
    crew = crew_of(session)
    control = crew._control
    control[c.STEPS] = control[c.SCRATCH] = 8
    control[c.STATE], control[c.SLOTS] = 1, 2  # open, and the second has entered
    assert run_function()(crew._address, 0, 0, 0, 0) == c.DONE
    assert control[c.STATE] == 1


def test_an_early_helper_waits_for_its_inference(tiny_graph):
    """It was asked for, the caller was not yet scheduled: it looks again instead of going back to sleep."""
    session = Session(plan_for(tiny_graph, 2))
    blob = random_blob(tiny_graph.input.shape)
    wanted = session.probabilities(blob)
    crew = crew_of(session)
    assert wait_for(lambda: not crew._vacant)
    control = crew._control
    control[c.PATIENCE] = 1 << 60
    for _ in range(500):
        control[c.ANNOUNCED] = next(crew._tickets)
        crew._wake.put(None)  # the worker looks, and nothing is open
        assert wait_for(lambda: crew._wake.qsize() == 0)
        np.testing.assert_array_equal(bits(session.probabilities(blob)), bits(wanted))
        if control[c.SLOTS] == 2:  # it took part; on a busy machine the caller may be done before
            return
    raise AssertionError("no helper came")


def test_a_helper_whose_inference_never_begins_gives_up():
    session = Session(plan_for(GRAPH, 2))
    assert right(session, 0)
    crew = crew_of(session)
    crew._control[c.ANNOUNCED] = next(crew._tickets)
    assert run_function()(crew._address, 0, 0, 0, 0) == c.DONE
    assert right(session, 1)


# --- forks, exits --------------------------------------------------------------------------------------------------

_FORK_WHILE_INFERRING = """
import os, signal, sys, threading
from test_crew import GRAPH, Session, plan_for, right
session, stop = Session(plan_for(GRAPH, int(sys.argv[1]))), []

def call():
    while not stop:
        assert right(session, 1)

beside = [threading.Thread(target=call) for _ in range(2)]
for thread in beside:
    thread.start()
codes = []
for fork in range(20):
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if all(right(session, seed) for seed in (0, 1, 2) * 5) else 1)
    codes.append(os.waitpid(child, 0)[1])
    assert right(session, 2)
stop.append(True)
for thread in beside:
    thread.join()
print(*codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_forked_while_other_threads_infer(threads):
    assert script(_FORK_WHILE_INFERRING, threads) == " ".join(["0"] * 20) + "\n"


_FORK_WHILE_MAKING = """
import os, signal, threading
from sparse_icnet.processes import Once
made, begun, go_on = [], threading.Event(), threading.Event()

def make():
    made.append(os.getpid())
    if len(made) == 1:
        begun.set()
        go_on.wait()
    return os.getpid()

once = Once(make)
maker = threading.Thread(target=once.get)
maker.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(0 if once.get() == os.getpid() else 1)
print(os.waitpid(child, 0)[1])
go_on.set()
maker.join()
print(once.get() == os.getpid(), len(made))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_while_another_thread_makes_the_session():
    assert script(_FORK_WHILE_MAKING) == "0\nTrue 1\n"


_FORK_WHILE_COMPILING = """
import os, signal, threading, time
from sparse_icnet.run import machine_code
begun, done = threading.Event(), []

def compile_(entries, compiling):
    begun.set()
    time.sleep(0.5)
    done.append(1)
    return dict.fromkeys(entries)

machine_code._machine_codes, machine_code._linked, machine_code._callable = compile_, dict, lambda code: "run"
compiler = threading.Thread(target=machine_code.run_function)
compiler.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(0 if machine_code.run_function() == "run" and done == [1] else 1)
print(os.waitpid(child, 0)[1], machine_code.run_function(), done)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_waits_for_the_compiler():
    """What Numba and LLVM were in the middle of could not be gone on with in the child."""
    assert script(_FORK_WHILE_COMPILING) == "0 run [1]\n"


_EXIT = {
    "workers wait": "right(session, 0)",
    "a thread infers": """
import threading, time
threading.Thread(target=lambda: [right(session, 0) for _ in range(10**9)], daemon=True).start()
time.sleep(0.1)
""",
    "at exit": """
import atexit
atexit.register(lambda: print(right(session, 0)))
""",
}


@pytest.mark.parametrize("how", list(_EXIT))
def test_the_interpreter_exits(how):
    text = (
        "from test_crew import GRAPH, Session, plan_for, right\nsession = Session(plan_for(GRAPH, 4))\n"
        + _EXIT[how]
    )
    assert script(text) == ("True\n" if how == "at exit" else "")


# --- values made once ------------------------------------------------------------------------------------------------


def test_once_makes_one_value_for_all_threads():
    made: list[int] = []

    def make() -> int:
        time.sleep(0.05)
        made.append(len(made))
        return made[-1]

    once = Once(make)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: once.get(), range(8))) == {0}
    assert made == [0]


def elsewhere(once: Once[int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(once.get).result(20)


def test_once_is_made_anew_after_an_interruption():
    made: list[int] = []

    def make() -> int:
        made.append(1)
        if len(made) == 1:
            raise KeyboardInterrupt
        return len(made)

    once = Once(make)
    with pytest.raises(KeyboardInterrupt):
        once.get()
    assert elsewhere(once) == once.get() == 2


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals cannot be sent to a thread there")
def test_once_interrupted_while_another_thread_makes_the_value():
    begun, go_on = threading.Event(), threading.Event()

    def make() -> int:
        begun.set()
        go_on.wait()
        return 1

    once = Once(make)
    main = threading.main_thread().ident

    def send() -> None:
        time.sleep(0.1)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(3) as pool:
            maker = pool.submit(once.get)
            begun.wait()
            pool.submit(send)
            with pytest.raises(KeyboardInterrupt):
                once.get()
            waiter = pool.submit(once.get)
            go_on.set()
            assert maker.result(20) == waiter.result(20) == once.get() == 1
    finally:
        go_on.set()
        signal.signal(signal.SIGINT, before)
