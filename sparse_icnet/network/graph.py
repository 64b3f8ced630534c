"""The graph of a quantized network: small frozen operations, checked once, interpreted anywhere.

Every operation has one output and carries its name.  A tensor is either

* **quantized**: integer codes of a :class:`Quantizer` (the output of `Quantize`, or a `Resize`,
  or a `MaxPool` of a quantized tensor), or
* **real**: a float32 value that exists only inside an expression between two quantizers.

Arithmetic
----------
The equations below define the result of every operation to the last bit.  ``f32(.)`` rounds
to float32 (round half to even); products of scales are formed in float64 and rounded once.
A real tensor is always evaluated *in the unit of its consumer*: ``[x]_u`` is the value x / u, where u
is the scale of the quantizer that reads it, or 1 for a network output.

(Q1) quantize       q = clip(rint([x]_s) + z, low, high)          round half to even, s and z of the quantizer
(Q2) dequantize     [q]_u = f32(q - z) * f32(s / u)
(Q3) convolution    a = sum over taps and channels of (q - z) * w         exact int32; padding holds z
(Q4) rescale        [a]_u = f32(f32(a) * f32(s_in * s_w / u)) + f32(b / u)         two roundings, never fused
(Q5) add, ReLU      [x + y]_u = f32([x]_u + [y]_u),   [relu(x)]_u = max([x]_u, 0)
(Q6) average pool   [mean(q)]_u = f32(sum of (q - z)) * f32(s / (n * u))         n codes in the window of the bin
(Q7) nearest        resize(x)[i] = x[i * size_in // size_out]
(Q8) softmax        e_c = exp([x_c]_1 - max_c [x_c]_1), p_c = f32(e_c * f32(1 / sum of e_c)), c ascending;
                    exp is the polynomial of `sparse_icnet.network.arithmetic`
(Q9) affine         [a * x + b]_u = f32([x]_1 * f32(a / u)) + f32(b / u)         network input only
(Q10) input         [x]_u = f32(x / f32(u))
(Q11) bilinear      r[j] = f32(near_y * [x]_u[k_y, j]) + f32(far_y * [x]_u[k'_y, j])      for the columns j = k_x and k'_x,
                    [up(x)]_u[y, x] = f32(near_x * r[k_x]) + f32(far_x * r[k'_x])

Because a quantizer reads its whole expression in one unit, an engine may fuse convolution, residual,
ReLU and quantizer into one pass and still produce the bits that these equations define.

Bilinear upsampling and smooth class maps, (Q11)
------------------------------------------------
Along an axis of n grid points stretched over N pixels, pixel i lies at

    p = clip(((2i + 1) n - N) / 2N, 0, n - 1)       half-pixel centres, edges clamped; with `align_corners`
    p = i (n - 1) / (N - 1), and 0 for N = 1

in the cell k = min(floor(p), max(n - 2, 0)), between the grid points k and k' = min(k + 1, n - 1).  Its weights are
far = f32(p - k) and near = f32(1 - (p - k)), each the quotient of two integers formed in float64 and rounded once.

At a grid point, class c *beats* class d if [x_c]_1 > [x_d]_1, or if both are equal and c < d; the class of the point (its
Argmax) is the one that beats all others.  In a cell, d is *beaten* if the class of one of its four corners beats d at all
four.  The class of a pixel is, among the classes of largest v_c = [up(x_c)]_1, the lowest that is not beaten in its cell.

For finite [x]_1:

* There is one.  near and far are not negative, and rounded products with them and rounded sums are monotone: if c beats d
  at all corners, then v_c >= v_d.  So a largest v_d that is beaten equals the v_c of a corner's class; which is not beaten,
  for nobody beats it at its corner.
* So beaten classes need no arithmetic: the largest v_c of the others is the largest of all.
* Where the four corners agree on a class, so does every pixel between them: it beats all others at all corners.
* A pixel at a grid point (far = 0, near = 1) has the class of that point: v = [x]_1 there, and the point's class, which is
  not beaten, is the lowest of the largest.  A smooth map of the grid's own size is the Argmax.
* In exact arithmetic this is the argmax of v, the lowest among equals: if c beats d at all corners, then v_c > v_d, or
  c < d and both are equal at every corner whose weight is not 0.  What a rounding makes equal does not count against c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.meta import Meta

Shape = tuple[int, int, int]
Size = tuple[int, int]

# What a graph may hold.  All are far above any network of this kind, and so low that products of a few of them, and
# what a reader or the planner computes from them, stay far below 2**63.
MAX_LENGTH = 1 << 16  # channels, rows and columns of any tensor
MAX_WINDOW = 1 << 12  # stride, dilation and padding of a window, bins of an average pool
LOWEST_CODE, HIGHEST_CODE = (
    -(1 << 15),
    (1 << 15) - 1,
)  # codes are int16 in the oracle, code - low is uint8 in the engine
MAX_CHANNELS = 1 << 14
MAX_ELEMENTS = 1 << 31  # of a tensor
MAX_TAPS = 1 << 14  # kernel positions of a window, bins of a pooling
MAX_WEIGHTS = 1 << 26  # of a convolution

SMALLEST_NORMAL = float(
    np.finfo(np.float32).tiny
)  # smaller ones lose digits, and some processors take them as 0


class GraphError(ValueError):
    """A graph that cannot be what it claims: the message names the operation, what was expected and what came."""


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Uniform quantizer, equations (Q1) and (Q2): real = scale * (code - zero_point), low <= code <= high.

    scale       positive float, taken as float32, where it must be a normal number
    zero_point  the code of the real value 0, within low..high so that zero is exact
    low, high   code range, at most 256 codes within LOWEST_CODE..HIGHEST_CODE
    """

    scale: float
    zero_point: int = 0
    low: int = 0
    high: int = 255

    def __post_init__(self) -> None:
        for name in ("zero_point", "low", "high"):
            value = getattr(self, name)
            if not _is_integer(value):
                raise GraphError(f"quantizer {name} must be an integer, found {value!r}")
            object.__setattr__(self, name, int(value))
        try:
            with np.errstate(over="ignore", under="ignore"):
                object.__setattr__(self, "scale", float(np.float32(self.scale)))
        except (TypeError, ValueError, OverflowError):
            raise GraphError(
                f"quantizer scale must be a number, found a {type(self.scale).__name__}"
            ) from None
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise GraphError(f"quantizer scale must be finite and positive, found {self.scale}")
        if self.scale < SMALLEST_NORMAL:
            raise GraphError(
                f"quantizer scale must be at least {SMALLEST_NORMAL:.6g}, found {self.scale:.6g}"
            )
        if self.low < -(1 << 63) or self.high >= 1 << 63:  # too long to print
            raise GraphError("quantizer codes must be 64-bit integers, found larger ones")
        if not 1 <= self.high - self.low <= 255:
            raise GraphError(f"quantizer must have 2..256 codes, found {self.low}..{self.high}")
        if self.low < LOWEST_CODE or self.high > HIGHEST_CODE:
            raise GraphError(
                f"quantizer codes must lie in {LOWEST_CODE}..{HIGHEST_CODE}, found {self.low}..{self.high}"
            )
        if not self.low <= self.zero_point <= self.high:
            raise GraphError(
                f"quantizer zero point must lie in {self.low}..{self.high} so that zero is exact, found {self.zero_point}"
            )

    @property
    def levels(self) -> int:
        """Number of codes."""
        return self.high - self.low + 1


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """The network input: a real tensor of `shape` (channels, height, width)."""

    name: str
    shape: Shape
    inputs: tuple[str, ...] = field(default=(), init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Per-channel scale and shift of the network input, equation (Q9): mean and deviation written in the file."""

    name: str
    input: str
    scale: NDArray[np.float32]  # (C,)
    shift: NDArray[np.float32]  # (C,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Quantize:
    """Real (or quantized) tensor -> codes of `quantizer`, equation (Q1)."""

    name: str
    input: str
    quantizer: Quantizer

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """Quantized tensor -> real tensor, equations (Q3) and (Q4).

    weight        int8 (O, I, kh, kw), zero point 0: a zero weight is the integer 0
    weight_scale  float32 (O,), finite and non-zero; negative where a batch norm's gamma was
    bias          float32 (O,)
    stride, dilation  (vertical, horizontal)
    padding       (top, left, bottom, right), holds the zero point of the input
    """

    name: str
    input: str
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def macs_per_pixel(self) -> int:
        return int(self.weight.size)

    def __repr__(self) -> str:
        geometry = f"stride={self.stride}, dilation={self.dilation}, padding={self.padding}"
        zeros = 100 - 100 * int(np.count_nonzero(self.weight)) / max(self.weight.size, 1)
        return (
            f"Convolution({self.name!r}, {self.input!r}, weight {'x'.join(map(str, self.weight.shape))}, "
            f"{zeros:.1f} % zeros, {geometry})"
        )


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two tensors of one shape, equation (Q5)."""

    name: str
    left: str
    right: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0), equation (Q5)."""

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Largest code of each window of a quantized tensor; padding never wins.

    kernel, stride (vertical, horizontal); padding (top, left, bottom, right).
    """

    name: str
    input: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class AveragePool:
    """Mean over a grid of `bins` (rows, columns) windows, equation (Q6); the windows are those of `pool_windows`.

    Takes a quantized tensor.  Covers adaptive average pooling, average pooling with stride = kernel, and the
    mean over the whole map (bins 1 x 1).
    """

    name: str
    input: str
    bins: tuple[int, int]

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Resize:
    """Nearest neighbour to `size` (height, width), equation (Q7)."""

    name: str
    input: str
    size: Size

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Bilinear:
    """Real tensor: bilinear interpolation to `size` (height, width), equation (Q11).

    An Argmax that reads it, or nearest resizes of it, gives its smooth class map.
    """

    name: str
    input: str
    size: Size
    align_corners: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Softmax:
    """Probabilities over the channels of a real tensor, equation (Q8)."""

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Argmax:
    """uint8 (1, H, W): index of the largest [x]_1 over the channels, the lowest index among equals.

    Of a `Bilinear`, or of nearest resizes of one: the smooth class map of (Q11), which of equals may choose another.
    """

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


