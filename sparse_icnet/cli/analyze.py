"""`sparse-icnet analyze`: where the time of an inference goes and what zeros buy, of one model or two in turns."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, ready
from sparse_icnet.cli.profile import noise_text, quartiles
from sparse_icnet.cli.terminal import Column, Progress, note, print_table, say, say_wrapped, write_json
from sparse_icnet.files import check_writable
from sparse_icnet.loading import load
from sparse_icnet.study.analyze import compare, here
from sparse_icnet.study.isa import ISA_ENVIRONMENT, check_runnable
from sparse_icnet.study.measure import Subject
from sparse_icnet.study.timing import Analysis, LayerTiming, Spread, Timing
from sparse_icnet.study.trace import trace
from sparse_icnet.study.worker import Elsewhere

LAYERS = (
    Column("layer", least=16),
    Column("kernel", rank=2),
    Column("ms"),
    Column("quartiles", rank=4),
    Column("share %"),
    Column("wait %", rank=5),
    Column("MMAC", rank=1),
    Column("skipped %", rank=1),
    Column("peak %"),
    Column("dense ms"),
    Column("saved ms"),
    Column("", rank=0),
)
KINDS = (
    Column("kernel"),
    Column("layers", rank=2),
    Column("ms"),
    Column("quartiles", rank=4),
    Column("share %"),
    Column("GMAC", rank=1),
    Column("skipped %", rank=1),
    Column("peak %"),
    Column("dense ms"),
    Column("saved ms"),
    Column("", rank=0),
)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    if arguments.trace is not None:
        check_writable(Path(arguments.trace))
    with ExitStack() as stack:
        subjects = _subjects(arguments, stack)
        with Progress(arguments.rounds, "rounds", arguments.quiet) as progress:
            analysis = compare(
                subjects, arguments.rounds, lambda done: progress.reach(done, arguments.rounds)
            )
    if arguments.json != "-":
        _print(analysis, arguments.sort)
    if arguments.json:
        write_json(analysis.to_dict(), arguments.json)
    return 0


def _subjects(arguments: argparse.Namespace, stack: ExitStack) -> list[Subject]:
    """What the command line names: models x threads x CPU classes, one or two in all."""
    models, threads, isas = (
        arguments.models or [None],
        arguments.threads or [None],
        arguments.isa or ["native"],
    )
    wanted = list(itertools.product(models, threads, isas))
    if len(wanted) > 2:
        raise ValueError(
            f"analyze: expected one or two things to compare, found {len(models)} models x {len(threads)} numbers of "
            f"threads x {len(isas)} classes of CPUs"
        )
    if arguments.sort == "difference" and len(wanted) == 1:
        raise ValueError("--sort difference: expected two things to compare, found one")
    if arguments.sort == "saved" and len(wanted) == 2:
        raise ValueError("--sort saved: expected one model, found two things to compare")
    if arguments.sort == "saved" and not arguments.dense:
        raise ValueError("--sort saved: expected the network without zeros as well, found --no-dense")
    if arguments.trace is not None and arguments.isa:
        raise ValueError("--trace: expected an inference of this process, found --isa")
    for isa in isas:
        check_runnable(isa)
    subjects: list[Subject] = []
    for model, count, isa in wanted:
        file = bundled.resolve(model)
        parts = [bundled.short_name(file)]
        parts += [f"{count} thread{'s' * (count != 1)}"] if len(threads) > 1 else []
        parts += [isa] if arguments.isa else []
        label = ", ".join(parts)
        if arguments.isa:
            if isa != "native" and not arguments.quiet:
                note(
                    f"{label}: a process of its own, which compiles its kernels if no folder has them (5 to 60 s)"
                )
            other = Elsewhere(
                file,
                arguments.size,
                count,
                label,
                ISA_ENVIRONMENT[isa],
                output=arguments.model_output,
                bgr=arguments.bgr,
                image=arguments.image,
                dense=arguments.dense,
            )
            subjects.append(stack.enter_context(other))
            continue
        net = load(model, arguments.size, count, output=arguments.model_output, bgr=arguments.bgr)
        ready(net, arguments.quiet)
        if arguments.trace is not None and not subjects:
            trace(net, arguments.image or bundled.SAMPLE_IMAGE, arguments.trace)
        subjects.append(here(net, arguments.image, arguments.dense, label=label))
    return subjects


_ORDERS: dict[str, Callable[[LayerTiming], float]] = {
    "saved": lambda layer: -(layer.saved.median if layer.saved else 0.0),
    "time": lambda layer: -layer.time.median,
}


def _print(analysis: Analysis, order: str | None) -> None:
    if analysis.second is None:
        _print_layers(analysis.first, order or ("saved" if analysis.first.saved else "time"))
        say()
        _print_kinds(analysis.first)
        say()
        _print_summary(analysis.first)
    else:
        _print_differences(analysis, analysis.second, order)
        for timing in (analysis.first, analysis.second):
            say()
            say(f"{timing.label}:")
            _print_kinds(timing)
        for timing in (analysis.first, analysis.second):
            say()
            _print_summary(timing)
    say()
    _print_legend(analysis)


def _print_layers(timing: Timing, order: str) -> None:
    layers = sorted(timing.layers, key=_ORDERS[order]) if order in _ORDERS else timing.layers
    rows = [
        (
            layer.name,
            layer.kernel or layer.kind,
            *_two(layer.time),
            _percent(layer.share),
            _percent(layer.waiting),
            f"{layer.macs / 1e6:.1f}" if layer.macs else "",
            _percent(layer.skipped / layer.dense_macs) if layer.dense_macs else "",
            _percent(layer.peak_share),
            _ms(layer.dense),
            _ms(layer.saved),
            _mark(layer.saved),
        )
        for layer in layers
    ]
    print_table(LAYERS, rows)


def _print_kinds(timing: Timing) -> None:
    rows = [
        (
            kind.kernel,
            f"{kind.layers}",
            *_two(kind.time),
            _percent(kind.share),
            f"{kind.macs / 1e9:.2f}" if kind.macs else "",
            _percent(max(0, kind.dense_macs - kind.macs) / kind.dense_macs) if kind.dense_macs else "",
            _percent(kind.peak_share),
            _ms(kind.dense),
            _ms(kind.saved),
            _mark(kind.saved),
        )
        for kind in timing.kinds
    ]
    print_table(KINDS, rows)


def _print_differences(analysis: Analysis, second: Timing, order: str | None) -> None:
    rows = list(analysis.differences)
    if order == "time":
        rows.sort(key=lambda one: -max(one.first, one.second))
    elif order == "order":
        places = {layer.name: i for i, layer in enumerate((*analysis.first.layers, *second.layers))}
        rows.sort(key=lambda one: places[one.name])
    columns = (
        Column("layer", least=16),
        Column("A ms"),
        Column("B ms"),
        Column("B - A ms"),
        Column("quartiles", rank=1),
        Column(""),
    )
    say_wrapped(f"A: {analysis.first.label}; B: {second.label}")
    print_table(
        columns,
        [
            (
                one.name,
                f"{1e3 * one.first:.3f}" if one.first else "",
                f"{1e3 * one.second:.3f}" if one.second else "",
                *_two(one.difference),
                _mark(one.difference),
            )
            for one in rows
        ],
    )


def _print_summary(timing: Timing) -> None:
    height, width = timing.size
    threads = f"{timing.threads} thread{'s' * (timing.threads > 1)}"
    lines = [
        f"{timing.label} at {height}x{width}, {threads}, kernels for {timing.target} ({timing.cpu}): "
        f"{_range(timing.time)} an inference, image to smooth class map; {timing.macs / 1e9:.2f} GMAC executed of "
        f"{timing.dense_macs / 1e9:.2f}"
    ]
    if timing.saved is not None and timing.dense is not None:
        sure = "" if timing.saved.clear else ", which may be nothing"
        lines.append(
            f"with no zero among its weights {_range(timing.dense)}: zeros save {_range(timing.saved)}{sure}"
        )
    if timing.best_peak:
        pairs = timing.best_peak_of_pairs
        lines.append(
            f"peak of the dot product in registers on {threads}: {timing.best_peak / 1e9:.0f} GMAC/s of bytes"
            + (f", {pairs / 1e9:.0f} of int16 (Winograd's filtering)" if pairs else "")
        )
    say_wrapped(*lines)


def _print_legend(analysis: Analysis) -> None:
    first = analysis.first
    if analysis.second is not None and analysis.difference is not None:
        sure = "" if analysis.difference.clear else ": not told apart"
        say_wrapped(
            f"B ({analysis.second.label}) takes {1e3 * analysis.difference.median:+.2f} ms "
            f"({1e3 * analysis.difference.low:+.2f} to {1e3 * analysis.difference.high:+.2f}) "
            f"against A ({first.label}){sure}"
        )
    say_wrapped(
        f"medians of {first.rounds} rounds (each the median of {first.runs} runs), with their quartiles; wait: of the "
        "threads' time; skipped: products not executed, by zeros or by Winograd's filtering; dense: the same layer with no "
        "zero among its weights; ~: quartiles of the rounds' differences lie on both sides of 0"
    )
    for timing in (first, *([analysis.second] if analysis.second else [])):
        if timing.noise.noisy:
            say_wrapped(noise_text(timing.noise, timing.label))


def _two(spread: Spread) -> tuple[str, str]:
    return f"{1e3 * spread.median:.3f}", quartiles(spread.low, spread.high)


def _range(spread: Spread) -> str:
    return f"{1e3 * spread.median:.2f} ms ({1e3 * spread.low:.2f} to {1e3 * spread.high:.2f})"


def _ms(spread: Spread | None) -> str:
    return "" if spread is None else f"{1e3 * spread.median:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _mark(spread: Spread | None) -> str:
    return "" if spread is None or spread.clear else "~"
