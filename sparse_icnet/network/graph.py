"""The graph of a quantized network: small frozen operations, checked when the graph is made.

Everything that a graph is made of can be imported from here; what its operations compute, equations (Q1) to (Q14), stands
in `sparse_icnet.network.operations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.faces import Faces
from sparse_icnet.network.limits import GraphError
from sparse_icnet.network.meta import Meta
from sparse_icnet.network.operations import (
    Add,
    Affine,
    AnyConvolution,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Input,
    MaxPool,
    Op,
    Quantize,
    Relu,
    Resize,
    Shape,
    Size,
    Softmax,
    assert_never,
)
from sparse_icnet.network.quantizer import Quantizer
from sparse_icnet.network.shapes import checked_shape

__all__ = [
    "Add",
    "Affine",
    "AnyConvolution",
    "Argmax",
    "AveragePool",
    "Bilinear",
    "Convolution",
    "FloatConvolution",
    "Graph",
    "GraphError",
    "Input",
    "MaxPool",
    "Normalization",
    "Op",
    "Quantize",
    "Quantizer",
    "Relu",
    "Resize",
    "Shape",
    "Size",
    "Softmax",
    "assert_never",
    "pruned",
    "rename_inputs",
    "resized",
    "size_step",
]


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
    """Operations in topological order, checked when the graph is made: GraphError names what is wrong.

    ops            every name defined before it is used, exactly one Input
    output         name of the network output
    normalization  how an image becomes the input
    size_is_free   whether the file left the height or width of the input open, which is then a default
    meta           what the file says about the network
    faces          types and axes of the file's own input and output
    """

    ops: tuple[Op, ...]
    output: str
    normalization: Normalization = Normalization()
    size_is_free: bool = False
    meta: Meta = field(default_factory=Meta)
    faces: Faces = field(default_factory=Faces)
    _by_name: Mapping[str, Op] = field(init=False, repr=False)
    _shapes: Mapping[str, Shape] = field(init=False, repr=False)
    _held: Mapping[str, Quantizer | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_name: dict[str, Op] = {}
        shapes: dict[str, Shape] = {}
        held: dict[str, Quantizer | None] = {}
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
            shapes[op.name] = checked_shape(op, by_name, shapes, held)
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))
        object.__setattr__(self, "_shapes", MappingProxyType(shapes))
        object.__setattr__(self, "_held", MappingProxyType(held))
        inputs = [op.name for op in self.ops if isinstance(op, Input)]
        if len(inputs) != 1:
            raise GraphError(f"a graph must have exactly one input, found {inputs}")
        if self.output not in by_name:
            raise GraphError(f"output {self.output!r} must be an operation of the graph")
        try:
            self.faces.check(self.input.shape, self.shape(self.output), self.returns_classes)
        except ValueError as error:
            raise GraphError(str(error)) from None

    def __repr__(self) -> str:
        weights = sum(op.weight.size for op in self.layers)
        zeros = weights - sum(int(np.count_nonzero(op.weight)) for op in self.layers)
        source, result = ("x".join(map(str, self.shape(name))) for name in (self.input.name, self.output))
        return (
            f"Graph({self.input.name} {source} -> {self.output} {result}, {len(self.ops)} operations, "
            f"{len(self.layers)} convolutions, {weights:,} weights, {100 * zeros / max(weights, 1):.1f} % zeros)"
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
        """Those of int8 weights."""
        return tuple(op for op in self.ops if isinstance(op, Convolution))

    @property
    def layers(self) -> tuple[AnyConvolution, ...]:
        """The convolutions of int8 weights and those of float32, in order."""
        return tuple(op for op in self.ops if isinstance(op, AnyConvolution))

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
        return sum(op.macs_per_pixel * math.prod(self.shape(op.name)[1:]) for op in self.layers)


def _made(kind: type[Graph], arguments: dict[str, Any]) -> Graph:
    """What a pickled graph is made by: checked anew."""
    return kind(**arguments)


def rename_inputs(op: Op, names: Mapping[str, str]) -> Op:
    """`op` reading `names[x]` in place of every input x that `names` has."""
    if isinstance(op, Input) or not any(name in names for name in op.inputs):
        return op
    if isinstance(op, Add):
        return replace(op, left=names.get(op.left, op.left), right=names.get(op.right, op.right))
    return replace(op, input=names.get(op.input, op.input))


def pruned(ops: Iterable[Op], output: str) -> tuple[Op, ...]:
    """`ops`, in any order, in a topological one, without those that `output` does not need.

    Raises GraphError for a cycle and for an input that no operation defines.
    """
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

    `size` must be multiples of `size_step`, else GraphError; for ICNet these are 32 and 32.  Nothing else depends on the
    size: windows of convolutions and max pools are local, and `pool_windows` gives those of average pools for any length.
    """
    channels, height, width = graph.input.shape
    if (height, width) == tuple(size):
        return replace(graph, size_is_free=False) if graph.size_is_free else graph
    steps = size_step(graph)
    if min(size) < 1 or any(length % step for length, step in zip(size, steps, strict=True)):
        raise GraphError(
            f"size {size[0]}x{size[1]}: expected a positive multiple of {steps[0]} as height and of {steps[1]} as "
            f"width, so that every resize of the network gives whole pixels, such as {near_sizes(size, steps)}"
        )
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Input):
            op = Input(op.name, (channels, *size))
        elif isinstance(op, Resize | Bilinear):
            op = replace(op, size=(op.size[0] * size[0] // height, op.size[1] * size[1] // width))
        ops.append(op)
    return replace(graph, ops=tuple(ops), size_is_free=False)


def near_sizes(size: Size, steps: Size) -> str:
    """The multiples of `steps` below and above `size`, for a message: '704x960 or 736x960'."""
    below = [max(length // step, 1) * step for length, step in zip(size, steps, strict=True)]
    above = [-(-length // step) * step for length, step in zip(size, steps, strict=True)]
    return " or ".join(dict.fromkeys(f"{height}x{width}" for height, width in (below, above)))


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