Op = (
    Input
    | Affine
    | Quantize
    | Convolution
    | Add
    | Relu
    | MaxPool
    | AveragePool
    | Resize
    | Bilinear
    | Softmax
    | Argmax
)


# Of each kind of operation the fields that hold integers: how many of them, the lowest and the highest.
_INTEGERS: Mapping[type, tuple[tuple[str, int, int, int], ...]] = {
    Input: (("shape", 3, 1, MAX_LENGTH),),
    Convolution: (
        ("stride", 2, 1, MAX_WINDOW),
        ("dilation", 2, 1, MAX_WINDOW),
        ("padding", 4, 0, MAX_WINDOW),
    ),
    MaxPool: (("kernel", 2, 1, MAX_LENGTH), ("stride", 2, 1, MAX_WINDOW), ("padding", 4, 0, MAX_WINDOW)),
    AveragePool: (("bins", 2, 1, MAX_WINDOW),),
    Resize: (("size", 2, 1, MAX_LENGTH),),
    Bilinear: (("size", 2, 1, MAX_LENGTH),),
}


@dataclass(frozen=True, slots=True)
class Normalization:
    """How an RGB uint8 image becomes the network input: (image / divisor - mean) / std per channel.

    The network of the model card expects divisor 255 and the CamVid mean and deviation; a file that
    carries its own normalization expects divisor 1, mean 0, std 1.
    """

    divisor: float = 255.0
    mean: tuple[float, ...] = (0.39068785, 0.40521392, 0.41434407)
    std: tuple[float, ...] = (0.29652068, 0.30514979, 0.30080369)

    def table(self) -> NDArray[np.float32]:
        """float32 (C, 256): the network input for each uint8 value, each operation rounded to float32."""
        values = np.arange(256, dtype=np.float32) / np.float32(self.divisor)
        mean = np.asarray(self.mean, np.float32)[:, None]
        std = np.asarray(self.std, np.float32)[:, None]
        return (values[None, :] - mean) / std


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in topological order; checked when built.

    ops            every name defined before it is used, exactly one Input
    output         name of the network output
    normalization  how an image becomes the input
    size_is_free   whether the file left the height or width of the input open, which is then a default
    meta           what the file says about the network
    """

    ops: tuple[Op, ...]
    output: str
    normalization: Normalization = Normalization()
    size_is_free: bool = False
    meta: Meta = field(default_factory=Meta)
    _by_name: Mapping[str, Op] = field(init=False, repr=False)
    _shapes: Mapping[str, Shape] = field(init=False, repr=False)
    _held: Mapping[str, Quantizer | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_name: dict[str, Op] = {}
        shapes: dict[str, Shape] = {}
        held: dict[str, Quantizer | None] = {}
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_held", held)
        for op in self.ops:
            if op.name in by_name:
                raise GraphError(f"operation {op.name!r}: names must be unique, found twice")
            for source in op.inputs:
                if source not in by_name:
                    raise GraphError(
                        f"operation {op.name!r}: input {source!r} must be an earlier operation, found none"
                    )
            by_name[op.name] = op
            if isinstance(op, Quantize):
                held[op.name] = op.quantizer
            else:
                held[op.name] = held[op.input] if isinstance(op, Resize | MaxPool) else None
            shapes[op.name] = shape = _checked_shape(self, op, shapes)
            if shape[0] > MAX_CHANNELS or max(shape) > MAX_LENGTH or math.prod(shape) > MAX_ELEMENTS:
                raise GraphError(
                    f"operation {op.name!r} ({type(op).__name__}): expected at most {MAX_CHANNELS} channels, {MAX_LENGTH} "
                    f"rows and columns, and {MAX_ELEMENTS} elements, found {'x'.join(map(str, shape))}"
                )
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))
        object.__setattr__(self, "_shapes", MappingProxyType(shapes))
        object.__setattr__(self, "_held", MappingProxyType(held))
        inputs = [op.name for op in self.ops if isinstance(op, Input)]
        if len(inputs) != 1:
            raise GraphError(f"a graph must have exactly one input, found {inputs}")
        if self.output not in by_name:
            raise GraphError(f"output {self.output!r} must be an operation of the graph")

    def __repr__(self) -> str:
        weights = sum(op.weight.size for op in self.convolutions)
        zeros = weights - sum(int(np.count_nonzero(op.weight)) for op in self.convolutions)
        source, result = ("x".join(map(str, self.shape(name))) for name in (self.input.name, self.output))
        return (
            f"Graph({self.input.name} {source} -> {self.output} {result}, {len(self.ops)} operations, "
            f"{len(self.convolutions)} convolutions, {weights:,} weights, {100 * zeros / max(weights, 1):.1f} % zeros)"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _made, (
            type(self),
            {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.init},
        )

    def __getitem__(self, name: str) -> Op:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def shape(self, name: str) -> Shape:
        """(channels, height, width) of the output of `name`."""
        return self._shapes[name]

    @property
    def input(self) -> Input:
        """The network input."""
        return next(op for op in self.ops if isinstance(op, Input))

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        return tuple(op for op in self.ops if isinstance(op, Convolution))

    @property
    def returns_classes(self) -> bool:
        """Whether the output is a class map, uint8 (1, H, W): an Argmax or a resize of one."""
        op = self._by_name[self.output]
        while isinstance(op, Resize):
            op = self._by_name[op.input]
        return isinstance(op, Argmax)

    @property
    def returns_logits(self) -> bool:
        """Whether the output is real values that no softmax or argmax made: the logits, or resizes of them."""
        op = self._by_name[self.output]
        while isinstance(op, Resize | Bilinear):
            op = self._by_name[op.input]
        return not isinstance(op, Softmax | Argmax)

    def quantizer(self, name: str) -> Quantizer | None:
        """The quantizer whose codes `name` holds, or None if the tensor is real."""
        return self._held[name]

    def consumers(self) -> dict[str, list[Op]]:
        """Name -> operations that read it (an Add of a tensor to itself appears twice)."""
        readers: dict[str, list[Op]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for source in op.inputs:
                readers[source].append(op)
        return readers

    def macs(self) -> int:
        """Multiply-accumulates of one inference as written, zero weights included."""
        return sum(op.macs_per_pixel * math.prod(self.shape(op.name)[1:]) for op in self.convolutions)


def _made(kind: type[Graph], arguments: dict[str, Any]) -> Graph:
    """What a pickled graph is made by: checked anew."""
    return kind(**arguments)


def rename_inputs(op: Op, names: Mapping[str, str]) -> Op:
    """`op` reading `names[x]` in place of every input x that `names` has."""
    if isinstance(op, Input):
        return op
    if isinstance(op, Add):
        return replace(op, left=names.get(op.left, op.left), right=names.get(op.right, op.right))
    return replace(op, input=names.get(op.input, op.input))


def pruned(ops: Iterable[Op], output: str) -> tuple[Op, ...]:
    """`ops` in a topological order, without those that `output` does not need.  Input order need not be topological."""
    by_name = {op.name: op for op in ops}
    order: list[Op] = []
    state: dict[str, int] = {}
    stack = [output]
    while stack:
        name = stack[-1]
        if name not in by_name:
            raise GraphError(f"operation {name!r} is read but never defined")
        if state.get(name) == 2:
            stack.pop()
            continue
        if state.get(name) == 1:
            state[name] = 2
            order.append(by_name[name])
            stack.pop()
            continue
        state[name] = 1
        for source in by_name[name].inputs:
            if state.get(source) == 1:
                raise GraphError(f"operation {name!r}: the graph has a cycle through {source!r}")
            if source not in state:
                stack.append(source)
    return tuple(order)


def resized(graph: Graph, size: Size) -> Graph:
    """The same network for inputs of `size` (height, width): every resize target scales with the input.

    `size` must be multiples of `size_step`; for ICNet these are 32 and 32.  Nothing else depends on the size: windows of
    convolutions and max pools are local, and those of average pools follow `pool_windows` for any length, tiles or not.
    """
    channels, height, width = graph.input.shape
    if (height, width) == tuple(size):
        return replace(graph, size_is_free=False) if graph.size_is_free else graph
    steps = size_step(graph)
    if min(size) < 1 or any(length % step for length, step in zip(size, steps, strict=True)):
        raise GraphError(
            f"size {size[0]}x{size[1]}: expected a positive multiple of {steps[0]} as height and of {steps[1]} as "
            "width, so that every resize of the network gives whole pixels"
        )
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Input):
            op = Input(op.name, (channels, *size))
        elif isinstance(op, Resize | Bilinear):
            op = replace(op, size=(op.size[0] * size[0] // height, op.size[1] * size[1] // width))
        ops.append(op)
    return replace(graph, ops=tuple(ops), size_is_free=False)


def size_step(graph: Graph) -> Size:
    """(vertical, horizontal) step of the input sizes for which every resize target is a whole number of pixels.

    A target of r rows for an input of h becomes r * H / h rows for one of H: whole exactly if H is a multiple of
    h / gcd(r, h).
    """
    steps = []
    for axis, length in enumerate(graph.input.shape[1:]):
        targets = [op.size[axis] for op in graph.ops if isinstance(op, Resize | Bilinear)]
        steps.append(math.lcm(*(length // math.gcd(target, length) for target in targets)))
    return steps[0], steps[1]


def pool_windows(length: int, bins: int) -> tuple[tuple[int, int], ...]:
    """(start, end) of each bin along one axis: floor(i * length / bins) to ceil((i + 1) * length / bins).

    The rule of adaptive average pooling in PyTorch and OpenVINO: equal windows that tile the map where bins divides
    length, else overlapping ones.
    """
    return tuple((i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins))


def convolution_output_size(length: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    """Output length of one axis; `padding` is the sum of both ends."""
    return (length + padding - dilation * (kernel - 1) - 1) // stride + 1


def assert_never(op: NoReturn) -> NoReturn:
    """The end of a match over operations: to the type checker an error unless every kind of operation has its case."""
    raise TypeError(f"unknown operation {op!r}")


def _checked_shape(graph: Graph, op: Op, shapes: Mapping[str, Shape]) -> Shape:
    """Shape of `op`'s output, after checking that `op` may stand where it stands."""

    def fail(expected: str, found: object) -> GraphError:
        return GraphError(f"operation {op.name!r} ({type(op).__name__}): expected {expected}, found {found}")

    for name, count, low, high in _INTEGERS.get(type(op), ()):
        numbers = getattr(op, name)
        if len(numbers) != count or not all(_is_integer(n) and low <= n <= high for n in numbers):
            raise fail(f"{name} of {count} integers within {low}..{high}", numbers)
    if isinstance(op, Input):
        return op.shape
    shape = channels, height, width = shapes[op.inputs[0]]
    quantizer = graph.quantizer(op.inputs[0])
    match op:
        case Affine():
            if not isinstance(graph[op.input], Input):
                raise fail("the network input as its input", op.input)
            if op.scale.shape != (channels,) or op.shift.shape != (channels,):
                raise fail(
                    f"scale and shift of shape ({channels},)", f"{op.scale.shape} and {op.shift.shape}"
                )
            if not (np.isfinite(op.scale).all() and np.isfinite(op.shift).all()):
                raise fail("finite scale and shift", "NaN or infinity")
        case Convolution():
            return _convolution_shape(op, shape, quantizer, fail)
        case Add():
            if shapes[op.left] != shapes[op.right]:
                raise fail("two inputs of one shape", f"{shapes[op.left]} and {shapes[op.right]}")
        case MaxPool():
            if quantizer is None:
                raise fail("a quantized input", f"the real tensor {op.input!r}")
            _check_window(op.kernel, (1, 1), fail)
            if (
                max(op.padding[0], op.padding[2]) >= op.kernel[0]
                or max(op.padding[1], op.padding[3]) >= op.kernel[1]
            ):
                raise fail("padding smaller than the kernel", op.padding)
            rows = convolution_output_size(
                height, op.kernel[0], op.stride[0], 1, op.padding[0] + op.padding[2]
            )
            columns = convolution_output_size(
                width, op.kernel[1], op.stride[1], 1, op.padding[1] + op.padding[3]
            )
            if rows < 1 or columns < 1:
                raise fail("a window no larger than the padded map", f"{op.kernel} on {height}x{width}")
            return channels, rows, columns
        case AveragePool():
            if quantizer is None:
                raise fail("a quantized input", f"the real tensor {op.input!r}")
            if math.prod(op.bins) > MAX_TAPS:
                raise fail(f"at most {MAX_TAPS} bins", op.bins)
            return channels, *op.bins
        case Resize() | Bilinear():
            return channels, *op.size
        case Argmax():
            if channels > 256:
                raise fail("at most 256 channels", channels)
            return 1, height, width
        case Quantize() | Relu() | Softmax():
            pass
        case _:
            assert_never(op)
    return shape


