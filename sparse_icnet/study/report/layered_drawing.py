"""Any network, drawn in layers: what stands further along its longest paths stands further right, in rows."""

from __future__ import annotations

from sparse_icnet.network.graph import Add, AnyConvolution, AveragePool, Graph, Input, MaxPool, Op
from sparse_icnet.study.report.drawing import (
    BOX_HEIGHT,
    BOX_WIDTH,
    Box,
    Canvas,
    Drawing,
    Mark,
    middle_bottom,
    middle_left,
    middle_right,
    middle_top,
)

COLUMNS = {"wide": 12, "tall": 8, "phone": 3}
MOST_DRAWN = 400  # operations in one drawing: more are too many to see
BETWEEN, MARGIN = 22.0, 14.0


def drawings(graph: Graph, layers: frozenset[str]) -> tuple[Drawing, ...]:
    """One for each shape of page, of the convolutions `layers` with the sums and pools between them."""
    shown = _shown(graph, layers)
    sources = _sources(graph, shown)
    ranks: dict[str, int] = {}
    for name in shown:
        ranks[name] = 1 + max((ranks[source] for source in sources[name]), default=-1)
    return tuple(_drawing(shape, columns, shown, sources, ranks) for shape, columns in COLUMNS.items())


def _shown(graph: Graph, layers: frozenset[str]) -> dict[str, Op]:
    """The operations that are drawn: `layers`, pools and, of the sums, those that add what one of `layers` computes.

    Of pools and sums as many as there is room for.
    """
    computed = {graph.input.name, *layers}  # what holds the image or the result of one of `layers`, unsummed
    others = []
    for op in graph:
        if op.name in computed:
            continue
        read = not computed.isdisjoint(op.inputs)
        if isinstance(op, MaxPool | AveragePool) or (isinstance(op, Add) and read):
            others.append(op.name)
        if read and not isinstance(op, AnyConvolution | Add):
            computed.add(op.name)
    drawn = {graph.input.name, *layers, *others[: max(0, MOST_DRAWN - len(layers))]}
    return {op.name: op for op in graph if op.name in drawn}


def _sources(graph: Graph, shown: dict[str, Op]) -> dict[str, list[str]]:
    """For each shown operation those that it reads, through all that are not shown."""
    reads: dict[str, list[str]] = {}
    for op in graph:
        found = [name for source in op.inputs for name in ([source] if source in shown else reads[source])]
        reads[op.name] = list(dict.fromkeys(found))[:8]
    return {name: reads[name] for name in shown}


def _drawing(
    shape: str, columns: int, shown: dict[str, Op], sources: dict[str, list[str]], ranks: dict[str, int]
) -> Drawing:
    canvas, places = Canvas(), {}
    pitch = BOX_WIDTH + BETWEEN
    by_rank: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        by_rank.setdefault(rank, []).append(name)
    y, top = MARGIN + 8, {}
    for first in range(0, max(by_rank, default=0) + 1, columns):
        band = range(first, min(first + columns, max(by_rank) + 1))
        for rank in band:
            for row, name in enumerate(by_rank[rank]):
                at = MARGIN + (rank - first) * pitch, y + row * (BOX_HEIGHT + 14)
                places[name] = _place(canvas, shown[name], *at)
        top[first // columns] = y
        y += max(len(by_rank[rank]) for rank in band) * (BOX_HEIGHT + 14) + 24
    for name, read in sources.items():
        for source in read:
            same = ranks[name] // columns == ranks[source] // columns
            _connect(canvas, places[source], places[name], same, top[ranks[name] // columns] - 18)
    return canvas.drawing(shape, (MARGIN * 2 + min(columns, len(by_rank)) * pitch - BETWEEN, y))


def _place(canvas: Canvas, op: Op, x: float, y: float) -> Box | Mark:
    if isinstance(op, AnyConvolution):
        return canvas.box(op.name, x, y)
    if isinstance(op, Add):
        return canvas.plus(x + BOX_WIDTH / 2, y + BOX_HEIGHT / 2)
    text = {Input: "image", MaxPool: "max pool", AveragePool: "pool"}[type(op)]
    return canvas.mark(text, x + 6, y + 4, BOX_WIDTH - 12, BOX_HEIGHT - 8)


def _connect(canvas: Canvas, before: Box | Mark, after: Box | Mark, same_band: bool, above: float) -> None:
    """From the right side of one to the left side of the other; into another band through the space above it."""
    start, end = middle_right(before), middle_left(after)
    if same_band:
        middle = (start[0] + BETWEEN / 2, end[0] - BETWEEN / 2)
        if start[1] == end[1] and end[0] - start[0] <= 2 * BETWEEN:
            canvas.line(start, end)
        elif end[0] - start[0] <= BOX_WIDTH + BETWEEN:
            canvas.line(start, (middle[0], start[1]), (middle[0], end[1]), end)
        else:
            over = middle_top(after)[1] - 7
            canvas.line(
                start,
                (middle[0], start[1]),
                (middle[0], over),
                (middle_top(after)[0], over),
                middle_top(after),
            )
        return
    foot, head = middle_bottom(before), middle_top(after)
    canvas.line(foot, (foot[0], above), (head[0], above), head)
