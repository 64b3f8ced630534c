"""Measure one model, or two in turns, and say where the time goes and what zeros buy.

>>> import sparse_icnet
>>> from sparse_icnet.study.analyze import analyze
>>> net = sparse_icnet.load(size=(96, 96), threads=1)
>>> analysis = analyze(net, rounds=3, peak=False)
>>> analysis.first["conv3_1/3x3"].dense_macs
1327104
>>> analysis.first.time.median > 0
True
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.bundled import SAMPLE_IMAGE, short_name
from sparse_icnet.image import ImageLike, fitted
from sparse_icnet.study.measure import RUNS, Facts, Here, Layer, Round, Subject, dense_twin
from sparse_icnet.study.timing import (
    Analysis,
    Difference,
    KindTiming,
    LayerTiming,
    Noise,
    Spread,
    Timing,
)

if TYPE_CHECKING:
    from sparse_icnet.model import Model

ROUNDS = 15


def analyze(
    net: Model,
    other: Model | None = None,
    image: ImageLike | None = None,
    rounds: int = ROUNDS,
    dense: bool = True,
    peak: bool = True,
) -> Analysis:
    """Times of every layer of image -> smooth class map, of `net` and of `other` if given, their rounds interleaved.

    image   that they run on; None: the bundled photo
    rounds  of which medians and quartiles are taken; in each the models take turns, every other time in reverse order
    dense   measure the same networks without a zero among their weights as well
    peak    measure the peak of the CPU's dot product as well

    The first call on a machine compiles the loops that measure (some seconds).  Raises ValueError for fewer than one round.
    """
    subjects = [here(net, image, dense, peak)]
    if other is not None:
        subjects.append(here(other, image, dense, peak))
    return compare(subjects, rounds)


def here(
    net: Model, image: ImageLike | None = None, dense: bool = True, peak: bool = True, label: str = ""
) -> Here:
    """`net` as a subject of `compare`; arguments as of `analyze`.

    label  what tells it from the other subject; "": the model's name
    """
    from sparse_icnet.plan import plan_for
    from sparse_icnet.run.session import Session

    name = short_name(net.path, net.graph.meta.name)
    pixels = fitted(SAMPLE_IMAGE if image is None else image, net.size)[0]
    twin = None
    if dense:
        graph = dense_twin(net.graph)
        twin = Session(plan_for(graph, net.session.threads))
    return Here(net.session, twin, pixels, name, label or name, peak)


def compare(
    subjects: Sequence[Subject], rounds: int = ROUNDS, progress: Callable[[int], None] | None = None
) -> Analysis:
    """Measure one or two subjects in turns A B, B A, A B ...

    progress  is told how many rounds are done
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, found {rounds}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    measured: list[list[Round]] = [[] for _ in subjects]
    for number in range(rounds):
        order = list(range(len(subjects)))
        for which in reversed(order) if number % 2 else order:
            measured[which].append(subjects[which].round(number))
        if progress is not None:
            progress(number + 1)
    facts = [subject.facts for subject in subjects]
    if len(facts) == 2 and facts[0].label == facts[1].label:
        facts = [
            replace(one, label=f"{one.label} ({letter})") for one, letter in zip(facts, "AB", strict=True)
        ]
    timings = [_timing(*pair, load) for pair in zip(facts, measured, strict=True)]
    if len(timings) == 1:
        return Analysis(timings[0], None, None, ())
    totals = [np.array([one.total for one in of]) for of in measured]
    return Analysis(timings[0], timings[1], Spread.of(totals[1] - totals[0]), _differences(facts, measured))


def _differences(facts: Sequence[Facts], measured: Sequence[Sequence[Round]]) -> tuple[Difference, ...]:
    """Layers of the same name belong together; the largest difference first."""
    times = [
        {layer.name: column for layer, column in zip(one.layers, _columns(of, "own"), strict=True)}
        for one, of in zip(facts, measured, strict=True)
    ]
    found = []
    for name in dict.fromkeys((*times[0], *times[1])):
        first, second = (of.get(name, np.zeros(len(measured[0]))) for of in times)
        found.append(
            Difference(name, float(np.median(first)), float(np.median(second)), Spread.of(second - first))
        )
    return tuple(sorted(found, key=lambda one: -abs(one.difference.median)))


