"""`sparse-icnet explain`: what is known of one layer on a page of a terminal, no line longer than 100 columns."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, model_of, ready
from sparse_icnet.cli.terminal import Column, say, table_lines, times, width, write_json
from sparse_icnet.network.graph import Quantizer
from sparse_icnet.study.check import Check
from sparse_icnet.study.explain import Explanation, InEngine, InFile, explain
from sparse_icnet.study.forms import BlockForm, DirectForm, LayerForms
from sparse_icnet.study.history import Step, Work
from sparse_icnet.study.machine import Loop
from sparse_icnet.study.value import Arithmetic, Sum
from sparse_icnet.target import TARGET

OK, MISMATCH = 0, 1
ROOM = 100  # columns, at most
LABEL = 14  # of them for what a paragraph is about
FEW = 24  # lines of products that are shown without -v
NINE = 9  # products of a line: those of one input channel at 3 x 3 taps, or of nine channels


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    net = model_of(arguments)
    if arguments.machine_code or arguments.at is not None:
        ready(net, arguments.quiet)
    image = None if arguments.image is None else Path(arguments.image)
    told = explain(net, arguments.layer, arguments.at, image, arguments.machine_code)
    if arguments.json != "-":
        for line in lines(told, min(width(), ROOM), arguments.verbose > 0):
            say(line)
    if arguments.json:
        path = bundled.resolve(arguments.model)
        write_json(
            {"model": bundled.short_name(path), "file_name": str(path), **told.to_dict()}, arguments.json
        )
    return OK if told.check is None or told.check.passed else MISMATCH


def lines(told: Explanation, room: int = ROOM, everything: bool = False) -> Iterator[str]:
    """The page; `everything`: all products of a value."""
    file = told.file
    head = f"{told.layer}: {file.operation}, {times(file.shape)} at {times(told.size)}"
    yield from _paragraph("", head, room, 0, 0)
    yield ""
    if told.place is not None:
        names = [f"{told.place.authors} in the authors' model"] * bool(told.place.authors)
        names += [f"{told.place.resnet} in ResNet-50"] * bool(told.place.resnet)
        yield from _paragraph("in the paper", told.place.branch, room)
        yield from _paragraph("", told.place.role, room)
        yield from _paragraph("", ", ".join(names), room)
    else:
        yield from _paragraph("in the paper", "not recognised as a layer of ICNet", room)
    yield from _in_file(told.layer, file, room)
    yield from _rewrites(told, room)
    if told.forms is not None:
        yield from _forms(told.forms, room)
    if told.engine is not None:
        yield from _engine(told.engine, room)
    else:
        yield from _paragraph("kernel", f"none: {told.without}", room)
    for i, (number, text) in enumerate(told.equations.items()):
        yield from _paragraph("equations" if not i else "", f"({number}) {text}", room, 5)
    if told.value is not None and told.check is not None:
        yield ""
        yield from _value(told.value, told.picture, room, everything)
        yield from _check(told.value, told.check, room)
        if "W1" in told.equations:
            text = "the engine finds the sum of (Q3) by other products, those of (W1)"
            yield from _paragraph("", text, room, 0, 0)
    if told.loop is not None:
        yield ""
        yield from _loop(told.loop, room)


def _in_file(layer: str, file: InFile, room: int) -> Iterator[str]:
    inputs = ", ".join(f"{name} {times(shape)}" for name, shape in file.inputs.items())
    yield from _paragraph(
        "in the file",
        f"operation {file.number}, {file.operation}" + (f" of {inputs}" if inputs else ""),
        room,
    )
    if file.parameters:
        yield from _paragraph("", ", ".join(f"{key} {value}" for key, value in file.parameters.items()), room)
    if file.reads is not None:
        yield from _paragraph("", f"reads codes: {_quantizer(file.reads)}", room)
    if file.writes is not None:
        what = "holds codes" if file.end == layer else f"becomes codes of {file.end}"
        yield from _paragraph("", f"{what}: {_quantizer(file.writes)}", room)


def _rewrites(told: Explanation, room: int) -> Iterator[str]:
    if not told.rewrites:
        macs = f": {told.work.before.macs:,} products as written" if told.work else ""
        yield from _paragraph("rewrites", f"none touched it{macs}", room)
    for i, step in enumerate(told.rewrites):
        yield from _paragraph("" if i else "rewrites", f"{step.rewrite} ({step.source})", room)
        yield from _paragraph("", step.summary, room)
        yield from _paragraph("", _change(told.layer, step), room)
    if told.work is not None and told.work.after is not None and told.rewrites:
        saved = told.work.before.macs - told.work.after.macs
        yield from _paragraph("", f"in all {saved:,} of {told.work.before.macs:,} products saved", room)


def _change(layer: str, step: Step) -> str:
    if (change := step.change_of(layer)) is not None:
        if change.after is None:
            return f"left out: {change.saved:,} products saved"
        before, after = _work(change.before, change.after), _work(change.after, change.before)
        return f"{before} -> {after}: {change.saved:,} products saved"
    if layer in step.removed:
        return "left out"
    return "reads another tensor, or has another size; no product of its own saved"


def _work(work: Work, other: Work) -> str:
    """What of a convolution differs from `other`."""
    parts = [times(work.output_shape)] * (work.output_shape != other.output_shape)
    for name in ("stride", "dilation", "padding"):
        if getattr(work, name) != getattr(other, name):
            parts.append(f"{name} {getattr(work, name)[0]}")
    return ", ".join(parts)


def _forms(forms: LayerForms, room: int) -> Iterator[str]:
    columns = (Column("form"), Column("holds"), Column("bytes"))
    rows = [
        ("dense, int8", f"{forms.weights:,} weights {times(forms.shape)}", f"{forms.weights:,}"),
        (
            "CSR, in the file",
            f"{forms.nonzeros:,} weights, {_percent(forms.zeros)} zeros",
            f"{forms.csr_bytes:,}",
        ),
        *((f"blocks {form.rows}x4", _blocks(form), f"{form.bytes:,}") for form in forms.blocks),
    ]
    packed = forms.packed
    if isinstance(packed, DirectForm):
        couples = f"{packed.couples:,} couples, " if packed.couples else ""
        offsets = f"{packed.offsets_bytes:,} bytes of offsets"
        rows.append(
            (
                f"for {packed.kernel}",
                f"{couples}{packed.singles:,} single blocks, {offsets}",
                f"{packed.bytes:,}",
            )
        )
    elif packed is not None:
        share = 1 - packed.nonzero / packed.elements
        rows.append(
            (
                f"for {packed.kernel}",
                f"{packed.elements:,} int16 G g G', {_percent(share)} zeros",
                f"{packed.bytes:,}",
            )
        )
    for i, line in enumerate(table_lines(columns, rows, room - LABEL)):
        yield f"{'' if i else 'stored as':{LABEL}}{line}"


def _blocks(form: BlockForm) -> str:
    return f"{form.stored:,} of {form.blocks:,}, {_percent(form.empty / form.blocks)} empty"


def _engine(engine: InEngine, room: int) -> Iterator[str]:
    fused = f", with {', '.join(engine.fused)}" if engine.fused else ""
    name = f"{engine.kernel}: " if engine.kernel else ""
    yield from _paragraph(
        "kernel", f"{name}{engine.function} of step {engine.step}{fused}, {times(engine.shape)}", room
    )
    if engine.macs:
        share = f"{engine.macs / engine.dense_macs:.2f} of the {engine.dense_macs:,} of all weights"
        yield from _paragraph("", f"{engine.macs:,} products executed, {share}", room)
    if engine.candidates:
        best, *others = engine.candidates
        if others:
            ratio = others[0].cost / max(best.cost, 1)
            text = f"least estimated time; the next best, {others[0].kernel}, would take {ratio:.2f} times as long"
            yield from _paragraph("", text, room)
        costs = ", ".join(f"{one.kernel} {one.cost:,.0f}" for one in engine.candidates)
        yield from _paragraph("", f"estimated, in dot products of {TARGET.kernels[0].name}: {costs}", room)
    elif engine.reason:
        yield from _paragraph("", engine.reason, room)
    source = engine.source
    yield from _paragraph(
        "source", f"{source.kernel}" + (f", its inner loop {source.loop}" if source.product else ""), room
    )
    if source.product:
        yield from _paragraph("", f"products {source.product}, emitted by {source.instruction}", room)


# --- one value --------------------------------------------------------------------------------------------------


def _value(value: Arithmetic, picture: str, room: int, everything: bool) -> Iterator[str]:
    text = f"the value at {','.join(map(str, value.at))} of {value.tensor}, for {picture}"
    yield from _paragraph("", text, room, 0, 0)
    for found in value.sums:
        yield ""
        yield from _products(found, room, everything)
    yield ""
    for line in value.lines:
        number = f"({line.equation})" if line.equation else ""
        result = f"{line.value:,}" if isinstance(line.value, int) else f"{line.value:.8g}"
        yield from _paragraph(f"  {number}", f"{line.of}: {line.text} = {result}", room, 2, 8)
    if value.kind == "code":
        yield from _paragraph(
            "  (Q2)", f"real value {value.real:.8g} = {value.unit:.8g} * (code - zero point)", room, 2, 8
        )


def _products(found: Sum, room: int, everything: bool) -> Iterator[str]:
    """Rows of nine products, code - zero point times weight: of the 3 x 3 taps of a channel, or of nine channels."""
    yield from _paragraph(
        "",
        f"{found.layer}: code - zero point of {found.source} * weight, for output channel {found.at[0]}; "
        "zero weights are left out: .  At the end of a line the sum so far",
        room,
        0,
        2,
    )
    head, *table = _product_lines(found, room)
    yield head
    if len(table) > FEW and not everything:
        hidden = len(table) - FEW
        table[FEW - 4 : -4] = [f"  ... {hidden} lines more, -v shows them"]
    yield from table


def _product_lines(found: Sum, room: int) -> Iterator[str]:
    """Head and rows of the table; products without their factors where those need more room."""
    taps = found.kernel[0] * found.kernel[1]
    length = taps if 1 < taps <= NINE else NINE  # of a line
    cells: dict[int, list[str]] = {}
    products: dict[int, list[str]] = {}
    sums: dict[int, str] = {}
    for one in found.products:
        row, column = divmod(one.channel * taps + one.tap[0] * found.kernel[1] + one.tap[1], length)
        cells.setdefault(row, ["."] * length)[column] = f"{one.zero_based}*{one.weight}"
        products.setdefault(row, ["."] * length)[column] = str(one.product)
        sums[row] = str(one.sum)
    last = max(map(len, sums.values()), default=3)

    def size(table: dict[int, list[str]]) -> int:
        return max((len(cell) for line in table.values() for cell in line), default=5)

    if 8 + length * (1 + size(cells)) + last > room:
        cells = products
    if length == taps:
        heads = [f"({y},{x})" for y in range(found.kernel[0]) for x in range(found.kernel[1])]
    else:
        heads = [f"+{i}" for i in range(length)] if taps == 1 else [""] * length
    width = max(size(cells), *map(len, heads))
    for label, line, total in (
        ("", heads, "sum"),
        *((f"c{row * length // taps}", line, sums[row]) for row, line in cells.items()),
    ):
        yield f"  {label:5}{''.join(f' {cell:>{width}}' for cell in line)} {total:>{last}}"


def _check(value: Arithmetic, check: Check, room: int) -> Iterator[str]:
    yield ""
    result = f"{value.value:,}" if isinstance(value.value, int) else f"{value.value:.8g}"
    parts = [f"the {'value' if value.kind == 'real' else value.kind} is {result}"]
    parts.append(
        "the oracle's tensor has the same"
        if check.oracle == check.expected
        else f"the oracle's tensor has {check.oracle}"
    )
    if check.engine is not None:
        parts.append(
            "and so has the engine's"
            if check.engine == check.expected
            else f"but the engine's has {check.engine}"
        )
    yield from _paragraph("", ", ".join(parts), room, 0, 0)
    if check.note:
        yield from _paragraph("", check.note, room, 0, 0)
    if check.tensor:
        same = "all are equal" if not check.different else f"{check.different:,} DIFFER"
        text = f"{check.tensor}: {check.values:,} values of the engine compared with the oracle's, {same}"
        yield from _paragraph("", text, room, 0, 0)


# --- machine code -----------------------------------------------------------------------------------------------


def _loop(loop: Loop, room: int) -> Iterator[str]:
    yield from _paragraph(
        "", f"one turn of the inner loop of {loop.function}, by {loop.found_by}:", room, 0, 0
    )
    for one in loop.instructions:
        yield f"  {one.place:6x}  {one.text:50}  {' '.join(one.does)}".rstrip()[:room]
    what = [
        f"{loop.dots} dot products",
        f"{loop.loads} loads of vectors",
        f"{loop.broadcasts} broadcasts of weights",
        f"{loop.offsets} loads of offsets",
        f"{loop.stores} stores",
    ]
    text = f"{len(loop.instructions)} instructions a turn: {', '.join(what)}"
    if loop.blocks:
        text += f"; {loop.blocks} times what a {loop.unit} takes, {loop.block_dots} dot products"
    yield from _paragraph("", text, room, 0, 0)


# --- text -------------------------------------------------------------------------------------------------------


def _paragraph(label: str, text: str, room: int, hanging: int = 0, indent: int = LABEL) -> list[str]:
    """`text` behind `label`, in lines of at most `room` columns; further lines begin `hanging` columns later."""
    if not text:
        return []
    head = f"{label:{indent}}"
    later = " " * (indent + hanging)
    return textwrap.wrap(text, room, initial_indent=head, subsequent_indent=later, break_on_hyphens=False)


def _quantizer(quantizer: Quantizer) -> str:
    return (
        f"{quantizer.low}..{quantizer.high}, zero point {quantizer.zero_point}, scale {quantizer.scale:.6g}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
