"""What a page shows of this machine: how long each model takes, in turns, and how many bytes a second memory gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet import bundled
from sparse_icnet.image import ImageLike
from sparse_icnet.loading import load
from sparse_icnet.model import Model
from sparse_icnet.plan import PlanError
from sparse_icnet.study.analyze import analyze
from sparse_icnet.study.report.data import Kind, Layer, LayerTime, ModelRow, Point, Roofline
from sparse_icnet.study.report.markup import clean
from sparse_icnet.study.timing import LayerTiming, Spread, Timing

BUFFER = 1 << 26  # bytes that each copy reads, and writes: more than caches hold
COPIES = 6
ROUNDS = 15  # of each model, in turns


@dataclass(frozen=True)
class Measured:
    """What `measured` found; times: of the convolutions by name; models: the one that is shown, and the bundled ones."""

    timing: Timing
    times: dict[str, LayerTime]
    bandwidth: float
    models: tuple[ModelRow, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Where the time goes by kind of kernel, the most first."""
        return tuple(
            Kind(
                name=one.kernel.replace("_", " ") if not one.macs else one.kernel,
                layers=one.layers,
                seconds=one.time.median,
                share=one.share,
                saved=one.saved.median if one.saved else None,
                saved_clear=self._clear(one.saved),
            )
            for one in self.timing.kinds
        )

    def _clear(self, saved: Spread | None) -> bool:
        """Whether a saving of time is more than noise."""
        return saved is not None and saved.clear and not self.timing.noise.noisy

    @property
    def notes(self) -> list[str]:
        """What disturbed the measurement, in sentences."""
        reasons = self.timing.noise.reasons
        return [f"The machine was busy, so take times with care: {'; '.join(reasons)}."] if reasons else []

    def roofline(self, layers: Sequence[Layer]) -> Roofline | None:
        """Every layer that has a time, under the roof; None without a peak."""
        timing = self.timing
        if timing.best_peak is None:
            return None
        points = []
        for layer in layers:
            if (
                layer.name in self.times
                and (one := timing[layer.name]).macs
                and one.bytes
                and one.time.median > 0
            ):
                points.append(_point(layer, one))
        return Roofline(timing.best_peak, timing.best_peak_of_pairs, self.bandwidth, BUFFER, tuple(points))


def _point(layer: Layer, one: LayerTiming) -> Point:
    rate = one.macs / one.time.median
    text = f"{clean(layer.name)}: {rate / 1e9:.0f} GMAC/s, {one.macs / one.bytes:.0f} products a byte"
    return Point(layer.index, one.macs / one.bytes, rate, one.filtered, text)


def measured(model: Model, image: ImageLike, layers: Sequence[str]) -> Measured:
    """Measure the layers of `model`, the memory, and the bundled models beside it.

    image   that the inferences run on
    layers  convolutions of which times are wanted
    """
    try:
        timing = analyze(model, image=image).first
    except PlanError:  # without a zero among its weights the network is more than a plan may have
        timing = analyze(model, image=image, dense=False).first
    known = {name for one in timing.layers for name in one.convolutions}
    noisy = timing.noise.noisy
    times = {name: _time(timing[name], name, noisy) for name in layers if name in known}
    return Measured(timing, times, bandwidth(model.plan.threads), models(model, timed=True))


def _time(one: LayerTiming, name: str, noisy: bool) -> LayerTime:
    seconds = max(one.time.median, 1e-9)
    return LayerTime(
        seconds=seconds,
        low=one.time.low,
        high=one.time.high,
        share=one.share,
        with_layers=tuple(clean(other) for other in one.convolutions if other != name),
        rate=one.macs / seconds,
        peak_share=one.peak_share,
        dense=one.dense.median if one.dense else None,
        saved=one.saved.median if one.saved else None,
        saved_clear=one.saved is not None and one.saved.clear and not noisy,
    )


def bandwidth(threads: int) -> float:
    """Bytes a second, read and written, that NumPy copies on so many threads at once: the best of a few copies."""
    pairs = [
        (np.ones(BUFFER // threads, np.uint8), np.zeros(BUFFER // threads, np.uint8)) for _ in range(threads)
    ]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(COPIES):
            start = time.perf_counter()
            list(pool.map(_copy, pairs))
            best = max(best, 2 * sum(len(one) for one, _ in pairs) / (time.perf_counter() - start))
    return best


def _copy(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    np.copyto(pair[1], pair[0])


def models(model: Model, timed: bool) -> tuple[ModelRow, ...]:
    """`model` and the bundled ones, at its size where they can be, each timed in turns where `timed`."""
    rows = [(model, row_of(model, clean(bundled.short_name(model.path, model.graph.meta.name)), shown=True))]
    own = bundled.short_name(model.path) if model.path else None
    for name in bundled.names():
        if name == own:
            continue
        try:
            other = load(name, size=model.size, threads=model.plan.threads)
        except ValueError:  # a size that only the user's own network has
            other = load(name, threads=model.plan.threads)
        where = "" if other.size == model.size else f" at {other.size[0]} x {other.size[1]}"
        rows.append((other, row_of(other, name + where)))
    if not timed:
        return tuple(row for _, row in rows)
    spreads = in_turns([_inference(one) for one, _ in rows], ROUNDS)
    return tuple(_with_time(row, spread) for (_, row), spread in zip(rows, spreads, strict=True))


def row_of(model: Model, name: str, shown: bool = False) -> ModelRow:
    """What `model` says of itself, without a time."""
    info = model.info()
    dense = sum(layer.dense_macs for layer in info.layers)
    skipped = float(sum(layer.zeros * layer.dense_macs for layer in info.layers) / max(dense, 1))
    accuracy = tuple((clean(what), share) for what, share in model.meta.accuracy.items())
    return ModelRow(name, shown, info.zeros, skipped, info.macs, accuracy, None)


def _with_time(row: ModelRow, spread: Spread) -> ModelRow:
    return ModelRow(row.name, row.shown, row.zeros, row.skipped, row.macs, row.accuracy, spread)


def _inference(model: Model) -> Callable[[], object]:
    pixels = np.random.default_rng(0).integers(0, 256, (*model.size, 3), dtype=np.uint8)
    session, size = model.session, model.size
    return lambda: session.smooth_class_map_of_image(pixels, size)


def in_turns(calls: Sequence[Callable[[], object]], rounds: int) -> list[Spread]:
    """Seconds of each call, by turns in both directions (A B, B A, ...) so that drift meets all alike."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for number in range(rounds):
        order = range(len(calls))
        for index in order if number % 2 else reversed(order):
            start = time.perf_counter()
            calls[index]()
            seconds[index].append(time.perf_counter() - start)
    return [Spread.of(one) for one in seconds]
