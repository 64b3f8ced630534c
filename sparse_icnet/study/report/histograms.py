"""How often which codes occur: of a layer's weights, and of what it computes for one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.activations import Activations
from sparse_icnet.image import ImageLike, fitted
from sparse_icnet.model import Model
from sparse_icnet.network.graph import Add, Graph, Quantize, Relu, Resize
from sparse_icnet.study.report.data import Histogram

BINS = 60  # at most about so many


def histogram(codes: NDArray[np.integer], low: int, high: int, zero: int) -> Histogram:
    """Of integers low..high; the code `zero` has a bin of its own, those on its two sides have bins of equal width.

    >>> histogram(np.array([0, 0, 5, -3]), -4, 5, 0).counts
    (0, 1, 0, 0, 2, 0, 0, 0, 0, 1)
    """
    counts = np.bincount(codes.ravel().astype(np.int64) - low, minlength=high - low + 1)
    width = -(-(high - low) // BINS)
    place = zero - low
    below = _binned(counts[:place][::-1], width)[::-1]
    bins = (*below, int(counts[place]), *_binned(counts[place + 1 :], width))
    return Histogram(low, high, bins, len(below), float(counts[place] / max(codes.size, 1)))


def _binned(counts: NDArray[np.integer], width: int) -> tuple[int, ...]:
    filled = np.pad(counts, (0, -counts.size % width))
    return tuple(int(one) for one in filled.reshape(-1, width).sum(1))


def weight_histogram(weight: NDArray[np.int8] | NDArray[np.float32]) -> Histogram:
    """Of int8 or float32 weights, from minus to plus the largest."""
    if weight.dtype != np.int8:
        return _real_histogram(weight.ravel().astype(np.float64))
    largest = max(1, int(np.abs(weight.astype(np.int16)).max(initial=0)))
    return histogram(weight.astype(np.int16), -largest, largest, 0)


def _real_histogram(values: NDArray[np.float64]) -> Histogram:
    """Of real values; 0 has a bin of its own between those of both signs."""
    largest = float(np.abs(values).max(initial=0)) or 1.0
    half = BINS // 2
    edges = np.linspace(0, largest, half + 1)
    below, above = (
        np.histogram(side, edges)[0].tolist() for side in (-values[values < 0], values[values > 0])
    )
    zeros = int(values.size - np.count_nonzero(values))
    return Histogram(-largest, largest, (*below[::-1], zeros, *above), half, zeros / max(values.size, 1))


def activation_histograms(
    model: Model, image: ImageLike, layers: Sequence[str]
) -> dict[str, tuple[str, Histogram]]:
    """For each of `layers` whose result is quantized: the name of that tensor, and its codes as the engine has them."""
    session = Activations(model.graph, model.threads).session
    pixels, _ = fitted(image, model.size)
    session.class_map_of_image(pixels)
    known, codes = set(session.tensors()), {}
    found: dict[str, tuple[str, Histogram]] = {}
    for layer, name in quantized_by(session.graph, layers).items():
        if name not in known:
            continue
        if name not in codes:
            quantizer = session.graph.quantizer(name)
            assert quantizer is not None
            codes[name] = histogram(session.tensor(name), quantizer.low, quantizer.high, quantizer.zero_point)
        found[layer] = name, codes[name]
    return found


def quantized_by(graph: Graph, layers: Sequence[str]) -> Mapping[str, str]:
    """The tensor of codes that each of `layers` ends in, through what is added to it and a ReLU."""
    readers = graph.consumers()
    found = {}
    for layer in layers:
        name = layer
        while name in readers and graph.quantizer(name) is None:
            after = [op for op in readers[name] if isinstance(op, Add | Relu | Resize | Quantize)]
            if not after:
                break
            name = after[0].name
        else:
            if name in readers:
                found[layer] = name
    return found
