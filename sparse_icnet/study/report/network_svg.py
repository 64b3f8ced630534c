"""A drawing of the network as SVG: every layer a box that can be focused, coloured by any of its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sparse_icnet.study.report.drawing import BOX_HEIGHT, BOX_WIDTH, Drawing, Frame, Line, Mark, Point
from sparse_icnet.study.report.markup import Markup, clean, tag

RADIUS = 7.0  # of the corners of lines
LABEL_LETTERS = 11  # that fit into a box
PATTERNS = 6


class Shown(Protocol):
    """What a drawing needs to know of a layer."""

    @property
    def index(self) -> int: ...

    @property
    def spoken(self) -> str:
        """One line that says it all, for those who do not see the drawing."""


def patterns() -> Markup:
    """Hatchings that tell kernels apart without colour, for all drawings of the page."""
    lines = (
        "",
        "M0 8L8 0",
        "M0 0L8 8",
        "M4 0V8",
        "M0 4H8",
        "M0 8L8 0M0 0L8 8",
    )
    made = [
        tag(
            "pattern",
            tag("path", d=d, class_="hatch") if d else None,
            id=f"hatch{index}",
            width=8,
            height=8,
            patternUnits="userSpaceOnUse",
        )
        for index, d in enumerate(lines)
    ]
    arrow = tag(
        "marker",
        tag("path", d="M0 0L8 4L0 8z", class_="arrow"),
        id="arrow",
        viewBox="0 0 8 8",
        refX=7,
        refY=4,
        markerWidth=6,
        markerHeight=6,
        orient="auto",
    )
    return tag("svg", tag("defs", *made, arrow), width=0, height=0, class_="definitions", aria_hidden=True)


class Coloured(Protocol):
    """What the boxes show before a script does anything: level, text and bar of each layer."""

    @property
    def levels(self) -> Sequence[int]: ...

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def bars(self) -> Sequence[float]: ...


def network_svg(drawing: Drawing, layers: Mapping[str, Shown], first: int, metric: Coloured) -> Markup:
    """One drawing.

    layers  by name; first: index of the one that the Tab key reaches
    metric  what boxes show at first
    """
    parts = [
        *(_frame(frame) for frame in drawing.frames if frame.lane),
        *(_line(line) for line in drawing.lines),
        *(_frame(frame) for frame in drawing.frames if not frame.lane),
        *(_mark(mark) for mark in drawing.marks),
        *(_box(layers[box.layer], box.label, box.x, box.y, first, metric) for box in drawing.boxes),
    ]
    return tag(
        "svg",
        tag("title", "The network, a box for each convolution"),
        *parts,
        viewBox=f"0 0 {drawing.width:.0f} {drawing.height:.0f}",
        class_=f"network {drawing.shape}",
        role="group",
        aria_label="The network: arrow keys go from layer to layer, Enter selects",
        data_shape=drawing.shape,
    )


def _box(layer: Shown, label: str, x: float, y: float, first: int, metric: Coloured) -> Markup:
    level, length = metric.levels[layer.index], BOX_WIDTH - 10
    ink = f"i{level}"
    return tag(
        "g",
        tag("rect", width=BOX_WIDTH, height=BOX_HEIGHT, rx=5, class_=f"fill q{level}"),
        tag("rect", width=BOX_WIDTH, height=BOX_HEIGHT, rx=5, class_="pattern"),
        tag("rect", x=5, y=BOX_HEIGHT - 6, width=length, height=3, class_=f"track {ink}"),
        tag(
            "rect",
            x=5,
            y=BOX_HEIGHT - 6,
            width=length * metric.bars[layer.index],
            height=3,
            class_=f"bar {ink}",
        ),
        tag("text", fitting(label), x=BOX_WIDTH / 2, y=12.5, class_=f"name {ink}"),
        tag("text", metric.texts[layer.index], x=BOX_WIDTH / 2, y=25.5, class_=f"value {ink}"),
        tag("rect", x=-2, y=-2, width=BOX_WIDTH + 4, height=BOX_HEIGHT + 4, rx=7, class_="ring"),
        transform=f"translate({x:.1f} {y:.1f})",
        class_="layer",
        role="button",
        tabindex=0 if layer.index == first else -1,
        aria_label=clean(layer.spoken, 400),
        aria_pressed="false",
        data_layer=layer.index,
    )


def fitting(label: str) -> str:
    """A label as it fits into a box: the last parts of a path, else the end of a name, which says more than its beginning.

    >>> fitting("conv1_sub1"), fitting("model/stage3/block1/conv1"), fitting("convolution_17")
    ('conv1_sub1', '…/conv1', '…olution_17')
    """
    shown = clean(label)
    if len(shown) <= LABEL_LETTERS:
        return shown
    parts = shown.split("/")
    ends = ("…/" + "/".join(parts[first:]) for first in range(1, len(parts)))
    return next((end for end in ends if len(end) <= LABEL_LETTERS), f"…{shown[1 - LABEL_LETTERS :]}")


def _frame(frame: Frame) -> Markup:
    kind = "lane" if frame.lane else "block"
    return tag(
        "g",
        tag("rect", x=frame.x, y=frame.y, width=frame.width, height=frame.height, rx=8),
        tag("text", frame.title, x=frame.x + frame.inset, y=frame.y + (17 if frame.lane else 12)),
        class_=kind,
        aria_hidden=True,
    )


def _mark(mark: Mark) -> Markup:
    x, y = mark.x + mark.width / 2, mark.y + mark.height / 2
    shape = (
        tag("circle", cx=x, cy=y, r=mark.width / 2)
        if mark.text == "+"
        else tag("rect", x=mark.x, y=mark.y, width=mark.width, height=mark.height, rx=mark.height / 2)
    )
    return tag("g", shape, tag("text", mark.text, x=x, y=y + 4), class_="mark", aria_hidden=True)


def _line(line: Line) -> Markup:
    end = "url(#arrow)" if line.arrow else None
    return tag("path", d=rounded(line.points), class_="line", marker_end=end, aria_hidden=True)


def rounded(points: Sequence[Point]) -> str:
    """The path through `points` with round corners."""
    parts = [f"M{_at(points[0])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before), _towards(corner, after)
        parts.append(f"L{_at(start)}Q{_at(corner)} {_at(end)}")
    parts.append(f"L{_at(points[-1])}")
    return "".join(parts)


def _towards(corner: Point, other: Point) -> Point:
    """The point of the way from `corner` to `other` where the corner's curve begins."""
    length = max(abs(other[0] - corner[0]), abs(other[1] - corner[1]), 1e-6)
    share = min(RADIUS, length / 2) / length
    return corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share


def _at(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
