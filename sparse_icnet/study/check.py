"""One value, and its whole tensor, in the engine and in the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.activations import Activations
from sparse_icnet.network.graph import Graph, Resize
from sparse_icnet.network.rewrite import sampled
from sparse_icnet.plan.ends import ends_of
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.study.value import Arithmetic


@dataclass(frozen=True, slots=True)
class Check:
    """What was found where the arithmetic of a value says `expected`.

    oracle  in the tensor of the oracle; engine: in that of the engine, None where it has none: `note` says why
    tensor  that was compared as a whole: values of it, and how many differ between engine and oracle
    """

    expected: float | int
    oracle: float | int
    engine: float | int | None
    note: str
    tensor: str
    values: int
    different: int

    @property
    def passed(self) -> bool:
        """Whether all that was compared is equal."""
        return self.oracle == self.expected and self.engine in (None, self.expected) and not self.different


def checked(
    graph: Graph, threads: int | None, oracle: Oracle, pixels: NDArray[np.uint8], value: Arithmetic
) -> Check:
    """Compare `value` with the tensors of `oracle` and with those of an engine that keeps them, for RGB `pixels`."""
    session = Activations(graph, threads).session
    classes = session.class_map_of_image(pixels)
    name, (channel, y, x) = value.tensor, value.at
    exact = oracle.codes(name) if value.kind == "code" else oracle.value(name)
    there = np.asarray(exact[value.at]).item()
    rewritten = {op.name for op in session.graph}
    known = name in rewritten
    found: NDArray[np.generic] | None = None
    if known and name in session.tensors():
        found = session.tensor(name)
    elif known and name in _logits(session.graph):
        found = session.logits_of_image(pixels)
        known = found.shape != exact.shape
    elif (
        value.kind == "real"
        and name == graph.output
        and not session.graph.returns_classes
        and not session.graph.returns_logits
    ):
        found = session.probabilities_of_image(pixels)
        known = False
    elif known and value.kind == "class" and classes.shape == session.graph.shape(name)[1:]:
        found = classes[None]
    if found is None:
        return _downstream(graph, session, oracle, value, there)
    step_y, step_x = sampled(graph, session.graph, name) if known else (1, 1)
    expected = exact[:, ::step_y, ::step_x]
    engine: float | int | None
    if y % step_y == 0 and x % step_x == 0:
        engine, note = np.asarray(found[channel, y // step_y, x // step_x]).item(), ""
    elif np.array_equal(expected.repeat(step_y, 1).repeat(step_x, 2), exact):
        engine = np.asarray(found[channel, y // step_y, x // step_x]).item()
        note = f"computed once for {step_y} x {step_x} equal pixels"
    else:
        engine, note = (
            None,
            f"the engine computes every {step_y}. row and {step_x}. column: no reader takes others",
        )
    different = int(np.count_nonzero(found != expected))
    return Check(value.value, there, engine, note, name, found.size, different)


def _logits(graph: Graph) -> list[str]:
    """The logits of a graph, and what they are nearest resizes of."""
    names = [ends_of(graph).logits]
    while isinstance(op := graph[names[-1]], Resize):
        names.append(op.input)
    return names


def _downstream(
    graph: Graph, session: object, oracle: Oracle, value: Arithmetic, there: float | int
) -> Check:
    """Of a tensor that the engine does not keep: the next one behind it that it does."""
    from sparse_icnet.run.session import Session

    assert isinstance(session, Session)
    kept = set(session.tensors())
    readers = graph.consumers()
    waiting, seen = [value.tensor], {value.tensor}
    while waiting:
        name = waiting.pop(0)
        if name in kept:
            step_y, step_x = sampled(graph, session.graph, name)
            found, expected = session.tensor(name), oracle.codes(name)[:, ::step_y, ::step_x]
            different = int(np.count_nonzero(found != expected))
            note = f"the engine keeps no tensor of that name; the next behind it is {name}"
            return Check(value.value, there, None, note, name, found.size, different)
        for reader in readers[name]:
            if reader.name not in seen:
                seen.add(reader.name)
                waiting.append(reader.name)
    return Check(value.value, there, None, "the engine keeps no tensor of that name", "", 0, 0)
