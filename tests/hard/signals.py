"""Ctrl-C and SIGTERM at random moments: everything ends soon or goes on, no file is half, and the next run completes it.

Of commands: one line and 130 after Ctrl-C, death of the signal after SIGTERM, no process left behind, results equal to
those of an undisturbed run or not there.  The same folder is then gone on with by --skip-existing until all is done, and
compared.  Of `net(blob)` in a loop: KeyboardInterrupt comes out, and the next result has the same bits.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import HELPERS, ROOT
from .record import Record
from .workshop import PATIENCE, Workshop, end, until, workshop, wrong_files

SOON = 1.0  # second
_KINDS = {"segment": (), "segment --workers 2": ("--workers", "2")}
_LOOP = """
import hashlib, os, random, signal, sys, threading, time
import numpy as np, sparse_icnet
model, count, threads, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
net = sparse_icnet.load(model, size=(192, 192), threads=threads)
rng = np.random.default_rng(seed)
blobs = [rng.normal(0, 1.3, (1, 3, 192, 192)).astype(np.float32) for _ in range(3)]
results = [hashlib.sha256(net(blob)).digest() for blob in blobs]
signal.signal(signal.SIGINT, signal.default_int_handler)
chance, state = random.Random(seed), {"sent": 0, "armed": False}
def send():
    while state["sent"] < count:
        if state["armed"]:
            time.sleep(chance.random() * 0.02)
            state["armed"] = False
            state["sent"] += 1
            os.kill(os.getpid(), signal.SIGINT)
        else:
            time.sleep(0.0005)
sender = threading.Thread(target=send)
sender.start()
caught = wrong = late = 0
while caught < count:
    for blob, expected in zip(blobs, results):
        try:
            state["armed"] = True
            start = time.monotonic()
            while state["armed"] or caught < state["sent"]:
                net(blob)
        except KeyboardInterrupt:
            caught += 1
        state["armed"] = False
        wrong += hashlib.sha256(net(blob)).digest() != expected
        if caught >= count:
            break
sender.join()
print(caught, wrong)
"""
_ENDLESS = """
import os, sys
import numpy as np, sparse_icnet
net = sparse_icnet.load(sys.argv[1], size=(192, 192), threads=2)
blob = np.zeros((1, 3, 192, 192), np.float32)
net(blob)
os.write(1, b"x")
while True:
    net(blob)
