"""The sections of the page that show the network as a whole; `layer_section` shows one layer."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_icnet.study.report.charts import bar_svg, count, percent, roofline_svg, saving
from sparse_icnet.study.report.data import Report
from sparse_icnet.study.report.layer_section import layer_section
from sparse_icnet.study.report.markup import Markup, clean, joined, tag
from sparse_icnet.study.report.metrics import Metric
from sparse_icnet.study.report.network_svg import network_svg
from sparse_icnet.study.report.tables import accuracy, milliseconds, shown_model


def first(report: Report) -> int:
    """The layer that is shown at first: the one that takes longest, else the one of most products."""
    key = [layer.time.seconds if layer.time else 0.0 for layer in report.layers]
    if not any(key):
        key = [float(layer.macs) for layer in report.layers]
    return max(range(len(key)), key=key.__getitem__) if key else 0


def header(report: Report) -> Markup:
    """What it is, the figures that matter, and where the parts of the page are."""
    parts = [
        (name, text)
        for name, text in (
            ("network", "Network"),
            ("layers", "One layer"),
            ("savings", "Savings"),
            ("time", "Time"),
            ("roofline", "Roofline"),
            ("models", "Accuracy and speed"),
            ("frame", "A frame"),
            ("table", "All layers"),
            ("notes", "How it was measured"),
        )
        if (name != "roofline" or report.roofline) and (name != "time" or report.kinds)
    ]
    written, executed = report.waterfall[0].macs, report.waterfall[-1].macs
    figures = [
        (f"{count(written)}MAC", "as the file has it"),
        (f"{count(executed)}MAC", f"executed, {percent(executed / max(written, 1), 0)} of these"),
        (percent(report.zeros), f"of {report.weights:,} weights are zero"),
    ]
    if report.seconds is not None:
        figures.append((milliseconds(report.seconds.median), "image to smooth class map"))
    smooth = accuracy(shown_model(report), "smooth")
    if smooth is not None:
        figures.append((percent(smooth), "mean IoU, as its file states"))
    return tag(
        "header",
        tag("p", f"sparse-icnet {report.version}", class_="kicker"),
        tag("h1", report.title),
        tag("p", report.description, class_="lead") if report.description else None,
        tag(
            "ul",
            *(tag("li", tag("b", figure), tag("span", text)) for figure, text in figures),
            class_="figures",
        ),
        tag("p", " ".join(report.disturbed), class_="warning") if report.disturbed else None,
        tag(
            "nav", *(tag("a", text, href=f"#{name}") for name, text in parts), aria_label="Parts of this page"
        ),
    )


def network(report: Report, found: Sequence[Metric]) -> Markup:
    """The drawing with what it may be coloured by."""
    names = {layer.name: layer for layer in report.layers}
    start = first(report)
    choices = [
        tag(
            "label",
            tag("input", type="radio", name="metric", value=index, checked=index == 0),
            tag("span", metric.title),
        )
        for index, metric in enumerate(found)
    ]
    legends = [
        tag(
            "ul",
            *(
                tag(
                    "li",
                    tag("svg", _swatch(level, metric.kinds), viewBox="0 0 18 12", aria_hidden=True),
                    text,
                )
                for level, text in metric.legend
            ),
            class_="legend",
            hidden=index > 0,
            data_metric=index,
        )
        for index, metric in enumerate(found)
    ]
    height, width = report.size
    about = (
        f"Three branches see the picture ({height} x {width}) at three sizes; two fusions join them. "
        if report.icnet
        else f"The convolutions of a network for pictures of {height} x {width}, in the order of its longest paths. "
    )
    return tag(
        "section",
        tag("h2", "The network"),
        tag("p", about, "Every box is a convolution: choose one to see its zeros. "),
        tag("fieldset", tag("legend", "Colour and number of a box"), *choices, class_="choices script"),
        *legends,
        tag(
            "div",
            *(network_svg(drawing, names, start, found[0]) for drawing in report.drawings),
            class_="drawings",
        ),
        tag(
            "p",
            "Keys: arrows move from box to box, Home and End to the first and last, Enter chooses.",
            class_="hint script",
        ),
        id="network",
    )


def _swatch(level: int, kinds: bool) -> Markup:
    box = tag("rect", width=18, height=12, rx=2, class_=f"fill {'c' if kinds else 'q'}{level}")
    hatch = tag("rect", width=18, height=12, rx=2, class_=f"pattern h{level}") if kinds else None
    return joined(box, hatch)


def layers(report: Report) -> Markup:
    """A part for each layer, of which a script shows one at a time."""
    options = [tag("option", clean(layer.name), value=layer.index) for layer in report.layers]
    return tag(
        "section",
        tag("h2", "One layer"),
        tag(
            "div",
            tag("button", "←", type="button", aria_label="previous layer", data_step=-1),
            tag("label", tag("span", "Layer", class_="spoken"), tag("select", *options, id="choose")),
            tag("button", "→", type="button", aria_label="next layer", data_step=1),
            class_="chooser script",
        ),
        tag("p", "", class_="spoken", role="status", id="chosen"),
        *(layer_section(layer, report) for layer in report.layers),
        id="layers",
    )


def savings(report: Report) -> Markup:
    """The waterfall from the products as written to those executed."""
    most = max(bar.macs for bar in report.waterfall)
    most = max(most, *(bar.macs - bar.change for bar in report.waterfall)) or 1
    rows = []
    for bar in report.waterfall:
        low, high = sorted((bar.macs, bar.macs - bar.change))
        start, length = (0.0, bar.macs) if bar.kind == "total" else (low / most, high - low)
        sign = "" if bar.kind == "total" else "\N{MINUS SIGN} " if bar.change < 0 else "+ "
        figure = bar.macs if bar.kind == "total" else abs(bar.change)
        rows.append(
            tag(
                "li",
                tag("span", tag("b", bar.name), " ", tag("small", bar.text), class_="what"),
                bar_svg(length / most, start, bar.kind if bar.change <= 0 else "more"),
                tag("span", f"{sign}{count(figure)}MAC", class_="number"),
                class_=f"bar {bar.kind}",
            )
        )
    return tag(
        "section",
        tag("h2", "From what is written to what is executed"),
        tag("p", "Multiply-accumulates of one inference. Every step is exact: the result keeps every bit."),
        tag("ol", *rows, class_="waterfall"),
        id="savings",
    )


def kinds(report: Report) -> Markup | None:
    """Where the time goes by kind of kernel."""
    if not report.kinds:
        return None
    rows = []
    for kind in report.kinds:
        text = f"{kind.layers} step{'s' * (kind.layers > 1)}"
        if kind.saved is not None:
            text += f"; {saving(kind.saved, kind.saved_clear)}"
        rows.append(
            tag(
                "li",
                tag("span", tag("b", kind.name), " ", tag("small", text), class_="what"),
                bar_svg(kind.share, 0, "rewrite"),
                tag("span", f"{1e3 * kind.seconds:.2f} ms, {percent(kind.share, 0)}", class_="number"),
                class_="bar",
            )
        )
    return tag(
        "section",
        tag("h2", "Where the time goes"),
        tag(
            "p",
            "One inference, image to smooth class map, by kind of kernel; what zeros save is measured against the same "
            "network without a zero among its weights, in the same rounds.",
        ),
        tag("ol", *rows, class_="waterfall"),
        id="time",
    )


def roofline(report: Report) -> Markup | None:
    """What the machine can give and what each layer gets."""
    found = report.roofline
    if found is None:
        return None
    return tag(
        "section",
        tag("h2", "The roofline of this machine"),
        tag(
            "p",
            f"A layer can be no faster than its products (flat roof: {found.peak / 1e9:.0f} GMAC/s, the dot product in "
            f"registers on all threads) nor than its bytes (slope: {found.bandwidth / 1e9:.1f} GB/s, copies of "
            f"{found.buffer >> 20} MB by NumPy on all threads; maps that stay in a cache come faster, so layers may stand "
            "above the slope). Circles: direct convolutions. Squares: Winograd's filtering, whose products are of int16. "
            "Choose a point to see its layer.",
        ),
        roofline_svg(found, 900, 430, "wide"),
        roofline_svg(found, 360, 340, "phone"),
        id="roofline",
    )


def frame(report: Report) -> Markup:
    """A picture, its classes, and how sure the network is."""
    found = report.frame
    height, width = found.size

    def figure(uri: str, text: str, alternative: str) -> Markup:
        return tag(
            "figure",
            tag("img", src=uri, alt=alternative, width=width, height=height),
            tag("figcaption", text),
        )

    rows = [
        tag(
            "li",
            tag(
                "svg",
                tag("rect", width=14, height=14, rx=3, fill=colour),
                viewBox="0 0 14 14",
                aria_hidden=True,
            ),
            tag("span", clean(name)),
            tag("b", percent(share)),
        )
        for name, share, colour in found.shares
    ]
    largest = ", ".join(f"{clean(name)} {percent(share, 0)}" for name, share, _ in found.shares[:4])
    return tag(
        "section",
        tag("h2", "A frame"),
        tag(
            "p", f"{clean(found.name)}, {height} x {width}: mean confidence {percent(found.mean_confidence)}."
        ),
        tag(
            "div",
            figure(found.picture, "The picture", "The picture"),
            figure(found.overlay, "Its smooth class map", f"Classes: {largest}"),
            figure(found.confidence, "Confidence: black 0, white 1", "Confidence of each pixel"),
            class_="frames",
        ),
        tag("ul", *rows, class_="classes"),
        id="frame",
    )


def notes(report: Report) -> Markup:
    """How it was measured, and what could not be."""
    facts = [*(tag("dt", name) + tag("dd", text) for name, text in report.machine)]
    left_out = (
        [f"{report.left_out} further convolutions, those of the fewest products, are not shown."]
        if report.left_out
        else []
    )
    together = (
        ["* of a time: computed together with another layer in one step, whose time is given for both."]
        if any(layer.time and layer.time.with_layers for layer in report.layers)
        else []
    )
    return tag(
        "section",
        tag("h2", "How this was measured"),
        tag("dl", *map(Markup, facts), class_="facts"),
        tag("ul", *(tag("li", note) for note in (*report.notes, *left_out, *together))),
        id="notes",
    )


def footer(report: Report) -> Markup:
    """What made the page, and the licence of the weights."""
    licence = f" Weights: {report.licence}." if report.licence else ""
    return tag(
        "footer", tag("p", f"Made by sparse-icnet {report.version} report. No network was needed.{licence}")
    )
