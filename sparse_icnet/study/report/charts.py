"""Histograms, bars and the roofline as SVG; all text that is longer than a number stays in HTML, where it wraps."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sparse_icnet.study.report.data import Histogram, Roofline
from sparse_icnet.study.report.markup import Markup, joined, tag

HISTOGRAM = (320.0, 112.0)


def histogram_svg(histogram: Histogram, title: str) -> Markup:
    """Bars of equal width; that of zero, which would dwarf the others, is cut off where it is higher and says its share."""
    width, height = HISTOGRAM
    base, highest = height - 18, max([1, *histogram.others()])
    step = width / len(histogram.counts)
    bars, zero = [], Markup("")
    for index, count in enumerate(histogram.counts):
        tall = min(1.0, count / highest) * (base - 16)
        if index == histogram.zero_bin:
            centre = min(max((index + 0.5) * step, 40), width - 40)
            zero = joined(
                tag(
                    "rect",
                    x=index * step,
                    y=base - tall,
                    width=max(step - 0.6, 1),
                    height=tall,
                    class_="zero",
                ),
                tag("text", f"0: {percent(histogram.zero_share)}", x=centre, y=10, class_="middle"),
            )
        elif count:
            bars.append(
                f"M{index * step:.1f} {base:.0f}v{-max(tall, 0.8):.1f}h{max(step - 0.6, 1):.1f}V{base:.0f}z"
            )
    return tag(
        "svg",
        tag("title", f"{title}: {percent(histogram.zero_share)} are 0"),
        tag("path", d="".join(bars), class_="bars") if bars else None,
        zero,
        tag("line", x1=0, y1=base, x2=width, y2=base, class_="axis"),
        tag("text", f"{histogram.low:.3g}", x=1, y=height - 4),
        tag("text", f"{histogram.high:.3g}", x=width - 1, y=height - 4, class_="end"),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        class_="histogram",
        role="img",
    )


def bar_svg(share: float, start: float = 0.0, kind: str = "total") -> Markup:
    """A bar from `start` to `start + share` of the width that it is given."""
    return tag(
        "svg",
        tag("rect", x=0, y=0, width=1000, height=10, class_="track"),
        tag("rect", x=1000 * start, y=0, width=max(1000 * share, 2), height=10, class_=f"part {kind}"),
        viewBox="0 0 1000 10",
        preserveAspectRatio="none",
        class_="bar-row",
        aria_hidden=True,
    )


def percent(share: float, digits: int = 1) -> str:
    """A share as people read it.

    >>> percent(0.42931), percent(0.00002), percent(0.0), percent(1.0)
    ('42.9 %', '< 0.1 %', '0 %', '100 %')
    """
    if 0 < share < 0.5 * 10**-digits / 100:
        return f"< {10**-digits:g} %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.{digits}f} %"


def saving(seconds: float, clear: bool) -> str:
    """What zeros save, as far as it can be told.

    >>> saving(0.00125, True), saving(-0.001, True), saving(0.002, False)
    ('zeros save 1.25 ms', 'zeros cost 1.00 ms', 'what zeros save cannot be told from noise')
    """
    if not clear:
        return "what zeros save cannot be told from noise"
    return f"zeros {'save' if seconds > 0 else 'cost'} {1e3 * abs(seconds):.2f} ms"


def count(number: float) -> str:
    """Products as people read them.

    >>> count(10_008_576_000), count(26_542_080), count(900)
    ('10.01 G', '26.5 M', '900')
    """
    for unit, size, digits in (("G", 1e9, 2), ("M", 1e6, 1), ("k", 1e3, 1)):
        if number >= size:
            return f"{number / size:.{digits}f} {unit}"
    return f"{number:.0f}"


class _Axes:
    """Logarithmic axes: what lies at which point."""

    def __init__(self, roofline: Roofline, width: float, height: float) -> None:
        self.left, self.right, self.top, self.foot = 44.0, width - 12, 14.0, height - 34
        intensities = [point.intensity for point in roofline.points]
        rates = [point.rate for point in roofline.points]
        self.low_x = min([*intensities, roofline.ridge / 2]) / 1.4
        self.high_x = max([*intensities, roofline.ridge * 4]) * 1.4
        self.low_y = min([*rates, roofline.peak / 8]) / 1.4
        self.high_y = max([*rates, roofline.peak]) * 1.5

    def x(self, intensity: float) -> float:
        return self.left + (self.right - self.left) * _part(intensity, self.low_x, self.high_x)

    def y(self, rate: float) -> float:
        return self.foot - (self.foot - self.top) * _part(rate, self.low_y, self.high_y)


def _part(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def roofline_svg(roofline: Roofline, width: float, height: float, shape: str) -> Markup:
    """Every layer by the products that it executes for each byte it moves, and for each second; under the roof."""
    axes = _Axes(roofline, width, height)
    start = roofline.bandwidth * axes.low_x
    roof = [
        (axes.low_x, max(start, axes.low_y)),
        (roofline.ridge, roofline.peak),
        (axes.high_x, roofline.peak),
    ]
    if start < axes.low_y:
        roof[0] = axes.low_y / roofline.bandwidth, axes.low_y
    path = "M" + "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in roof)
    points = [
        tag(
            "circle" if not point.filtered else "rect",
            tag("title", point.text),
            **_mark_at(axes.x(point.intensity), axes.y(point.rate), point.filtered),
            class_="point filtered" if point.filtered else "point",
            data_layer=point.layer,
        )
        for point in roofline.points
    ]
    pairs = []
    if roofline.peak_of_pairs:
        y = axes.y(roofline.peak_of_pairs)
        x = axes.x(min(axes.high_x, max(axes.low_x, roofline.peak_of_pairs / roofline.bandwidth)))
        pairs = [
            tag("line", x1=x, y1=y, x2=axes.right, y2=y, class_="roof pairs"),
            tag("text", f"int16: {roofline.peak_of_pairs / 1e9:.0f}", x=axes.right, y=y - 4, class_="end"),
        ]
    return tag(
        "svg",
        tag(
            "title",
            "Roofline: products a second over products a byte; the table below holds the same figures",
        ),
        *_grid(axes),
        tag("path", d=path, class_="roof"),
        tag(
            "text",
            f"dot product: {roofline.peak / 1e9:.0f} GMAC/s",
            x=axes.right,
            y=axes.y(roofline.peak) - 5,
            class_="end",
        ),
        *pairs,
        *points,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        class_=f"roofline {shape}",
        role="img",
    )


def _mark_at(x: float, y: float, square: bool) -> dict[str, float]:
    return (
        {"x": x - 4.5, "y": y - 4.5, "width": 9.0, "height": 9.0} if square else {"cx": x, "cy": y, "r": 5.0}
    )


def _grid(axes: _Axes) -> Iterable[Markup]:
    for value in _round_values(axes.low_x, axes.high_x):
        x = axes.x(value)
        yield tag("line", x1=x, y1=axes.top, x2=x, y2=axes.foot, class_="grid")
        yield tag("text", f"{value:g}", x=x, y=axes.foot + 14, class_="middle")
    for value in _round_values(axes.low_y, axes.high_y):
        y = axes.y(value)
        yield tag("line", x1=axes.left, y1=y, x2=axes.right, y2=y, class_="grid")
        yield tag("text", f"{value / 1e9:g}", x=axes.left - 5, y=y + 4, class_="end")
    yield tag(
        "text",
        "products executed for each byte moved",
        x=(axes.left + axes.right) / 2,
        y=axes.foot + 29,
        class_="middle",
    )
    yield tag("text", "GMAC/s", x=4, y=11)


def _round_values(low: float, high: float) -> Iterable[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            if low <= (value := digit * 10.0**exponent) <= high:
                yield value
