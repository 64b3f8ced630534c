"""A short campaign of the fuzzer over each reader, and that the fuzzer sees what it should see."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from fuzz import bases, check
from fuzz.campaign import Case, Summary, _Worker, run, verdicts

import sparse_icnet
from sparse_icnet import formats
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.build import float_model
from sparse_icnet.run.session import Session

SEED, COUNT = 20261126, 400


@pytest.mark.parametrize("reader", bases.READERS)
def test_every_file_is_refused_or_equals_the_oracle(reader, tmp_path):
    """Each in a process of its own with limits on memory and time; `python -m tests.fuzz` runs more."""
    if reader not in bases.available():
        pytest.skip("needs onnx (extra onnx)")
    cases = [Case(reader, SEED, index) for index in range(COUNT)]
    summary = run(cases, workers=2, seconds=60, failures=tmp_path)[reader]
    assert not summary.faults, [(case.name, verdict) for case, verdict in summary.faults]
    assert summary.counts.total() == COUNT
    assert summary.counts["equal"] > COUNT / 8  # enough of both that the campaign means something
    assert summary.counts["refused"] > COUNT / 4


@pytest.mark.parametrize("reader", bases.available())
def test_cases_are_the_same_each_time_and_differ(reader):
    found = [Case(reader, 1, index).files() for index in range(20)]
    assert found == [Case(reader, 1, index).files() for index in range(20)]
    assert len({content for files in found for content in files.values()}) > 15
    assert found != [Case(reader, 2, index).files() for index in range(20)]


@pytest.fixture
def plain(tmp_path):
    return bases.written(bases.bases("npz")["plain"], tmp_path / "m")


def test_models_without_changes_are_equal(plain, tmp_path):
    assert check.check(plain) == check.Verdict("equal")
    plain.write_bytes(plain.read_bytes()[:-5])
    assert check.check(plain).kind == "refused"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("x"), "error"),
        (RuntimeWarning("overflow"), "warning"),
        (FormatError("no name of a file"), "message"),
        (ValueError("x"), "error"),
    ],
)
def test_faults_at_load_are_seen(plain, monkeypatch, error, kind):
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sparse_icnet, "load", load)
    verdict = check.check(plain)
    assert (verdict.kind, verdict.good) == (kind, False)


def test_lines_behind_the_first_are_seen_but_those_of_the_advice(plain, monkeypatch):
    for text, kind in ((f"{plain}: bad\nsecond line", "message"), (float_model(str(plain)), "refused")):

        def load(*_: object, text: str = text, **__: object) -> None:
            raise FormatError(text)

        monkeypatch.setattr(sparse_icnet, "load", load)
        assert check.check(plain).kind == kind


@pytest.mark.parametrize("kept", [True, False])
def test_one_bit_is_seen(plain, monkeypatch, kept):
    """Of the output of the session that everybody uses, and of a tensor in the one that keeps them."""
    name = "tensor" if kept else "probabilities"
    right = getattr(Session, name)

    def wrong(session, *arguments):
        result = np.array(right(session, *arguments))
        flat = result.reshape(-1).view(np.uint32 if result.dtype == np.float32 else result.dtype)
        flat[flat.size // 2] ^= 1
        return result

    monkeypatch.setattr(Session, name, wrong)
    net = sparse_icnet.Model(formats.load(plain), threads=1)
    if not kept:
        monkeypatch.setattr(
            sparse_icnet.Model, "__call__", lambda self, blob: wrong(self.session, blob[0])[None]
        )
        monkeypatch.setattr(
            sparse_icnet.Model, "probabilities", lambda self, picture: self(self.blob(picture))[0]
        )
    verdict = check._compared(net)
    assert verdict.kind == "differs"
    assert "1 of " in verdict.message


def test_large_models_are_run_but_not_compared(plain, monkeypatch):
    monkeypatch.setattr(check, "MAX_ELEMENTS", 100)
    assert check.check(plain).kind == "large"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_crashes_and_hangs_are_seen_and_survived(plain):
    worker = _Worker((), 4.0)
    try:
        for name, kind in ((signal.SIGSTOP, "hang"), (signal.SIGSEGV, "crash")):
            os.kill(worker.process.pid, name)
            worker.give(plain, 0.3)
            assert _verdict(worker).kind == kind
        worker.give(plain, 120)
        assert _verdict(worker) == check.Verdict("equal")
    finally:
        worker.stop()


def _verdict(worker: _Worker) -> check.Verdict:
    while (verdict := worker.verdict()) is None:
        time.sleep(0.05)
    return verdict


def test_memory_is_limited(tmp_path):
    """A process with little address space refuses a model that needs more, and lives on."""
    pytest.importorskip("resource", reason="needs limits of POSIX")
    graph = bases.graphs("npz")["plain"]
    large = replace(
        graph, ops=tuple(replace(op, shape=(3, 8192, 12288)) if op is graph.input else op for op in graph.ops)
    )
    formats.save(large, tmp_path / "large.npz")
    small = bases.written(bases.bases("npz")["plain"], tmp_path / "small")
    found = dict(verdicts([tmp_path / "large.npz", small], 1, 120, 2.0))
    assert found[tmp_path / "large.npz"].kind in ("refused", "error")
    assert found[small].kind == "equal"


def test_summaries_keep_the_faults():
    summary = Summary()
    case = Case("npz", 1, 2)
    for verdict in (
        check.Verdict("equal"),
        check.Verdict("refused", "x: expected 3, found 4"),
        check.Verdict("hang"),
    ):
        summary.add(case, verdict)
    assert summary.faults == [(case, check.Verdict("hang"))]
    assert str(summary) == "1 equal, 1 refused, 1 hang"
