"""From a model to its `Report`: read from the graph, its rewrites and the plan's reports; measured where asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sparse_icnet
from sparse_icnet import bundled, render
from sparse_icnet.image import ImageLike
from sparse_icnet.info import LayerInfo
from sparse_icnet.model import Model
from sparse_icnet.network.graph import AnyConvolution, Graph
from sparse_icnet.plan import PlanError
from sparse_icnet.sparse.block_csr import block_density
from sparse_icnet.sparse.gather import ROWS, block_work, gather_zeros, scatter_zeros
from sparse_icnet.study.forms import DirectForm, LayerForms, WinogradForm, forms
from sparse_icnet.study.history import History, Step, history, waterfall
from sparse_icnet.study.report import icnet_drawing, layered_drawing
from sparse_icnet.study.report.charts import count
from sparse_icnet.study.report.data import Bar, Form, Histogram, Layer, LayerTime, Picture, Report
from sparse_icnet.study.report.histograms import activation_histograms, weight_histogram
from sparse_icnet.study.report.markup import clean
from sparse_icnet.study.report.measure import measured, models
from sparse_icnet.study.report.pictures import frame_of, zeros_picture
from sparse_icnet.target import TARGET, target_cpu

MOST_LAYERS = 160  # with a part of their own: those of the most products
MOST_PICTURES = 1_500_000  # characters of all pictures of zeros
# Weights of a network whose zeros are gathered, which takes a second or more a million.
MOST_GATHERED = 1 << 24
# A file is gathered already if gathering leaves at least this share of the work of its stored blocks.
ALREADY = 0.98

Pair = tuple[Picture, Picture]


def report_of(model: Model, image: ImageLike = bundled.SAMPLE_IMAGE, timing: bool = True) -> Report:
    """All that a page says of `model`.

    image   of the frame and of the histograms of activations
    timing  measure; else the page says that nothing was measured
    """
    graph, plan, info, meta = model.graph, model.plan, model.info(), model.meta
    past, shown = history(graph), _shown(graph)
    icnet = icnet_drawing.can_draw(graph)
    found = measured(model, image, [op.name for op in shown]) if timing else None
    before, after, gathered = _orders(graph)
    notes = _notes(model, timing)
    if before is after:
        notes.append(f"Zeros were not gathered: the network has more than {MOST_GATHERED:,} weights.")
    pictures = _pictures(shown, before, after)
    try:
        codes = activation_histograms(model, image, [op.name for op in shown])
    except PlanError as error:  # every tensor kept at once may be more than a plan may have
        codes = {}
        notes.append(f"Activations were not counted: {clean(str(error), 400)}.")
    stored = {one.name: one for one in forms(graph, plan, gather=False)}
    roles = icnet_drawing.roles() if icnet else {}
    figures = {row.name: row for row in info.layers}
    layers = tuple(
        _layer(
            index,
            op,
            figures[op.name],
            past,
            roles.get(op.name, ""),
            stored.get(op.name),
            pictures.get(op.name),
            (before[op.name], after[op.name]),
            codes.get(op.name),
            found.times.get(op.name) if found else None,
        )
        for index, op in enumerate(shown)
    )
    drawings = (
        icnet_drawing.drawings()
        if icnet
        else layered_drawing.drawings(graph, frozenset(op.name for op in shown))
    )
    name = clean(bundled.short_name(model.path, model.graph.meta.name))
    rows = found.models if found else models(model, timed=False)
    return Report(
        model=name,
        title=clean(meta.name or name),
        licence=clean(meta.licence),
        description=clean(meta.notes, 1000),
        version=sparse_icnet.__version__,
        machine=_machine(model),
        size=model.size,
        class_names=tuple(clean(one) for one in model.class_names),
        weights=info.weights,
        zeros=info.zeros,
        skipped=rows[0].skipped,
        icnet=icnet,
        gathered=gathered,
        left_out=len(graph.layers) - len(shown),
        seconds=rows[0].seconds,
        layers=layers,
        drawings=drawings,
        waterfall=tuple(
            Bar(bar.name.replace("_", " "), bar.kind, bar.macs, bar.change, bar.text)
            for bar in waterfall(past, plan).bars
        ),
        kinds=found.kinds if found else (),
        roofline=found.roofline(layers) if found else None,
        models=rows,
        frame=frame_of(model.predict(image), render.palette("camvid", len(model.class_names))),
        disturbed=tuple(found.notes) if found else (),
        notes=tuple(notes),
    )


def _shown(graph: Graph) -> list[AnyConvolution]:
    """The convolutions of the most products, in the order of the graph."""

    def products(op: AnyConvolution) -> int:
        _, height, width = graph.shape(op.name)
        return op.macs_per_pixel * height * width

    most = sorted(graph.layers, key=products, reverse=True)[:MOST_LAYERS]
    chosen = {op.name for op in most}
    return [op for op in graph.layers if op.name in chosen]


def _orders(graph: Graph) -> tuple[Mapping[str, AnyConvolution], Mapping[str, AnyConvolution], bool]:
    """The convolutions before and behind gathering of zeros, and whether the file is gathered already.

    Of such a file "before" has the channels in a random order.
    """
    if sum(op.weight.size for op in graph.layers) > MOST_GATHERED:
        same = {op.name: op for op in graph.layers}
        return same, same, False
    gathered = gather_zeros(graph, rounds=1)  # a second one finds little more and takes as long
    already = block_work(gathered) >= ALREADY * block_work(graph)
    pair = (scatter_zeros(graph), graph) if already else (graph, gathered)
    before, after = ({op.name: op for op in one.layers} for one in pair)
    return before, after, already


def _pictures(
    shown: Sequence[AnyConvolution],
    before: Mapping[str, AnyConvolution],
    after: Mapping[str, AnyConvolution],
) -> dict[str, Pair]:
    """As many pictures as there is room for, first of the layers with the fewest weights."""
    found: dict[str, Pair] = {}
    room = MOST_PICTURES
    for op in sorted(shown, key=lambda op: op.weight.size):
        pair = zeros_picture(before[op.name].weight), zeros_picture(after[op.name].weight)
        room -= sum(len(picture.uri) for picture in pair)
        if room < 0:
            break
        found[op.name] = pair
    return found


def _layer(
    index: int,
    op: AnyConvolution,
    figures: LayerInfo,
    past: History,
    role: str,
    stored: LayerForms | None,
    pictures: Pair | None,
    orders: tuple[AnyConvolution, AnyConvolution],
    activations: tuple[str, Histogram] | None,
    time: LayerTime | None,
) -> Layer:
    written = next(work.before.macs for work in past.layers if work.layer == op.name)
    empty = [1 - block_density(one.weight, ROWS) for one in orders]
    return Layer(
        index=index,
        name=op.name,
        role=role,
        weight_shape=figures.weight_shape,
        stride=op.stride,
        dilation=op.dilation,
        output_shape=figures.output_shape,
        weights=op.weight.size,
        zeros=figures.zeros,
        empty=figures.empty_4x4,
        kernel=figures.kernel,
        reason=figures.reason,
        filtered=stored is not None and isinstance(stored.packed, WinogradForm),
        macs_written=written,
        dense_macs=figures.dense_macs,
        macs=figures.macs,
        weight_bytes=figures.weight_bytes,
        dtype=figures.dtype,
        forms=tuple(_forms(stored)) if stored else (_float_form(figures),),
        rewrites=tuple(_rewrites(past.of(op.name), op.name)),
        before=pictures[0] if pictures else None,
        after=pictures[1] if pictures else None,
        empty_before=empty[0],
        empty_after=empty[1],
        weight_histogram=weight_histogram(op.weight),
        activation=activations[0] if activations else "",
        activations=activations[1] if activations else None,
        time=time,
    )


def _float_form(figures: LayerInfo) -> Form:
    """Of a layer that the file leaves in float32: as its kernel reads it, zeros beside a non-zero too."""
    return Form("packed", figures.weight_bytes, f"float32, zeros too, for {figures.kernel}")


def _forms(forms: LayerForms) -> Iterable[Form]:
    """From the dense weights to what the kernel reads."""
    yield Form("dense", forms.weights, "int8, zeros too")
    yield Form(
        "CSR", forms.csr_bytes, f"{forms.nonzeros:,} non-zeros with their columns, as the file has them"
    )
    blocks = forms.of_rows(ROWS)
    yield Form("blocks of 4 x 4", blocks.bytes, f"{blocks.stored:,} stored, {blocks.empty:,} empty")
    packed = forms.packed
    if isinstance(packed, DirectForm):
        couples = f"{packed.couples:,} couples, {packed.singles:,} blocks alone" if packed.couples else ""
        alone = couples or f"{packed.singles:,} blocks of {packed.rows} x 4"
        yield Form("packed", packed.bytes, f"{alone}, for {packed.kernel}")
    elif packed is not None:
        yield Form(
            "elements",
            packed.bytes,
            f"int16, {packed.nonzero:,} of {packed.elements:,} not zero, for {packed.kernel}",
        )


def _rewrites(steps: Sequence[Step], name: str) -> Iterable[str]:
    for step in steps:
        change = step.change_of(name)
        title = step.rewrite.replace("_", " ")
        if change is None:
            yield f"{title}: {step.summary}"
        elif change.after is None:
            yield f"{title}: the output no longer needs it, which saves {count(change.saved)}MAC"
        elif change.saved:
            before, after = ("x".join(map(str, work.output_shape)) for work in (change.before, change.after))
            yield f"{title}: {before} becomes {after}, which saves {count(change.saved)}MAC. {step.summary}"
        else:
            yield f"{title}: {step.summary}"


def _machine(model: Model) -> tuple[tuple[str, str], ...]:
    threads = model.plan.threads
    stated = "; ".join(f"{clean(name)}: {figure:g}" for name, figure in model.meta.accuracy.items())
    return (
        ("CPU", f"{target_cpu()}, kernels for {TARGET.name}"),
        ("threads", f"{threads} for one inference"),
        ("input", f"{model.size[0]} x {model.size[1]}"),
        ("classes", ", ".join(map(clean, model.class_names))),
        ("accuracy", stated or "the file states none"),
    )


def _notes(model: Model, timing: bool) -> list[str]:
    """What could not be measured, and why."""
    notes = [] if timing else ["Not measured, as was asked for: times, rates, the roofline."]
    if not any("miou" in name.casefold() for name in model.meta.accuracy):
        notes.append("The model's file states no accuracy.")
    return notes
