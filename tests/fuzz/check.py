"""What becomes of one file: refused as it should be, equal to the oracle, or a fault.

What a file may cost before anything runs is bounded by what it holds and what it asks for:

    time    of the processor, to read and plan it: a second, and another for each SIZE_A_SECOND of the file, of
            the plan's memory and of its weights
    memory  to read it: MEMORY times the bytes of the file and of the weights that it declares, zeros included (they are
            what a few bytes can stand for), and SLACK, that of the interpreter and its parsers for the smallest file
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import sparse_icnet
from sparse_icnet import formats
from sparse_icnet.blobs import file_input, file_output, from_file_input, graph_input
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.build import float_model
from sparse_icnet.network.graph import Graph
from sparse_icnet.plan import plan_for
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session

MANY = 8  # of so many files one is run on two threads, the others on one: threads wait for each other on a busy machine
MAX_WORK = 1 << 28  # products of the oracle
MAX_ELEMENTS = 1 << 24  # of all tensors together
PICTURE = (37, 53)  # to which smooth class maps are brought
GOOD = frozenset({"refused", "loaded", "equal", "large"})
SECOND = 1.0  # of the processor, for the smallest file
SIZE_A_SECOND = 1 << 24
MEMORY = 10
SLACK = 16 << 20


@dataclass(frozen=True)
class Cost:
    """Of one file before anything ran: its bytes, seconds of the processor to read and plan it, and bytes that reading
    it added to the largest memory of the process, 0 where the system does not say."""

    bytes: int = 0
    seconds: float = 0.0
    memory: int = 0
    asked: int = 0  # bytes of weights, zeros included, and of the plan's memory
    weights: int = 0

    @property
    def fault(self) -> str:
        """What is more than a file may cost, "" if nothing is."""
        allowed = SECOND + (self.bytes + self.asked) / SIZE_A_SECOND
        if self.seconds > allowed:
            return f"{self.seconds:.2f} s to load where {allowed:.2f} s are allowed"
        room = MEMORY * (self.bytes + self.weights) + SLACK
        if self.memory > room:
            return f"{self.memory} bytes to read where {room} are allowed"
        return ""


@dataclass(frozen=True)
class Verdict:
    """`kind` is one of GOOD or a fault: "error", "warning", "differs", "message", "cost", "crash", "hang".

    digest  of every output and tensor, if they equal the oracle's
    """

    kind: str
    message: str = ""
    cost: Cost = field(default=Cost(), compare=False)
    digest: str = field(default="", compare=False)

    @property
    def good(self) -> bool:
        return self.kind in GOOD


class _Meter:
    """Measures what a load costs."""

    def __init__(self, path: Path) -> None:
        self.path, self.memory = path, 0
        self.start = self.seconds = 0.0
        self.graph: Graph | None = None

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Within, `formats.load` also says how much memory it took."""
        usual = formats.load

        def load(path: Path, output: str | None = None, content: bytes | None = None) -> Graph:
            before = _memory_now()
            try:
                self.graph = usual(path, output, content)
            finally:
                self.memory = max(0, _memory_peak() - before) if before else 0
            return self.graph

        self.start = time.process_time()
        formats.load = load
        try:
            yield
        finally:
            self.seconds = time.process_time() - self.start
            formats.load = usual

    def cost(self, net: sparse_icnet.Model | None = None) -> Cost:
        seconds = self.seconds
        files = [self.path, self.path.with_suffix(".bin")] if self.path.suffix == ".xml" else [self.path]
        size = sum(path.stat().st_size for path in files if path.is_file())
        weights = sum(op.weight.size for op in self.graph.convolutions) if self.graph is not None else 0
        planned = sum(piece.bytes for piece in net.plan.placement.arena.pieces) if net else 0
        return Cost(size, seconds, self.memory, weights + planned, weights)


