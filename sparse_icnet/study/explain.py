"""One layer in the papers, in the file, in the rewrites, in memory and in its kernel; and one of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.bundled import SAMPLE_IMAGE
from sparse_icnet.image import ImageLike, fitted
from sparse_icnet.network.graph import Convolution, Graph, Op, Quantizer, Shape
from sparse_icnet.operators import kernel_name
from sparse_icnet.operators.operator import Candidate, Report
from sparse_icnet.operators.registry import Source, kernel_source
from sparse_icnet.plan.ends import ends_of
from sparse_icnet.plan.program import End, Plan, Step
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.study.arithmetic import arithmetic_of, end_of
from sparse_icnet.study.check import Check, checked
from sparse_icnet.study.equations import equations, equations_of_expression
from sparse_icnet.study.forms import LayerForms, forms_of
from sparse_icnet.study.history import LayerWork, history
from sparse_icnet.study.history import Step as Rewriting
from sparse_icnet.study.machine import Loop, inner_loop
from sparse_icnet.study.paper import Place, place_of
from sparse_icnet.study.value import Arithmetic
from sparse_icnet.suggest import did_you_mean

if TYPE_CHECKING:
    from sparse_icnet.model import Model


@dataclass(frozen=True, slots=True)
class InFile:
    """An operation as the file has it.

    operation  its kind; number: its place among all, from 0; inputs: name -> shape (C, H, W); shape: of its output
    parameters "stride" -> "1x1" and so on, of the kind
    reads      the quantizer of its codes, None of real values; writes: of the codes that its expression becomes
    end        the tensor that its expression ends in: itself, or behind sums and ReLUs what quantizes them
    """

    operation: str
    number: int
    inputs: Mapping[str, Shape]
    shape: Shape
    parameters: Mapping[str, str]
    reads: Quantizer | None
    writes: Quantizer | None
    end: str


@dataclass(frozen=True, slots=True)
class InEngine:
    """The step of the engine that computes a layer.

    step        its name; function: the kernel that a thread calls
    kernel      of a convolution: micro-kernel, filtering or float32; reason: why; candidates: what it was chosen from, best
                first
    macs        multiply-accumulates executed, dense_macs: of all weights; 0 of no convolution
    shape       (C, H, W) of what is computed, behind the rewrites
    source      file:line of the kernel and its loop
    fused       other convolutions that the same step computes
    """

    step: str
    function: str
    kernel: str
    reason: str
    candidates: tuple[Candidate, ...]
    macs: int
    dense_macs: int
    shape: Shape
    source: Source
    fused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of one layer.

    place      in the papers, None where the network is not recognised; file: as the file has it
    rewrites   that touched it; work: of a convolution before and behind them
    forms      in which its weights are stored, of a convolution of int8
    engine     the step that computes it; None where none does: `without` says why
    equations  "Q3" -> what it says, of its expression and of its kernel
    value      the arithmetic of one value, and check: what the engine and the oracle have there; picture: of what
    loop       the inner loop of its kernel
    """

    layer: str
    size: tuple[int, int]
    place: Place | None
    file: InFile
    rewrites: tuple[Rewriting, ...]
    work: LayerWork | None
    forms: LayerForms | None
    engine: InEngine | None
    without: str
    equations: Mapping[str, str]
    value: Arithmetic | None
    check: Check | None
    picture: str
    loop: Loop | None

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return {**asdict(self), "forms": self.forms.to_dict() if self.forms else None}


def explain(
    net: Model,
    layer: str,
    at: tuple[int, int, int] | None = None,
    image: ImageLike | None = None,
    machine_code: bool = False,
) -> Explanation:
    """What `sparse-icnet explain` prints of the operation `layer` of `net`.

    at            (C, y, x) of a value of its output whose arithmetic is wanted, for the picture `image` (None: the sample)
    machine_code  also the inner loop of its kernel, which takes a disassembler, or a compilation

    Raises ValueError for a layer that the network does not have, or a place that the layer does not have; for the inner
    loop what `sparse_icnet.study.machine.inner_loop` raises.
    """
    graph, plan = net.graph, net.plan
    op = _named(graph, layer)
    told = history(graph)
    step, without = step_of(plan, graph, layer)
    report = next((r for r in step.reports if r.name == layer), None) if step else None
    value, check, picture = None, None, ""
    if at is not None:
        source = SAMPLE_IMAGE if image is None else image
        picture = str(source) if image is not None else SAMPLE_IMAGE.name
        oracle = Oracle(graph, net.blob(source)[0])
        value = arithmetic_of(graph, oracle, layer, at)
        check = checked(graph, net.threads, oracle, fitted(source, net.size)[0], value)
    return Explanation(
        layer=layer,
        size=net.size,
        place=place_of(graph, layer),
        file=_in_file(graph, op),
        rewrites=told.of(layer),
        work=next((work for work in told.layers if work.layer == layer), None),
        forms=forms_of(op, report, _phases(plan, layer)) if isinstance(op, Convolution) else None,
        engine=_in_engine(plan, layer, step, report) if step else None,
        without=without,
        equations=_equations(graph, layer, report),
        value=value,
        check=check,
        picture=picture,
        loop=_loop(step, report) if machine_code and step else None,
    )


