"""Where the layers of a network are drawn: boxes, groups, lanes and lines on a canvas, in three shapes of page.

The branches and fusions of ICNet (Zhao et al., ECCV 2018, figure 2) have a drawing of their own; any other network is
drawn in layers by its longest paths (`layered_drawing.py`).  Lengths are in the units of the SVG, about a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sparse_icnet.network.graph import Size

Point = tuple[float, float]

BOX_WIDTH, BOX_HEIGHT, GAP, TITLE = 76.0, 36.0, 6.0, 16.0
SHAPES = ("wide", "tall", "phone")


@dataclass(frozen=True, slots=True)
class Box:
    """One convolution: the upper left corner, and what its box is called."""

    layer: str
    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Mark:
    """What is no convolution: the image, a pool, a sum, the classes."""

    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Frame:
    """A bottleneck or a fusion around its layers, or a lane around a branch.

    inset  of the title from the left
    """

    title: str
    x: float
    y: float
    width: float
    height: float
    lane: bool = False
    inset: float = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """From point to point, with an arrow at its end."""

    points: tuple[Point, ...]
    arrow: bool = True


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture of the network.

    shape   the page it is for: "wide", "tall", "phone"
    """

    shape: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    marks: tuple[Mark, ...]
    frames: tuple[Frame, ...]
    lines: tuple[Line, ...]


@dataclass
class Canvas:
    """What is drawn so far; every method adds one thing."""

    boxes: list[Box] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def box(self, layer: str, x: float, y: float, label: str | None = None) -> Box:
        self.boxes.append(Box(layer, layer if label is None else label, x, y))
        return self.boxes[-1]

    def mark(
        self, text: str, x: float, y: float, width: float = BOX_WIDTH, height: float = BOX_HEIGHT
    ) -> Mark:
        self.marks.append(Mark(text, x, y, width, height))
        return self.marks[-1]

    def plus(self, x: float, y: float) -> Mark:
        """A sum, around the point (x, y)."""
        return self.mark("+", x - 10, y - 10, 20, 20)

    def lane(self, title: str, x: float, y: float, width: float, height: float, inset: float = 10.0) -> None:
        self.frames.append(Frame(title, x, y, width, height, True, inset))

    def line(self, *points: Point, arrow: bool = True) -> None:
        self.lines.append(Line(points, arrow))

    def group(
        self, title: str, x: float, y: float, layers: Sequence[str], across: bool, arrows: int = 0
    ) -> Frame:
        """Boxes of `layers` in a frame, below or beside each other; the first 1 + `arrows` are joined by arrows."""
        step = BOX_WIDTH + GAP if across else BOX_HEIGHT + GAP
        length = step * len(layers) - GAP
        width = length if across else BOX_WIDTH
        height = BOX_HEIGHT if across else length
        frame = Frame(title, x - 4, y, width + 8, height + TITLE + 4)
        self.frames.append(frame)
        for index, layer in enumerate(layers):
            left, top = (x + index * step, y + TITLE) if across else (x, y + TITLE + index * step)
            self.box(layer, left, top, layer.rpartition("/")[2])
            if index < arrows and across:
                self.line(
                    (left + BOX_WIDTH, top + BOX_HEIGHT / 2), (left + step, top + BOX_HEIGHT / 2), arrow=False
                )
            elif index < arrows:
                self.line(
                    (left + BOX_WIDTH / 2, top + BOX_HEIGHT), (left + BOX_WIDTH / 2, top + step), arrow=False
                )
        return frame

    def drawing(self, shape: str, size: Size | tuple[float, float]) -> Drawing:
        """All of it on a canvas of `size` (width, height)."""
        width, height = size
        return Drawing(
            shape,
            width,
            height,
            tuple(self.boxes),
            tuple(self.marks),
            tuple(self.frames),
            tuple(self.lines),
        )


def middle_left(one: Box | Mark | Frame) -> Point:
    return one.x, _centre(one)[1]


def middle_right(one: Box | Mark | Frame) -> Point:
    return one.x + _size(one)[0], _centre(one)[1]


def middle_top(one: Box | Mark | Frame) -> Point:
    return _centre(one)[0], one.y


def middle_bottom(one: Box | Mark | Frame) -> Point:
    return _centre(one)[0], one.y + _size(one)[1]


def _centre(one: Box | Mark | Frame) -> Point:
    width, height = _size(one)
    return one.x + width / 2, one.y + height / 2


def _size(one: Box | Mark | Frame) -> Point:
    return (BOX_WIDTH, BOX_HEIGHT) if isinstance(one, Box) else (one.width, one.height)
