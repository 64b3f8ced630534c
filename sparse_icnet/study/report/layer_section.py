"""The part of the page that shows one layer: its figures, its zeros, its histograms, its stored forms, its rewrites."""

from __future__ import annotations

from sparse_icnet.study.report.charts import bar_svg, count, histogram_svg, percent, saving
from sparse_icnet.study.report.data import Layer, Picture, Report
from sparse_icnet.study.report.markup import Markup, clean, tag


def layer_section(layer: Layer, report: Report) -> Markup:
    """All of one layer."""
    return tag(
        "article",
        tag("h3", clean(layer.name)),
        tag("p", layer.role, class_="role") if layer.role else None,
        tag("dl", *_facts(layer), class_="facts"),
        _zeros(layer, report),
        tag(
            "div",
            tag(
                "figure",
                tag("figcaption", f"Weights, {layer.dtype}"),
                histogram_svg(layer.weight_histogram, "Weights"),
            ),
            _activations(layer),
            class_="pair",
        ),
        _forms(layer),
        _rewrites(layer),
        id=f"layer-{layer.index}",
        class_="layer-part",
        data_layer=layer.index,
    )


def _facts(layer: Layer) -> list[Markup]:
    outputs, inputs, height, width = layer.weight_shape
    strides = "" if layer.stride == (1, 1) else f", stride {_both(layer.stride)}"
    dilation = "" if layer.dilation == (1, 1) else f", dilation {_both(layer.dilation)}"
    facts = [
        ("shape", f"{inputs} → {outputs} channels, {height} x {width}{strides}{dilation}"),
        ("output", " x ".join(map(str, layer.output_shape))),
        ("zeros", f"{percent(layer.zeros, 2)} of {layer.weights:,} weights"),
        (
            "products",
            f"{count(layer.macs_written)} written, {count(layer.dense_macs)} rewritten, {count(layer.macs)} executed",
        ),
        ("kernel", f"{layer.kernel}: {layer.reason}"),
    ]
    if layer.time:
        facts += _time_facts(layer)
    return [Markup(tag("dt", name) + tag("dd", text)) for name, text in facts]


def _time_facts(layer: Layer) -> list[tuple[str, str]]:
    time = layer.time
    assert time is not None
    together = f", together with {', '.join(map(clean, time.with_layers))}" if time.with_layers else ""
    spread = f"{1e3 * time.seconds:.3f} ms (quartiles {1e3 * time.low:.3f} to {1e3 * time.high:.3f})"
    facts = [("time", f"{spread}, {percent(time.share)} of the inference{together}")]
    least = (
        f"; at the measured peak its products take {percent(time.peak_share)} of that time"
        if time.peak_share
        else ""
    )
    facts.append(("rate", f"{time.rate / 1e9:.0f} GMAC/s executed{least}"))
    if time.dense is not None and time.saved is not None:
        facts.append(
            ("dense", f"{1e3 * time.dense:.3f} ms without a zero: {saving(time.saved, time.saved_clear)}")
        )
    return facts


def _both(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} x {pair[1]}"


def _zeros(layer: Layer, report: Report) -> Markup:
    """The zeros before and behind gathering."""
    if layer.before is None or layer.after is None:
        return tag(
            "p", "No picture of its zeros: the network has too many weights for all of them.", class_="none"
        )
    before, after = (
        ("channels in a random order", "as the file has them, which gathering does not better")
        if report.gathered
        else ("as the file has them", "channels gathered")
    )
    unit = (
        "a 4 x 4 block, the stronger the more of it is not zero"
        if layer.before.blocks
        else "a weight, blank if it is zero"
    )
    down, across = ("output channels", "input channels and taps")
    if layer.before.sideways:
        down, across = across, down
    return tag(
        "div",
        _picture(layer.before, f"Zeros, {before}", layer.empty_before),
        _picture(layer.after, f"Zeros, {after}", layer.empty_after),
        tag("p", f"A pixel is {unit}; {down} go down, {across} across.", class_="hint"),
        class_="zeros",
    )


def _picture(picture: Picture, title: str, empty: float) -> Markup:
    text = f"{title}: {percent(empty)} of the 4 x 4 blocks are empty"
    # As wide as there is room, but a pixel never larger than a few of the page's.
    room = next(
        name
        for name, most in (("tiny", 40), ("small", 100), ("middle", 300), ("large", 1 << 30))
        if picture.width <= most
    )
    return tag(
        "figure",
        tag("figcaption", text),
        tag(
            "img",
            src=picture.uri,
            alt=text,
            width=picture.width,
            height=picture.height,
            class_=f"pixels {room}",
        ),
    )


def _activations(layer: Layer) -> Markup:
    if layer.activations is None:
        return tag(
            "p", "No codes of its own to count: what it computes is not quantized by itself.", class_="none"
        )
    return tag(
        "figure",
        tag("figcaption", f"Codes of {clean(layer.activation)} for the frame below"),
        histogram_svg(layer.activations, "Activations"),
    )


def _forms(layer: Layer) -> Markup:
    most = max((form.bytes for form in layer.forms), default=1) or 1
    rows = [
        tag(
            "li",
            tag("span", tag("b", form.name), " ", tag("small", form.text), class_="what"),
            bar_svg(form.bytes / most, 0, "rewrite"),
            tag("span", _bytes(form.bytes), class_="number"),
            class_="bar",
        )
        for form in layer.forms
    ]
    return tag("div", tag("h4", "Stored forms"), tag("ol", *rows, class_="waterfall"))


def _rewrites(layer: Layer) -> Markup | None:
    if not layer.rewrites:
        return None
    return tag(
        "div", tag("h4", "Rewrites that touched it"), tag("ul", *(tag("li", text) for text in layer.rewrites))
    )


def _bytes(number: int) -> str:
    return f"{number / 1000:.1f} kB" if number >= 1000 else f"{number} B"