def _memory_now() -> int:
    """Resident bytes, and from now on `_memory_peak` is the largest number of them; 0 where nobody knows."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def _memory_peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def threads_for(path: Path) -> int:
    """By the content of the file: the same each time."""
    return 1 + (zlib.crc32(path.read_bytes()) % MANY == 0)


def read(path: Path) -> tuple[sparse_icnet.Model | None, Verdict]:
    """Load `path`, which also plans it, and nothing else: "loaded" where that went well, within what it may cost."""
    meter, net = _Meter(path), None
    try:
        with warnings.catch_warnings(), meter.measuring():
            warnings.simplefilter("error")
            net = sparse_icnet.load(path, threads=threads_for(path))
        verdict = Verdict("loaded")
    except Exception as error:
        verdict = _refused(path, error)
    cost = meter.cost(net)
    if verdict.good and cost.fault:
        verdict = Verdict("cost", f"{verdict.kind}, {cost.fault}")
    return net, replace(verdict, cost=cost)


def check(path: Path, expected: str | None = None) -> Verdict:
    """Load `path`, run it, compare every tensor with the oracle.

    expected  the digest of what equalled the oracle on another code path: then compare with that
    """
    net, verdict = read(path)
    if net is None or not verdict.good:
        return verdict
    try:
        return replace(_compared(net, expected), cost=verdict.cost)
    except Exception as error:
        return Verdict("error", _where(error), verdict.cost)


def _refused(path: Path, error: Exception) -> Verdict:
    try:
        raise error
    except FormatError as error:
        text = str(error)
        # The way to an INT8 model is the only message of several lines, all of them but the first ours.
        first, *others = text.splitlines()
        recipe = float_model(str(path)).splitlines()[1:]
        if str(path.with_suffix("")) not in first or others not in ([], recipe) or len(text) > 3000:
            return Verdict("message", text)
        return Verdict("refused", text.replace(str(path.parent), ""))
    except Warning as warning:
        return Verdict("warning", _where(warning))
    except Exception as error:
        return Verdict("error", _where(error))


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    at = next((f for f in reversed(frames) if "sparse_icnet" in f.filename), frames[-1])
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(at.filename).name}:{at.lineno} {at.name})"


def _compared(net: sparse_icnet.Model, wanted: str | None = None) -> Verdict:
    """Of `net` with the oracle, or with the digest `wanted`."""
    rng = np.random.default_rng(0)
    blob = _blob(net.graph, rng)
    with np.errstate(all="ignore"):
        found = net.session.output(blob)
        picture = rng.integers(0, 256, (*net.size, 3), dtype=np.uint8)
        classes, probabilities = net.segment(picture, smooth=False), net.probabilities(picture)
        if classes.shape != net.size or not np.isfinite(probabilities).all():
            return Verdict("differs", f"class map of {classes.shape}, or probabilities that are not finite")
        same = not (net.graph.returns_classes or net.graph.returns_logits)
        given = graph_input(net.graph, picture)
        if same and not np.array_equal(probabilities, net.session.output(given)):
            return Verdict("differs", "an image gives other probabilities than its blob")
        if net.graph.faces.input.picture is None:
            taken = file_input(net.graph, picture)
            result = net(taken[None] if "N" in net.graph.faces.input.axes else taken)
            faced = file_output(net.graph, net.session.output(from_file_input(net.graph, taken)))
            if not np.array_equal(result.reshape(faced.shape), faced) or result.dtype != faced.dtype:
                return Verdict("differs", _difference("output as the file gives it", result, faced))
        if _too_large(net.graph):
            return Verdict("large")
        keeping = Session(plan_for(net.graph, net.threads, keep_tensors=True))
        kept, smooth = keeping.output(blob), keeping.smooth_class_map(blob, PICTURE)
        codes = {name: keeping.tensor(name) for name in sorted(keeping.tensors())}
        digest = _digest({"output": found, "kept": kept, "smooth": smooth, "image": probabilities} | codes)
        if wanted is not None:
            return Verdict("equal") if digest == wanted else Verdict("differs", "from another code path")
        expected, oracle = Oracle(net.graph, blob).output(), Oracle(keeping.graph, blob)
        if found.dtype != expected.dtype or _bytes(found) != _bytes(expected):
            return Verdict("differs", _difference("output", found, expected))
        if _bytes(kept) != _bytes(expected):
            return Verdict("differs", _difference("output with tensors kept", kept, expected))
        if not np.array_equal(smooth, oracle.smooth_class_map(PICTURE)):
            return Verdict(
                "differs", _difference("smooth class map", smooth, oracle.smooth_class_map(PICTURE))
            )
        for name, array in codes.items():
            if not np.array_equal(array, oracle.codes(name)):
                return Verdict("differs", _difference(name, array, oracle.codes(name)))
    return Verdict("equal", digest=digest)


def _too_large(graph: Graph) -> bool:
    """For the oracle to follow."""
    elements = sum(math.prod(graph.shape(op.name)) for op in graph)
    work = sum(op.weight.size * math.prod(graph.shape(op.name)[1:]) for op in graph.layers)
    return elements > MAX_ELEMENTS or work > MAX_WORK


def _digest(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(f"{name!a} {array.dtype.str} {array.shape}".encode())
        total.update(_bytes(array))
    return total.hexdigest()


def _bytes(array: np.ndarray) -> bytes:
    """The bits of a result; a NaN is a NaN, as what is not finite may give where a file leaves layers in float32."""
    return (
        np.where(np.isnan(array), np.float32(np.nan), array) if array.dtype.kind == "f" else array
    ).tobytes()


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
