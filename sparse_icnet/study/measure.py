"""Measures a model layer by layer, together with its twin that has no zero among its weights.

The times come from recorded inferences (`sparse_icnet.run.tracing`), the products and kernels from the plan's reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Graph, Size
from sparse_icnet.network.operations import Convolution, FloatConvolution
from sparse_icnet.operators import kernel_name
from sparse_icnet.operators.storage import Block, RealMap, Storage
from sparse_icnet.plan.program import Step
from sparse_icnet.run.session import Session
from sparse_icnet.study.peak import Peak
from sparse_icnet.target import TARGET, target_cpu

if TYPE_CHECKING:
    pass

Scalar = TypeVar("Scalar", np.int8, np.float32)

# Inferences of a round that count, after one that brings weights and maps back into the caches.
RUNS = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """What the plan says of a layer; `sparse_icnet.study.timing.LayerTiming` says what the fields mean.

    numbers  of its steps in the inference
    real     whether its products are of float32, whose peak is not measured
    """

    name: str
    kind: str
    kernel: str
    numbers: tuple[int, ...]
    steps: tuple[str, ...]
    convolutions: tuple[str, ...]
    macs: int
    dense_macs: int
    filtered: bool
    real: bool
    zeros: float
    stored: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model before anything is timed: `Timing` says what the fields mean; twin: layers without zeros."""

    model: str
    label: str
    size: Size
    threads: int
    target: str
    cpu: str
    layers: tuple[Layer, ...]
    twin: tuple[Layer, ...]

    @classmethod
    def of(cls, values: dict[str, Any]) -> Facts:
        """From `asdict`, also by way of JSON."""
        lists = {name: tuple(_layer(one) for one in values[name]) for name in ("layers", "twin")}
        return cls(**{**values, **lists, "size": tuple(values["size"])})


