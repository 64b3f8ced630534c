"""`sparse-icnet convert` and `export`: read a model, write it in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_icnet import formats
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.model import load


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.suffix.lower() not in formats.SUFFIXES:
        raise FormatError(f"{output}: expected a name that ends in {', '.join(formats.SUFFIXES)}")
    graph = load(arguments.model, size=arguments.size).graph
    formats.save(graph, output)
    written = [output] if output.suffix.lower() != ".xml" else [output, output.with_suffix(".bin")]
    zeros = sum(int((op.weight == 0).sum()) for op in graph.convolutions)
    weights = sum(op.weight.size for op in graph.convolutions)
    print(
        f"{len(graph.convolutions)} convolutions, {weights:,} weights, {100 * zeros / weights:.2f} % zeros"
        " -> " + ", ".join(f"{path} ({path.stat().st_size:,} bytes)" for path in written)
    )
    return 0
