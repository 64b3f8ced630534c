"""Exact rewrites of a graph: the same bits from less work.

Every rewrite is a function Graph -> Graph with its proof in the docstring, and returns the very same
object when there is nothing to do.  They share one invariant, which makes every tensor comparable:

    A name that the rewritten graph shares with the original holds the same tensor, or every k-th row
    and column of it: rewritten[:, i, j] = original[:, i * step_y, j * step_x].  See `sampled`.

A tensor that moved in front of a k-times upsampling obeys it too, because u(x)[k * i] = x[i].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace

from sparse_icnet.network.graph import Graph, GraphError, pruned, rename_inputs
from sparse_icnet.network.rewrite._edit import fresh, rebuilt
from sparse_icnet.network.rewrite.duplicates import drop_idle_quantizers, drop_idle_relus, merge_duplicates
from sparse_icnet.network.rewrite.ranges import narrow_quantizers
from sparse_icnet.network.rewrite.resizes import merge_resizes
from sparse_icnet.network.rewrite.sampling import pull_sampling, quantize_before_sampling
from sparse_icnet.network.rewrite.to_class_map import to_class_map
from sparse_icnet.network.rewrite.upsampling import push_upsampling

__all__ = [
    "REWRITES",
    "Application",
    "applications",
    "drop_idle_quantizers",
    "drop_idle_relus",
    "for_class_map",
    "merge_duplicates",
    "merge_resizes",
    "narrow_quantizers",
    "optimize",
    "pull_sampling",
    "push_upsampling",
    "quantize_before_sampling",
    "sampled",
    "to_class_map",
]

Rewrite = Callable[[Graph], Graph]

REWRITES: tuple[Rewrite, ...] = (
    narrow_quantizers,
    drop_idle_quantizers,
    drop_idle_relus,
    merge_duplicates,
    merge_resizes,
    quantize_before_sampling,
    pull_sampling,
    push_upsampling,
)


@dataclass(frozen=True, slots=True, eq=False)
class Application:
    """A rewrite that found something to do; `rewrite` None: operations that the output does not need were left out."""

    rewrite: Rewrite | None
    before: Graph
    after: Graph


def applications(graph: Graph, rewrites: Iterable[Rewrite] = REWRITES) -> Iterator[Application]:
    """What `optimize` does to `graph`, in order; nothing where it leaves the graph as it is."""
    return _applied(graph, tuple(rewrites), frozenset(op.name for op in graph))


def optimize(graph: Graph, rewrites: Iterable[Rewrite] = REWRITES) -> Graph:
    """`graph` without the work that its output does not need: all of `rewrites` until none applies.

    Each rewrite removes an operation, computes one at fewer positions, leaves a quantizer fewer codes, or moves
    a resize one operation towards an end of the network and never back, so this ends; the bound on the rounds
    is a guard that could only leave work undone, never change a result.

    The result is for this input size: change the size first (`graph.resized`), then optimize.
    """
    return _optimized(graph, tuple(rewrites), frozenset(op.name for op in graph))


def for_class_map(graph: Graph) -> Graph:
    """The optimized graph of the class map of `graph`: see `to_class_map`."""
    return _optimized(to_class_map(graph), REWRITES, frozenset(op.name for op in graph))


def _optimized(graph: Graph, rewrites: tuple[Rewrite, ...], names: Set[str]) -> Graph:
    """Fixed point of `rewrites`; no operation gets one of `names` that it did not have."""
    for application in _applied(graph, rewrites, names):
        graph = application.after
    return graph


def _applied(graph: Graph, rewrites: tuple[Rewrite, ...], names: Set[str]) -> Iterator[Application]:
    """The way of `graph` to the fixed point of `rewrites`; no operation gets one of `names` that it did not have."""
    if len(pruned(graph.ops, graph.output)) != len(graph.ops):
        needed = rebuilt(graph, {op.name: op for op in graph.ops}, graph.output)
        yield Application(None, graph, needed)
        graph = needed
    for _ in range(4 * len(graph.ops)):
        start = graph
        for rewrite in rewrites:
            before, graph = graph, _without_reuse(graph, rewrite(graph), names)
            if graph is not before:
                yield Application(rewrite, before, graph)
        if graph is start:
            break


def sampled(graph: Graph, rewritten: Graph, name: str) -> tuple[int, int]:
    """(step_y, step_x) such that `rewritten`'s tensor `name` is `graph`'s [:, ::step_y, ::step_x].

    Both graphs must have `name`, else KeyError.  (1, 1) means that the whole tensor is equal.  Raises GraphError
    where one size does not divide the other, which no rewrite makes.
    """
    _, full_height, full_width = graph.shape(name)
    _, height, width = rewritten.shape(name)
    if full_height % height or full_width % width:
        raise GraphError(
            f"operation {name!r}: expected every k-th row and column of {full_height}x{full_width}, "
            f"found {height}x{width}"
        )
    return full_height // height, full_width // width


def _without_reuse(before: Graph, after: Graph, names: Set[str]) -> Graph:
    """`after`, its new operations renamed where an operation of the original, by now gone, had that name."""
    known = {op.name for op in before}
    clashes = [op.name for op in after if op.name not in known and op.name in names]
    if after is before or not clashes:
        return after
    taken = set(names) | known | {op.name for op in after}
    new_names = {name: fresh(name, taken) for name in clashes}
    ops = tuple(
        replace(op, name=new_names.get(op.name, op.name))
        for op in (rename_inputs(o, new_names) for o in after)
    )
    return replace(after, ops=ops, output=new_names.get(after.output, after.output))
