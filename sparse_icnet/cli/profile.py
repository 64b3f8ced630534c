"""`sparse-icnet profile`: where the time of one inference goes."""

from __future__ import annotations

import argparse

from sparse_icnet.cli.inputs import model_of
from sparse_icnet.cli.terminal import print_table, say

HEADER = ("step", "kind", "ms", "share %", "GMAC/s", "dense GMAC/s", "blocks %", "kernel")


def run(arguments: argparse.Namespace) -> int:
    model = model_of(arguments)
    rows = model.session.profile(arguments.runs)
    total = sum(row.seconds for row in rows)
    print_table(
        HEADER,
        [
            (
                row.name,
                row.kind,
                f"{1e3 * row.seconds:.3f}",
                f"{100 * row.seconds / total:.1f}",
                _rate(row.macs, row.seconds),
                _rate(row.dense_macs, row.seconds),
                f"{100 * row.block_density:.1f}" if row.macs else "",
                row.kernel,
            )
            for row in rows
        ],
    )
    executed = sum(row.macs for row in rows)
    dense = sum(row.dense_macs for row in rows)
    threads = model.session.threads
    say(
        f"\n{1e3 * total:.2f} ms in {len(rows)} steps on {threads} thread{'s' * (threads > 1)}, "
        f"image to class map: {_rate(executed, total)} GMAC/s executed, {_rate(dense, total)} as if dense"
    )
    say("each step alone, median of the runs; blocks: share of weight blocks that hold a non-zero")
    return 0


def _rate(macs: int, seconds: float) -> str:
    return f"{macs / seconds / 1e9:.1f}" if macs and seconds else ""
