"""The runner behind `sparse-icnet verify`: does the engine compute what a reference computes?

Against the oracle the answer is yes or no, bit for bit.  Against another runtime nobody can ask for bits: it
rounds at other places, and a network full of quantizers turns a last bit at a tie into a different code.  The
measure is then the noise floor, the share of pixels whose class differs between a float32 and a float64
evaluation of the very same formulas: a runtime may differ 1.5 times as much.

Chance decides where few pixels differ.  The classes are decided on a smaller map (`cell` pixels each) and
then enlarged, so cells are counted; where the floor is below about 85 cells, the bound is the floor plus
three standard deviations of the difference of two such counts, sqrt(2 * floor), plus three cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.blobs import from_file_input, from_file_output, input_shape
from sparse_icnet.network.faces import Faces, InputFace
from sparse_icnet.network.graph import (
    Argmax,
    Convolution,
    Graph,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
)
from sparse_icnet.reference.onnxruntime_peer import OnnxRuntimeModel, with_int32_biases
from sparse_icnet.reference.openvino_peer import OpenVinoModel
from sparse_icnet.reference.oracle import Oracle, evaluate_float

if TYPE_CHECKING:
    from sparse_icnet.run.session import Session

Against = Literal["oracle", "openvino", "onnxruntime"]
Blob = NDArray[np.float32]
Output = NDArray[np.float32 | np.uint8]

FLOOR_FACTOR = 1.5


class Engine(Protocol):
    """What is verified: anything that turns one blob into the output of the graph."""

    def output(self, blob: Blob) -> Output:
        """float32 (3, H, W) -> probabilities float32 (classes, H, W) or a class map uint8 (1, H, W), as the graph ends."""


@runtime_checkable
class TracedEngine(Protocol):
    """An engine that shows its intermediate tensors, so that a divergence gets a name."""

    executed: Graph  # the graph as the engine runs it, after its rewrites

    def output(self, blob: Blob) -> Output: ...

    def trace(self, blob: Blob) -> Mapping[str, NDArray[np.integer]]:
        """One inference: name -> codes (C, H, W) of quantized tensors of `executed`; some may be absent."""


@runtime_checkable
class SmoothEngine(Protocol):
    """An engine that makes smooth class maps of `executed`."""

    executed: Graph

    def smooth_class_map(self, blob: Blob, size: Size) -> NDArray[np.uint8]:
        """float32 (3, H, W) -> the class map of equation (Q11), uint8 of `size` (height, width)."""


class SessionEngine:
    """The engine of this package as a TracedEngine: results from a session as everybody uses it, tensors from one
    that keeps them (only that differs), made when first asked for.

    session  what computes the results; None: a new one
    """

    def __init__(self, graph: Graph, session: Session | None = None, threads: int | None = None) -> None:
        from sparse_icnet.run.session import Session

        self._graph, self._threads = graph, threads
        self._session = session or Session(graph, threads)
        self._keeping: Session | None = None
        self.executed = self._session.graph

    def output(self, blob: Blob) -> Output:
        return self._session.output(blob)

    def smooth_class_map(self, blob: Blob, size: Size) -> NDArray[np.uint8]:
        return self._session.smooth_class_map(blob, size)

    def trace(self, blob: Blob) -> dict[str, NDArray[np.int16]]:
        from sparse_icnet.run.session import Session

        if self._keeping is None:
            self._keeping = Session(self._graph, self._threads, keep_tensors=True)
        self._keeping.output(blob)
        return {name: self._keeping.tensor(name) for name in self._keeping.tensors()}


@dataclass(frozen=True, slots=True)
class Difference:
    """How two results of one image differ.

    runtime     which execution the engine was compared with
    pixels      of the class map
    differing   pixels whose class differs
    largest, mean  absolute difference of the probabilities; NaN if the network returns classes
    equal       the same bits
    floor       pixels that differ between float32 and float64 evaluation; None against the oracle
    """

    runtime: str
    image: str
    pixels: int
    differing: int
    largest: float
    mean: float
    equal: bool
    floor: int | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first tensor, in the order of execution, that differs from the oracle."""

    image: str
    tensor: str
    codes: int
    differing: int
    largest: int

    def __str__(self) -> str:
        return (
            f"{self.image}: first diverges at {self.tensor!r}: {self.differing} of {self.codes} codes "
            f"differ, by up to {self.largest}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found; `str(report)` is the table that the command line prints.

    cell        pixels that share one decision, because the network enlarges its class scores
    trivial     results that prove nothing, one line each
    traced      intermediate tensors that were compared with the oracle and equal, before any divergence
    """

    against: Against
    cell: int
    differences: tuple[Difference, ...]
    trivial: tuple[str, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    traced: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether there was something to compare, nothing was trivial, and every runtime agrees."""
        return bool(self.differences) and not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the report does not pass, one line each."""
        problems = list(self.trivial)
        problems += map(str, self.divergences)
        for runtime in self.runtimes:
            rows = [row for row in self.differences if row.runtime == runtime]
            if self.against == "oracle":
                unequal = [row.image for row in rows if not row.equal]
                if unequal:
                    problems.append(f"not the bits of the oracle: {', '.join(unequal)}")
                continue
            differing, allowed = sum(row.differing for row in rows), self.allowed(runtime)
            if differing > allowed:
                problems.append(f"{runtime}: {differing} pixels differ in class, at most {allowed} may")
        return tuple(problems)

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.runtime for row in self.differences))

    def allowed(self, runtime: str) -> int:
        """Pixels of all images together that may differ in class from `runtime`."""
        rows = [row for row in self.differences if row.runtime == runtime]
        return allowed_pixels(sum(row.floor or 0 for row in rows), self.cell)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        header = ("", "image", "argmax agreement", "noise floor", "largest", "mean difference")
        table = [header, *(self._row(row) for row in self.differences)]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        for line in table:
            yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        yield ""
        if self.against == "oracle":
            if self.traced:
                yield f"{self.traced} intermediate tensors equal the oracle bit for bit"
        else:
            for runtime in self.runtimes:
                rows = [row for row in self.differences if row.runtime == runtime]
                differing, floor = sum(row.differing for row in rows), sum(row.floor or 0 for row in rows)
                rule = f"{FLOOR_FACTOR} x floor"
                if self.allowed(runtime) > FLOOR_FACTOR * floor:
                    rule = "the floor and three standard deviations of chance"
                yield (
                    f"{runtime}: {differing} of {sum(row.pixels for row in rows)} pixels differ in class; "
                    f"float32 and float64 differ in {floor}, {self.allowed(runtime)} are allowed ({rule})"
                )
        yield from self.notes
        yield from (f"problem: {problem}" for problem in self.problems)
        yield "PASSED" if self.passed else "FAILED"

    @staticmethod
    def _row(row: Difference) -> tuple[str, ...]:
        floor = "" if row.floor is None else f"{100 * (1 - row.floor / row.pixels):.4f} %"
        agreement = f"{100 * (1 - row.differing / row.pixels):.4f} %"
        if row.equal:
            agreement = "bit for bit"
        numbers = ("", "") if math.isnan(row.largest) else (f"{row.largest:.2e}", f"{row.mean:.2e}")
        return row.runtime, row.image, agreement, floor, *numbers


def verify(
    graph: Graph,
    blobs: Sequence[NDArray[Any]],
    against: Against = "oracle",
    engine: Engine | None = None,
    *,
    names: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Compare `engine` with a reference on `blobs`.

    graph    the network as loaded, before any rewrite
    blobs    network inputs as the file takes them: float32 (3, H, W) or (1, 3, H, W), if it declares nothing else; one is
             held at a time, so that a sequence may make each when it is asked for: all once to be checked, then one after
             the other
    engine   None: the engine of this package, `SessionEngine(graph)`
    names    of the blobs, for the report
    threads  of the engine (if None was given) and of the other runtime

    Raises ValueError for a blob of the wrong shape or no blob at all, ImportError (naming the extra to
    install) if the other runtime is missing.
    """
    if against not in ("oracle", "openvino", "onnxruntime"):
        raise ValueError(f"against must be oracle, openvino or onnxruntime, found {against!r}")
    for index in range(len(blobs)):
        _checked(graph, blobs[index], index)
    if not len(blobs):
        raise ValueError("verify needs at least one picture, found none")
    labels = [f"image {i + 1}" for i in range(len(blobs))] if names is None else list(names)
    if len(labels) != len(blobs):
        raise ValueError(f"verify: expected a name for each of {len(blobs)} blobs, found {len(labels)}")
    peers = _peers(graph, against, threads)  # first, so that a missing package is reported at once
    if engine is None:
        engine = SessionEngine(graph, threads=threads)
    report = Report(against, cell_size(graph), ())
    for index, label in enumerate(labels):
        if progress is not None:
            progress(label)
        given = _checked(graph, blobs[index], index)
        blob = from_file_input(graph, given)
        result = np.array(engine.output(blob))
        trivial = triviality(graph, result)
        if trivial is not None:
            report = replace(report, trivial=(*report.trivial, f"{label}: {trivial}"))
        if against == "oracle":
            report = _against_oracle(report, graph, label, blob, result, engine)
        else:
            report = _against_peers(report, graph, label, given, result, peers)
    return report


def _checked(graph: Graph, blob: NDArray[Any], index: int) -> NDArray[Any]:
    blob, shape, dtype = np.asarray(blob), input_shape(graph), graph.faces.input.dtype
    if blob.shape == (1, *shape):
        blob = blob[0]
    if blob.shape != shape or blob.dtype != dtype:
        raise ValueError(
            f"blob {index + 1}: expected {dtype} of shape {shape}, found {blob.dtype} {blob.shape}"
        )
    return np.ascontiguousarray(blob)


# Against the oracle


def _against_oracle(
    report: Report, graph: Graph, label: str, blob: Blob, result: NDArray[Any], engine: Engine
) -> Report:
    expected = Oracle(graph, blob).output()
    report = replace(
        report, differences=(*report.differences, difference("oracle", label, result, expected, graph))
    )
    if not isinstance(engine, SmoothEngine | TracedEngine):
        return report
    executed = Oracle(engine.executed, blob)
    if isinstance(engine, SmoothEngine):
        size = graph.input.shape[1:]
        found, wanted = engine.smooth_class_map(blob, size)[None], executed.smooth_class_map(size)[None]
        smooth = difference("oracle", f"{label}, smooth", found, wanted, graph)
        report = replace(report, differences=(*report.differences, smooth))
    if not isinstance(engine, TracedEngine):
        return report
    divergence, equal = first_divergence(engine, blob, label, executed)
    report = replace(report, traced=report.traced + equal)
    return report if divergence is None else replace(report, divergences=(*report.divergences, divergence))


def first_divergence(
    engine: TracedEngine, blob: Blob, image: str = "image", oracle: Oracle | None = None
) -> tuple[Divergence | None, int]:
    """The first tensor of `engine.executed` that differs from the oracle, and how many before are equal.

    oracle  of `engine.executed` and `blob`, if there is one already
    """
    oracle = oracle or Oracle(engine.executed, blob)
    trace = engine.trace(blob)
    equal = 0
    for op in engine.executed.ops:
        if op.name not in trace or engine.executed.quantizer(op.name) is None:
            continue
        expected, found = oracle.codes(op.name), np.asarray(trace[op.name])
        if found.shape != expected.shape:
            raise ValueError(
                f"tensor {op.name!r}: expected codes of shape {expected.shape}, found {found.shape}"
            )
        distance = np.abs(found.astype(np.int32) - expected)
        if distance.any():
            differing = int(np.count_nonzero(distance))
            return Divergence(image, op.name, expected.size, differing, int(distance.max())), equal
        equal += 1
    return None, equal


# Against another runtime


@dataclass(frozen=True, slots=True)
class _Peer:
    """An execution of the graph with its faces; `graph64` is what it computes if all its arithmetic were exact."""

    name: str
    run: Callable[[NDArray[Any]], NDArray[Any]]
    graph64: Graph


def _peer_faces(graph: Graph) -> Faces:
    """Those of the file, but for a resize of pictures, in which runtimes round as they like."""
    faces = graph.faces
    return faces if faces.input.picture is None else Faces(InputFace(), faces.output)


def _peers(graph: Graph, against: Against, threads: int | None) -> tuple[_Peer, ...]:
    graph = replace(graph, faces=_peer_faces(graph))
    if against == "openvino":
        return tuple(
            _Peer(f"OpenVINO {label}", OpenVinoModel(graph, threads, int8), graph)
            for label, int8 in (("int8", True), ("float", False))
        )
    if against == "onnxruntime":
        return (
            _Peer("ONNX Runtime int8", OnnxRuntimeModel(graph, threads), with_int32_biases(graph)),
            _Peer("ONNX Runtime float", OnnxRuntimeModel(graph, threads, int8=False), graph),
        )
    return ()


def _against_peers(
    report: Report,
    graph: Graph,
    label: str,
    given: NDArray[Any],
    result: NDArray[Any],
    peers: Sequence[_Peer],
) -> Report:
    blob, faces = from_file_input(graph, given), _peer_faces(graph)
    if faces.input == InputFace():
        given = blob
    single = classes(graph, evaluate_float(graph, blob, np.float32, (graph.output,))[graph.output])
    doubles: dict[int, NDArray[Any]] = {}
    rows = []
    for peer in peers:
        key = id(peer.graph64)
        if key not in doubles:
            values = evaluate_float(peer.graph64, blob, np.float64, (graph.output,))
            doubles[key] = classes(graph, values[graph.output])
        returned = peer.run(given[None] if "N" in faces.input.axes else given)
        expected = from_file_output(graph, returned[0] if "N" in faces.output.axes else returned)
        if (trivial := triviality(graph, expected)) is not None:
            report = replace(report, trivial=(*report.trivial, f"{label}: {peer.name}: {trivial}"))
        row = difference(peer.name, label, result, expected, graph)
        rows.append(replace(row, floor=int(np.count_nonzero(single != doubles[key]))))
    notes: tuple[str, ...] = ()
    if report.against == "onnxruntime":
        notes = (
            "ONNX Runtime int8 rounds biases to int32 in the unit of its accumulators; "
            "its noise floor includes that.",
        )
    return replace(report, differences=(*report.differences, *rows), notes=notes)


def allowed_pixels(floor: int, cell: int) -> int:
    """Pixels that may differ in class if `floor` do between float32 and float64, `cell` at a time."""
    cells = floor / cell
    return math.floor(cell * max(FLOOR_FACTOR * cells, cells + 3 * math.sqrt(2 * cells) + 3))


def cell_size(graph: Graph) -> int:
    """Pixels of the output that always share one class, because the network enlarges its class scores."""
    name, size = graph.output, 1
    while True:
        op = graph[name]
        if isinstance(op, Resize):
            _, height, width = graph.shape(op.input)
            if op.size[0] % height or op.size[1] % width:
                return size
            size *= (op.size[0] // height) * (op.size[1] // width)
        elif isinstance(op, Convolution):
            if op.weight.shape[2:] != (1, 1) or op.stride != (1, 1) or any(op.padding):
                return size
        elif not isinstance(op, Softmax | Argmax | Relu | Quantize):
            return size
        name = op.input


# What both need


def classes(graph: Graph, output: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) classes of a network output (C, H, W)."""
    best: NDArray[np.uint8] = output[0] if output.dtype == np.uint8 else output.argmax(0).astype(np.uint8)
    return best


def difference(
    runtime: str, image: str, found: NDArray[Any], expected: NDArray[Any], graph: Graph
) -> Difference:
    """How `found` differs from `expected`, both (C, H, W) outputs of `graph`."""
    if found.shape != expected.shape:
        raise ValueError(f"{runtime}: expected an output of shape {expected.shape}, found {found.shape}")
    differing = classes(graph, found) != classes(graph, expected)
    largest = mean = math.nan
    if expected.dtype.kind == "f":
        distance = np.abs(found.astype(np.float64) - expected)
        largest, mean = float(distance.max()), float(distance.mean())
    equal = found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
    return Difference(runtime, image, differing.size, int(np.count_nonzero(differing)), largest, mean, equal)


def triviality(graph: Graph, output: NDArray[Any]) -> str | None:
    """Why the output (C, H, W) proves nothing, or None."""
    if output.dtype.kind == "f":
        if not np.isfinite(output).all():
            return "the result holds NaN or infinity"
        if not output.any():
            return "the result is zero everywhere"
        if isinstance(graph[graph.output], Softmax) and np.abs(output.sum(0) - 1).max() > 1e-4:
            return "the probabilities do not sum to 1"
    found = np.unique(classes(graph, output))
    if len(found) < 2:
        return f"class {found[0]} everywhere: too little variety to compare"
    return None


# Layer by layer


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """Codes of one quantizer as another runtime computed them from the oracle's own inputs."""

    tensor: str
    codes: int
    differing: int
    largest: int


class LayerPeer(Protocol):
    """Makes a runtime of a graph cut into layers: OpenVinoModel, OnnxRuntimeModel or a partial of these."""

    def __call__(self, graph: Graph, /, *, inputs: Sequence[str], outputs: Sequence[str]) -> LayerRunner: ...


class LayerRunner(Protocol):
    def run(self, values: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]: ...


def layer_by_layer(graph: Graph, blob: Blob, peer: LayerPeer) -> tuple[LayerDifference, ...]:
    """Every quantizer computed by another runtime, each from the oracle's codes, so that nothing accumulates.

    The graph is cut behind each quantizer: its codes are an output of the runtime, and its consumers read the
    oracle's codes, given as an input.  All layers run in one inference.
    """
    oracle = Oracle(graph, blob)
    quantizers = {op.name: op.quantizer for op in graph.ops if isinstance(op, Quantize)}
    readers = graph.consumers()
    given = [graph.input.name, *(name for name in quantizers if readers[name])]
    values = {name: real_values(oracle.codes(name), quantizers[name]) for name in given[1:]}
    results = peer(graph, inputs=given, outputs=tuple(quantizers)).run({graph.input.name: blob, **values})
    differences = []
    for name, quantizer in quantizers.items():
        distance = np.abs(nearest_codes(results[name], quantizer) - oracle.codes(name))
        differences.append(
            LayerDifference(name, distance.size, int(np.count_nonzero(distance)), int(distance.max()))
        )
    return tuple(differences)


def real_values(codes: NDArray[np.integer], quantizer: Quantizer) -> NDArray[np.float32]:
    """(Q2) in unit 1."""
    return (codes.astype(np.int32) - quantizer.zero_point).astype(np.float32) * np.float32(quantizer.scale)


def nearest_codes(values: NDArray[np.float32], quantizer: Quantizer) -> NDArray[np.int32]:
    """The code nearest to each value; not clipped, so that a value outside the range shows."""
    return np.rint(values.astype(np.float64) / quantizer.scale).astype(np.int32) + quantizer.zero_point
