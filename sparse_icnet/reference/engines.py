"""What can be verified: anything that turns a blob into an output; what else it can show of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Graph, Size

if TYPE_CHECKING:
    from sparse_icnet.run.session import Session

Blob = NDArray[np.float32]
Output = NDArray[np.float32 | np.uint8]


class Engine(Protocol):
    """What is verified: anything that turns one blob into the output of the graph."""

    def output(self, blob: Blob) -> Output:
        """float32 (3, H, W) -> what the graph returns: float32 (classes, H, W), or a class map uint8 (1, H, W)."""


@runtime_checkable
class TracedEngine(Protocol):
    """An engine that shows its intermediate tensors, so that a divergence gets a name."""

    executed: Graph  # the graph as the engine runs it, after its rewrites

    def output(self, blob: Blob) -> Output: ...

    def trace(self, blob: Blob) -> Mapping[str, NDArray[np.integer]]:
        """One inference: name -> codes (C, H, W) of quantized tensors of `executed`; some may be absent."""


@runtime_checkable
class SmoothEngine(Protocol):
    """An engine that makes smooth class maps of `executed`."""

    executed: Graph

    def smooth_class_map(self, blob: Blob, size: Size) -> NDArray[np.uint8]:
        """float32 (3, H, W) -> the class map of equation (Q11), uint8 of `size` (height, width)."""


class SessionEngine:
    """The engine of this package as a TracedEngine and SmoothEngine: results from a session as `Model` makes it, tensors
    from one that keeps them (only that differs), made when first asked for.

    session  what computes the results; None: a new one
    threads  of an inference; None: one for each core this process may use
    """

    def __init__(self, graph: Graph, session: Session | None = None, threads: int | None = None) -> None:
        from sparse_icnet.plan import plan_for
        from sparse_icnet.processes import default_threads
        from sparse_icnet.run.session import Session

        self._graph, self._threads = graph, threads or default_threads()
        self._session = session or Session(plan_for(graph, self._threads))
        self._keeping: Session | None = None
        self.executed = self._session.graph

    def output(self, blob: Blob) -> Output:
        return self._session.output(blob)

    def smooth_class_map(self, blob: Blob, size: Size) -> NDArray[np.uint8]:
        return self._session.smooth_class_map(blob, size)

    def trace(self, blob: Blob) -> dict[str, NDArray[np.int16]]:
        from sparse_icnet.plan import plan_for
        from sparse_icnet.run.session import Session

        if self._keeping is None:
            self._keeping = Session(plan_for(self._graph, self._threads, keep_tensors=True))
        self._keeping.output(blob)
        return {name: self._keeping.tensor(name) for name in self._keeping.tensors()}
