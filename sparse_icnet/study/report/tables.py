"""The tables of the page: the models beside each other, and all layers in figures."""

from __future__ import annotations

from collections.abc import Iterable

from sparse_icnet.study.report.charts import bar_svg, count, percent
from sparse_icnet.study.report.data import Layer, ModelRow, Report
from sparse_icnet.study.report.markup import Markup, clean, joined, tag

MODEL_TITLES = (
    "model",
    "mIoU, smooth",
    "mIoU, in blocks",
    "zeros",
    "products skipped",
    "MAC executed",
    "image to map",
)


def models(report: Report) -> Markup:
    """Accuracy and speed of the bundled models, and of the one that is shown."""
    slowest = max((row.seconds.median if row.seconds else 0.0 for row in report.models), default=0.0) or 1.0
    rows = [
        tag(
            "tr",
            tag("th", tag("b", clean(row.name)), " (this one)" if row.shown else None, scope="row"),
            *(
                tag("td", cell, data_title=title, class_=None if measured else "none")
                for title, (cell, measured) in zip(MODEL_TITLES[1:], _cells(row, slowest), strict=True)
            ),
        )
        for row in report.models
    ]
    return tag(
        "section",
        tag("h2", "Accuracy and speed"),
        tag(
            "p",
            "Accuracy is what each file states, the bundled ones of CamVid's validation frames. Times are measured for "
            "this page, the models in turns: median, and the quartiles.",
        ),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", *(tag("th", title, scope="col") for title in MODEL_TITLES))),
                tag("tbody", *rows),
                class_="models",
            ),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label="Accuracy and speed",
        ),
        id="models",
    )


def _cells(row: ModelRow, slowest: float) -> Iterable[tuple[Markup | str, bool]]:
    """The figures of a model, and whether each is there."""
    for kind in ("smooth", "blocks"):
        share = accuracy(row, kind)
        if share is None:
            yield "not stated", False
        else:
            yield joined(tag("b", percent(share, 2)), bar_svg(share, 0, "rewrite")), True
    yield percent(row.zeros), True
    yield percent(row.skipped), True
    yield count(row.macs), True
    if row.seconds is None:
        yield "not measured", False
        return
    median, low, high = row.seconds.median, row.seconds.low, row.seconds.high
    spread = f" {1e3 * low:.1f} to {1e3 * high:.1f}"
    yield (
        joined(tag("b", milliseconds(median)), tag("small", spread), bar_svg(median / slowest, 0, "zeros")),
        True,
    )


def table(report: Report) -> Markup:
    """All layers in figures: for those who read numbers, print, or see no colour."""
    timed = any(layer.time for layer in report.layers)
    titles = [
        "layer",
        "weights",
        "output",
        "zeros %",
        "empty 4x4 %",
        "MMAC dense",
        "MMAC executed",
        "packed kB",
        "kernel",
    ]
    if timed:
        titles += ["ms", "time %", "GMAC/s"]
    return tag(
        "section",
        tag("h2", "All layers"),
        tag("p", "A heading sorts by its column.", class_="script"),
        tag(
            "div",
            tag(
                "table",
                tag(
                    "thead",
                    tag(
                        "tr",
                        *(tag("th", tag("button", title, type="button"), scope="col") for title in titles),
                    ),
                ),
                tag("tbody", *(_row(layer, timed) for layer in report.layers)),
                class_="all",
            ),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label="All layers",
        ),
        id="table",
    )


def _row(layer: Layer, timed: bool) -> Markup:
    cells: list[tuple[str, float | None]] = [
        ("x".join(map(str, layer.weight_shape)), layer.weights),
        ("x".join(map(str, layer.output_shape)), None),
        (f"{100 * layer.zeros:.1f}", layer.zeros),
        (f"{100 * layer.empty:.1f}", layer.empty),
        (f"{layer.dense_macs / 1e6:.1f}", layer.dense_macs),
        (f"{layer.macs / 1e6:.1f}", layer.macs),
        (f"{layer.weight_bytes / 1e3:.1f}", layer.weight_bytes),
        (layer.kernel, None),
    ]
    if timed and layer.time:
        time = layer.time
        inside = time.with_layers and "*"
        cells += [
            (f"{1e3 * time.seconds:.3f}{inside or ''}", time.seconds),
            (f"{100 * time.share:.1f}{inside or ''}", time.share),
            (f"{time.rate / 1e9:.0f}", time.rate),
        ]
    elif timed:
        cells += [("", 0.0)] * 3
    return tag(
        "tr",
        tag("th", tag("button", clean(layer.name), type="button", data_layer=layer.index), scope="row"),
        *(tag("td", text, data_value=None if value is None else f"{value:.9g}") for text, value in cells),
        data_layer=layer.index,
    )


def shown_model(report: Report) -> ModelRow | None:
    """The row of the model that the page is about."""
    return next((row for row in report.models if row.shown), None)


def accuracy(row: ModelRow | None, kind: str) -> float | None:
    """The figure of mean IoU whose name speaks of `kind`."""
    if row is None:
        return None
    return next((x for name, x in row.accuracy if "miou" in name.casefold() and kind in name), None)


def milliseconds(seconds: float) -> str:
    """Seconds as people read them."""
    return f"{1e3 * seconds:.1f} ms"
