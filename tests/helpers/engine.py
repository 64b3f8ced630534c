"""Small graphs that the engine runs, and the comparison of a Session with the Oracle, bit for bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from graphs import random_convolution, random_float_convolution
from numpy.typing import NDArray

from sparse_icnet.network import rewrite
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Convolution,
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
)
from sparse_icnet.plan import LEAST_TIME, plan_for
from sparse_icnet.plan.policy import Choice, Geometry, Policy
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.target import TARGET, MicroKernel

UNSIGNED = Quantizer(0.015)
IMAGE = Quantizer(0.02, 114)
_INFO = np.finfo(np.float32)
SPECIAL_FLOATS = (
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    _INFO.max,
    _INFO.min,
    _INFO.tiny,
    _INFO.smallest_subnormal,
)


class Net:
    """Appends operations; every method returns the name of its result.  Values keep the magnitude 1.

    size       (height, width) of the image
    quantizer  of the image
    affine     whether the graph normalizes its input itself
    settings   arguments of Graph
    """

    def __init__(
        self, size: Size, quantizer: Quantizer = IMAGE, seed: int = 0, affine: bool = False, **settings: Any
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.ops: list[Op] = []
        self.shapes: dict[str, Shape] = {}
        self.settings = settings
        source = self.add(Input("image", (3, *size)))
        if affine:
            scale, shift = self.rng.uniform(0.5, 2, 3), self.rng.normal(0, 0.5, 3)
            source = self.add(Affine("affine", source, scale.astype(np.float32), shift.astype(np.float32)))
        self.image = self.codes(source, quantizer)

    def add(self, op: Op) -> str:
        self.ops.append(op)
        self.shapes[op.name] = Graph(tuple(self.ops), op.name).shape(op.name)
        return op.name

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.ops)}"

    def codes(self, source: str, quantizer: Quantizer = UNSIGNED) -> str:
        return self.add(Quantize(self.name("codes"), source, quantizer))

    def relu(self, source: str) -> str:
        return self.add(Relu(self.name("relu"), source))

    def sum(self, left: str, right: str) -> str:
        return self.add(Add(self.name("sum"), left, right))

    def resize(self, source: str, size: Size) -> str:
        return self.add(Resize(self.name("resize"), source, size))

    def mean(self, source: str, bins: Size) -> str:
        return self.add(AveragePool(self.name("mean"), source, bins))

    def max_pool(self, source: str, kernel: int, stride: int, padding: int) -> str:
        name = self.name("pool")
        return self.add(MaxPool(name, source, (kernel,) * 2, (stride,) * 2, (padding,) * 4))

    def convolution(
        self,
        source: str,
        outputs: int,
        kernel: int | Size = 1,
        stride: int | Size = 1,
        dilation: int | Size = 1,
        density: float = 1.0,
        weight: NDArray[np.int8] | None = None,
    ) -> str:
        """Padded to keep the size but for the stride; random weights of `density`, or `weight`."""
        kernels, strides, dilations = (
            tuple(np.broadcast_to(x, 2).tolist()) for x in (kernel, stride, dilation)
        )
        near = tuple(d * (k - 1) // 2 for d, k in zip(dilations, kernels, strict=True))
        geometry = {"stride": strides, "dilation": dilations, "padding": (*near, *near)}
        shape = (outputs, self.shapes[source][0], *kernels)
        op = random_convolution(self.rng, self.name("convolution"), source, shape, density, **geometry)
        if weight is not None:
            op = Convolution(op.name, source, weight, op.weight_scale, op.bias, **geometry)
        return self.add(op)

    def float_convolution(
        self,
        source: str,
        outputs: int,
        kernel: int | Size = 1,
        stride: int | Size = 1,
        dilation: int | Size = 1,
        density: float = 1.0,
    ) -> str:
        """Padded to keep the size but for the stride; random weights of `density`."""
        kernels, strides, dilations = (
            tuple(np.broadcast_to(x, 2).tolist()) for x in (kernel, stride, dilation)
        )
        near = tuple(d * (k - 1) // 2 for d, k in zip(dilations, kernels, strict=True))
        geometry = {"stride": strides, "dilation": dilations, "padding": (*near, *near)}
        shape = (outputs, self.shapes[source][0], *kernels)
        return self.add(
            random_float_convolution(self.rng, self.name("float"), source, shape, density, **geometry)
        )

    def softmax(self, logits: str, size: Size | None = None) -> Graph:
        """The graph that ends in the softmax of `logits`, enlarged to `size` if given."""
        logits = logits if size is None else self.resize(logits, size)
        output = self.add(Softmax("probabilities", logits))
        return Graph(tuple(self.ops), output, **self.settings)

    def classify(self, *read: str, classes: int = 5, grid: Size | None = None) -> Graph:
        """Softmax over the sum of a 1x1 convolution of each tensor in `read`, all enlarged to the largest.

        grid  output size of one more convolution of the first tensor: the common grid of the engine's maps
        """
        logits = [self.convolution(source, classes) for source in read]
        if grid is not None:
            _, height, width = self.shapes[read[0]]
            stride = (height // grid[0], width // grid[1])
            logits.append(self.convolution(read[0], classes, stride=stride))
        size = max(self.shapes[name][1:] for name in logits)
        total = None
        for name in logits:
            name = name if self.shapes[name][1:] == size else self.resize(name, size)
            total = name if total is None else self.sum(total, name)
        return self.softmax(total)


def random_blob(shape: Shape, seed: int = 0) -> NDArray[np.float32]:
    """float32 (C, H, W), normal with deviation 1.3."""
    return np.random.default_rng(seed).normal(0, 1.3, shape).astype(np.float32)


def random_image(shape: Shape, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (H, W, C), every value as likely."""
    return np.random.default_rng(seed).integers(0, 256, (*shape[1:], shape[0]), dtype=np.uint8)


