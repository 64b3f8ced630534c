"""Small random graphs for tests (hypothesis strategies), and the quantizers that exporters add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from networks import random_blob
from numpy.typing import NDArray

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
    Shape,
    Size,
    Softmax,
    rename_inputs,
)
from sparse_icnet.network.icnet import CLASSES, LayerWeights, activation_names, icnet, layer_specs
from sparse_icnet.network.shapes import convolution_output_size
from sparse_icnet.reference import evaluate

MAX_SIDE = 24


@st.composite
def quantizers(draw: st.DrawFn, dyadic: bool = False) -> Quantizer:
    """Unsigned, signed, asymmetric of both signs, narrow: every kind a file holds.

    dyadic: the scale is a power of two, so that float32 and float64 agree exactly.
    """
    kind = draw(st.sampled_from(["unsigned", "signed", "asymmetric", "asymmetric signed", "narrow"]))
    low, high = (0, 255) if kind in ("unsigned", "asymmetric") else (-128, 127)
    zero_point = draw(st.integers(low, high)) if kind.startswith("asymmetric") else 0
    if kind == "narrow":
        low, high = draw(st.sampled_from([(-127, 127), (-1, 1), (0, 1), (0, 15), (-8, 7)]))
    scale = 2.0 ** -draw(st.integers(3, 6)) if dyadic else draw(st.floats(0.01, 0.1))
    return Quantizer(scale, zero_point, low, high)


def random_convolution(
    rng: np.random.Generator,
    name: str,
    source: str,
    shape: tuple[int, int, int, int],
    density: float = 1.0,
    dyadic: bool = False,
    **geometry: tuple[int, ...],
) -> Convolution:
    """Weights of `shape` (O, I, kh, kw) that keep the magnitude of values.

    geometry is stride, dilation, padding as in Convolution.

    One scale in ten is negative, as after folding a batch norm whose gamma is.  dyadic: scales are powers
    of two, biases multiples of 1/64.
    """
    weight = rng.integers(-127, 128, shape) * (rng.random(shape) < density)
    scale = rng.uniform(0.7, 1.4, shape[0]) / (75 * np.sqrt(max(density, 0.05) * np.prod(shape[1:])))
    bias = rng.normal(0, 0.3, shape[0])
    if dyadic:
        scale = 2.0 ** np.rint(np.log2(scale))
        bias = np.rint(bias * 64) / 64
    scale *= np.where(rng.random(shape[0]) < 0.1, -1, 1)
    weight, scale, bias = weight.astype(np.int8), scale.astype(np.float32), bias.astype(np.float32)
    return Convolution(name, source, weight, scale, bias, **geometry)


def random_float_convolution(
    rng: np.random.Generator,
    name: str,
    source: str,
    shape: tuple[int, int, int, int],
    density: float = 1.0,
    dyadic: bool = False,
    **geometry: tuple[int, ...],
) -> FloatConvolution:
    """Weights of `shape` (O, I, kh, kw) that keep the magnitude of values; dyadic: of few bits, as `random_convolution`."""
    weight = rng.normal(0, 1, shape) / np.sqrt(max(density, 0.05) * np.prod(shape[1:]))
    bias = rng.normal(0, 0.3, shape[0])
    if dyadic:
        weight, bias = np.rint(weight * 4) / 4, np.rint(bias * 64) / 64
    weight = (weight * (rng.random(shape) < density)).astype(np.float32)
    return FloatConvolution(name, source, weight, bias.astype(np.float32), **geometry)


def dyadic_blob(graph: Graph, seed: int) -> NDArray[np.float32]:
    """An input for `graph`: normal with deviation 1.5, in multiples of 1/64 (exact in any precision)."""
    rng = np.random.default_rng(seed)
    return (np.rint(rng.normal(0, 96, graph.input.shape)) / 64).astype(np.float32)


@st.composite
def graphs(draw: st.DrawFn, max_steps: int = 8, dyadic: bool = False) -> Graph:
    """A small valid graph of every kind of operation, full of the patterns that rewrites look for.

    Not every tensor is read.  dyadic: scales and window sizes are powers of two and there is no softmax, so
    that float64 evaluates the graph without any rounding that float32 does not make.
    """
    builder = _Drawn(draw, dyadic)
    for _ in range(draw(st.integers(1, max_steps))):
        builder.step()
    return builder.build()


class _Drawn:
    """Draws one operation after the other, on the newest tensor or on any other.

    Each method but `step` and `build` appends operations and returns the name of its result.
    """

    def __init__(self, draw: st.DrawFn, dyadic: bool) -> None:
        self.draw, self.dyadic = draw, dyadic
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.ops: list[Op] = []
        self.shapes: dict[str, Shape] = {}
        self.held: dict[str, Quantizer | None] = {}
        sides = st.sampled_from([1, 2, 4, 8, 16] if dyadic else [1, 2, 4, 6, 8, 12, 16])
        shape = (draw(st.integers(1, 3)), draw(sides), draw(sides))
        image = self.emit(Input("image", shape), shape)
        if not draw(st.integers(0, 4)):
            scale = self.rng.integers(1, 5, shape[0]).astype(np.float32) / 2
            shift = self.rng.integers(-2, 3, shape[0]).astype(np.float32) / 4
            image = self.emit(Affine("affine", image, scale, shift), shape)
        self.last = self.quantize(image)

    def emit(self, op: Op, shape: Shape | None = None, quantizer: Quantizer | None = None) -> str:
        self.ops.append(op)
        self.shapes[op.name] = shape or self.shapes[op.inputs[0]]
        self.held[op.name] = quantizer
        return op.name

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.ops)}"

    def step(self) -> None:
        names = [op.name for op in self.ops]
        source = self.last if self.draw(st.integers(0, 3)) else self.draw(st.sampled_from(names))
        steps = [self.quantize, self.relu, self.sum, self.resize, self.resize]
        if self.held[source] is None:
            if not self.dyadic:
                steps += [self.convolution, self.pool, self.mean]
        else:
            steps += 2 * [
                self.convolution,
                self.pool,
                self.mean,
                self.bottleneck,
                self.fusion,
                self.strided_pair,
            ]
        self.last = self.draw(st.sampled_from(steps))(source)

    def quantize(self, source: str) -> str:
        """By a new quantizer or by one that is there already."""
        kinds = [quantizers(self.dyadic)]
        if known := [q for q in self.held.values() if q is not None]:
            kinds.append(st.sampled_from(known))
        quantizer = self.draw(st.one_of(kinds))
        return self.emit(Quantize(self.name("codes"), source, quantizer), quantizer=quantizer)

    def maybe_quantize(self, source: str) -> str:
        return self.quantize(source) if self.draw(st.booleans()) else source

    def relu(self, source: str) -> str:
        return self.emit(Relu(self.name("relu"), source))

    def sum_of(self, left: str, right: str) -> str:
        return self.emit(Add(self.name("sum"), left, right))

    def sum(self, source: str) -> str:
        partners = [name for name, shape in self.shapes.items() if shape == self.shapes[source]]
        return self.sum_of(source, self.draw(st.sampled_from(partners)))

    def resize_to(self, source: str, size: Size) -> str:
        shape = (self.shapes[source][0], *size)
        return self.emit(Resize(self.name("resize"), source, size), shape, self.held[source])

    def resize(self, source: str) -> str:
        _, height, width = self.shapes[source]
        if not self.draw(st.integers(0, 9)):
            return self.resize_to(
                source, self.draw(st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE)))
            )
        factors = st.sampled_from([(1, 2), (2, 1), (1, 2), (2, 1), (1, 1), (4, 1), (1, 4), (3, 1)])
        (up_y, down_y), (up_x, down_x) = self.draw(
            st.one_of(factors.map(lambda f: (f, f)), st.tuples(factors, factors))
        )
        size = (max(1, height * up_y // down_y), max(1, width * up_x // down_x))
        return self.resize_to(source, (min(size[0], MAX_SIDE), min(size[1], MAX_SIDE)))

    def pool(self, source: str) -> str:
        channels, *size = self.shapes[source]
        kernel, stride, padding = self.draw(st.sampled_from([(3, 2, 1), (2, 2, 0), (1, 2, 0), (3, 1, 1)]))
        if min(size) + 2 * padding < kernel:
            kernel, padding = 1, 0
        rows, columns = (convolution_output_size(n, kernel, stride, 1, 2 * padding) for n in size)
        op = MaxPool(self.name("pool"), source, (kernel,) * 2, (stride,) * 2, (padding,) * 4)
        return self.emit(op, (channels, rows, columns), self.held[source])

    def mean(self, source: str) -> str:
        channels, *size = self.shapes[source]
        bins = []
        for length in size:
            whole = [b for b in (1, 2, 3, 4, length) if length % b == 0]
            if self.dyadic:
                whole = [b for b in whole if (length // b).bit_count() == 1]
            bins.append(self.draw(st.sampled_from(whole)))
        pooled = self.emit(AveragePool(self.name("mean"), source, tuple(bins)), (channels, *bins))
        return self.resize_to(pooled, tuple(size)) if self.draw(st.booleans()) else pooled

    def convolution(self, source: str) -> str:
        kernel = self.draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (3, 3), (1, 3), (2, 2), (5, 5)]))
        stride = self.draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 2), (4, 4), (1, 2)]))
        dilation = self.draw(st.sampled_from([(1, 1), (2, 2), (4, 4), (2, 1)]))
        near = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        padding = (*near, *near)
        if not self.draw(st.integers(0, 4)):
            padding = self.draw(st.tuples(*[st.integers(0, 4)] * 4))
        return self.convolution_of(source, self.draw(st.integers(1, 4)), kernel, stride, dilation, padding)

    def convolution_of(
        self,
        source: str,
        outputs: int,
        kernel: Size = (1, 1),
        stride: Size = (1, 1),
        dilation: Size = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> str:
        channels, *size = self.shapes[source]
        rows, columns = (
            convolution_output_size(length, kernel[a], stride[a], dilation[a], padding[a] + padding[a + 2])
            for a, length in enumerate(size)
        )
        if rows < 1 or columns < 1:
            return self.convolution_of(source, outputs)
        density = self.draw(st.sampled_from([0.0, 0.4, 1.0, 1.0]))
        geometry = {"stride": stride, "dilation": dilation, "padding": padding}
        shape = (outputs, channels, *kernel)
        real = self.held[source] is None or not self.draw(st.integers(0, 7))
        make, kind = (random_float_convolution, "float") if real else (random_convolution, "convolution")
        op = make(self.rng, self.name(kind), source, shape, density, self.dyadic, **geometry)
        return self.emit(op, (outputs, rows, columns))

    def square(self, source: str, outputs: int, dilation: int = 1) -> str:
        """3x3 of one dilation and padding."""
        return self.convolution_of(source, outputs, (3, 3), (1, 1), (dilation,) * 2, (dilation,) * 4)

    def bottleneck(self, source: str) -> str:
        """1x1, 3x3, 1x1 plus the input, ReLU; quantizers on the inputs of the sum as an exporter likes."""
        x = self.quantize(self.relu(self.convolution_of(source, 2)))
        x = self.quantize(self.relu(self.square(x, 2, self.draw(st.sampled_from([1, 2])))))
        x = self.maybe_quantize(self.convolution_of(x, self.shapes[source][0]))
        return self.quantize(self.relu(self.sum_of(x, self.maybe_quantize(source))))

    def fusion(self, source: str) -> str:
        """ReLU(dilated 3x3 of the enlarged input + 1x1 of another): a cascade fusion."""
        channels, height, width = self.shapes[source]
        factor = self.draw(st.sampled_from([2, 4]))
        if max(height, width) * factor > 2 * MAX_SIDE:
            return self.square(source, channels)
        up = self.maybe_quantize(self.resize_to(source, (height * factor, width * factor)))
        if self.held[up] is None:
            up = self.quantize(up)
        low = self.maybe_quantize(self.square(up, 2, factor * self.draw(st.sampled_from([1, 1, 2]))))
        high = self.maybe_quantize(self.convolution_of(up, 2))
        return self.quantize(self.relu(self.sum_of(low, high)))

    def strided_pair(self, source: str) -> str:
        """Two 1x1 convolutions of stride 2 or 4: what a stage that halves the map begins with."""
        stride = self.draw(st.sampled_from([(2, 2), (4, 4)]))
        left, right = (self.maybe_quantize(self.convolution_of(source, 2, stride=stride)) for _ in range(2))
        return self.maybe_quantize(self.sum_of(left, right))

    def build(self) -> Graph:
        source = self.last
        tails = ["", "r", "a", "ra", "ar"]
        if not self.dyadic:
            tails += ["rs", "sr", "s", "rsr", "rs", "srq", "bs", "rbs", "ba", "rba", "bra", "bar", "b"]
        for letter in self.draw(st.sampled_from(tails)):
            if letter == "r":
                source = self.resize(source)
            elif letter == "s":
                source = self.emit(Softmax(self.name("softmax"), source))
            elif letter == "b":
                size = (self.draw(st.integers(1, 30)), self.draw(st.integers(1, 30)))
                op = Bilinear(self.name("bilinear"), source, size, self.draw(st.booleans()))
                source = self.emit(op, (self.shapes[source][0], *size))
            elif letter == "q":
                source = self.quantize(source)
            else:
                _, height, width = self.shapes[source]
                source = self.emit(Argmax(self.name("argmax"), source), (1, height, width))
        return Graph(tuple(self.ops), source)


def random_icnet(
    size: Size = (192, 192), seed: int = 0, density: float = 0.4, classes: int = len(CLASSES)
) -> Graph:
    """ICNet with random weights of which `density` are not zero, balanced on one random picture.

    Every convolution's output has deviation 1, so that both sides of each sum count, a bottleneck's last
    one 1/2; each class occurs, and the softmax is not saturated.  Each quantizer holds the range of its
    tensor.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for layer in layer_specs(classes):
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        op = random_convolution(rng, layer.name, "", shape, density)
        weights[layer.name] = LayerWeights(op.weight, op.weight_scale, op.bias)
    graph = icnet(weights, dict.fromkeys(activation_names(), Quantizer(1.0)), size)
    return _balanced(graph, random_blob(graph, seed))


