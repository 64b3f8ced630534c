"""What a model is made of and where its time goes, as figures: what `sparse-icnet info` and `profile` print."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_icnet.blobs import input_shape, output_shape, output_type
from sparse_icnet.bundled import SAMPLE_IMAGE
from sparse_icnet.network.graph import AnyConvolution, Graph, Normalization, Size
from sparse_icnet.sparse.block_csr import block_density

if TYPE_CHECKING:
    from sparse_icnet.image import ImageLike
    from sparse_icnet.model import Model
    from sparse_icnet.operators.operator import Report
    from sparse_icnet.plan.program import Plan
    from sparse_icnet.run.tracing import Recording, StepTime
    from sparse_icnet.study.timing import Noise, Spread


@dataclass(frozen=True, slots=True)
class ModelMeta:
    """What a file states about its model; the class names are those in use.

    name           of the model, or ""
    input_size     (height, width); None where the file leaves them free
    normalization  how an RGB image becomes the input
    class_names    in the order of the classes
    accuracy       what was measured -> figure
    licence        of the weights, or ""
    notes          origin and use, or ""
    """

    name: str
    input_size: Size | None
    normalization: Normalization
    class_names: tuple[str, ...]
    accuracy: Mapping[str, float]
    licence: str
    notes: str

    @classmethod
    def of(cls, model: Model) -> ModelMeta:
        """What the file of `model` states."""
        meta, normalization = model.graph.meta, model.graph.normalization
        accuracy = MappingProxyType(meta.accuracy)
        names = model.class_names
        return cls(meta.name, model.stated_size, normalization, names, accuracy, meta.licence, meta.notes)


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One convolution: as the file has it, and as the engine computes it.

    weight_shape     (O, I, kh, kw)
    stride, dilation (vertical, horizontal)
    output_shape     (C, H, W)
    zeros            share of the weights that are zero
    empty_1x4, empty_4x4   share of the blocks of output x input channels whose weights are all zero
    weight_bytes     of its packed weights; 0 where the output does not need the layer
    kernel, reason   what computes it and why; "none" where nothing does
    dtype            of its weights: "int8", or "float32" where the file leaves the layer so
    dense_macs       multiply-accumulates of one inference after the rewrites, zeros included
    macs             those that are executed
    """

    name: str
    weight_shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    output_shape: tuple[int, int, int]
    zeros: float
    empty_1x4: float
    empty_4x4: float
    weight_bytes: int
    kernel: str
    reason: str
    dense_macs: int
    macs: int
    dtype: str = "int8"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in figures.

    size, output_shape  (height, width) of the input, (C, H, W) of the output
    size_is_free        whether the file leaves the size open
    output              name of the output
    takes, gives        what the file takes and gives: type, shape, order of the channels
    notes               origin and use; of a foreign file what was left out, folded or assumed when it was read
    class_names         in the order of the classes
    threads             of one inference
    weights, zeros      number of weights, share of them that are zero
    macs_as_written     multiply-accumulates of one inference as the file has it
    dense_macs          those after the rewrites; macs: those executed; filtered_macs: of these, the ones of int16 by
                        Winograd's filtering
    layers              the convolutions, in order
    """

    size: Size
    size_is_free: bool
    output: str
    output_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    threads: int
    weights: int
    zeros: float
    macs_as_written: int
    dense_macs: int
    macs: int
    filtered_macs: int
    layers: tuple[LayerInfo, ...]
    takes: str
    gives: str
    notes: str

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"ModelInfo(3x{height}x{width} -> {self.output} {'x'.join(map(str, self.output_shape))}, "
            f"{len(self.layers)} convolutions, {self.weights:,} weights, {100 * self.zeros:.1f} % zeros, "
            f"{self.macs_as_written / 1e9:.2f} GMAC as written, {self.macs / 1e9:.2f} executed)"
        )

    def __getitem__(self, layer: str) -> LayerInfo:
        """The layer of that name; KeyError for another."""
        return next((one for one in self.layers if one.name == layer), None) or self._unknown(layer)

    def _unknown(self, layer: str) -> LayerInfo:
        from sparse_icnet.suggest import did_you_mean

        names = [one.name for one in self.layers]
        raise KeyError(f"{layer!r} is no convolution of this model{did_you_mean(layer, names)}")

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of image -> class map goes: each step within the inference, median and quartiles of the runs.

    threads  of the inference
    steps    in order
    total    seconds of the inference
    """

    threads: int
    steps: tuple[StepTime, ...]
    total: Spread

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> Profile:
        """Of inferences that ran the same steps."""
        from sparse_icnet.run.tracing import step_times
        from sparse_icnet.study.timing import Spread

        total = Spread.of(recording.seconds().sum() for recording in recordings)
        return cls(recordings[0].taken.shape[1], tuple(step_times(recordings)), total)

    @property
    def noise(self) -> Noise:
        """How quiet the machine was."""
        from sparse_icnet.study.timing import Noise

        return Noise.of(self.total)

    @property
    def seconds(self) -> float:
        """Sum of the steps."""
        return math.fsum(step.seconds for step in self.steps)

    def __repr__(self) -> str:
        slowest = sorted(self.steps, key=lambda step: -step.seconds)[:3]
        shares = ", ".join(f"{step.name} {100 * step.seconds / self.seconds:.0f} %" for step in slowest)
        return (
            f"Profile({1e3 * self.seconds:.2f} ms in {len(self.steps)} steps on {self.threads} "
            f"thread{'s' * (self.threads > 1)}{', noisy' * self.noise.noisy}: {shares})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return {
            "threads": self.threads,
            "seconds": self.seconds,
            "total": asdict(self.total),
            "noise": asdict(self.noise),
            "steps": [asdict(step) for step in self.steps],
        }


