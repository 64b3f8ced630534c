"""A finished file with narrower weight codes: the same network, its weights rounded anew to -LEVELS..LEVELS.

python -m weights.recipe.narrow --model icnet.npz --out icnet-narrow.npz

Activation ranges, biases and zeros stay as they are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from sparse_icnet.formats import native
from sparse_icnet.network.graph import Convolution, Graph
from weights.recipe.model import LEVELS


def narrow(graph: Graph, levels: int = LEVELS) -> Graph:
    """`graph` with weight codes of at most `levels`; output channels whose codes are within it stay as they are."""
    ops = [narrow_layer(op, levels) if isinstance(op, Convolution) else op for op in graph.ops]
    return replace(graph, ops=tuple(ops))


def narrow_layer(op: Convolution, levels: int) -> Convolution:
    """Round each output channel to a coarser scale; a kept weight keeps its sign and is never rounded to the code 0."""
    codes = op.weight.astype(np.int16)
    largest = np.abs(codes).max((1, 2, 3))
    factor = np.maximum(largest / np.float32(levels), 1).astype(np.float32)
    narrowed = np.rint(codes / factor[:, None, None, None])
    narrowed = np.where(narrowed == 0, np.sign(codes), narrowed)
    return replace(op, weight=narrowed.astype(np.int8), weight_scale=op.weight_scale * factor)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="native file of an ICNet")
    parser.add_argument("--out", type=Path, required=True, help="native file to write")
    options = parser.parse_args(arguments)
    graph = narrow(native.load(options.model))
    native.save(graph, options.out)
    largest = max(int(np.abs(op.weight.astype(np.int16)).max()) for op in graph.convolutions)
    print(f"{options.out}: weight codes within +-{largest}")


if __name__ == "__main__":
    main()
