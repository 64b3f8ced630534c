"""`sparse-icnet convert` and `export`: read a model, write it in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_icnet import formats
from sparse_icnet.cli.terminal import Column, print_table, say
from sparse_icnet.files import check_writable
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.openvino import write
from sparse_icnet.loading import load
from sparse_icnet.network.graph import Graph
from sparse_icnet.sparse.gather import gains, gather_zeros


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.suffix.lower() not in formats.SUFFIXES:
        raise FormatError(f"{output}: expected a name that ends in {', '.join(formats.SUFFIXES)}")
    if arguments.model is None and (arguments.command == "convert" or output.exists()):
        # One name alone: rather the model with OUT forgotten than a file to replace by the default model.
        raise ValueError(f"{arguments.command}: expected a model and a file to write, found {output} alone")
    graph = load(arguments.model, arguments.size, output=arguments.model_output, bgr=arguments.bgr).graph
    check_writable(output)
    if output.suffix.lower() == ".xml":
        check_writable(output.with_suffix(".bin"))
        write.check_free(output)
    if arguments.gather_zeros:
        graph = _gathered(graph)
    formats.save(graph, output)
    written = [output] if output.suffix.lower() != ".xml" else [output, output.with_suffix(".bin")]
    zeros = sum(int((op.weight == 0).sum()) for op in graph.layers)
    weights = sum(op.weight.size for op in graph.layers)
    say(
        f"{len(graph.layers)} convolutions, {weights:,} weights, {100 * zeros / weights:.2f} % zeros"
        " -> " + ", ".join(f"{path} ({path.stat().st_size:,} bytes)" for path in written)
    )
    return 0


def _gathered(graph: Graph) -> Graph:
    """`graph` with its channels permuted to gather zeros; prints the share of empty blocks of each layer."""
    gathered = gather_zeros(graph)
    rows = gains(graph, gathered)
    print_table(
        (Column("layer"), Column("empty 4x4 %"), Column("gathered %")),
        [(row.name, _percent(row.before), _percent(row.after)) for row in rows],
    )
    work = sum(row.macs for row in rows)
    before, after = (
        sum(getattr(row, when) * row.macs for row in rows) / work for when in ("before", "after")
    )
    say(f"weighted by work: {_percent(before)} % of the 4x4 blocks are empty, {_percent(after)} % gathered")
    return gathered


def _percent(occupied: float) -> str:
    return f"{100 * (1 - occupied):.1f}"
