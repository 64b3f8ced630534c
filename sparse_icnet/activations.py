"""The tensors inside a network for one picture: codes as the engine computed them, real values between them.

The engine keeps the quantized tensors of its rewritten graph.  By the invariant of `sparse_icnet.network.rewrite`, one
that has the same name and shape in the graph as loaded is the same tensor there.  All others (real values, and what
the rewrites moved or left out) the oracle computes from those, equation by equation, to the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Graph, Quantizer
from sparse_icnet.network.rewrite import sampled
from sparse_icnet.plan import plan_for
from sparse_icnet.processes import PerProcess, default_threads
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.suggest import did_you_mean


@dataclass(frozen=True, eq=False, slots=True)
class Activation:
    """One tensor (C, H, W) for one picture.

    name       of the operation whose output it is
    quantizer  of its codes; None for a tensor of real values and for a class map
    data       int16 codes, float32 real values, or uint8 classes
    """

    name: str
    quantizer: Quantizer | None
    data: NDArray[np.int16] | NDArray[np.float32] | NDArray[np.uint8]

    @property
    def values(self) -> NDArray[np.float32]:
        """float32 (C, H, W): the real values, (code - zero point) * scale of codes."""
        if self.quantizer is None:
            return self.data.astype(np.float32, copy=False)
        zero_based = (self.data.astype(np.int32) - self.quantizer.zero_point).astype(np.float32)
        return zero_based * np.float32(self.quantizer.scale)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.data.shape))
        kind = f"codes, scale {self.quantizer.scale:.4g}" if self.quantizer else str(self.data.dtype)
        return (
            f"Activation({self.name!r}, {shape} {kind}, {self.data.min():.4g} to {self.data.max():.4g}, "
            f"{100 * float((self.values == 0).mean()):.0f} % zero)"
        )


class Activations:
    """Runs a graph so that its tensors can be read; safe to call from several Python threads at once.

    threads  of an inference; None: one for each core this process may use
    """

    def __init__(self, graph: Graph, threads: int | None) -> None:
        self.graph = graph
        self.session = Session(plan_for(graph, threads or default_threads(), keep_tensors=True))
        self._lock = PerProcess(threading.RLock)
        known = {op.name for op in graph}
        self._same = tuple(
            name
            for name in self.session.tensors()
            if name in known
            and graph.quantizer(name) == self.session.graph.quantizer(name)
            and sampled(graph, self.session.graph, name) == (1, 1)
        )

    def of(
        self, pixels: NDArray[np.uint8], blob: NDArray[np.float32], names: Sequence[str]
    ) -> dict[str, Activation]:
        """The tensors `names` for RGB `pixels` (H, W, 3), as float32 `blob` (3, H, W)."""
        with self._lock.get():
            self.session.class_map_of_image(pixels)
            codes = {name: self.session.tensor(name) for name in self._same}
        oracle = Oracle(self.graph, blob, codes)
        return {name: Activation(name, self.graph.quantizer(name), oracle.value(name)) for name in names}


def checked_names(graph: Graph, names: Sequence[str] | None) -> list[str]:
    """`names` if the graph has them all, every quantized tensor for None.

    Raises ValueError that names what is unknown, TypeError for a string in place of a list.
    """
    known = [op.name for op in graph]
    if names is None:
        return [name for name in known if graph.quantizer(name) is not None]
    if isinstance(names, str):
        raise TypeError(f"names must be a list of tensor names, found the string {names!r}")
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no tensor of this network{did_you_mean(str(name), known)}")
    return list(names)