def _named(graph: Graph, layer: str) -> Op:
    names = [op.name for op in graph]
    if layer in names:
        return graph[layer]
    parts = [name for name in names if name.startswith(f"{layer}/")]
    if parts:
        raise ValueError(f"{layer!r} is no operation of this network but a part of it: {', '.join(parts)}")
    raise ValueError(f"{layer!r} is no operation of this network{did_you_mean(layer, names)}")


# --- in the file ------------------------------------------------------------------------------------------------


def _in_file(graph: Graph, op: Op) -> InFile:
    end = end_of(graph, op.name)
    return InFile(
        operation=type(op).__name__,
        number=graph.ops.index(op),
        inputs={name: graph.shape(name) for name in op.inputs},
        shape=graph.shape(op.name),
        parameters=_parameters(op),
        reads=graph.quantizer(op.inputs[0]) if op.inputs else None,
        writes=graph.quantizer(end),
        end=end,
    )


def _parameters(op: Op) -> dict[str, str]:
    """What an operation states beside its inputs, for people."""
    found = {}
    for name in ("kernel", "bins", "size", "stride", "dilation"):
        if (value := getattr(op, name, None)) is not None:
            found[name] = "x".join(map(str, value))
    if (padding := getattr(op, "padding", None)) is not None:
        found["padding"] = str(padding[0]) if len(set(padding)) == 1 else ",".join(map(str, padding))
    if isinstance(op, Convolution):
        scale, bias = op.weight_scale, op.bias
        found["weights"] = f"{int(op.weight.min())} to {int(op.weight.max())}"
        found["weight scales"] = f"{scale.min():.4g} to {scale.max():.4g}"
        found["biases"] = f"{bias.min():.4g} to {bias.max():.4g}"
    return found


# --- in the engine ----------------------------------------------------------------------------------------------


def step_of(plan: Plan, graph: Graph, name: str) -> tuple[Step | None, str]:
    """The step that computes operation `name` of `graph`, or None and why there is none.

    A tensor of real values is computed by the step that fills what its expression ends in.
    """
    inputs = [step for steps in plan.input_steps.values() for step in steps]
    steps = [*inputs, *plan.body]
    for step in steps:
        if any(report.name == name for report in step.reports):
            return step, ""
    written = {storage.name: step for step in reversed(steps) for storage in step.writes}
    rewritten = {op.name for op in plan.graph}
    if name not in rewritten:
        return None, "the rewrites left it out"
    if name == plan.graph.input.name:
        return inputs[0], ""
    reader, readers = name, plan.graph.consumers()
    while True:
        for key in (reader, f"{reader}/real", f"{reader}/spread"):
            if key in written:
                return written[key], ""
        if (behind := _behind(plan, reader)) is not None:
            return behind, ""
        if plan.graph.quantizer(reader) is not None:
            return None, "it copies codes: the engine reads those of its input by other byte offsets"
        if not readers[reader]:
            break
        reader = readers[reader][0].name
    return None, "the engine computes it within no step of its own"


def _behind(plan: Plan, name: str) -> Step | None:
    """The step that computes what lies behind the logits; None for what does not."""
    ends = ends_of(plan.graph)
    after: list[str] = []
    reader, readers = ends.logits, plan.graph.consumers()
    while len(readers[reader]) == 1:
        reader = readers[reader][0].name
        after.append(reader)
    if name not in after:
        return None
    end = (
        End.CLASSES
        if plan.graph.returns_classes
        else End.LOGITS
        if plan.graph.returns_logits
        else End.PROBABILITIES
    )
    steps = plan.output_steps[end]
    return steps[min(after.index(name), len(steps) - 1)]


def _in_engine(plan: Plan, name: str, step: Step, report: Report | None) -> InEngine:
    return InEngine(
        step=step.name,
        function=kernel_name(step.kind),
        kernel=report.kernel if report else "",
        reason=report.reason if report else "",
        candidates=report.candidates if report else (),
        macs=report.macs if report else 0,
        dense_macs=report.dense_macs if report else 0,
        shape=plan.graph.shape(name),
        source=kernel_source(step.kind),
        fused=tuple(other.name for other in step.reports if other.name not in (name, step.name)),
    )


def _phases(plan: Plan, name: str) -> int:
    if all(op.name != name for op in plan.graph):
        return 1
    return math.prod(plan.grid.phases(*plan.graph.shape(name)[1:]) or (1,))


def _equations(graph: Graph, name: str, report: Report | None) -> dict[str, str]:
    numbers = list(equations_of_expression(graph, name))
    if report is not None and report.filtered:
        numbers += ["W1", "W2"]
    return {number: equations()[number] for number in numbers}


def _loop(step: Step, report: Report | None) -> Loop:
    vectors = 0
    if report is not None and report.filtered:
        inputs: NDArray[np.void] = step.record["inputs"]
        vectors = int(inputs["vectors_per_task"][0])
    return inner_loop(step.kind, report.kernel if report else "", vectors)