"""


def run(interrupts: int, terminations: int, seed: int, scheduler: bool = True) -> Record:
    """So many Ctrl-C and SIGTERM: six tenths of those in loops of inferences, the others in commands."""
    record = Record("signals", seed)
    chance = random.Random(seed)
    record.figures["load_average"] = list(os.getloadavg())
    seconds: dict[str, list[float]] = {}
    with workshop() as shop:
        in_loops = interrupts * 6 // 10
        for threads in (1, 2):
            _loop(record, shop, in_loops // 2, threads, seed)
        in_cluster = min(10, (interrupts - in_loops) // 10, terminations // 10) if scheduler else 0
        in_processes = terminations // 5
        for _ in range(in_processes):
            _terminate_a_loop(record, shop, chance, seconds)
        left = {
            signal.SIGINT: interrupts - in_loops - in_cluster,
            signal.SIGTERM: terminations - in_processes - in_cluster,
        }
        # Two thirds of them without worker processes.
        alone = [which for which, count in left.items() for _ in range(count - count // 3)]
        pooled = [which for which, count in left.items() for _ in range(count // 3)]
        for (name, more), moments in zip(_KINDS.items(), (alone, pooled), strict=True):
            chance.shuffle(moments)
            _commands(record, shop, name, more, moments, chance, seconds)
        if in_cluster:
            with _cluster(record) as address:
                if address:
                    moments = [signal.SIGINT, signal.SIGTERM] * in_cluster
                    more = ("--scheduler", address)
                    _commands(record, shop, "segment --scheduler", more, moments, chance, seconds)
    record.figures["seconds_to_the_end"] = {
        what: {
            "median": round(float(np.median(times)), 3),
            "most": round(max(times), 3),
            "over_1_s": sum(time > SOON for time in times),
        }
        for what, times in seconds.items()
    }
    return record


def _commands(
    record: Record,
    shop: Workshop,
    name: str,
    more: tuple[str, ...],
    moments: list[signal.Signals],
    chance: random.Random,
    seconds: dict[str, list[float]],
) -> None:
    """A signal in each run; the next run goes on in the same folder until all is done."""
    out = shop.folder / "out"
    words = shop.segment(out, "--skip-existing", *more)
    whole = max(shop.run(*words).seconds, 0.2)
    shutil.rmtree(out)
    terminated = False
    for which in moments:
        child = shop.start(*words)
        time.sleep(chance.random() * whole)
        start = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            if which is signal.SIGINT and name != "segment":
                os.killpg(child.pid, which)  # as a terminal does
            else:
                child.send_signal(which)
        ended = end(child, start)
        gone = until(lambda child=child: not _group_lives(child.pid), 10)
        what = f"{which.name} in {name}"
        # Behind its last line of Python the interpreter takes its handlers away; all is done by then.
        done = ended.code == 0 or (
            ended.code == -signal.SIGINT and not ended.err and results(out) == set(shop.expected)
        )
        good = done or (
            ended.one_line(130) and "interrupted" in ended.err
            if which is signal.SIGINT
            else ended.code == -signal.SIGTERM and not ended.err
        )
        record.check(good, what, ended.complaint)
        record.check(gone, "no process left", f"{what}: processes of its group live on")
        terminated |= which is signal.SIGTERM
        if ended.code:
            seconds.setdefault(what, []).append(ended.seconds)
        wrong = wrong_files(out, shop.expected, hidden=terminated)
        record.check(not wrong, "folders looked at", f"{what}: {wrong}")
        if ended.code == 0 or chance.random() < 0.1:
            again = shop.run(*words)
            wrong = wrong_files(out, shop.expected)
            missing = sorted(set(shop.expected) - results(out))
            record.check(
                again.code == 0 and not wrong and not missing,
                "completed afterwards",
                f"{what}: {again.complaint}, wrong {wrong}, missing {missing}",
            )
            shutil.rmtree(out)
            terminated = False
    shutil.rmtree(out, ignore_errors=True)


def results(folder: Path) -> set[str]:
    """Names of the results in a folder."""
    return {path.name for path in folder.glob("*.png")}


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _python(code: str, *words: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, words)]


def _environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(HELPERS)]))


def _loop(record: Record, shop: Workshop, count: int, threads: int, seed: int) -> None:
    if not count:
        return
    command = _python(_LOOP, shop.model, count, threads, seed + threads)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), timeout=PATIENCE + count
        )
    except subprocess.TimeoutExpired:
        record.fault(f"net(blob), {threads} threads: {count} interruptions did not end")
        return
    caught, wrong = (int(word) for word in (done.stdout.split() or ["0", "-1"]))
    what = f"SIGINT in net(blob), {threads} threads"
    record.counts[what] += caught
    if done.returncode or wrong or caught != count:
        record.fault(f"{what}: {caught} of {count} caught, {wrong} wrong results, {done.stderr[-500:]}")


def _terminate_a_loop(
    record: Record, shop: Workshop, chance: random.Random, seconds: dict[str, list[float]]
) -> None:
    with subprocess.Popen(
        _python(_ENDLESS, shop.model), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
    ) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        time.sleep(chance.random() * 0.1)
        start = time.monotonic()
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
        what = "SIGTERM in net(blob)"
        seconds.setdefault(what, []).append(time.monotonic() - start)
    record.check(child.returncode == -signal.SIGTERM, what, f"exit code {child.returncode}")


@contextlib.contextmanager
def _cluster(record: Record):
    """The address of a Dask scheduler with two workers; None where Dask is not there."""
    try:
        import distributed
    except ImportError:
        record.left_out.append("segment --scheduler: Dask is not installed")
        yield None
        return
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster.scheduler_address
