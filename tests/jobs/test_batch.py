"""Batches: the same results by any executor, by shards, after interruptions and deaths of workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
from networks import random_picture
from PIL import Image

from sparse_icnet import cli, video
from sparse_icnet.batch import Summary, segment_files
from sparse_icnet.cli import segment as segment_command
from sparse_icnet.files import remove_temporary
from sparse_icnet.jobs import films, tasks
from sparse_icnet.run import machine_code

SIZE = (192, 192)
FRAMES = 2 * video.GROUP + 20  # of the film: three stretches


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """The kernels are there, so that no worker compiles them."""
    machine_code.warm_up()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Six pictures, one that is damaged, an animation and, where PyAV is there, a film."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(6):
        Image.fromarray(random_picture(40, 60, seed=i)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:300])
    frames = [Image.fromarray(random_picture(30, 40, seed=i)) for i in range(3)]
    frames[0].save(folder / "walk.gif", save_all=True, append_images=frames[1:])
    if has_av():
        import av

        with av.open(str(folder / "drive.avi"), "w") as container:
            stream = container.add_stream("mjpeg", 25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
            for i in range(FRAMES):
                picture = Image.fromarray(random_picture(32, 48, seed=i % 50))
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
    return folder


def has_av() -> bool:
    try:
        video.require()
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def segmented(tiny_file, files):
    """Segment `files` into a folder: the summary."""
    return partial(segment_files, files, model=tiny_file, size=SIZE, threads=1, stretch=video.GROUP)


@pytest.fixture(scope="module")
def expected(segmented, tiny_net, files, tmp_path_factory) -> dict[str, bytes]:
    """The results of one process, from the command line's way."""
    out = tmp_path_factory.mktemp("expected")
    code = cli.main(command(files, "-o", out, "-q", "--no-legend", tiny_file=tiny_net.path))
    assert code == 2  # broken.png
    return results_in(out)


