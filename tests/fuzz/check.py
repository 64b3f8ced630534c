"""What becomes of one file: refused as it should be, equal to the oracle, or a fault."""

from __future__ import annotations

import math
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import sparse_icnet
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import Convolution, Graph
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session

THREADS = 2
MAX_WORK = 1 << 28  # products of the oracle
MAX_ELEMENTS = 1 << 24  # of all tensors together
PICTURE = (37, 53)  # to which smooth class maps are brought
GOOD = frozenset({"refused", "equal", "large"})


@dataclass(frozen=True)
class Verdict:
    """`kind` is one of GOOD or a fault: "error", "warning", "differs", "message", "crash", "hang"."""

    kind: str
    message: str = ""

    @property
    def good(self) -> bool:
        return self.kind in GOOD


def check(path: Path) -> Verdict:
    """Load `path`, run it, compare every tensor with the oracle."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net = sparse_icnet.load(path, threads=THREADS)
    except FormatError as error:
        text = str(error)
        if str(path.with_suffix("")) not in text or len(text.splitlines()) != 1 or len(text) > 3000:
            return Verdict("message", text)
        return Verdict("refused", text.replace(str(path.parent), ""))
    except Warning as warning:
        return Verdict("warning", _where(warning))
    except Exception as error:
        return Verdict("error", _where(error))
    try:
        return _compared(net)
    except Exception as error:
        return Verdict("error", _where(error))


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    at = next((f for f in reversed(frames) if "sparse_icnet" in f.filename), frames[-1])
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(at.filename).name}:{at.lineno} {at.name})"


def _compared(net: sparse_icnet.Model) -> Verdict:
    rng = np.random.default_rng(0)
    blob = _blob(net.graph, rng)
    with np.errstate(all="ignore"):
        found = net(blob[None])[0]
        picture = rng.integers(0, 256, (*net.size, 3), dtype=np.uint8)
        classes, probabilities = net.segment(picture, smooth=False), net.probabilities(picture)
        if classes.shape != net.size or not np.isfinite(probabilities).all():
            return Verdict("differs", f"class map of {classes.shape}, or probabilities that are not finite")
        same = not (net.graph.returns_classes or net.graph.returns_logits)
        if same and not np.array_equal(probabilities, net(net.blob(picture))[0]):
            return Verdict("differs", "an image gives other probabilities than its blob")
        elements = sum(math.prod(net.graph.shape(op.name)) for op in net.graph)
        work = sum(
            op.weight.size * math.prod(net.graph.shape(op.name)[1:])
            for op in net.graph
            if isinstance(op, Convolution)
        )
        if elements > MAX_ELEMENTS or work > MAX_WORK:
            return Verdict("large")
        expected = Oracle(net.graph, blob).output()
        if found.dtype != expected.dtype or found.tobytes() != expected.tobytes():
            return Verdict("differs", _difference("output", found, expected))
        keeping = Session(net.graph, THREADS, keep_tensors=True)
        kept = keeping.output(blob)
        if kept.tobytes() != expected.tobytes():
            return Verdict("differs", _difference("output with tensors kept", kept, expected))
        oracle = Oracle(keeping.graph, blob)
        smooth = keeping.smooth_class_map(blob, PICTURE)
        if not np.array_equal(smooth, oracle.smooth_class_map(PICTURE)):
            return Verdict(
                "differs", _difference("smooth class map", smooth, oracle.smooth_class_map(PICTURE))
            )
        for name in keeping.tensors():
            codes = keeping.tensor(name)
            if not np.array_equal(codes, oracle.codes(name)):
                return Verdict("differs", _difference(name, codes, oracle.codes(name)))
    return Verdict("equal")


def _blob(graph: Graph, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers, and in the first row those that are none."""
    blob = (1.5 * rng.standard_normal(graph.input.shape)).astype(np.float32)
    extremes = np.array([np.inf, -np.inf, np.nan, 1e38, -1e38, 0, -0.0, 1e-45], np.float32)
    row = blob[0, 0]
    row[: min(len(extremes), len(row) // 2)] = extremes[: len(row) // 2]
    return blob


def _difference(name: str, found: np.ndarray, expected: np.ndarray) -> str:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{name}: {expected.dtype} {expected.shape} expected, {found.dtype} {found.shape} found"
    return f"{name}: {np.count_nonzero(found != expected)} of {found.size} elements differ"