def _balanced(graph: Graph, blob: NDArray[np.float32]) -> Graph:
    """`graph` with convolutions scaled as `random_icnet` says, quantizers set to their ranges."""
    values: dict[str, NDArray] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Quantize):
            x = values[op.input]
            low, high = min(0.0, float(x.min())), float(x.max())
            scale = max(high - low, 1e-3) / 255
            op = replace(op, quantizer=Quantizer(scale, round(-low / scale)))
        values[op.name] = x = evaluate.float_value(op, values, blob, np.float32)
        if isinstance(op, Convolution):
            deviation = x.std((1, 2)) / 2 if op.name == "conv6_cls" else x.std()
            mean = x.mean((1, 2)) if op.name == "conv6_cls" else 0
            factor = (0.5 if op.name.endswith("/increase") else 1) / np.maximum(deviation, 1e-6)
            scale, bias = op.weight_scale * factor, (op.bias - mean) * factor
            op = replace(op, weight_scale=scale.astype(np.float32), bias=bias.astype(np.float32))
            values[op.name] = evaluate.float_value(op, values, blob, np.float32)
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def as_exported(graph: Graph, seed: int = 0) -> Graph:
    """`graph` with the quantizers that exporters add, as NNCF places them; their names end in `/fq`.

    One on every real input of a sum (asymmetric, twice as coarse as the one behind the sum), one behind
    every resize or max pool of codes (three in four identical to the one before it).
    """
    rng = np.random.default_rng(seed)
    readers = graph.consumers()
    ops: list[Op] = []
    renamed: dict[str, str] = {}
    for op in graph.ops:
        sources = op.inputs if isinstance(op, Add) else ()
        for source in dict.fromkeys(sources):
            if source not in renamed and graph.quantizer(source) is None:
                quantizer = Quantizer(_scale_behind(op, readers) * 2, int(rng.integers(100, 156)))
                renamed[source] = f"{source}/fq"
                ops.append(Quantize(renamed[source], source, quantizer))
        op = rename_inputs(op, renamed)
        ops.append(op)
        if isinstance(op, Resize | MaxPool) and (quantizer := graph.quantizer(op.name)) is not None:
            if rng.random() < 0.25:
                quantizer = replace(quantizer, scale=quantizer.scale * 2)
            renamed[op.name] = f"{op.name}/fq"
            ops.append(Quantize(renamed[op.name], op.name, quantizer))
    return replace(graph, ops=tuple(ops))


def _scale_behind(op: Op, readers: dict[str, list[Op]]) -> float:
    """The scale of the first quantizer on the way to the output, 1/32 if there is none."""
    while readers[op.name]:
        op = readers[op.name][0]
        if isinstance(op, Quantize):
            return op.quantizer.scale
    return 1 / 32
