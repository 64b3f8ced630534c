"""The operators that take the network input: for each tensor made of it one from an image and one from a blob."""

from __future__ import annotations

from sparse_icnet.network.graph import Affine, Input, Quantizer
from sparse_icnet.operators.input.plan import BlobStep, ImageStep, RealBlobStep, RealImageStep
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.storage import View
from sparse_icnet.plan.maps import Maps
from sparse_icnet.plan.program import Start


class Inputs:
    """Makes tensors of the network input.

    steps  the operators of those made so far, by what an inference begins with
    """

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.steps: dict[Start, list[Operator]] = {start: [] for start in Start}

    def tensor(self, name: str, source: Input | Affine, quantizer: Quantizer | None, unit: float) -> View:
        """A new tensor: the codes of `source`, whose scale is `unit`, or without a quantizer its real values in `unit`."""
        graph = self._maps.graph
        shape, affine = graph.input.shape, source if isinstance(source, Affine) else None
        target = self._maps.new(name, shape[0], self._maps.phases(source.name), quantizer)
        given = shape, affine, graph.normalization, target, unit
        self.steps[Start.IMAGE].append(ImageStep(*given) if quantizer else RealImageStep(*given))
        self.steps[Start.BLOB].append(BlobStep(*given) if quantizer else RealBlobStep(*given))
        return target
