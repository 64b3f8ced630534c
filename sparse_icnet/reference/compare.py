"""What `sparse-icnet verify` runs: whether the engine computes what a reference computes.

Against the oracle the answer is yes or no, bit for bit.  Another runtime rounds at other places, and near a tie
a quantizer turns a difference in the last bit into a different code.  The measure is then the noise floor, the
number of pixels whose class differs between a float32 and a float64 evaluation of the same formulas: a runtime
may differ 1.5 times as much.

Where few pixels differ, their number varies by chance.  The classes are decided on a smaller map (`cell` pixels
each) and then enlarged, so cells are counted; where the floor is below about 84 cells, the bound is the floor plus
three standard deviations of the difference of two such counts, sqrt(2 * floor), plus three cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.blobs import from_file_input, from_file_output, input_shape
from sparse_icnet.network.faces import Faces, InputFace
from sparse_icnet.network.graph import (
    AnyConvolution,
    Argmax,
    Graph,
    Quantize,
    Relu,
    Resize,
    Softmax,
)
from sparse_icnet.reference.engines import Blob, Engine, SessionEngine, SmoothEngine, TracedEngine
from sparse_icnet.reference.evaluate import evaluate_float
from sparse_icnet.reference.onnxruntime_peer import OnnxRuntimeModel, with_int32_biases
from sparse_icnet.reference.openvino_peer import OpenVinoModel
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.reference.report import Against, Difference, Divergence, Report


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

    Raises ValueError for codes of another shape.
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
    """An execution of the graph with its faces; `graph64` is what it would compute with exact arithmetic."""

    name: str
    run: Callable[[NDArray[Any]], NDArray[Any]]
    graph64: Graph


def _peer_faces(graph: Graph) -> Faces:
    """Those of the file, its input as the graph has it where that resizes pictures, which runtimes round differently."""
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
        elif isinstance(op, AnyConvolution):
            if op.weight.shape[2:] != (1, 1) or op.stride != (1, 1) or any(op.padding):
                return size
        elif not isinstance(op, Softmax | Argmax | Relu | Quantize):
            return size
        name = op.input


# What both need


def classes(graph: Graph, output: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 (H, W): the classes of a network output, real values (C, H, W) or a class map uint8 (1, H, W)."""
    best: NDArray[np.uint8] = output[0] if output.dtype == np.uint8 else output.argmax(0).astype(np.uint8)
    return best


def difference(
    runtime: str, image: str, found: NDArray[Any], expected: NDArray[Any], graph: Graph
) -> Difference:
    """How `found` differs from `expected`, both (C, H, W) outputs of `graph`; ValueError for two shapes."""
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
        rounding = 1e-3 if graph.faces.output.dtype == "float16" else 1e-4  # of all probabilities together
        if isinstance(graph[graph.output], Softmax) and np.abs(output.sum(0) - 1).max() > rounding:
            return "the probabilities do not sum to 1"
    found = np.unique(classes(graph, output))
    if len(found) < 2:
        return f"class {found[0]} everywhere: too little variety to compare"
    return None