def _check_window(kernel: Size, dilation: Size, fail: Callable[[str, object], GraphError]) -> None:
    """Raise what `fail` makes if a product of what describes a window is beyond its bound."""
    if math.prod(kernel) > MAX_TAPS:
        raise fail(f"a kernel of at most {MAX_TAPS} positions", "x".join(map(str, kernel)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if max(reach) > MAX_LENGTH:
        raise fail(f"a dilated kernel of at most {MAX_LENGTH} rows and columns", tuple(reach))


def _convolution_shape(
    op: Convolution, shape: Shape, quantizer: Quantizer | None, fail: Callable[[str, object], GraphError]
) -> Shape:
    channels, height, width = shape
    if quantizer is None:
        raise fail("a quantized input", f"the real tensor {op.input!r}")
    if (
        op.weight.dtype != np.int8
        or op.weight.ndim != 4
        or op.weight.shape[1] != channels
        or not op.weight.size
        or max(op.weight.shape) > MAX_LENGTH
    ):
        raise fail(f"int8 weights of shape (O, {channels}, kh, kw)", f"{op.weight.dtype} {op.weight.shape}")
    if op.weight.size > MAX_WEIGHTS:
        raise fail(f"at most {MAX_WEIGHTS} weights", f"{op.weight.size} {op.weight.shape}")
    outputs, _, kernel_height, kernel_width = op.weight.shape
    for label, array in (("weight_scale", op.weight_scale), ("bias", op.bias)):
        if array.dtype != np.float32 or array.shape != (outputs,):
            raise fail(f"{label} float32 of shape ({outputs},)", f"{array.dtype} {array.shape}")
        if not np.isfinite(array).all():
            raise fail(f"finite {label}", "NaN or infinity")
    if not op.weight_scale.all():
        raise fail("non-zero weight scales", "0")
    _check_window((kernel_height, kernel_width), op.dilation, fail)
    # |code - zero_point| <= 255 for any quantizer, so this bounds every partial sum in any order.
    # Few weights cannot reach the bound whatever they are, and need not be read.
    if op.weight[0].size * 128 * 255 >= 1 << 31:
        largest = int(np.abs(op.weight.astype(np.int64)).reshape(outputs, -1).sum(1).max())
        if largest * 255 >= 1 << 31:
            raise fail("accumulators below 2**31 (255 * sum of |w|)", largest * 255)
    rows = convolution_output_size(
        height, kernel_height, op.stride[0], op.dilation[0], op.padding[0] + op.padding[2]
    )
    columns = convolution_output_size(
        width, kernel_width, op.stride[1], op.dilation[1], op.padding[1] + op.padding[3]
    )
    if rows < 1 or columns < 1:
        raise fail("a kernel no larger than the padded map", f"{op.weight.shape} on {height}x{width}")
    return outputs, rows, columns
