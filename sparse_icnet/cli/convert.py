"""`sparse-icnet convert` and `export`: read a model, write it in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_icnet import formats
from sparse_icnet.cli.terminal import print_table, say
from sparse_icnet.files import check_writable
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.model import load
from sparse_icnet.network.graph import Graph
from sparse_icnet.sparse.gather import gains, gather_zeros


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.suffix.lower() not in formats.SUFFIXES:
        raise FormatError(f"{output}: expected a name that ends in {', '.join(formats.SUFFIXES)}")
    if arguments.model is None and (arguments.command == "convert" or output.exists()):
        # One name alone: rather the model with OUT forgotten than a file to replace by the default model.
        raise ValueError(f"{arguments.command}: expected a model and a file to write, found {output} alone")
    graph = load(arguments.model, arguments.size).graph
    check_writable(output)
    if arguments.gather_zeros:
        graph = _gathered(graph)
    formats.save(graph, output)
    written = [output] if output.suffix.lower() != ".xml" else [output, output.with_suffix(".bin")]
    zeros = sum(int((op.weight == 0).sum()) for op in graph.convolutions)
    weights = sum(op.weight.size for op in graph.convolutions)
    say(
        f"{len(graph.convolutions)} convolutions, {weights:,} weights, {100 * zeros / weights:.2f} % zeros"
        " -> " + ", ".join(f"{path} ({path.stat().st_size:,} bytes)" for path in written)
    )
    return 0


def _gathered(graph: Graph) -> Graph:
    """`graph` with its channels permuted to gather zeros; prints the share of occupied blocks of each layer."""
    gathered = gather_zeros(graph)
    rows = gains(graph, gathered)
    print_table(
        ("layer", "4x4 blocks %", "gathered %"),
        [(row.name, f"{100 * row.before:.1f}", f"{100 * row.after:.1f}") for row in rows],
    )
    work = sum(row.macs for row in rows)
    before = sum(row.before * row.macs for row in rows) / work
    after = sum(row.after * row.macs for row in rows) / work
    say(
        f"weighted by work: {100 * before:.1f} % of the 4x4 blocks hold a non-zero, {100 * after:.1f} % gathered"
    )
    return gathered
