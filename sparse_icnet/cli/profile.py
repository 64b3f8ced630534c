"""`sparse-icnet profile`: where the time of one inference goes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, model_of, ready
from sparse_icnet.cli.terminal import Column, print_table, say, say_wrapped, write_json
from sparse_icnet.files import check_writable
from sparse_icnet.info import Profile
from sparse_icnet.study.timing import Noise

COLUMNS = (
    Column("step"),
    Column("kind", rank=3),
    Column("ms"),
    Column("quartiles", rank=2),
    Column("share %"),
    Column("wait %", rank=4),
    Column("GMAC/s"),
    Column("dense GMAC/s", rank=2),
    Column("empty %", rank=1),
    Column("kernel"),
)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    if arguments.trace is not None:
        check_writable(Path(arguments.trace))
    model = model_of(arguments)
    ready(model, arguments.quiet)
    profile = model.profile(arguments.runs)
    if arguments.trace is not None:
        model.trace(bundled.SAMPLE_IMAGE, arguments.trace)
    figures: dict[str, Any] = {
        "model": bundled.short_name(bundled.resolve(arguments.model)),
        "size": list(model.size),
        "threads": profile.threads,
        "runs": arguments.runs,
        "milliseconds": 1e3 * profile.seconds,
        "quartiles": [1e3 * profile.total.low, 1e3 * profile.total.high],
        "noise": asdict(profile.noise),
        "macs": sum(step.macs for step in profile.steps),
        "dense_macs": sum(step.dense_macs for step in profile.steps),
        "steps": [],
    }
    for step in profile.steps:
        values = asdict(step)
        values["milliseconds"] = 1e3 * values.pop("seconds")
        values["quartiles"] = [1e3 * values.pop("low"), 1e3 * values.pop("high")]
        values["empty_blocks"] = 1 - values.pop("block_density") if step.macs else None
        figures["steps"].append(values)
    if arguments.json != "-":
        _print(figures, profile)
    if arguments.json:
        write_json(figures, arguments.json)
    return 0


def _print(figures: dict[str, Any], profile: Profile) -> None:
    total = figures["milliseconds"]
    print_table(
        COLUMNS,
        [
            (
                step["name"],
                step["kind"],
                f"{step['milliseconds']:.3f}",
                quartiles(profile.steps[number].low, profile.steps[number].high),
                f"{100 * step['milliseconds'] / total:.1f}",
                f"{100 * step['waiting']:.1f}",
                _rate(step["macs"], step["milliseconds"]),
                _rate(step["dense_macs"], step["milliseconds"]),
                "" if step["empty_blocks"] is None else f"{100 * step['empty_blocks']:.1f}",
                step["kernel"],
            )
            for number, step in enumerate(figures["steps"])
        ],
    )
    threads = figures["threads"]
    say()
    say_wrapped(
        f"{total:.2f} ms in {len(figures['steps'])} steps on {threads} thread{'s' * (threads > 1)}, "
        f"image to class map: {_rate(figures['macs'], total)} GMAC/s executed, "
        f"{_rate(figures['dense_macs'], total)} as if dense",
        f"inferences took {1e3 * profile.total.median:.2f} ms ({1e3 * profile.total.low:.2f} to "
        f"{1e3 * profile.total.high:.2f})",
        "median of the runs, with their quartiles; wait: of the threads' time; empty: share of the weight blocks "
        "that hold nothing but zeros; `sparse-icnet analyze` measures what they buy",
    )
    if profile.noise.noisy:
        say_wrapped(noise_text(profile.noise))


def quartiles(low: float, high: float) -> str:
    """'0.012 to 0.015', seconds as milliseconds."""
    return f"{1e3 * low:.3f} to {1e3 * high:.3f}"


def noise_text(noise: Noise, label: str = "") -> str:
    """What was seen of a machine that was not quiet."""
    load = "" if noise.load is None else f"; load average before: {noise.load:.1f}"
    whose = f" ({label})" if label else ""
    return (
        f"WARNING{whose}: the machine was busy, times are too long and small differences mean nothing: "
        f"{'; '.join(noise.reasons)}{load}"
    )


def _rate(macs: int, milliseconds: float) -> str:
    return f"{macs / milliseconds / 1e6:.1f}" if macs and milliseconds else ""