def _layer(values: dict[str, Any]) -> Layer:
    lists = {name: tuple(values[name]) for name in ("numbers", "steps", "convolutions")}
    return Layer(**{**values, **lists})


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one round, each the median of its runs.

    own, waiting  of each layer: its time, the share of it that threads waited
    total         of the inference
    twin          of each layer of the twin; empty where there is none
    peak, pairs   products a second of either dot product; None: not measured
    """

    own: list[float]
    waiting: list[float]
    total: float
    twin: list[float]
    peak: float | None
    pairs: float | None


class Subject(Protocol):
    """What an analysis measures: here, or in a process of its own (`sparse_icnet.study.worker`)."""

    @property
    def facts(self) -> Facts: ...

    def round(self, number: int) -> Round:
        """Measure once more; in rounds of odd numbers the twin comes first."""


def dense_twin(graph: Graph) -> Graph:
    """`graph` with the smallest other weight in place of its zeros, positive and negative in turns: no product is left out.

    That is 1 where weights are int8, so that what depends on their size (couples of blocks on CPUs without a dot product
    of four bytes, whether filtering is exact) is decided as for dense weights of this kind; of a layer in float32 the
    smallest magnitude in it.
    """
    ops = []
    for op in graph.ops:
        if isinstance(op, Convolution):
            op = replace(op, weight=_without_zeros(op.weight, 1))
        elif isinstance(op, FloatConvolution):
            sizes = np.abs(op.weight[op.weight != 0])
            op = replace(op, weight=_without_zeros(op.weight, sizes.min() if sizes.size else 1))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def _without_zeros(weight: NDArray[Scalar], least: float) -> NDArray[Scalar]:
    signs = (1 - 2 * (np.arange(weight.size) % 2)).reshape(weight.shape)
    return np.where(weight == 0, least * signs, weight).astype(weight.dtype)


def layers_of(steps: Sequence[Step]) -> tuple[Layer, ...]:
    """The steps of an inference as layers, in their order.

    A step that writes memory which is no map belongs to the layer that reads it (the inputs that filtering transforms, the
    classes of the grid points of a smooth class map), one that only completes a map to the layer that fills it (shifted
    copies).
    """
    owner: list[int] = []
    filled: dict[Storage, int] = {}
    for number, step in enumerate(steps):
        owner.append(number)
        if step.writes and all(storage in filled for storage in step.writes):
            owner[number] = owner[filled[step.writes[0]]]
        for storage in step.writes:
            filled.setdefault(storage, number)
    for number, step in enumerate(steps):
        if step.writes and all(isinstance(storage, Block) for storage in step.writes):
            readers = [
                other for other in range(number + 1, len(steps)) if set(step.writes) & set(steps[other].reads)
            ]
            if readers and not step.reports:
                owner[number] = readers[0]
    groups: dict[int, list[int]] = {}
    for number, main in enumerate(owner):
        groups.setdefault(main, []).append(number)
    return tuple(_as_layer(steps, main, tuple(numbers)) for main, numbers in sorted(groups.items()))


def _as_layer(steps: Sequence[Step], main: int, numbers: tuple[int, ...]) -> Layer:
    step, reports = steps[main], steps[main].reports
    weights = sum(math.prod(report.shape) for report in reports)
    storages = {storage for number in numbers for storage in (*steps[number].reads, *steps[number].writes)}
    return Layer(
        name=step.name,
        kind=kernel_name(step.kind),
        kernel=step.kernel,
        numbers=numbers,
        steps=tuple(steps[number].name for number in numbers),
        convolutions=tuple(report.name for report in reports),
        macs=sum(report.macs for report in reports),
        dense_macs=sum(report.dense_macs for report in reports),
        filtered=any(report.filtered for report in reports),
        real=any(report.kernel == TARGET.float_kernel.name for report in reports),
        zeros=sum(report.sparsity * math.prod(report.shape) for report in reports) / max(weights, 1),
        stored=sum(r.block_density * math.prod(r.shape) for r in reports) / max(weights, 1),
        bytes=sum(map(storage_bytes, storages)) + sum(report.weight_bytes for report in reports),
    )


def storage_bytes(storage: Storage) -> int:
    """Of its pixels: a byte each of codes, four of real values; channels filled up to fours, no padding, no copies."""
    if isinstance(storage, Block):
        return storage.size
    pixels = 4 * storage.groups * math.prod(storage.phases) * storage.grid.rows * storage.grid.columns
    return pixels * (4 if isinstance(storage, RealMap) else 1)


class Here:
    """A model measured in this process.

    session  of the model; twin: of `dense_twin` of its graph, if that is to be measured
    image    RGB uint8 of the network's size
    peak     measure the peak of the dot products as well
    """

    def __init__(
        self,
        session: Session,
        twin: Session | None,
        image: NDArray[np.uint8],
        model: str,
        label: str,
        peak: bool = True,
    ) -> None:
        self._session, self._twin, self._image = session, twin, image
        self._size = session.input_shape[1:]
        self._layers = layers_of(session.record(image, self._size).steps)
        self._twin_layers = layers_of(twin.record(image, self._size).steps) if twin else ()
        self._peak = Peak(session.threads) if peak else None
        filtered = any(layer.filtered for layer in self._layers)
        self._pairs = Peak(session.threads, pairs=True) if peak and filtered else None
        self.facts = Facts(
            model,
            label,
            self._size,
            session.threads,
            TARGET.name,
            target_cpu(),
            self._layers,
            self._twin_layers,
        )

    def round(self, number: int) -> Round:
        """See `Subject`."""
        twin: list[float] = []
        if self._twin and number % 2:
            twin = self._times(self._twin, self._twin_layers)[0]
        own, waiting, total = self._times(self._session, self._layers)
        if self._twin and not number % 2:
            twin = self._times(self._twin, self._twin_layers)[0]
        peak = self._peak.measure() if self._peak else None
        pairs = self._pairs.measure() if self._pairs else None
        return Round(own, waiting, total, twin, peak, pairs)

    def _times(self, session: Session, layers: Sequence[Layer]) -> tuple[list[float], list[float], float]:
        recordings = [session.record(self._image, self._size) for _ in range(RUNS + 1)][1:]
        times = np.array([_by_layer(one.seconds(), layers) for one in recordings])
        busy = np.array([_by_layer(one.busy(), layers) for one in recordings])
        idle = np.clip(1 - busy / (session.threads * np.maximum(times, 1e-12)), 0, 1)
        total = float(np.median(times.sum(axis=1)))
        return np.median(times, axis=0).tolist(), np.median(idle, axis=0).tolist(), total


def _by_layer(values: NDArray[np.float64], layers: Sequence[Layer]) -> list[float]:
    return [float(values[list(layer.numbers)].sum()) for layer in layers]
