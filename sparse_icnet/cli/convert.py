"""`sparse-icnet convert` and `export`: read a model, write it in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_icnet import formats
from sparse_icnet.cli.table import print_table
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.model import load
from sparse_icnet.network.graph import Graph
from sparse_icnet.sparse.gather import gains, gather_zeros


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.suffix.lower() not in formats.SUFFIXES:
        raise FormatError(f"{output}: expected a name that ends in {', '.join(formats.SUFFIXES)}")
    graph = load(arguments.model, size=arguments.size).graph
    if arguments.gather_zeros:
        graph = _gathered(graph)
    formats.save(graph, output)
    written = [output] if output.suffix.lower() != ".xml" else [output, output.with_suffix(".bin")]
    zeros = sum(int((op.weight == 0).sum()) for op in graph.convolutions)
    weights = sum(op.weight.size for op in graph.convolutions)
    print(
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
    print(
        f"weighted by work: {100 * before:.1f} % of the 4x4 blocks hold a non-zero, {100 * after:.1f} % gathered"
    )
    return gathered
