"""ICNet drawn as in its paper: three branches, the pyramid, two cascade fusions, the classifier.

Zhao, Qi, Shen, Shi, Jia: "ICNet for Real-Time Semantic Segmentation on High-Resolution Images", ECCV 2018, figure 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from sparse_icnet.network.graph import Graph
from sparse_icnet.network.icnet import (
    FUSION_LAYERS,
    HIGH_LAYERS,
    LOW_BLOCKS,
    MEDIUM_BLOCKS,
    PYRAMID_LAYER,
    STEM_LAYERS,
    BlockSpec,
    layer_specs,
)
from sparse_icnet.study.report.drawing import (
    BOX_HEIGHT,
    BOX_WIDTH,
    GAP,
    TITLE,
    Box,
    Canvas,
    Drawing,
    Frame,
    Mark,
    middle_bottom,
    middle_left,
    middle_right,
    middle_top,
)

CLASSIFIER = "conv6_cls"
BRANCHES = ("whole picture", "half the picture", "a quarter of the picture")
PARTS = {
    "reduce": "1x1 that reduces the channels",
    "3x3": "3x3",
    "increase": "1x1 that increases the channels",
}
PARTS["proj"] = "1x1 projection beside the others, added to them"

Place = Box | Mark | Frame


def can_draw(graph: Graph) -> bool:
    """Whether the graph has the convolutions of ICNet by their names, and no other."""
    return {op.name for op in graph.layers} == {layer.name for layer in layer_specs()}


def roles() -> dict[str, str]:
    """What each layer is in the paper."""
    found = {layer.name: f"{BRANCHES[0]}, stride 2" for layer in HIGH_LAYERS}
    found |= {layer.name: f"{BRANCHES[1]}, stem" for layer in STEM_LAYERS}
    for branch, blocks in ((BRANCHES[1], MEDIUM_BLOCKS), (BRANCHES[2], LOW_BLOCKS)):
        for block in blocks:
            for layer in block.layers:
                found[layer.name] = (
                    f"{branch}, bottleneck {block.name}: {PARTS[layer.name.rpartition('/')[2]]}"
                )
    found[PYRAMID_LAYER.name] = f"{BRANCHES[2]}, behind the pyramid pooling"
    for name, (low, high) in FUSION_LAYERS.items():
        found[low.name] = f"cascade fusion {name}: 3x3, dilated, of the lower resolution"
        found[high.name] = f"cascade fusion {name}: 1x1 projection of the higher resolution"
    found[CLASSIFIER] = "classifier: one score for each class"
    return found


def drawings() -> tuple[Drawing, ...]:
    """One for each shape of page."""
    return _wide(), _tall(), _phone()


def _names(block: BlockSpec) -> list[str]:
    return [layer.name for layer in block.layers]


def _fusion(name: str) -> list[str]:
    low, high = FUSION_LAYERS[name]
    return [high.name, low.name]


def _pairs(*places: Place) -> Iterable[tuple[Place, Place]]:
    """Each with the next."""
    return pairwise(places)


def _chain(canvas: Canvas, places: Sequence[Place], down: bool = False) -> None:
    """Arrows from each to the next."""
    for before, after in _pairs(*places):
        if down:
            canvas.line(middle_bottom(before), middle_top(after))
        else:
            canvas.line(middle_right(before), middle_left(after))


def _wide() -> Drawing:
    """Branches as lanes from left to right, one below the other; the fusions at the right, upwards."""
    canvas, pitch, left = Canvas(), BOX_WIDTH + 11, 14.0
    lanes = ((8.0, 116.0), (136.0, 214.0), (362.0, 214.0))
    width = left + 60 + 14 * pitch + 50
    for title, (y, height) in zip(("the whole picture", *BRANCHES[1:]), lanes, strict=True):
        canvas.lane(f"Branch of {title}", 6, y, width - 12, height, 44)

    def column(index: float) -> float:
        return left + 62 + index * pitch

    first, second, third = (y + 26 for y, _ in lanes)
    middle = BOX_HEIGHT / 2
    # The branch of the whole picture, and the fusion that it goes into.
    image = canvas.mark("image", left, first + 22, 48)
    high: list[Place] = [canvas.box(layer.name, column(i), first + 22) for i, layer in enumerate(HIGH_LAYERS)]
    _chain(canvas, [image, *high])
    fusion = canvas.group("cff421", column(12), first - 10, _fusion("cff421"), across=False)
    canvas.line(middle_right(high[-1]), (fusion.x, high[-1].y + middle))
    # The branch of half the picture.
    half = canvas.mark("½", left, second + TITLE + BOX_HEIGHT + GAP, 48)
    canvas.line(middle_bottom(image), middle_top(half))
    medium: list[Place] = [half]
    medium += [canvas.box(layer.name, column(i), half.y) for i, layer in enumerate(STEM_LAYERS)]
    medium.append(canvas.mark("max pool", column(3) + 6, half.y + 4, BOX_WIDTH - 12, BOX_HEIGHT - 8))
    groups = [
        canvas.group(block.name, column(4 + i), second, _names(block), across=False, arrows=2)
        for i, block in enumerate(MEDIUM_BLOCKS)
    ]
    for before, after in _pairs(*medium, *groups):
        canvas.line((middle_right(before)[0], half.y + middle), (after.x, half.y + middle))
    cascade = canvas.group("cff42", column(12), half.y - TITLE, _fusion("cff42"), across=False)
    canvas.line(
        (middle_right(groups[-1])[0], half.y + middle),
        (cascade.x, half.y + middle),
    )
    # The branch of a quarter, which goes on with every second pixel of the last bottleneck above.
    quarter = canvas.mark("½", left, third + TITLE + BOX_HEIGHT + GAP, 48)
    last, gap = groups[-1], (lanes[1][0] + lanes[1][1] + lanes[2][0]) / 2
    canvas.line(
        middle_bottom(last),
        (middle_bottom(last)[0], gap),
        (quarter.x + quarter.width / 2, gap),
        middle_top(quarter),
    )
    low = [
        canvas.group(block.name, column(i), third, _names(block), across=False, arrows=2)
        for i, block in enumerate(LOW_BLOCKS)
    ]
    row = quarter.y + middle
    for before, after in _pairs(quarter, *low):
        canvas.line((middle_right(before)[0], row), (after.x, row))
    pyramid = canvas.mark("pyramid", column(12), quarter.y)
    pyramid_layer = canvas.box(PYRAMID_LAYER.name, column(12), third + 6)
    canvas.line((middle_right(low[-1])[0], row), middle_left(pyramid))
    canvas.line(middle_top(pyramid), middle_bottom(pyramid_layer))
    canvas.line(middle_top(pyramid_layer), middle_bottom(cascade))
    # The sums, to the right of the layers that they add.
    side = column(13) + 9
    lower = canvas.plus(side, cascade.y + TITLE + BOX_HEIGHT + GAP / 2)
    canvas.line(middle_right(cascade), middle_left(lower), arrow=False)
    between = (lanes[0][0] + lanes[0][1] + lanes[1][0]) / 2
    centre = middle_bottom(fusion)[0]
    canvas.line(middle_top(lower), (side, between), (centre, between), (centre, fusion.y + fusion.height))
    upper = canvas.plus(side, fusion.y + TITLE + BOX_HEIGHT + GAP / 2)
    classifier = canvas.box(CLASSIFIER, column(13) + 34, upper.y + 10 - middle)
    canvas.line(middle_right(fusion), middle_left(upper), arrow=False)
    canvas.line(middle_right(upper), middle_left(classifier))
    classes = canvas.mark("classes", classifier.x, second + 10, BOX_WIDTH)
    canvas.line(middle_bottom(classifier), middle_top(classes))
    return canvas.drawing("wide", (width, lanes[-1][0] + lanes[-1][1] + 8))


def _tall() -> Drawing:
    """Branches as lanes from top to bottom, side by side; the fusions at their feet, to the left."""
    canvas, step = Canvas(), BOX_WIDTH + GAP
    row, top = TITLE + BOX_HEIGHT + 18, 36.0
    high_x, medium_x = 22.0, 22 + BOX_WIDTH + 38
    low_x = medium_x + 4 * step + 28
    width = low_x + 4 * step + 12
    foot = top + 13 * row + 2 * row
    lanes = (
        (6.0, BOX_WIDTH + 32),
        (medium_x - 16, 4 * step + 24),
        (low_x - 16, width - low_x + 10),
    )
    for title, (x, length) in zip(("whole picture", "half of it", "a quarter of it"), lanes, strict=True):
        canvas.lane(title, x, 6, length, foot - 6)
    image = canvas.mark("image", high_x, top, BOX_WIDTH)
    high: list[Place] = [
        canvas.box(layer.name, high_x, top + (i + 1) * row) for i, layer in enumerate(HIGH_LAYERS)
    ]
    _chain(canvas, [image, *high], down=True)
    half = canvas.mark("½", medium_x, top)
    canvas.line(middle_right(image), middle_left(half))
    stem = [canvas.box(one.name, medium_x + (i + 1) * step, top) for i, one in enumerate(STEM_LAYERS)]
    for before, after in _pairs(half, *stem):
        canvas.line(middle_right(before), middle_left(after), arrow=False)
    pool = canvas.mark("max pool", medium_x + 6, top + row + 2, BOX_WIDTH - 12, BOX_HEIGHT - 8)
    turn = pool.y - 12
    canvas.line(
        middle_bottom(stem[-1]),
        (middle_bottom(stem[-1])[0], turn),
        (middle_top(pool)[0], turn),
        middle_top(pool),
    )
    groups = [
        canvas.group(block.name, medium_x, top + (i + 2) * row - TITLE, _names(block), True, 2)
        for i, block in enumerate(MEDIUM_BLOCKS)
    ]
    centre = medium_x + BOX_WIDTH / 2

    def down(before: Place, after: Place, x: float) -> None:
        canvas.line((x, middle_bottom(before)[1]), (x, after.y))

    for above, below in _pairs(pool, *groups):
        down(above, below, centre)
    quarter = canvas.mark("½", low_x, top)
    last, gap = groups[-1], low_x - 23
    canvas.line(
        middle_right(last), (gap, middle_right(last)[1]), (gap, middle_left(quarter)[1]), middle_left(quarter)
    )
    low = [
        canvas.group(block.name, low_x, top + (i + 1) * row - TITLE, _names(block), True, 2)
        for i, block in enumerate(LOW_BLOCKS)
    ]
    for above, below in _pairs(quarter, *low):
        down(above, below, low_x + BOX_WIDTH / 2)
    pyramid = canvas.mark("pyramid", low_x, top + 13 * row)
    down(low[-1], pyramid, low_x + BOX_WIDTH / 2)
    layer = canvas.box(PYRAMID_LAYER.name, low_x, top + 14 * row - 6)
    canvas.line(middle_bottom(pyramid), middle_top(layer))
    cascade = canvas.group("cff42", medium_x, layer.y - TITLE, _fusion("cff42"), across=True)
    canvas.line(middle_left(layer), (cascade.x + cascade.width, middle_left(layer)[1]))
    down(groups[-1], cascade, centre)
    fusion = canvas.group("cff421", high_x, layer.y - 2 * row + 6, _fusion("cff421"), across=False)
    down(high[-1], fusion, high_x + BOX_WIDTH / 2)
    across = (cascade.x + fusion.x + fusion.width) / 2
    enters = fusion.y + TITLE + 1.5 * BOX_HEIGHT + GAP
    canvas.line(
        (cascade.x, layer.y + BOX_HEIGHT / 2),
        (across, layer.y + BOX_HEIGHT / 2),
        (across, enters),
        (fusion.x + fusion.width, enters),
    )
    classifier = canvas.box(CLASSIFIER, high_x, layer.y)
    down(fusion, classifier, high_x + BOX_WIDTH / 2)
    classes = canvas.mark("classes", high_x, foot + 16, BOX_WIDTH)
    canvas.line(middle_bottom(classifier), middle_top(classes))
    return canvas.drawing("tall", (width, foot + 16 + BOX_HEIGHT + 8))


def _phone() -> Drawing:
    """One lane below the other, a row for each bottleneck."""
    canvas, step, x = Canvas(), BOX_WIDTH + GAP, 14.0
    row, width = TITLE + BOX_HEIGHT + 18, 2 * 14 + 4 * (BOX_WIDTH + GAP) - GAP
    y, centre = 34.0, x + BOX_WIDTH / 2

    def lane(title: str, rows: float) -> None:
        canvas.lane(title, 5, y - 28, width - 10, rows * row + 24)

    def across(mark: str, layers: Sequence[str]) -> None:
        start = canvas.mark(mark, x, y)
        boxes = [canvas.box(name, x + (i + 1) * step, y) for i, name in enumerate(layers)]
        for before, after in _pairs(start, *boxes):
            canvas.line(middle_right(before), middle_left(after), arrow=False)

    def groups(blocks: Sequence[BlockSpec]) -> None:
        nonlocal y
        for block in blocks:
            group = canvas.group(block.name, x, y - TITLE, _names(block), True, 2)
            canvas.line((centre, group.y - 14), (centre, group.y))
            y += row

    lane(f"Branch of the {BRANCHES[0]}", 0.75)
    across("image", [layer.name for layer in HIGH_LAYERS])
    y += row + 22
    lane(f"Branch of {BRANCHES[1]}", 5.4)
    across("½ image", [layer.name for layer in STEM_LAYERS])
    end, y = x + 3 * step + BOX_WIDTH / 2, y + row
    pool = canvas.mark("max pool", x + 6, y - 6, BOX_WIDTH - 12, BOX_HEIGHT - 8)
    canvas.line((end, y - row + BOX_HEIGHT), (end, middle_left(pool)[1]), middle_right(pool))
    y += row - 16
    groups(MEDIUM_BLOCKS)
    y += 22
    lane(f"Branch of {BRANCHES[2]}, from conv3_1", 13.6)
    canvas.mark("½ conv3_1", x, y)
    y += row
    groups(LOW_BLOCKS)
    canvas.mark("pyramid", x, y)
    layer = canvas.box(PYRAMID_LAYER.name, x + step, y)
    canvas.line((x + BOX_WIDTH, y + BOX_HEIGHT / 2), middle_left(layer))
    canvas.line((centre, y - 18), (centre, y))
    y += row + 22
    lane("Fusions of the branches", 3.2)
    y += 14
    for name, text in (("cff42", "← conv3_1"), ("cff421", "← conv3_sub1")):
        group = canvas.group(name, x, y - TITLE, _fusion(name), across=True)
        mark = canvas.mark(text, x + 2 * step, y + 4, BOX_WIDTH + 8, BOX_HEIGHT - 8)
        canvas.line(middle_left(mark), (group.x + group.width, middle_left(mark)[1]), arrow=False)
        y += row
    classifier = canvas.box(CLASSIFIER, x, y)
    canvas.line((centre, y - 18), (centre, y))
    classes = canvas.mark("classes", x + step, y)
    canvas.line(middle_right(classifier), middle_left(classes))
    canvas.line((centre, y - row - TITLE - 18), (centre, y - row - TITLE))
    return canvas.drawing("phone", (width, y + BOX_HEIGHT + 20))
