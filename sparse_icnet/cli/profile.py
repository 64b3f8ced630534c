"""`sparse-icnet profile`: where the time of one inference goes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, model_of, ready
from sparse_icnet.cli.terminal import Column, print_table, say, say_wrapped, write_json

COLUMNS = (
    Column("step"),
    Column("kind", rank=3),
    Column("ms"),
    Column("share %"),
    Column("GMAC/s"),
    Column("dense GMAC/s", rank=2),
    Column("empty %", rank=1),
    Column("kernel"),
)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    model = model_of(arguments)
    ready(model, arguments.quiet)
    profile = model.profile(arguments.runs)
    figures: dict[str, Any] = {
        "model": bundled.short_name(bundled.resolve(arguments.model)),
        "size": list(model.size),
        "threads": profile.threads,
        "runs": arguments.runs,
        "milliseconds": 1e3 * profile.seconds,
        "macs": sum(step.macs for step in profile.steps),
        "dense_macs": sum(step.dense_macs for step in profile.steps),
        "steps": [],
    }
    for step in profile.steps:
        values = asdict(step)
        values["milliseconds"] = 1e3 * values.pop("seconds")
        values["empty_blocks"] = 1 - values.pop("block_density") if step.macs else None
        figures["steps"].append(values)
    if arguments.json != "-":
        _print(figures)
    if arguments.json:
        write_json(figures, arguments.json)
    return 0


def _print(figures: dict[str, Any]) -> None:
    total = figures["milliseconds"]
    print_table(
        COLUMNS,
        [
            (
                step["name"],
                step["kind"],
                f"{step['milliseconds']:.3f}",
                f"{100 * step['milliseconds'] / total:.1f}",
                _rate(step["macs"], step["milliseconds"]),
                _rate(step["dense_macs"], step["milliseconds"]),
                "" if step["empty_blocks"] is None else f"{100 * step['empty_blocks']:.1f}",
                step["kernel"],
            )
            for step in figures["steps"]
        ],
    )
    threads = figures["threads"]
    say()
    say_wrapped(
        f"{total:.2f} ms in {len(figures['steps'])} steps on {threads} thread{'s' * (threads > 1)}, "
        f"image to class map: {_rate(figures['macs'], total)} GMAC/s executed, "
        f"{_rate(figures['dense_macs'], total)} as if dense",
        "each step alone, median of the runs; empty: share of the weight blocks that hold nothing but zeros",
    )


def _rate(macs: int, milliseconds: float) -> str:
    return f"{macs / milliseconds / 1e6:.1f}" if macs and milliseconds else ""
