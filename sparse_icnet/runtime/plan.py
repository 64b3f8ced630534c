"""Graph -> Plan: which kernel computes what, in which order, from which packed weights, into which buffer.

The planner walks the graph from its output.  Every quantizer becomes one step that computes the whole expression
between it and the quantizers before it: convolution, inner quantizer, residual, ReLU, rounding.  Resizes become views.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.floats import standard_floats
from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.kernels.sizes import (
    SCRATCH_BYTES,
    average_pool_scratch_bytes,
    bilinear_scratch_bytes,
    pack_constant,
    pyramid_line_offsets,
    pyramid_scratch_bytes,
    quantize_scratch_bytes,
    smooth_scratch_bytes,
)
from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    Graph,
    Input,
    MaxPool,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
    pruned,
)
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.runtime import pyramid, winograd
from sparse_icnet.runtime.bounds import largest_values
from sparse_icnet.runtime.budget import check_graph, check_memory, check_scratch, check_work
from sparse_icnet.runtime.choice import (
    blocks_of,
    choose_kernel,
    choose_winograd,
    entries_of,
    pack_weights,
    tail_kernel,
    vectors_of_task,
)
from sparse_icnet.runtime.layout import VECTOR_PIXELS, Arena, Buffer, Grid, View
from sparse_icnet.runtime.proof import prove
from sparse_icnet.runtime.schedule import depth_first, lifetimes, offsets
from sparse_icnet.runtime.smooth import Stretch, argmax_step, bilinear_tail, logits_tail, smooth_tail
from sparse_icnet.runtime.steps import Operand, Plan, PlanError, Step, f32_bits, int32_table, step_rows
from sparse_icnet.runtime.taps import block_offsets, copies, fill_padding, shift_step, tap_offsets, taps_of
from sparse_icnet.sparse.winograd import ELEMENTS, INPUTS, OUTPUTS
from sparse_icnet.target import TARGET, MicroKernel

LARGEST_VALUE = 1e36  # of a real value in the unit of its reader: a sum of a hundred stays finite in float32
LARGEST_CONVERTED = 2.0**30  # of a real value that the CPU converts to int32 unclipped


@standard_floats()
def plan_for(graph: Graph, threads: int = 1, keep_tensors: bool = False) -> Plan:
    """`build_plan` of any graph that ends in Softmax or Argmax, or their nearest upsampling; it is optimized here."""
    check_graph(graph)
    return build_plan(optimize(graph), threads, keep_tensors)


def build_plan(graph: Graph, threads: int = 1, keep_tensors: bool = False) -> Plan:
    """Plan for an optimized graph that ends in Softmax or Argmax, or their nearest upsampling.

    keep_tensors  every tensor has memory of its own and can be read after an inference

    Raises PlanError for what this engine cannot run; a plan that is returned is proven to stay inside its memory.
    """
    with standard_floats():
        plan = _Planner(graph, threads, keep_tensors).plan()
    prove(plan)
    return plan


class _Planner:
    def __init__(self, graph: Graph, threads: int, keep_tensors: bool) -> None:
        self.graph = graph
        self.threads = threads
        self.keep_tensors = keep_tensors
        self.consumers = graph.consumers()
        sizes = [graph.shape(op.name)[1:] for op in graph.convolutions]
        if not sizes:
            raise PlanError("the graph has no convolution: it is not an ICNet")
        _check_magnitudes(graph)
        self.largest = largest_values(graph)
        self.grid = Grid.for_size(min(h for h, _ in sizes), min(w for _, w in sizes))
        check_graph(graph)
        check_work(graph, self.grid)
        self.buffers: list[Buffer] = []
        self.body: list[Step] = []
        self.codes_views: dict[str, View] = {}
        self.real_views: dict[tuple[str, float], View] = {}
        self.scratch = SCRATCH_BYTES
        self.heads: tuple[Step, Step] | None = None

    # --- the whole ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        end, resizes = self.graph[self.graph.output], 0
        while isinstance(end, Resize):
            end, resizes = self.graph[end.input], resizes + 1
        if not isinstance(end, Softmax | Argmax):
            raise PlanError(f"output {end.name!r} must be a softmax or an argmax, found {type(end).__name__}")
        if resizes > 1:  # what equals a single one was merged before
            raise PlanError(
                f"output {self.graph.output!r}: its {resizes} resizes must equal a single nearest resize"
            )
        upsampling = self.graph[end.input]
        source = upsampling.input if isinstance(upsampling, Bilinear) else end.input
        logits_shape = self.graph.shape(source)
        if logits_shape[0] > 256:
            raise PlanError(f"operation {end.name!r}: expected at most 256 classes, found {logits_shape[0]}")
        self._plan_what_windows_read()
        logits = self._real(source, 1.0)
        output_shape = (logits_shape[0], *self.graph.shape(self.graph.output)[1:])
        if isinstance(upsampling, Bilinear):
            if resizes:
                raise PlanError(
                    f"output {self.graph.output!r}: expected no resize behind the bilinear one, {upsampling.name!r}"
                )
            stretch = Stretch.of(logits_shape[1:], upsampling.size, upsampling.align_corners)
            probabilities = bilinear_tail(logits, logits_shape, stretch)
            classes = smooth_tail(logits, logits_shape, stretch)
            self._need_scratch(end.name, bilinear_scratch_bytes(logits_shape[0], logits_shape[2]))
        else:
            probabilities, classes = self._tails(logits, logits_shape, output_shape)
        smooth = smooth_tail(logits, logits_shape)
        plain = logits_tail(logits, logits_shape)
        self._need_scratch(end.name, smooth_scratch_bytes(logits_shape[0]))
        tails = [*probabilities, *classes, *smooth, *plain]
        if self.heads is None:
            raise PlanError("no convolution reads the network input")
        arena = Arena()
        body = depth_first(
            [step for step in self.body if step.kind != Kind.SHIFT or step.output.buffer.edges]
        )
        shared = self._place([*self.heads, *body, *tails], arena)
        for step in (*self.heads, *body, *tails):
            if step.fill is not None:
                step.fill(step, arena)
                step.fill = None  # and what it holds: packed weights
        return Plan(
            self.graph,
            self.grid,
            arena,
            self.codes_views,
            *self.heads,
            body,
            probabilities,
            classes,
            smooth,
            plain,
            logits_shape,
            upsampling if isinstance(upsampling, Bilinear) else None,
            output_shape,
            self.scratch,
            self.threads,
            shared,
        )

    def _plan_what_windows_read(self) -> None:
        """The steps of all codes that convolutions and poolings read, those first that others are made from.

        From here on the methods that call each other go no deeper than one expression: `budget` bounds its depth.
        """
        for op in pruned(self.graph.ops, self.graph.output):
            if isinstance(op, Convolution | MaxPool | AveragePool):
                self._codes(op.input)

    def _place(self, steps: list[Step], arena: Arena) -> NDArray[np.uint8]:
        """Give every buffer memory: its own, or a part of what is returned, which others use before and after."""
        alive = lifetimes(steps)
        shared = [] if self.keep_tensors else self.buffers
        places, size = offsets([b.bytes for b in shared], [alive[id(b)] for b in shared])
        kept = sum(buffer.bytes for buffer in self.buffers)
        largest = max(self.buffers, key=lambda buffer: buffer.bytes)
        check_memory(kept if self.keep_tensors else size, f"operation {largest.name!r}", self.keep_tensors)
        memory = arena.take(size)
        for buffer, start in zip(shared, places, strict=True):
            buffer.place(memory[start : start + buffer.bytes], False)
        if self.keep_tensors:
            for buffer in self.buffers:
                buffer.place(arena.take(buffer.bytes), True)
        return memory

    def _tails(
        self, logits: View, shape: tuple[int, int, int], output: tuple[int, int, int]
    ) -> tuple[list[Step], list[Step]]:
        channels, height, width = shape
        ky, kx = output[1] // height, output[2] // width
        if (height * ky, width * kx) != output[1:]:
            raise PlanError(f"the output {output[1:]} must be a whole multiple of the logits {shape[1:]}")
        common = {
            f.PHASES: math.prod(logits.phases),
            f.VECTORS: self.grid.vectors,
            f.PITCH: self.grid.pitch,
            f.HEIGHT: height,
            f.WIDTH: width,
            f.CHANNELS: channels,
        }
        small = 64 * self.grid.vectors * math.prod(logits.phases)  # bytes of a channel of probabilities

        def fill_softmax(step: Step, arena: Arena) -> None:
            self._operand_in(step, arena, logits)
            step.fields |= {f.OUT: arena.take(channels * small).ctypes.data, f.OUT_GROUP: small}
            upsample.fields |= {f.IN: step.fields[f.OUT], f.IN_GROUP: small}

        softmax = Step("softmax", Kind.SOFTMAX, math.prod(logits.phases), dict(common), fill_softmax)
        softmax.reads = [logits.buffer]
        # Few tasks: between two, the streaming stores must have reached the memory.
        per_task = max(1, channels * height // (16 * self.threads))
        upsample = Step("upsample", Kind.UPSAMPLE, -(-channels * height // per_task), dict(common))
        upsample.reads = [softmax]
        upsample.fields |= {f.COUNT: per_task, f.EXTRA: logits.phases[1], f.STEP_Y: ky, f.STEP_X: kx}
        self._need_scratch(self.graph.output, max(64 * channels, 4 * width * kx + 64))
        return [softmax, upsample], [argmax_step(logits, shape)]

    # --- tensors ---------------------------------------------------------------------------------------------------

    def _codes(self, name: str) -> View:
        """View of the quantized tensor `name`, computed by steps appended on the way."""
        if name not in self.codes_views:
            op = self.graph[name]
            match op:
                case Resize():
                    view = self._resized_codes(op)
                case MaxPool():
                    view = self._max_pool(op)
                case Quantize():
                    view = self._quantize(op)
                case _:
                    raise PlanError(f"operation {name!r} ({type(op).__name__}) holds no codes")
            self.codes_views[name] = view
        return self.codes_views[name]

    def _resized_codes(self, op: Resize) -> View:
        phases = self._phases(op.name)
        if self.grid.phases(*self.graph.shape(op.input)[1:]) is not None:
            return self._codes(op.input).resized(phases)
        # Codes of a map that is no multiple of the grid, such as a pooled one: quantize after the resize instead,
        # which gives the same codes pixel by pixel.
        source = self.graph[op.input]
        if not isinstance(source, Quantize):
            raise PlanError(
                f"resize {op.name!r}: cannot resize the codes of {op.input!r} from {self._size(op.input)}"
            )
        real = self._resized_real(source.input, phases, source.quantizer.scale)
        return self._combine(op.name, source.quantizer, Operand(f.REAL, real), None, False)

    def _real(self, name: str, unit: float) -> View:
        """View of the float32 values [name]_unit."""
        key = (name, unit)
        if key not in self.real_views:
            op = self.graph[name]
            match op:
                case Convolution():
                    view = self._convolution(op, name, None, unit)
                case Resize() if self.grid.phases(*self.graph.shape(op.input)[1:]) is None:
                    view = self._resized_real(op.input, self._phases(name), unit)
                case Resize():
                    view = self._real(op.input, unit).resized(self._phases(name))
                case Add() | Relu() | Quantize() | MaxPool():
                    view = self._sum(name, None, unit)
                case Bilinear():
                    raise PlanError(
                        f"operation {name!r}: a bilinear upsampling must be read by the last softmax or argmax alone"
                    )
                case _:
                    raise PlanError(
                        f"operation {name!r} ({type(op).__name__}) is not supported where real values are needed"
                    )
            self.real_views[key] = view
        return self.real_views[key]

    def _resized_real(self, name: str, phases: tuple[int, int], unit: float) -> View:
        """Nearest resize of a small map (pooled bins) to a whole multiple of the grid."""
        op = self.graph[name]
        if not isinstance(op, AveragePool):
            raise PlanError(
                f"operation {name!r} ({type(op).__name__}): only pooled maps may have a size ({self._size(name)}) "
                f"that is no multiple of the grid {self.grid.rows}x{self.grid.columns}"
            )
        channels, rows, columns = self.graph.shape(name)
        height, width = self.graph.shape(op.input)[1:]
        source = self._codes(op.input)
        quantizer = source.buffer.quantizer
        pool = Step(f"{name}/mean", Kind.AVERAGE_POOL, -(-channels // 4), reads=[source.buffer])
        pool.fields = {
            f.COUNT: rows,
            f.EXTRA: columns,
            f.PITCH: self.grid.pitch,
            f.STEP_Y: source.phases[0],
            f.STEP_X: source.phases[1],
            f.IN_ZERO: source.buffer.stored_zero,
        }
        self._need_scratch(name, average_pool_scratch_bytes(self.grid.pitch, rows, columns))
        table = pyramid.bin_table(quantizer, (height, width), (rows, columns), unit, source.phases)
        out = self._buffer(f"{name}/spread", channels, phases, None)
        expand = Step(f"{name}/spread", Kind.EXPAND, channels, output=View.of(out), reads=[pool])
        expand.fields = {
            f.COUNT: rows,
            f.EXTRA: columns,
            f.HEIGHT: phases[0] * self.grid.rows,
            f.WIDTH: phases[1] * self.grid.columns,
            f.PITCH: self.grid.pitch,
            f.STEP_Y: phases[0],
            f.STEP_X: phases[1],
        }

        def fill(step: Step, arena: Arena) -> None:
            self._operand_in(step, arena, source)
            step.fields[f.TABLE] = arena.put(table)
            step.fields[f.OUT] = arena.take(4 * (channels + 3) * rows * columns).ctypes.data
            expand.fields[f.IN] = step.fields[f.OUT]
            self._output(expand, arena, View.of(out))

        pool.fill = fill
        self.body += [pool, expand]
        return View.of(out)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _quantize(self, op: Quantize) -> View:
        source = self.graph[op.input]
        if isinstance(source, Input | Affine):
            return self._head(op, source)
        return self._sum(op.input, op, op.quantizer.scale)

    def _sum(self, name: str, quantize: Quantize | None, unit: float) -> View:
        """The expression `name` in one step: to the codes of `quantize`, or to real values if that is None."""
        target = quantize.name if quantize else f"{name}/real"
        relu = False
        op = self.graph[name]
        while isinstance(op, Relu):
            relu = True
            op = self.graph[op.input]
        if isinstance(op, Convolution):
            return self._convolution(op, target, quantize, unit, relu=relu)
        if quantize and not relu and isinstance(op, Add):
            found = pyramid.stages_of(self.graph, op, lambda name: len(self.consumers[name]) == 1)
            if found and self._phases(found[0]) == (1, 1):
                return self._pyramid(quantize, *found)
        quantizer = quantize.quantizer if quantize else None
        if not isinstance(op, Add):
            return self._combine(target, quantizer, self._operand(op.name, unit), None, relu, unit)
        for main, other in ((op.left, op.right), (op.right, op.left)):
            convolution, inner = self._fusible(main)
            if convolution is not None:
                projection, projection_inner = self._fusible(other)
                if projection is not None:
                    # Computed tile by tile inside the step that adds it, so with the same tiles.
                    choice = choose_kernel(convolution, self.grid.vectors)
                    residual = self._convolution_step(projection, unit, projection_inner, choice)
                else:
                    residual = self._operand(other, unit)
                return self._convolution(convolution, target, quantize, unit, inner, residual, relu)
        left, right = self._operand(op.left, unit), self._operand(op.right, unit)
        return self._combine(target, quantizer, left, right, relu, unit)

    def _fusible(self, name: str) -> tuple[Convolution | None, Quantizer | None]:
        """The convolution behind one side of a sum, with the quantizer between them if nobody else reads that."""
        op, inner = self.graph[name], None
        if isinstance(op, Quantize) and len(self.consumers[name]) == 1 and name not in self.codes_views:
            inner, op = op.quantizer, self.graph[op.input]
        return (op, inner) if isinstance(op, Convolution) else (None, None)

    def _operand(self, name: str, unit: float) -> Operand:
        quantizer = self.graph.quantizer(name)
        if quantizer is None:
            return Operand(f.REAL, self._real(name, unit))
        view = self._codes(name)
        scale = arithmetic.dequantize_multiplier(quantizer, unit)
        return Operand(f.CODES, view, float(scale), quantizer.zero_point - quantizer.low)

    def _convolution(
        self,
        op: Convolution,
        target: str,
        quantize: Quantize | None,
        unit: float,
        inner: Quantizer | None = None,
        residual: Operand | Step | None = None,
        relu: bool = False,
    ) -> View:
        """Append the step that computes `op`, then adds `residual`, into a new buffer."""
        quantizer = quantize.quantizer if quantize else None
        phases = self._phases(op.name)
        size = self.graph.shape(op.name)[1:]
        tiles = None
        if not isinstance(residual, Step):  # which runs with the tiles of a direct convolution
            tiles = winograd.tiling(op, size, phases, self.grid, residual is None)
        reason = choose_winograd(op, tiles, math.prod(phases), self.grid.vectors)
        if reason:
            step = self._winograd_step(op, unit, inner, tiles, reason)
        else:
            step = self._convolution_step(op, unit, inner, choose_kernel(op, self.grid.vectors))
        out = self._buffer(target, op.weight.shape[0], phases, quantizer)
        step.output = View.of(out)
        step.fields[f.RELU] = int(relu)
        self._set_bounds(step, quantizer, relu)
        step.fields[f.DIRECT] = int(quantize is not None and self._is_direct(quantize))
        fill_weights = step.fill
        scattered = bool(reason) and tiles.starts is not None

        def fill(step: Step, arena: Arena) -> None:
            fill_weights(step, arena)
            self._output(step, arena, View.of(out))
            if not scattered:
                if out.shifts:
                    step.fields[f.COPIES] = copies(out, arena)
                if not self.keep_tensors:
                    fill_padding(step, arena, range(out.planes))
            if isinstance(residual, Step):
                residual.fill(residual, arena)
                step.fields[f.RESIDUAL] = arena.put(step_rows([residual]))
                step.fields[f.RESIDUAL_KIND] = f.FUSED
            else:
                self._residual(step, arena, residual)

        step.fill = fill
        if isinstance(residual, Step):
            step.fused = residual
            step.reads += residual.reads
        elif residual is not None:
            step.reads.append(residual.view.buffer)
        if scattered:
            return self._append(step, out)
        self.body.append(step)  # stores the shifted copies of its output itself
        return View.of(out)

    def _convolution_step(
        self, op: Convolution, unit: float, inner: Quantizer | None, choice: tuple[MicroKernel, str]
    ) -> Step:
        """The step of `op` up to its rescaled accumulators: geometry, packed weights, constants; no output yet."""
        source, phases = self._source(op)
        outputs = op.weight.shape[0]
        taps = taps_of(op, source, phases)
        kernel, reason = choice
        blocks = blocks_of(op, kernel.rows)
        stored = entries_of(op, kernel.rows)
        words = pack_weights(blocks, stored)
        groups = -(-outputs // 4)
        task_vectors = vectors_of_task(op, kernel)
        stretches = -(-self.grid.vectors // task_vectors)
        # Enough tasks that every thread finds work until the end, whatever the size of the map.
        chunks = min(groups, max(1, -(-8 * self.threads // (stretches * math.prod(phases)))))
        per_task = -(-groups // chunks)
        pixels = math.prod(self.graph.shape(op.name)[1:])
        step = Step(
            op.name,
            Kind.CONVOLUTION,
            stretches * math.prod(phases) * -(-groups // per_task),
            macs=blocks.data.size * pixels,
            dense_macs=op.weight.size * pixels,
            kernel=kernel.name,
            reason=reason,
            sparsity=1 - np.count_nonzero(op.weight) / op.weight.size,
            block_density=blocks.density,
            shape=op.weight.shape,
            weight_bytes=words.nbytes + 4 * TARGET.blocks_per_entry * len(words),
            reads=[source.buffer],
        )
        step.fields = {
            f.PHASES: math.prod(phases),
            f.VECTORS: self.grid.vectors,
            f.STRETCHES: stretches,
            f.TASK_VECTORS: task_vectors,
            f.GROUPS: groups,
            f.GROUPS_PER_TASK: per_task,
            f.KERNEL: TARGET.kernel_index(kernel),
            f.TILE_VECTORS: kernel.vectors,
            f.TAIL_KERNEL: TARGET.kernel_index(tail_kernel(kernel, self.grid.vectors)),
        }
        zero = source.buffer.stored_zero - TARGET.code_shift  # as the dot product reads it
        fill_constants = self._constants(step, op, source.buffer.quantizer, zero, unit, inner)

        def fill(step: Step, arena: Arena) -> None:
            fill_constants(arena)
            columns = blocks.indices[stored.blocks[:, : TARGET.blocks_per_entry]].reshape(-1)
            offsets = block_offsets(op, source, taps, columns)
            step.fields |= {
                f.IN: source.buffer.address,
                f.OFFSETS: arena.put(offsets),
                f.OFFSETS_PHASE: offsets.strides[0],
                f.INDPTR: arena.put(stored.indptr),
                f.WEIGHTS: arena.put(words),
            }

        step.fill = fill
        return step

    def _source(self, op: Convolution) -> tuple[View, Size]:
        """The codes that `op` reads, and the phases of its output."""
        source, phases = self._codes(op.input), self._phases(op.name)
        if source.phases != (phases[0] * op.stride[0], phases[1] * op.stride[1]):
            raise PlanError(
                f"convolution {op.name!r}: input {self._size(op.input)} must be stride {op.stride} times the output "
                f"{self._size(op.name)}"
            )
        return source, phases

    @staticmethod
    def _constants(
        step: Step, op: Convolution, source: Quantizer, zero: int, unit: float, inner: Quantizer | None
    ) -> Callable[[Arena], None]:
        """Set the fields of the epilogue up to an inner quantizer, now those without addresses, later the others.

        zero  what the kernel multiplies for the real value 0 of the input
        """
        if inner is not None:
            step.fields |= {
                f.INNER: 1,
                f.INNER_LOW: f32_bits(inner.low - inner.zero_point),
                f.INNER_HIGH: f32_bits(inner.high - inner.zero_point),
                f.INNER_SCALE: f32_bits(arithmetic.dequantize_multiplier(inner, unit)),
            }
            unit = inner.scale

        def fill(arena: Arena) -> None:
            outputs = op.weight.shape[0]
            padded = outputs + -outputs % 4
            initial = np.zeros(padded, np.int32)
            initial[:outputs] = -zero * op.weight.astype(np.int64).sum((1, 2, 3))
            constants = np.zeros((2, padded), np.float32)
            constants[0, :outputs] = arithmetic.convolution_multiplier(op, source, unit)
            constants[1, :outputs] = arithmetic.convolution_bias(op, unit)
            step.fields |= {
                f.INITIAL: arena.put(initial),
                f.MULTIPLIER: arena.put(constants[0]),
                f.BIAS: arena.put(constants[1]),
            }

        return fill

    def _winograd_step(
        self, op: Convolution, unit: float, inner: Quantizer | None, tiles: winograd.Tiling, reason: str
    ) -> Step:
        """The step of `op` by Winograd's filtering, behind a step that transforms its inputs unless it does so itself."""
        source, phases = self._source(op)
        size = self.graph.shape(op.name)[1:]
        if tiles.starts is None:
            window = MaxPool(op.name, op.input, (INPUTS, INPUTS), (OUTPUTS, OUTPUTS), op.padding)
            taps = taps_of(window, source, tiles.phases)
        else:
            source.buffer.pad_rows = max(source.buffer.pad_rows, 1)
            first = int(source.planes[0, 0])
            above, below = source.buffer.edges.get((first, 0), (0, 0))
            source.buffer.edges[first, 0] = max(above, 1), below
        tasks = math.prod(tiles.phases) * tiles.blocks
        wanted = 8 * self.threads
        own = winograd.own_inputs(op, tiles, 4 * self.threads)
        at_once = winograd.groups_at_once(op, tiles, tasks if own else wanted)
        outputs, inputs = op.weight.shape[:2]
        groups, in_groups = -(-outputs // 4), -(-inputs // 4)
        sums, scratch = winograd.scratch_bytes(op, tiles, own, at_once)
        self._need_scratch(op.name, scratch)
        step = Step(
            op.name,
            Kind.WINOGRAD,
            tasks if own else tasks * -(-groups // at_once),
            macs=ELEMENTS * 16 * groups * in_groups * VECTOR_PIXELS * tiles.all_vectors,
            dense_macs=op.weight.size * math.prod(size),
            kernel=TARGET.filtering.name,
            reason=reason,
            sparsity=1 - np.count_nonzero(op.weight) / op.weight.size,
            block_density=1.0,
            shape=op.weight.shape,
            weight_bytes=winograd.weight_bytes(op),
            reads=[source.buffer],
        )
        step.fields = {
            f.PHASES: math.prod(phases),
            f.VECTORS: tiles.vectors,
            f.STRETCHES: tiles.blocks,
            f.TASK_VECTORS: tiles.at_once,
            f.GROUPS: groups,
            f.GROUPS_PER_TASK: at_once,
            f.IN_GROUPS: in_groups,
            f.EXTRA: phases[1],
            f.WORDS_ELEMENT: winograd.element_bytes(2 * in_groups * tiles.at_once),
            f.SUMS_ELEMENT: winograd.element_bytes(4 * at_once * tiles.at_once),
            f.SUMS: sums,
        }
        zero = source.buffer.stored_zero
        fill_constants = self._constants(step, op, source.buffer.quantizer, zero, unit, inner)
        transform = None
        if not own:
            store = winograd.Words(f"{op.name}/elements", tasks * winograd.words_bytes(op, tiles), self.grid)
            self.buffers.append(store)
            transform = Step(
                f"{op.name}/elements",
                Kind.WINOGRAD_INPUT,
                tasks * in_groups,
                dict(step.fields),
                output=View(store, np.zeros((0, 0), np.intp)),
                reads=[source.buffer],
            )
            step.reads = [store]
            self.body.append(transform)

        def fill(step: Step, arena: Arena) -> None:
            fill_constants(arena)
            step.fields |= {
                f.IN: source.buffer.address,
                f.IN_GROUP: source.buffer.stride,
                f.WEIGHTS: arena.put(winograd.pack_weights(op, at_once)),
            }
            if tiles.starts is None:
                offsets = int32_table(tap_offsets(source.buffer, taps), f"convolution {op.name!r}")
                step.fields |= {f.OFFSETS: arena.put(offsets), f.OFFSETS_PHASE: offsets.strides[0]}
            else:
                offsets, places = winograd.gathered(op, tiles, size, source, step.output)
                step.fields |= {
                    f.OFFSETS: arena.put(offsets),
                    f.GATHER: offsets.strides[0],
                    f.TABLE: arena.put(np.arange(len(offsets), dtype=np.int32) * 64),
                    f.SCATTER: arena.put(places),
                }
            if transform is not None:
                step.fields[f.WORDS] = store.address
                transform.fields |= step.fields

        step.fill = fill
        return step

    def _max_pool(self, op: MaxPool) -> View:
        source = self._codes(op.input)
        phases = self._phases(op.name)
        buffer = source.buffer
        if buffer.stored_zero and any(op.padding):
            raise PlanError(
                f"max pool {op.name!r}: with padding its input must have the zero point as its lowest code, found "
                f"zero point {buffer.quantizer.zero_point} in {buffer.quantizer.low}..{buffer.quantizer.high}"
            )
        if source.phases != (phases[0] * op.stride[0], phases[1] * op.stride[1]):
            raise PlanError(f"max pool {op.name!r}: input must be stride {op.stride} times the output")
        taps = taps_of(op, source, phases)
        channels = self.graph.shape(op.name)[0]
        out = self._buffer(op.name, channels, phases, buffer.quantizer)
        step = Step(
            op.name, Kind.MAX_POOL, out.groups * math.prod(phases), output=View.of(out), reads=[buffer]
        )
        step.fields = {
            f.PHASES: math.prod(phases),
            f.VECTORS: self.grid.vectors,
            f.COUNT: taps.shape[1],
        }

        def fill(step: Step, arena: Arena) -> None:
            offsets = int32_table(tap_offsets(buffer, taps), f"max pool {op.name!r}")
            step.fields |= {f.OFFSETS: arena.put(offsets), f.OFFSETS_PHASE: offsets.strides[0]}
            self._operand_in(step, arena, source)
            self._output(step, arena, View.of(out))

        step.fill = fill
        return self._append(step, out)

    def _combine(
        self,
        target: str,
        quantizer: Quantizer | None,
        left: Operand,
        right: Operand | None,
        relu: bool,
        unit: float = 1.0,
    ) -> View:
        phases = left.view.phases
        channels = left.view.buffer.channels
        out = self._buffer(target, channels, phases, quantizer)
        step = Step(target, Kind.COMBINE, out.groups * math.prod(phases), output=View.of(out))
        step.reads = [operand.view.buffer for operand in (left, right) if operand]
        step.fields = {
            f.PHASES: math.prod(phases),
            f.VECTORS: self.grid.vectors,
            f.RELU: int(relu),
            f.IN_KIND: left.kind,
            f.IN_SCALE: f32_bits(left.scale),
            f.IN_ZERO: left.zero,
        }
        self._set_bounds(step, quantizer, relu)

        def fill(step: Step, arena: Arena) -> None:
            self._operand_in(step, arena, left.view)
            self._output(step, arena, View.of(out))
            self._residual(step, arena, right)

        step.fill = fill
        return self._append(step, out)

    def _head(self, op: Quantize, source: Input | Affine) -> View:
        channels, height, width = self.graph.input.shape
        if channels != 3:
            raise PlanError(f"the network input must have 3 channels, found {channels}")
        if self.heads is not None:
            raise PlanError(f"quantizer {op.name!r}: the network input may be quantized only once")
        if width < 16:
            raise PlanError(f"the network input must be at least 16 pixels wide, found {width}")
        phases = self._phases(op.name)
        out = self._buffer(op.name, channels, phases, op.quantizer)
        q = op.quantizer
        common = {
            f.HEIGHT: height,
            f.WIDTH: width,
            f.CHANNELS: channels,
            f.STEP_Y: phases[0],
            f.STEP_X: phases[1],
            f.PITCH: self.grid.pitch,
            f.IN_SCALE: f32_bits(q.scale),
            f.EXTRA: int(isinstance(source, Affine)),
        }
        image = Step("quantize image", Kind.QUANTIZE_IMAGE, phases[0], dict(common), output=View.of(out))
        blob = Step("quantize blob", Kind.QUANTIZE_BLOB, phases[0], dict(common), output=View.of(out))
        affine = np.zeros((2, 4), np.float32)
        if isinstance(source, Affine):
            affine[0, :channels] = arithmetic.f32(source.scale.astype(np.float64) / q.scale)
            affine[1, :channels] = arithmetic.f32(source.shift.astype(np.float64) / q.scale)
        self._set_bounds(blob, q, False)
        table = _image_table(self.graph, q, affine if isinstance(source, Affine) else None)

        def fill(step: Step, arena: Arena) -> None:
            image.fields[f.TABLE] = arena.put(table)
            blob.fields[f.TABLE] = arena.put(affine)
            self._output(image, arena, View.of(out))
            self._output(blob, arena, View.of(out))

        image.fill = fill
        self._need_scratch(op.name, quantize_scratch_bytes(width, phases[1]))
        self.heads = (image, blob)
        self.body.append(shift_step(out, not self.keep_tensors))
        return View.of(out)

    def _pyramid(
        self,
        quantize: Quantize,
        source_name: str,
        stages: list[pyramid.Stage],
    ) -> View:
        source = self._codes(source_name)
        quantizer = source.buffer.quantizer
        channels, height, width = self.graph.shape(source_name)
        words, finest, unit = pyramid.tables(quantizer, (height, width), stages, quantize.quantizer)
        out = self._buffer(quantize.name, channels, (1, 1), quantize.quantizer)
        step = Step(quantize.name, Kind.PYRAMID, out.groups, output=View.of(out), reads=[source.buffer])
        step.fields = {
            f.COUNT: len(stages),
            f.EXTRA: finest,
            f.HEIGHT: height,
            f.PITCH: self.grid.pitch,
            f.STEP_Y: 1,
            f.STEP_X: 1,
            f.IN_ZERO: source.buffer.stored_zero,
            f.IN_SCALE: f32_bits(arithmetic.dequantize_multiplier(quantizer, unit)),
        }
        self._set_bounds(step, quantize.quantizer, False)
        bin_rows = [pool.bins[0] for pool, _, _ in stages]
        lines = int32_table(
            pyramid_line_offsets(self.grid.pitch, height, bin_rows), f"pyramid {quantize.name!r}"
        )
        self._need_scratch(quantize.name, pyramid_scratch_bytes(self.grid.pitch, sum(bin_rows)))

        def fill(step: Step, arena: Arena) -> None:
            step.fields[f.TABLE] = arena.put(words)
            step.fields[f.OFFSETS] = arena.put(lines)
            self._operand_in(step, arena, source)
            self._output(step, arena, View.of(out))

        step.fill = fill
        return self._append(step, out)

    def _need_scratch(self, name: str, size: int) -> None:
        """Room for the kernel of `name` in the scratch memory of every thread."""
        check_scratch(size, self.threads, f"operation {name!r}")
        self.scratch = max(self.scratch, size)

    # --- small helpers ---------------------------------------------------------------------------------------------

    def _size(self, name: str) -> str:
        return "x".join(map(str, self.graph.shape(name)[1:]))

    def _phases(self, name: str) -> tuple[int, int]:
        phases = self.grid.phases(*self.graph.shape(name)[1:])
        if phases is None:
            raise PlanError(
                f"operation {name!r}: its size {self._size(name)} must be a whole multiple of the smallest convolution "
                f"output, {self.grid.rows}x{self.grid.columns}"
            )
        return phases

    def _buffer(
        self, name: str, channels: int, phases: tuple[int, int], quantizer: Quantizer | None
    ) -> Buffer:
        buffer = Buffer(name, channels, phases, quantizer, self.grid)
        self.buffers.append(buffer)
        return buffer

    def _append(self, step: Step, out: Buffer) -> View:
        self.body.append(step)
        if out.quantizer is not None:
            self.body.append(shift_step(out, not self.keep_tensors))
        return View.of(out)

    def _is_direct(self, quantize: Quantize) -> bool:
        """Whether clip(rint(x) + z, low, high) - low of (Q1) is rint(x) saturated to 0..255, and no x overflows int32.

        Saturating to int16 first changes nothing, since 0..255 lies within it.
        """
        q = quantize.quantizer
        return (q.zero_point, q.levels) == (q.low, 256) and (
            self.largest[quantize.input] / q.scale <= LARGEST_CONVERTED
        )

    @staticmethod
    def _set_bounds(step: Step, quantizer: Quantizer | None, relu: bool) -> None:
        step.fields[f.OUT_REAL] = int(quantizer is None)
        if quantizer is not None:
            low = quantizer.low - quantizer.zero_point
            # low <= 0, so a ReLU before the clip only raises the lower bound to 0.
            step.fields[f.LOW] = f32_bits(0 if relu else low)
            step.fields[f.HIGH] = f32_bits(quantizer.high - quantizer.zero_point)
            step.fields[f.PACK] = pack_constant(quantizer.zero_point - quantizer.low)

    @staticmethod
    def _operand_in(step: Step, arena: Arena, view: View) -> None:
        step.fields |= {
            f.IN: view.buffer.address,
            f.IN_GROUP: view.buffer.stride,
            f.IN_PLANES: arena.put(view.table()),
        }

    @staticmethod
    def _output(step: Step, arena: Arena, view: View) -> None:
        step.fields |= {
            f.OUT: view.buffer.address,
            f.OUT_GROUP: view.buffer.stride,
            f.OUT_PLANES: arena.put(view.table()),
        }

    @staticmethod
    def _residual(step: Step, arena: Arena, residual: Operand | None) -> None:
        if residual is not None:
            step.fields |= {
                f.RESIDUAL: residual.view.buffer.address,
                f.RESIDUAL_KIND: residual.kind,
                f.RESIDUAL_GROUP: residual.view.buffer.stride,
                f.RESIDUAL_PLANES: arena.put(residual.view.table()),
                f.RESIDUAL_SCALE: f32_bits(residual.scale),
                f.RESIDUAL_ZERO: residual.zero,
            }


def _check_magnitudes(graph: Graph) -> None:
    """Refuse a graph whose real values, in any unit that a quantizer reads them in, could leave float32.

    Infinities would make NaN in sums, and what maxima do with NaN differs between instructions.
    """
    scales = [op.quantizer.scale for op in graph if isinstance(op, Quantize)]
    unit, scale = min([1.0, *scales]), max([1.0, *scales])
    largest, name = 255 * scale / unit, "any quantizer"
    for op in graph.convolutions:
        weight_scale, bias = (float(np.abs(x).max()) for x in (op.weight_scale, op.bias))
        bound = 255 * 128 * op.weight[0].size * weight_scale * scale / unit + bias / unit
        largest, name = max((largest, name), (bound, f"convolution {op.name!r}"))
    if largest > LARGEST_VALUE:
        raise PlanError(
            f"{name}: its scales allow values of {largest:.1e} units of a quantizer, expected at most {LARGEST_VALUE:.0e}"
        )


def _image_table(graph: Graph, q: Quantizer, affine: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """u8 (3, 256): the stored code of each uint8 of each channel."""
    x = graph.normalization.table()
    real = x / np.float32(q.scale) if affine is None else x * affine[0, :3, None] + affine[1, :3, None]
    clipped = np.clip(real, np.float32(q.low - q.zero_point), np.float32(q.high - q.zero_point))
    return (np.rint(clipped).astype(np.int64) + (q.zero_point - q.low)).astype(np.uint8)
