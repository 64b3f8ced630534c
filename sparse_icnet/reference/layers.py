"""Another runtime, layer by layer: each computed from the oracle's codes, so that nothing accumulates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Graph, Quantize, Quantizer
from sparse_icnet.reference.engines import Blob
from sparse_icnet.reference.oracle import Oracle


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """Codes of one quantizer as another runtime computes them from the oracle's codes, compared with the oracle's.

    codes, differing  how many there are, and how many of them differ
    largest           difference, in codes
    """

    tensor: str
    codes: int
    differing: int
    largest: int


class LayerPeer(Protocol):
    """Makes a runtime of a graph cut into layers: OpenVinoModel, OnnxRuntimeModel or a partial of these."""

    def __call__(self, graph: Graph, /, *, inputs: Sequence[str], outputs: Sequence[str]) -> LayerRunner: ...


class LayerRunner(Protocol):
    """A graph as another runtime computes it."""

    def run(self, values: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        """Real values (C, H, W) of every input -> those of every output."""
        ...


def layer_by_layer(graph: Graph, blob: Blob, peer: LayerPeer) -> tuple[LayerDifference, ...]:
    """Every quantizer computed by another runtime, each from the oracle's codes.

    The graph is cut behind each quantizer: its codes are an output of the runtime, and its consumers read the
    oracle's codes, given as an input.  All layers run in one inference.
    """
    oracle = Oracle(graph, blob)
    quantizers = {op.name: op.quantizer for op in graph.ops if isinstance(op, Quantize)}
    readers = graph.consumers()
    given = [graph.input.name, *(name for name in quantizers if readers[name])]
    values = {name: real_values(oracle.codes(name), quantizers[name]) for name in given[1:]}
    results = peer(graph, inputs=given, outputs=tuple(quantizers)).run({graph.input.name: blob, **values})
    differences = []
    for name, quantizer in quantizers.items():
        distance = np.abs(nearest_codes(results[name], quantizer) - oracle.codes(name))
        differences.append(
            LayerDifference(name, distance.size, int(np.count_nonzero(distance)), int(distance.max()))
        )
    return tuple(differences)


def real_values(codes: NDArray[np.integer], quantizer: Quantizer) -> NDArray[np.float32]:
    """(Q2) in the unit 1."""
    return (codes.astype(np.int32) - quantizer.zero_point).astype(np.float32) * np.float32(quantizer.scale)


def nearest_codes(values: NDArray[np.float32], quantizer: Quantizer) -> NDArray[np.int32]:
    """The code nearest to each value; not clipped, so that a value outside the range shows."""
    return np.rint(values.astype(np.float64) / quantizer.scale).astype(np.int32) + quantizer.zero_point
