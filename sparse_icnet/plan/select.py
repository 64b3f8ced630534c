"""Graph -> Program: which operators compute what, and between which storages.

The planner walks the graph from its output.  Every quantizer becomes one operator that computes the whole expression
between it and the quantizers before it: convolution, inner quantizer, residual, ReLU, rounding.  Resizes become views.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
    assert_never,
    pruned,
)
from sparse_icnet.operators.convolution.plan import ConvolutionStep
from sparse_icnet.operators.elementwise.plan import CombineStep, spread
from sparse_icnet.operators.float_convolution.plan import FloatConvolutionStep
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.outputs import Addend
from sparse_icnet.operators.pooling.plan import MaxPoolStep, PyramidStep
from sparse_icnet.operators.pooling.real_plan import RealMaxPoolStep
from sparse_icnet.operators.pooling.stages import Stage, stages_of
from sparse_icnet.operators.storage import Grid, PlanError, View
from sparse_icnet.operators.winograd.plan import WinogradInputStep, WinogradStep
from sparse_icnet.operators.winograd.tiling import Tiling, tiling
from sparse_icnet.plan.bounds import check_magnitudes, largest_values, saturates_as_bytes
from sparse_icnet.plan.budget import check_copy_tables, check_graph, check_work
from sparse_icnet.plan.copies import with_copies
from sparse_icnet.plan.ends import ends_of
from sparse_icnet.plan.inputs import Inputs
from sparse_icnet.plan.maps import Maps
from sparse_icnet.plan.policy import Choice, Geometry, Policy
from sparse_icnet.plan.program import Program, Start
from sparse_icnet.plan.schedule import depth_first
from sparse_icnet.target import MicroKernel


def select(graph: Graph, policy: Policy, threads: int) -> Program:
    """The program of an optimized graph that ends in logits, a softmax or an argmax, or in their upsampling.

    policy   chooses the kernel of every convolution
    threads  of an inference, which its tasks are divided for

    Raises PlanError for what this engine cannot run.
    """
    return _Selection(graph, policy, threads).program()


class _Selection:
    def __init__(self, graph: Graph, policy: Policy, threads: int) -> None:
        self.graph, self.policy, self.threads = graph, policy, threads
        self.consumers = graph.consumers()
        sizes = [graph.shape(op.name)[1:] for op in graph.layers]
        if not sizes:
            raise PlanError("the network has no convolution, expected at least one")
        self.largest = largest_values(graph)
        check_magnitudes(graph, self.largest)
        self.grid = Grid.for_size(min(h for h, _ in sizes), min(w for _, w in sizes))
        check_graph(graph)
        check_work(graph, self.grid)
        self.body: list[Operator] = []
        self.codes_views: dict[str, View] = {}
        self.real_views: dict[tuple[str, float], View] = {}
        self.maps = Maps(graph, self.grid)
        self.inputs = Inputs(self.maps)
        self.tables = 0  # bytes of masks of max pools of real values

    def program(self) -> Program:
        ends = ends_of(self.graph)
        # What windows read, from the first on: so methods that call each other go no deeper than one expression (`budget`).
        for op in pruned(self.graph.ops, self.graph.output):
            if isinstance(op, FloatConvolution):
                self._real(op.input, 1.0)
            elif (
                isinstance(op, Convolution | MaxPool | AveragePool)
                and self.graph.quantizer(op.input) is not None
            ):
                self._codes(op.input)
        logits = self._real(ends.logits, 1.0)
        last = ends.output_steps(logits, self.threads)
        first = self.inputs.steps[Start.BLOB]
        if not first:
            raise PlanError("no convolution reads the network input")
        return Program(
            self.graph,
            self.grid,
            self.inputs.steps,
            depth_first([step for step in with_copies([*first, *self.body]) if step not in first]),
            last,
            self.codes_views,
            ends.logits_shape,
            ends.upsampling,
            ends.output_shape,
            self.threads,
        )

    def _codes(self, name: str) -> View:
        """View of the quantized tensor `name`, computed by operators appended on the way."""
        if name not in self.codes_views:
            op = self.graph[name]
            if self.graph.quantizer(name) is None:
                raise PlanError(f"operation {name!r} ({type(op).__name__}) holds no codes")
            if isinstance(op, Resize):
                view = self._resized_codes(op)
            elif isinstance(op, MaxPool):
                view = self._max_pool(op)
            else:
                assert isinstance(op, Quantize)
                view = self._quantize(op)
            self.codes_views[name] = view
        return self.codes_views[name]

    def _resized_codes(self, op: Resize) -> View:
        phases = self.maps.phases(op.name)
        if self.grid.phases(*self.graph.shape(op.input)[1:]) is not None:
            return self._codes(op.input).resized(phases)
        # Codes of a map that is no multiple of the grid, such as a pooled one: quantize after the resize instead,
        # which gives the same codes pixel by pixel.
        source = self.graph[op.input]
        if not isinstance(source, Quantize):
            raise PlanError(
                f"resize {op.name!r}: cannot resize the codes of {op.input!r} from {self.maps.size(op.input)}"
            )
        real = self._resized_real(source.input, phases, source.quantizer.scale)
        return self._combine(op.name, source.quantizer, Addend(real), None, False)

    def _real(self, name: str, unit: float) -> View:
        """View of the float32 values [name]_unit."""
        key = (name, unit)
        if key not in self.real_views:
            op = self.graph[name]
            match op:
                case Convolution():
                    view = self._convolution(op, name, None, unit)
                case Resize() if self.grid.phases(*self.graph.shape(op.input)[1:]) is None:
                    view = self._resized_real(op.input, self.maps.phases(name), unit)
                case Resize():
                    view = self._real(op.input, unit).resized(self.maps.phases(name))
                case FloatConvolution():
                    view = self._float_convolution(op, name, None, unit)
                case MaxPool() if self.graph.quantizer(name) is None:
                    view = self._real_max_pool(op, unit)
                case AveragePool():
                    view = self._resized_real(name, self.maps.phases(name), unit)
                case Input() | Affine():
                    view = self.inputs.tensor(f"{name}/real", op, None, unit)
                case Add() | Relu() | Quantize() | MaxPool():
                    view = self._sum(name, None, unit)
                case Bilinear():
                    raise PlanError(
                        f"operation {name!r}: a bilinear upsampling must be read by the last softmax or argmax alone"
                    )
                case Softmax() | Argmax():
                    raise PlanError(
                        f"operation {name!r} ({type(op).__name__}) is not supported where real values are needed"
                    )
                case _:
                    assert_never(op)
            self.real_views[key] = view
        return self.real_views[key]

    def _resized_real(self, name: str, phases: Size, unit: float) -> View:
        """Nearest resize of a small map (pooled bins) to a whole multiple of the grid."""
        op = self.graph[name]
        if not isinstance(op, AveragePool):
            raise PlanError(
                f"operation {name!r} ({type(op).__name__}): only pooled maps may have a size ({self.maps.size(name)}) "
                f"that is no multiple of the grid {self.grid.rows}x{self.grid.columns}"
            )
        shapes = self.graph.shape(name), self.graph.shape(op.input)
        quantized = self.graph.quantizer(op.input) is not None
        source = self._codes(op.input) if quantized else self._real(op.input, unit)
        steps, out = spread(name, source, *shapes, phases, unit)
        self.body += steps
        return out

    def _quantize(self, op: Quantize) -> View:
        source = self.graph[op.input]
        if isinstance(source, Input | Affine):
            return self.inputs.tensor(op.name, source, op.quantizer, op.quantizer.scale)
        return self._sum(op.input, op, op.quantizer.scale)

    def _sum(self, name: str, quantize: Quantize | None, unit: float) -> View:
        """The expression `name` in one step: to the codes of `quantize`, or to real values if that is None."""
        target = quantize.name if quantize else f"{name}/real"
        relu = False
        op: Op = self.graph[name]
        while isinstance(op, Relu):
            relu = True
            op = self.graph[op.input]
        if isinstance(op, Convolution):
            return self._convolution(op, target, quantize, unit, relu=relu)
        if isinstance(op, FloatConvolution):
            return self._float_convolution(op, target, quantize, unit, relu)
        if quantize and not relu and isinstance(op, Add):
            found = stages_of(self.graph, op, lambda name: len(self.consumers[name]) == 1)
            if found and self.graph.quantizer(found[0]) is not None and self.maps.phases(found[0]) == (1, 1):
                return self._pyramid(quantize, *found)
        quantizer = quantize.quantizer if quantize else None
        if not isinstance(op, Add):
            return self._combine(target, quantizer, self._addend(op.name, unit), None, relu)
        for main, other in ((op.left, op.right), (op.right, op.left)):
            convolution, inner = self._fusible(main)
            if convolution is not None:
                projection, projection_inner = self._fusible(other)
                addend: Addend | ConvolutionStep
                choice = None
                if projection is not None:
                    # Computed tile by tile inside the step that adds it, so with the same tiles.
                    choice = self._direct_choice(convolution)
                    inside = Choice(choice.kernel, f"tile by tile inside {convolution.name}, with its tiles")
                    addend = self._direct(projection, inside, unit, projection_inner)
                else:
                    addend = self._addend(other, unit)
                return self._convolution(convolution, target, quantize, unit, inner, addend, relu, choice)
        left, right = self._addend(op.left, unit), self._addend(op.right, unit)
        return self._combine(target, quantizer, left, right, relu)

    def _fusible(self, name: str) -> tuple[Convolution | None, Quantizer | None]:
        """The convolution behind one side of a sum, with the quantizer between them if nobody else reads that."""
        op, inner = self.graph[name], None
        if isinstance(op, Quantize) and len(self.consumers[name]) == 1 and name not in self.codes_views:
            inner, op = op.quantizer, self.graph[op.input]
        return (op, inner) if isinstance(op, Convolution) else (None, None)

    def _addend(self, name: str, unit: float) -> Addend:
        quantizer = self.graph.quantizer(name)
        if quantizer is None:
            return Addend(self._real(name, unit))
        view = self._codes(name)
        scale = arithmetic.dequantize_multiplier(quantizer, unit)
        return Addend(view, float(scale), quantizer.zero_point - quantizer.low)

    def _convolution(
        self,
        op: Convolution,
        target: str,
        quantize: Quantize | None,
        unit: float,
        inner: Quantizer | None = None,
        addend: Addend | ConvolutionStep | None = None,
        relu: bool = False,
        choice: Choice | None = None,
    ) -> View:
        """Append the step that computes `op`, then adds `addend`, into a new map; `choice`: its kernel, made already."""
        phases = self.maps.phases(op.name)
        size = self.graph.shape(op.name)[1:]
        tiles: Tiling | None = None
        if choice is None:
            tiles = tiling(op, size, phases, self.grid, addend is None)
            choice = self.policy.convolution(op, Geometry(math.prod(phases), self.grid.vectors, tiles))
        saturates = quantize is not None and saturates_as_bytes(quantize, self.largest)
        out = self.maps.new(target, op.weight.shape[0], phases, quantize.quantizer if quantize else None)
        if isinstance(choice.kernel, MicroKernel):
            step = self._direct(op, choice, unit, inner)
            self.body.append(replace(step, addend=addend, target=out, relu=relu, saturates=saturates))
            return out
        assert tiles is not None, f"{op.name}: filtering was chosen where it is not possible"
        assert not isinstance(addend, ConvolutionStep)
        source, _ = self._source(op)
        elements = WinogradStep.elements_block(op, tiles, self.threads)
        end = (unit, inner, addend, out, relu, saturates, self.threads)
        filtered = WinogradStep(
            op, source, phases, size, tiles, choice.reason, *end, elements, choice.candidates
        )
        self.body += [WinogradInputStep(filtered), filtered] if elements else [filtered]
        return out

    def _direct_choice(self, op: Convolution) -> Choice:
        """The micro-kernel of `op` where filtering is not possible."""
        planes = math.prod(self.maps.phases(op.name))
        return self.policy.convolution(op, Geometry(planes, self.grid.vectors, None))

    def _direct(
        self, op: Convolution, choice: Choice, unit: float, inner: Quantizer | None
    ) -> ConvolutionStep:
        """The step of `op` up to its rescaled accumulators: geometry, packed weights, constants; no output yet."""
        assert isinstance(choice.kernel, MicroKernel), f"{op.name}: filtering was chosen without a tiling"
        size, why = self.graph.shape(op.name)[1:], choice.reason
        step = ConvolutionStep.of(op, *self._source(op), size, choice.kernel, why, unit, inner)
        return replace(step, threads=self.threads, candidates=choice.candidates)

    def _source(self, op: Convolution) -> tuple[View, Size]:
        """The codes that `op` reads, and the phases of its output."""
        source = self._codes(op.input)
        return source, self.maps.check_stride(op, source)

    def _float_convolution(
        self, op: FloatConvolution, target: str, quantize: Quantize | None, unit: float, relu: bool = False
    ) -> View:
        """Append the step that computes `op` into a new map."""
        source = self._real(op.input, 1.0)
        phases = self.maps.check_stride(op, source)
        out = self.maps.new(target, op.weight.shape[0], phases, quantize.quantizer if quantize else None)
        size = self.graph.shape(op.name)[1:]
        self.body.append(FloatConvolutionStep.of(op, source, size, unit, out, relu, self.threads))
        return out

    def _real_max_pool(self, op: MaxPool, unit: float) -> View:
        source, channels = self._real(op.input, unit), self.graph.shape(op.name)[0]
        step = RealMaxPoolStep.of(
            op, source, self.maps.new(op.name, channels, self.maps.phases(op.name), None)
        )
        self.tables += step.masks_bytes
        check_copy_tables(self.tables, f"max pool {op.name!r}")
        self.body.append(step)
        return step.target

    def _max_pool(self, op: MaxPool) -> View:
        source = self._codes(op.input)
        channels, phases = self.graph.shape(op.name)[0], self.maps.phases(op.name)
        out = self.maps.new(op.name, channels, phases, source.codes.quantizer)
        self.body.append(MaxPoolStep.of(op, source, out))
        return out

    def _combine(
        self, target: str, quantizer: Quantizer | None, left: Addend, right: Addend | None, relu: bool
    ) -> View:
        out = self.maps.new(target, left.view.map.channels, left.view.phases, quantizer)
        self.body.append(CombineStep(target, left, right, out, relu))
        return out

    def _pyramid(self, quantize: Quantize, name: str, stages: list[Stage]) -> View:
        source = self._codes(name)
        channels, height, width = self.graph.shape(name)
        out = self.maps.new(quantize.name, channels, (1, 1), quantize.quantizer)
        self.body.append(PyramidStep(quantize.name, source, (height, width), stages, out))
        return out
