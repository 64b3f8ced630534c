"""`sparse-icnet info`: what a model is made of, layer by layer, and what the engine makes of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import model_of
from sparse_icnet.cli.terminal import print_table, say
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.network.graph import Convolution, Graph
from sparse_icnet.sparse.block_csr import block_density

if TYPE_CHECKING:
    from sparse_icnet.runtime.steps import Step

HEADER = ("layer", "weights OxIxhxw", "step", "output", "zeros %", "1x4 %", "4x4 %", "bytes", "kernel", "why")


def run(arguments: argparse.Namespace) -> int:
    path = bundled.resolve(arguments.model)
    model = model_of(arguments)
    graph = model.graph
    weights = sum(op.weight.size for op in graph.convolutions)
    zeros = sum(int((op.weight == 0).sum()) for op in graph.convolutions)
    height, width = model.size
    output = "x".join(map(str, graph.shape(graph.output)))
    say(f"{path} ({path.stat().st_size:,} bytes)")
    free = " (the file leaves the size free)" if graph.size_is_free else ""
    say(f"input 3x{height}x{width} RGB{free}, output {output}: {graph.output}")
    say(f"classes: {', '.join(model.classes)}")
    say(
        f"{len(graph.convolutions)} convolutions, {weights:,} weights, {100 * zeros / weights:.2f} % zeros, "
        f"{graph.macs() / 1e9:.2f} GMAC an inference as written"
    )
    steps = {step.name: step for step in model.plan.convolutions()}
    executed = sum(step.macs for step in steps.values())
    filtered = sum(step.macs for step in steps.values() if step.kind == Kind.WINOGRAD)
    dense = sum(step.dense_macs for step in steps.values())
    say(
        f"{dense / 1e9:.2f} GMAC after the rewrites; {executed / 1e9:.2f} executed, blocks of zeros skipped and input "
        f"channels filled up to fours; {filtered / 1e9:.2f} of these of int16, by Winograd's filtering"
    )
    say()
    print_table(HEADER, [_row(graph, op, steps.get(op.name)) for op in graph.convolutions])
    say("\n1x4, 4x4: share of the blocks of output x input channels that hold a non-zero")
    return 0


def _row(graph: Graph, op: Convolution, step: Step | None) -> tuple[str, ...]:
    geometry = f"s{op.stride[0]}" + (f" d{op.dilation[0]}" if op.dilation != (1, 1) else "")
    return (
        op.name,
        "x".join(map(str, op.weight.shape)),
        geometry,
        "x".join(map(str, graph.shape(op.name))),
        f"{100 * float((op.weight == 0).mean()):.1f}",
        f"{100 * block_density(op.weight, 1):.1f}",
        f"{100 * block_density(op.weight, 4):.1f}",
        *((f"{step.weight_bytes}", step.kernel, step.reason) if step else ("0", "none", "not needed")),
    )
