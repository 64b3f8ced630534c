"""The rewrites of a graph one by one: what each did to which layer, and how many products it saved.

The figures are those of the graphs between the rewrites that `sparse_icnet.network.rewrite.applications` goes through,
and, for what is executed in the end, those of the plan's reports.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_icnet.network.graph import AnyConvolution, Graph, Op, Shape, Size
from sparse_icnet.network.rewrite import Rewrite, applications
from sparse_icnet.operators.source import place_of

if TYPE_CHECKING:
    from sparse_icnet.plan.program import Plan


@dataclass(frozen=True, slots=True)
class Work:
    """A convolution within one graph.

    output_shape  (C, H, W); stride, dilation: (vertical, horizontal); padding: (top, left, bottom, right)
    macs          multiply-accumulates of one inference, zero weights included
    """

    output_shape: Shape
    stride: Size
    dilation: Size
    padding: tuple[int, int, int, int]
    macs: int


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What one application of a rewrite did to a convolution; `after` is None where the output no longer needs it."""

    layer: str
    before: Work
    after: Work | None

    @property
    def saved(self) -> int:
        """Multiply-accumulates."""
        return self.before.macs - (self.after.macs if self.after else 0)


@dataclass(frozen=True, slots=True)
class Step:
    """One application of a rewrite.

    rewrite       name of the function, "prune" where operations that the output does not need were left out
    summary       the first line of its docstring; source: file:line of the function, from the package's folder
    macs_before, macs_after   multiply-accumulates of one inference
    layers        the convolutions that it changed
    changed, added, removed   names of all operations that now read something else, have another size or other
                  parameters; that are new; that are gone
    """

    rewrite: str
    summary: str
    source: str
    macs_before: int
    macs_after: int
    layers: tuple[LayerChange, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def saved(self) -> int:
        """Multiply-accumulates."""
        return self.macs_before - self.macs_after

    def change_of(self, layer: str) -> LayerChange | None:
        """What it did to the convolution `layer`, if anything."""
        return next((change for change in self.layers if change.layer == layer), None)

    def touches(self, name: str) -> bool:
        """Whether it changed, made or removed the operation `name`."""
        return name in self.changed or name in self.added or name in self.removed


@dataclass(frozen=True, slots=True)
class LayerWork:
    """A convolution as the file has it and behind all rewrites; `after` is None where the output does not need it."""

    layer: str
    before: Work
    after: Work | None


@dataclass(frozen=True, slots=True)
class History:
    """What `rewrite.optimize` did to a graph.

    macs_as_written, macs  multiply-accumulates of one inference, before all rewrites and behind them
    steps                  in order
    layers                 the convolutions, in order
    """

    macs_as_written: int
    macs: int
    steps: tuple[Step, ...]
    layers: tuple[LayerWork, ...]

    def of(self, name: str) -> tuple[Step, ...]:
        """The steps that touched the operation `name`."""
        return tuple(step for step in self.steps if step.touches(name))

    def saved_by_rewrite(self) -> dict[str, int]:
        """Multiply-accumulates that each rewrite saved, in the order of their first application."""
        saved: dict[str, int] = {}
        for step in self.steps:
            saved[step.rewrite] = saved.get(step.rewrite, 0) + step.saved
        return saved

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a waterfall: `macs` remain behind it, `change` of them (negative: saved) are its own.

    kind  "total" for a level that is reached, "rewrite", "zeros", "filling" or "filtering" for what lies between
    """

    name: str
    kind: str
    macs: int
    change: int
    text: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """From the multiply-accumulates as written to those executed, bar by bar."""

    bars: tuple[Bar, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


def history(graph: Graph) -> History:
    """The rewrites that `graph`, as a file has it, undergoes before it is planned."""
    steps, last = [], graph
    for application in applications(graph):
        last = application.after
        steps.append(_step(application.rewrite, application.before, last))
    works = _works(last)
    layers = tuple(LayerWork(name, work, works.get(name)) for name, work in _works(graph).items())
    return History(graph.macs(), last.macs(), tuple(steps), layers)


def waterfall(history: History, plan: Plan) -> Waterfall:
    """What becomes of the products of `history` in its `plan`: the last bar is what an inference executes."""
    direct = [report for report in plan.convolutions() if not report.filtered]
    filtered = [report for report in plan.convolutions() if report.filtered]
    filled = sum(report.filled_macs - report.dense_macs for report in direct)
    skipped = sum(report.macs - report.filled_macs for report in direct)
    filtering = sum(report.macs - report.dense_macs for report in filtered)
    bars = [Bar("as written", "total", history.macs_as_written, 0, "every weight at every output pixel")]

    def add(name: str, kind: str, change: int, text: str) -> None:
        if change:
            bars.append(Bar(name, kind, bars[-1].macs + change, change, text))

    summaries = {step.rewrite: step.summary for step in history.steps}
    for name, saved in history.saved_by_rewrite().items():
        add(name, "rewrite", -saved, summaries[name])
    bars.append(Bar("rewritten", "total", bars[-1].macs, 0, "behind all rewrites, the same bits"))
    dense = sum(report.dense_macs for report in plan.convolutions())
    add("again", "filling", dense - bars[-1].macs, "Layers that are read both as codes and as real values.")
    add(
        "channels to fours",
        "filling",
        filled,
        "A block holds four input channels of int8 or one of float32, a tile four output channels.",
    )
    add("zero blocks", "zeros", skipped, "Blocks of weights that hold nothing but zeros are not stored.")
    add(
        "filtering",
        "filtering",
        filtering,
        "36 products of int16 for 16 outputs of a 3x3 layer, in whole vectors.",
    )
    bars.append(Bar("executed", "total", bars[-1].macs, 0, "what the kernels multiply"))
    return Waterfall(tuple(bars))


def _step(rewrite: Rewrite | None, before: Graph, after: Graph) -> Step:
    old, new = {op.name: op for op in before}, {op.name: op for op in after}
    works, later = _works(before), _works(after)
    return Step(
        rewrite=rewrite.__name__ if rewrite else "prune",
        summary=first_line(rewrite) if rewrite else "Without operations that the output does not need.",
        source=place_of(rewrite) if rewrite else "",
        macs_before=before.macs(),
        macs_after=after.macs(),
        layers=tuple(
            LayerChange(name, work, later.get(name))
            for name, work in works.items()
            if later.get(name) != work
        ),
        changed=tuple(
            name
            for name, op in old.items()
            if name in new and (before.shape(name) != after.shape(name) or not _same(op, new[name]))
        ),
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
    )


def _works(graph: Graph) -> dict[str, Work]:
    return {op.name: _work(graph, op) for op in graph.layers}


def _work(graph: Graph, op: AnyConvolution) -> Work:
    shape = graph.shape(op.name)
    return Work(shape, op.stride, op.dilation, op.padding, op.macs_per_pixel * shape[1] * shape[2])


def _same(a: Op, b: Op) -> bool:
    """Whether two operations of one name are the same: rewrites keep the arrays of those that they move."""
    if type(a) is not type(b):
        return False
    pairs: Iterator[tuple[Any, Any]] = ((getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return all(x is y if isinstance(x, np.ndarray) else x == y for x, y in pairs)


def first_line(thing: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]