def profile(net: Model, repeats: int, image: ImageLike | None) -> Profile:
    """`Model.profile`: of `repeats` inferences after one that warms the caches."""
    from sparse_icnet.image import fitted

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, found {repeats}")
    pixels, _ = fitted(SAMPLE_IMAGE if image is None else image, net.size)
    recordings = [net.session.record(pixels, net.size) for _ in range(repeats + 1)]
    return Profile.of(recordings[1:])


def model_info(graph: Graph, plan: Plan, class_names: tuple[str, ...]) -> ModelInfo:
    """The figures of `graph` and of the plan that the engine made of it."""
    steps = {step.name: step for step in plan.convolutions()}
    weights = sum(op.weight.size for op in graph.layers)
    zeros = sum(op.weight.size - int(np.count_nonzero(op.weight)) for op in graph.layers)
    return ModelInfo(
        size=graph.input.shape[1:],
        size_is_free=graph.size_is_free,
        output=graph.output,
        output_shape=graph.shape(graph.output),
        class_names=class_names,
        threads=plan.threads,
        weights=weights,
        zeros=zeros / max(weights, 1),
        macs_as_written=graph.macs(),
        dense_macs=sum(step.dense_macs for step in steps.values()),
        macs=sum(step.macs for step in steps.values()),
        filtered_macs=sum(step.macs for step in steps.values() if step.filtered),
        layers=tuple(_layer(graph, op, steps.get(op.name)) for op in graph.layers),
        takes=f"{_shaped(graph.faces.input.dtype, input_shape(graph), graph.faces.input.axes)}, "
        f"{'BGR' if graph.faces.input.bgr else 'RGB'}",
        gives=_shaped(output_type(graph).name, output_shape(graph), graph.faces.output.axes),
        notes=graph.meta.notes,
    )


def _shaped(dtype: str, shape: tuple[int, ...], axes: str) -> str:
    return f"{dtype} ({', '.join(map(str, (1, *shape) if 'N' in axes else shape))})"


def _layer(graph: Graph, op: AnyConvolution, step: Report | None) -> LayerInfo:
    outputs, inputs, height, width = op.weight.shape
    return LayerInfo(
        name=op.name,
        weight_shape=(outputs, inputs, height, width),
        stride=op.stride,
        dilation=op.dilation,
        output_shape=graph.shape(op.name),
        zeros=1 - np.count_nonzero(op.weight) / op.weight.size,
        empty_1x4=1 - block_density(op.weight, 1),
        empty_4x4=1 - block_density(op.weight, 4),
        weight_bytes=step.weight_bytes if step else 0,
        kernel=step.kernel if step else "none",
        reason=step.reason if step else "not needed",
        dense_macs=step.dense_macs if step else 0,
        macs=step.macs if step else 0,
        dtype=str(op.weight.dtype),
    )


def html_table(info: ModelInfo, path: Path | None) -> str:
    """The main figures as an HTML table."""
    height, width = info.size
    rows = {
        "file": str(path) if path else "made in memory",
        "input": f"3 x {height} x {width}",
        "output": f"{info.output}: {' x '.join(map(str, info.output_shape))}",
        "classes": ", ".join(info.class_names),
        "layers": f"{len(info.layers)} convolutions, {info.weights:,} weights, {100 * info.zeros:.1f} % zeros",
        "work": f"{info.macs_as_written / 1e9:.2f} GMAC as written, {info.macs / 1e9:.2f} executed",
        "threads": f"{info.threads}",
    }
    cells = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"