def _columns(rounds: Sequence[Round], name: str) -> NDArray[np.float64]:
    """(layers, rounds) of a list that every round has."""
    return np.array([getattr(one, name) for one in rounds], float).T


def _timing(facts: Facts, rounds: Sequence[Round], load: float | None) -> Timing:
    own, waiting = _columns(rounds, "own"), _columns(rounds, "waiting")
    total = np.array([one.total for one in rounds])
    rates = [[rate for one in rounds if (rate := getattr(one, name))] for name in ("peak", "pairs")]
    best = [max(of, default=None) for of in rates]
    twins = {
        layer.convolutions: (layer, column)
        for layer, column in zip(facts.twin, _columns(rounds, "twin"), strict=True)
        if layer.convolutions
    }
    layers, saved = [], []
    for layer, times, idle in zip(facts.layers, own, waiting, strict=True):
        twin, dense = twins.get(layer.convolutions, (None, None))
        if dense is not None:
            saved.append(dense - times)
        layers.append(
            LayerTiming(
                name=layer.name,
                kind=layer.kind,
                kernel=layer.kernel,
                steps=layer.steps,
                convolutions=layer.convolutions,
                time=Spread.of(times),
                share=float(np.median(times / total)),
                waiting=float(np.median(idle)),
                macs=layer.macs,
                dense_macs=layer.dense_macs,
                filtered=layer.filtered,
                zeros=layer.zeros,
                stored=layer.stored,
                bytes=layer.bytes,
                peak_share=_peak_share(layer, float(np.median(times)), best),
                dense_kernel=twin.kernel if twin else "",
                dense=None if dense is None else Spread.of(dense),
                saved=None if dense is None else Spread.of(dense - times),
            )
        )
    gained = np.sum(saved, axis=0) if saved else None
    peaks = [Spread.of(of) if of else None for of in rates]
    dense_total = None if gained is None else Spread.of(total + gained)
    return Timing(
        model=facts.model,
        label=facts.label,
        size=facts.size,
        threads=facts.threads,
        target=facts.target,
        cpu=facts.cpu,
        rounds=len(rounds),
        runs=RUNS,
        time=Spread.of(total),
        dense=dense_total,
        saved=None if gained is None else Spread.of(gained),
        peak=peaks[0],
        peak_of_pairs=peaks[1],
        best_peak=best[0],
        best_peak_of_pairs=best[1],
        layers=tuple(layers),
        kinds=_kinds(facts.layers, own, total, twins, best),
        noise=Noise.of(Spread.of(total), dense_total, peaks[0], best[0], load),
    )


def _peak_share(layer: Layer, seconds: float, best: Sequence[float | None]) -> float | None:
    rate = None if layer.real else best[layer.filtered]
    return layer.macs / rate / seconds if rate and layer.macs else None


def _kinds(
    layers: Sequence[Layer],
    own: NDArray[np.float64],
    total: NDArray[np.float64],
    twins: dict[tuple[str, ...], tuple[Layer, NDArray[np.float64]]],
    best: Sequence[float | None],
) -> tuple[KindTiming, ...]:
    """The layers by the kernel that runs them, the most time first."""
    groups: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        groups.setdefault(layer.kernel or layer.kind, []).append(number)
    kinds = []
    for kernel, numbers in groups.items():
        times = own[numbers].sum(axis=0)
        these = [layers[number] for number in numbers]
        dense = [twins[one.convolutions][1] for one in these if one.convolutions in twins]
        both = np.sum(dense, axis=0) if dense and len(dense) == len(these) else None
        macs, filtered = sum(one.macs for one in these), these[0].filtered
        rate = None if these[0].real else best[filtered]
        kinds.append(
            KindTiming(
                kernel=kernel,
                layers=len(these),
                time=Spread.of(times),
                share=float(np.median(times / total)),
                macs=macs,
                dense_macs=sum(one.dense_macs for one in these),
                filtered=filtered,
                peak_share=macs / rate / float(np.median(times)) if rate and macs else None,
                dense=None if both is None else Spread.of(both),
                saved=None if both is None else Spread.of(both - times),
            )
        )
    return tuple(sorted(kinds, key=lambda kind: -kind.time.median))
