"""Where the time of an inference goes and what its zeros buy, as figures: what `sparse-icnet analyze` prints.

Nothing is measured here: `sparse_icnet.study.analyze` measures.  Times are seconds, rates products a second; a product is
one multiply-accumulate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparse_icnet.network.graph import Size

# Quartiles of a total that lie further apart than this share of its median: the machine is busy with something else.
NOISY = 0.10
# A peak whose median is less than this share of its best.
STEADY = 0.9


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a sample: its median, lower and upper quartile, and how many values it has."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        sample = np.array(list(values), float)
        low, median, high = np.percentile(sample, (25, 50, 75))
        return cls(float(median), float(low), float(high), sample.size)

    @property
    def width(self) -> float:
        """Distance of the quartiles, as a share of the median; 0 of a median of 0."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0

    @property
    def clear(self) -> bool:
        """Of differences: whether both quartiles lie on the same side of 0, so that the sign means something."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """One layer: a convolution with all that is computed along with it, or a step that is no convolution.

    name          of the convolution, or of the step
    kind          name of the function that runs it; kernel: of the micro-kernel or the filtering, "" of no convolution
    steps         of the inference that belong to it (filtering may transform its inputs in a step of its own)
    convolutions  that it computes: a projection is computed inside the layer that adds it
    time          of one inference, threads together: from the end of the step before to the end of its last task
    share         of `time` in that of the inference
    waiting       share of the threads' time in which they had nothing to do
    macs          products executed; dense_macs: of all its weights, zeros too
    filtered      whether Winograd's filtering computes it: `macs` are fewer by its algebra, whatever is zero
    zeros         share of zero weights; stored: share of the blocks of its kernel that hold a non-zero
    bytes         of the maps that it reads and writes and of its packed weights, each counted once
    peak_share    the least time that its products could take, at the measured peak of their dot product, in `time`; None
                  where the peak was not measured or there are no such products (those of float32 are none)
    dense         time of the same layer with no zero among its weights, of the same rounds; dense_kernel: what computes it
    saved         differences dense - time, round by round: what its zeros buy.  None where there is no dense layer
    """

    name: str
    kind: str
    kernel: str
    steps: tuple[str, ...]
    convolutions: tuple[str, ...]
    time: Spread
    share: float
    waiting: float
    macs: int
    dense_macs: int
    filtered: bool
    zeros: float
    stored: float
    bytes: int
    peak_share: float | None
    dense_kernel: str
    dense: Spread | None
    saved: Spread | None

    @property
    def skipped(self) -> int:
        """Products that are not executed."""
        return max(0, self.dense_macs - self.macs)


@dataclass(frozen=True, slots=True)
class KindTiming:
    """All layers that one kind of kernel runs; `LayerTiming` says what the figures are.

    kernel  name of the micro-kernel or the filtering, or of the function that runs a step that is no convolution
    layers  how many
    """

    kernel: str
    layers: int
    time: Spread
    share: float
    macs: int
    dense_macs: int
    filtered: bool
    peak_share: float | None
    dense: Spread | None
    saved: Spread | None


@dataclass(frozen=True, slots=True)
class Noise:
    """How quiet the machine was.

    noisy    whether figures of this run are to be used with care
    reasons  what was seen that says so, one sentence each
    load     average number of running processes of the last minute, as the system says; None where it says nothing
    """

    noisy: bool
    reasons: tuple[str, ...]
    load: float | None

    @classmethod
    def of(
        cls,
        time: Spread,
        dense: Spread | None = None,
        peak: Spread | None = None,
        best_peak: float | None = None,
        load: float | None = None,
    ) -> Noise:
        """What the spreads of an analysis say: see NOISY and STEADY."""
        reasons = [
            f"{what} took {1e3 * spread.low:.2f} to {1e3 * spread.high:.2f} ms between its quartiles, "
            f"{100 * spread.width:.0f} % of the median"
            for what, spread in (("an inference", time), ("one with dense weights", dense))
            if spread is not None and spread.width > NOISY
        ]
        if peak is not None and best_peak is not None and peak.median < STEADY * best_peak:
            reasons.append(
                f"the dot product reached {peak.median / 1e9:.0f} of its best {best_peak / 1e9:.0f} GMAC/s in the median"
            )
        return cls(bool(reasons), tuple(reasons), load)


@dataclass(frozen=True, slots=True)
class Timing:
    """One model on one CPU class with so many threads, image -> smooth class map.

    model            its name or file; label: what tells it from the other one of an analysis
    target, cpu      class of CPUs whose kernels ran, and LLVM's name of the CPU that they were compiled for
    rounds           of which the quartiles are; runs: inferences of a round that count, whose median is its figure
    time             of the inference; saved: by zeros, the sum of the layers' `saved`, round by round; dense: time + saved,
                     so that what is no convolution, whose time may depend on the picture, is the same in both
    peak             products of bytes a second that this CPU's dot product reaches in registers on all threads;
                     peak_of_pairs: of int16, those of Winograd's filtering.  best_peak, best_peak_of_pairs: the highest of
                     the rounds, of which `peak_share` is a share.  None: not measured
    layers, kinds    in the order in which they run
    """

    model: str
    label: str
    size: Size
    threads: int
    target: str
    cpu: str
    rounds: int
    runs: int
    time: Spread
    dense: Spread | None
    saved: Spread | None
    peak: Spread | None
    peak_of_pairs: Spread | None
    best_peak: float | None
    best_peak_of_pairs: float | None
    layers: tuple[LayerTiming, ...]
    kinds: tuple[KindTiming, ...]
    noise: Noise

    @property
    def macs(self) -> int:
        """Products executed."""
        return sum(layer.macs for layer in self.layers)

    @property
    def dense_macs(self) -> int:
        """Products of all weights, zeros too, after the rewrites."""
        return sum(layer.dense_macs for layer in self.layers)

    def __getitem__(self, name: str) -> LayerTiming:
        """The layer that computes the convolution `name`, or has that name; KeyError for another."""
        for layer in self.layers:
            if name == layer.name or name in layer.convolutions or name in layer.steps:
                return layer
        from sparse_icnet.suggest import did_you_mean

        names = [one for layer in self.layers for one in (layer.name, *layer.convolutions)]
        raise KeyError(f"{name!r} is no layer of this inference{did_you_mean(name, names)}")

    def __repr__(self) -> str:
        saved = f", zeros save {1e3 * self.saved.median:.2f} ms" if self.saved else ""
        return (
            f"Timing({self.label}: {1e3 * self.time.median:.2f} ms ({1e3 * self.time.low:.2f} to "
            f"{1e3 * self.time.high:.2f}) in {len(self.layers)} layers on {self.threads} "
            f"thread{'s' * (self.threads > 1)}{saved}{', noisy' if self.noise.noisy else ''})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """The same layer in both models; `first` and `second` are its times, 0 where a model has no such layer.

    difference  second - first, round by round
    """

    name: str
    first: float
    second: float
    difference: Spread


@dataclass(frozen=True, slots=True)
class Analysis:
    """One model, or two measured in turns.

    difference   of the inferences, second - first, round by round
    differences  layer by layer, the largest first
    """

    first: Timing
    second: Timing | None
    difference: Spread | None
    differences: tuple[Difference, ...]

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy for small differences to mean anything."""
        return self.first.noise.noisy or (self.second is not None and self.second.noise.noisy)

    def __repr__(self) -> str:
        if self.second is None or self.difference is None:
            return f"Analysis({self.first!r})"
        sign = "" if self.difference.clear else ", not told apart"
        return (
            f"Analysis({self.first!r} against {self.second!r}: {1e3 * self.difference.median:+.2f} ms{sign})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)