def blob_of(graph: Graph, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The blob float32 (C, H, W) that an image uint8 (H, W, C) is, by the normalization of `graph`."""
    table = graph.normalization.table()
    return np.stack([table[c][image[..., c]] for c in range(len(table))])


def bits(array: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bit patterns: NaN equals NaN, and a difference of one unit in the last place shows."""
    return array.view(np.uint32)


def assert_equals_oracle(
    graph: Graph,
    blob: NDArray[np.float32] | None = None,
    seed: int = 0,
    threads: int = 1,
    session: Session | None = None,
    policy: Policy = LEAST_TIME,
) -> Session:
    """Every tensor, the probabilities, classes, logits and a smooth class map of a Session equal the Oracle's, bit for bit.

    The session first runs on another blob of extreme values, which must leave no trace.  The
    probabilities are compared with the oracle of the graph as it was before any rewrite.  A session whose tensors
    share memory, and find there what is not theirs, gives the same.
    """
    blob = random_blob(graph.input.shape, seed) if blob is None else blob
    session = (
        Session(plan_for(graph, threads, keep_tensors=True, policy=policy)) if session is None else session
    )
    session.class_map(np.sign(random_blob(graph.input.shape, seed + 1)) * np.float32(1e6))
    probabilities = session.probabilities(blob)
    oracle = Oracle(session.graph, blob)
    for name in session.tensors():
        np.testing.assert_array_equal(session.tensor(name), oracle.codes(name), err_msg=f"tensor {name!r}")
    expected = Oracle(graph, blob).output()
    np.testing.assert_array_equal(bits(probabilities), bits(expected), err_msg="probabilities")
    classes = expected_classes(session.graph, blob)
    np.testing.assert_array_equal(session.class_map(blob), classes)
    sharing = Session(plan_for(graph, session.threads, policy=policy))
    soil(sharing)
    np.testing.assert_array_equal(bits(sharing.probabilities(blob)), bits(expected), err_msg="shared memory")
    np.testing.assert_array_equal(sharing.class_map(blob), classes)
    np.testing.assert_array_equal(bits(sharing.logits(blob)), bits(oracle.logits()))
    size = (2 * classes.shape[0] + 1, 3 * classes.shape[1] - 1)
    np.testing.assert_array_equal(sharing.smooth_class_map(blob, size), oracle.smooth_class_map(size))
    return session


def soil(session: Session, seed: int = 0) -> None:
    """Random bytes wherever the tensors of a session share memory."""
    shared = session.plan.placement.shared
    shared[:] = np.random.default_rng(seed).integers(0, 256, shared.size, np.uint8)


def expected_classes(graph: Graph, blob: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 (h, w): the oracle's class map of `graph` at the resolution of its logits."""
    by_class = rewrite.to_class_map(graph)
    (argmax,) = (op.name for op in by_class if isinstance(op, Argmax))
    return Oracle(by_class, blob).value(argmax)[0]


def digest(session: Session, *results: NDArray) -> str:
    """SHA-256 of every tensor that the last inference left, and of `results`."""
    total = hashlib.sha256()
    for name, tensor in [*((name, session.tensor(name)) for name in session.tensors()), *enumerate(results)]:
        total.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        total.update(tensor.tobytes())
    return total.hexdigest()


WINOGRAD = "winograd"


@dataclass(frozen=True)
class Forced:
    """The policy that gives every convolution `kernel`.

    WINOGRAD: filtering wherever it is possible, elsewhere what the planner chooses by itself.
    """

    kernel: MicroKernel | str

    def convolution(self, op: Convolution, geometry: Geometry) -> Choice:
        reason = "forced by a test"
        if isinstance(self.kernel, MicroKernel):
            return Choice(self.kernel, reason)
        if geometry.tiling is not None:
            return Choice(TARGET.filtering, reason)
        return LEAST_TIME.convolution(op, geometry)


def forced(kernel: MicroKernel | str | None) -> Policy:
    """The policy that gives every convolution `kernel`; None leaves the choice to the planner."""
    return LEAST_TIME if kernel is None else Forced(kernel)