def results_in(folder: Path) -> dict[str, bytes]:
    """Content of all files but the manifests; nothing hidden is left."""
    found = {}
    for path in sorted(folder.rglob("*")):
        assert not path.name.startswith("."), path
        if path.is_file() and not path.name.startswith("manifest"):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def lines_in(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("manifest*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def check(folder: Path, summary: Summary, expected: dict[str, bytes]) -> None:
    """All results of one process, each once in the manifest."""
    assert results_in(folder) == expected
    names = [(line["name"], line["frame"]) for line in lines_in(folder)]
    assert len(set(names)) == len(names) == 6 + 3 + has_av()
    assert (summary.pictures, summary.skipped, summary.lost) == (9, 0, 0)
    assert summary.frames == FRAMES * has_av()
    ((source, message),) = summary.failures
    assert "broken.png" in source
    assert "damaged" in message
    assert summary.done == summary.sources - 1


def test_threads(segmented, expected, tmp_path):
    done = []
    with ThreadPoolExecutor(2) as executor:
        summary = segmented(tmp_path, executor, on_records=lambda source, records: done.append(source.name))
    check(tmp_path, summary, expected)
    assert len(done) == len(set(done)) == summary.sources


def test_processes(segmented, expected, tmp_path):
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        check(tmp_path, segmented(tmp_path, executor), expected)


def test_own_pool_and_a_worker_killed_in_the_middle(segmented, expected, tmp_path):
    killed = threading.Event()

    def kill_one(source, records):
        """The first time, one of the processes that this one has started for the pool."""
        if not killed.is_set():
            killed.set()
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
            workers = [
                pid
                for pid in children.read_text().split()
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            os.kill(int(workers[0]), signal.SIGKILL)

    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        pytest.skip("needs /proc")
    summary = segmented(tmp_path, workers=2, on_records=kill_one)
    assert killed.is_set()
    check(tmp_path, summary, expected)


def test_dask_and_a_worker_killed_in_the_middle(segmented, expected, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        pids = client.run(os.getpid)
        assert len(set(pids.values())) == 2
        killed = threading.Event()

        def kill_one(source, records):
            if not killed.is_set():
                killed.set()
                os.kill(next(iter(pids.values())), signal.SIGKILL)

        check(tmp_path, segmented(tmp_path, client.get_executor(), on_records=kill_one), expected)


class Breaking(Executor):
    """Runs tasks at once until it breaks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def submit(self, function, /, *arguments):
        future: Future = Future()
        if not self.left:
            raise BrokenExecutor("gone")
        self.left -= 1
        future.set_result(function(*arguments))
        return future


def test_what_is_done_is_recorded_when_an_executor_breaks_and_resumed(segmented, expected, tmp_path):
    with pytest.raises(BrokenExecutor):
        segmented(tmp_path, Breaking(4), at_once=2)
    there = len(lines_in(tmp_path))
    assert 0 < there < 9
    with ThreadPoolExecutor(2) as executor:
        summary = segmented(tmp_path, executor, skip_existing=True)
    assert results_in(tmp_path) == expected
    assert summary.skipped == there
    assert len(lines_in(tmp_path)) == 9 + has_av()
    again = segmented(tmp_path, Breaking(100), skip_existing=True)
    assert (again.pictures, again.frames, again.skipped) == (0, 0, 9 + has_av())


def test_shards(segmented, expected, tmp_path):
    parts = [segmented(tmp_path, Breaking(100), shard=(i, 3)) for i in (1, 2, 3)]
    assert results_in(tmp_path) == expected
    assert sum(part.pictures for part in parts) == 9
    assert sorted(path.name for path in tmp_path.glob("manifest*")) == [
        f"manifest-{i}-of-3.jsonl" for i in (1, 2, 3)
    ]
    assert len(lines_in(tmp_path)) == 9 + has_av()
    assert segmented(tmp_path, Breaking(100), skip_existing=True).skipped == 9 + has_av()
    with pytest.raises(ValueError, match="1 <= i <= n"):
        segmented(tmp_path, shard=(0, 3))


segment = tasks.segment


def die(call, source, known):
    """A task that takes its process with it."""
    if source.name == "3.png":
        os._exit(1)
    return segment(call, source, known)


def test_a_source_that_kills_its_workers_is_reported(segmented, files, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "segment", die)
    pictures = [files / f"{i}.png" for i in range(6)]
    summary = segment_files(
        pictures, tmp_path, model=segmented.keywords["model"], size=SIZE, threads=1, workers=2
    )
    ((source, message),) = summary.failures
    assert source.endswith("3.png")
    assert "3 worker processes died of it" in message
    assert summary.pictures == 5
    assert len(lines_in(tmp_path)) == 5


@pytest.mark.skipif(not has_av(), reason="videos need PyAV")
def test_a_film_that_fails_in_the_middle_leaves_no_parts(segmented, files, tmp_path, monkeypatch):
    def no_space(*arguments):
        raise OSError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr(films, "_segmented", no_space)
    summary = segment_files(
        files / "drive.avi", tmp_path, ThreadPoolExecutor(2), model=segmented.keywords["model"], size=SIZE,
        threads=1, stretch=video.GROUP,
    )  # fmt: skip
    ((source, message),) = summary.failures
    assert source.endswith("drive.avi")
    assert "Permission denied" in message
    assert results_in(tmp_path) == {}


@pytest.mark.skipif(not has_av(), reason="videos need PyAV")
def test_a_stretch_without_a_frame_that_can_be_decoded(segmented, files, tmp_path, monkeypatch):
    read, ticks = video.read, []

    def damaged(stretch):
        for index, picture in read(stretch):
            if not video.GROUP <= index < 2 * video.GROUP:
                yield index, picture

    monkeypatch.setattr(video, "read", damaged)
    film = {"model": segmented.keywords["model"], "size": SIZE, "threads": 1}
    for name, stretch in (("whole", 10 * video.GROUP), ("parts", video.GROUP)):
        executor = Breaking(10)
        summary = segment_files(files / "drive.avi", tmp_path / name, executor, stretch=stretch, **film)
        ticks.append(10 - executor.left)
        assert (summary.frames, summary.lost) == (FRAMES - video.GROUP, video.GROUP)
    assert ticks == [1, 5]  # one task; one to look, three stretches, one to join
    assert results_in(tmp_path / "parts") == results_in(tmp_path / "whole")
    one, other = (lines_in(tmp_path / name)[0] for name in ("whole", "parts"))
    one["milliseconds"] = other["milliseconds"] = 0
    assert one == other


class GivingUp(Breaking):
    """Cancels what it cannot do, as Dask does when its scheduler is gone."""

    def submit(self, function, /, *arguments):
        try:
            return super().submit(function, *arguments)
        except BrokenExecutor:
            future: Future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future


def test_an_executor_that_gives_up(segmented, tmp_path):
    with pytest.raises(BrokenExecutor, match="gave up "):
        segmented(tmp_path, GivingUp(4))
    assert 0 < len(lines_in(tmp_path)) <= 4


def test_what_dead_processes_left_is_removed(tmp_path):
    code = (
        "import os, sys, pathlib; from sparse_icnet import files; files.tag(sys.argv[2])\n"
        "with files.replacing(pathlib.Path(sys.argv[1], 'a.png')) as temporary:\n"
        "    temporary.touch(); os._exit(0)"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path), name], check=True)
    remove_temporary(tmp_path, "one")
    (left,) = tmp_path.iterdir()
    assert ".two." in left.name


SMALL = ["--size", "192x192", "--threads", "1"]


def command(*arguments, tiny_file):
    return [*map(str, ("segment", *arguments)), "--model", str(tiny_file), *SMALL]


def test_command_line_with_workers(expected, tiny_file, files, tmp_path):
    arguments = command(files, "-o", tmp_path / "out", "--workers", 2, "--no-legend", tiny_file=tiny_file)
    run = subprocess.run(
        [sys.executable, "-m", "sparse_icnet", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 2
    assert f"{7 + has_av()} of {8 + has_av()} done: 9 pictures" in run.stdout
    errors = [line for line in run.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "broken.png" in errors[0]
    assert results_in(tmp_path / "out") == expected


def test_command_line_with_a_scheduler(capsys, expected, tiny_file, files, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        arguments = (files, "-o", tmp_path / "out", "--scheduler", cluster.scheduler_address, "--no-legend")
        assert cli.main(command(*arguments, tiny_file=tiny_file)) == 2
    assert results_in(tmp_path / "out") == expected
    assert "broken.png" in capsys.readouterr().err


def test_dask_says_nothing_of_an_interruption(monkeypatch):
    """Its client logs, with tracebacks, each answer that nobody waits for any more."""

    class Client(nullcontext):
        def __init__(self, address, set_as_default):
            super().__init__()

        def get_executor(self, retries):
            return None

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client))
    try:
        with pytest.raises(KeyboardInterrupt), segment_command._cluster("tcp://here:1"):
            raise KeyboardInterrupt
        assert not logging.getLogger("distributed.client").isEnabledFor(logging.CRITICAL)
    finally:
        logging.disable(logging.NOTSET)


def test_command_line_shards(capsys, expected, tiny_file, files, tmp_path):
    for i in (1, 2):
        cli.main(
            command(files, "-o", tmp_path, "-q", "--shard", f"{i}/2", "--no-legend", tiny_file=tiny_file)
        )
    assert results_in(tmp_path) == expected
    assert (tmp_path / "manifest-2-of-2.jsonl").is_file()
    with pytest.raises(SystemExit):
        cli.main(command(files, "-o", tmp_path, "--shard", "3/2", tiny_file=tiny_file))
    assert "expected I/N" in capsys.readouterr().err


_TERMINATED = """
import os, signal, sys
from sparse_icnet.batch import segment_files
if __name__ == "__main__":
    def end(source, records):
        os.kill(os.getpid(), signal.SIGTERM)
    files, out, model = sys.argv[1:]
    segment_files(files, out, model=model, size=(192, 192), threads=1, workers=2, on_records=end)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_terminated(tiny_file, files, tmp_path):
    """Whole results alone, and no complaint of the interpreter about what the pool had of the system."""
    (tmp_path / "script.py").write_text(_TERMINATED)
    command = [sys.executable, tmp_path / "script.py", files, tmp_path / "out", tiny_file]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    assert results_in(tmp_path / "out")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_terminated_while_a_pool_is_made():
    """Its semaphores are given back: else Python says on stderr that they were lost."""
    code = """if True:
        import multiprocessing, os, signal
        from sparse_icnet.jobs.tasks import ending_in_order
        def make():
            queue = multiprocessing.get_context("spawn").SimpleQueue()
            os.kill(os.getpid(), signal.SIGTERM)
            while queue:
                pass
        if __name__ == "__main__":
            with ending_in_order():
                make()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_a_handler_of_ones_own_stays(segmented, files, tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        own = signal.getsignal(signal.SIGTERM)
        with tasks.ending_in_order():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def _held() -> bool:
    """Whether Ctrl-C waits in this thread."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")
def test_interruptions_wait_while_processes_start(segmented, files, tmp_path):
    """A process that imports its modules could answer Ctrl-C, which reaches all of a terminal, by a traceback alone."""
    held = []

    class Watched(Breaking):
        def submit(self, function, /, *arguments):
            held.append(_held())
            return super().submit(function, *arguments)

    segment_files(
        files / "0.png", tmp_path, Watched(9), model=segmented.keywords["model"], size=SIZE, threads=1
    )
    assert held == [True]
    assert not _held()
    code = (
        "import signal; from types import SimpleNamespace; from sparse_icnet.jobs import tasks\n"
        "held = lambda: signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "before = held(); signal.raise_signal(signal.SIGINT); tasks.start(SimpleNamespace(value=0))\n"
        "print(before, held(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    with tasks.starting():
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (child.stdout, child.stderr) == ("True False True\n", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_command_line_interrupted(tiny_file, files, tmp_path):
    out = tmp_path / "out"
    arguments = command(files, "-o", out, "--workers", 2, "--save", "classes", tiny_file=tiny_file)
    process = subprocess.Popen(
        [sys.executable, "-m", "sparse_icnet", *arguments],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list(out.glob("*.png")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
