"""`sparse-icnet info`: what a model is made of, layer by layer, and what the engine makes of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, model_of
from sparse_icnet.cli.terminal import Column, print_table, say, say_wrapped, write_json
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.network.graph import Convolution, Graph
from sparse_icnet.sparse.block_csr import block_density

if TYPE_CHECKING:
    from sparse_icnet.runtime.steps import Step

COLUMNS = (
    Column("layer"),
    Column("weights"),
    Column("step", rank=5),
    Column("output", rank=2),
    Column("zeros %"),
    Column("empty 1x4 %", rank=4),
    Column("empty 4x4 %"),
    Column("bytes", rank=3),
    Column("kernel"),
    Column("why", rank=1, least=24),
)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    path = bundled.resolve(arguments.model)
    model = model_of(arguments)
    graph = model.graph
    steps = {step.name: step for step in model.plan.convolutions()}
    layers = [_layer(graph, op, steps.get(op.name)) for op in graph.convolutions]
    weights = sum(op.weight.size for op in graph.convolutions)
    zeros = sum(int((op.weight == 0).sum()) for op in graph.convolutions)
    figures: dict[str, Any] = {
        "model": bundled.short_name(path),
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "input": [3, *model.size],
        "size_is_free": graph.size_is_free,
        "output": list(graph.shape(graph.output)),
        "classes": list(model.classes),
        "convolutions": len(layers),
        "weights": weights,
        "zeros": zeros / max(weights, 1),
        "macs_as_written": graph.macs(),
        "macs_rewritten": sum(step.dense_macs for step in steps.values()),
        "macs_executed": sum(step.macs for step in steps.values()),
        "macs_filtered": sum(step.macs for step in steps.values() if step.kind == Kind.WINOGRAD),
        "layers": layers,
    }
    if arguments.json != "-":
        _print(figures, graph.output)
    if arguments.json:
        write_json(figures, arguments.json)
    return 0


def _print(figures: dict[str, Any], output: str) -> None:
    free = " (the file leaves the size free)" if figures["size_is_free"] else ""
    say(f"{figures['file']} ({figures['file_bytes']:,} bytes)")
    say_wrapped(
        f"input {_times(figures['input'])} RGB{free}, output {_times(figures['output'])}: {output}",
        f"classes: {', '.join(figures['classes'])}",
        f"{figures['convolutions']} convolutions, {figures['weights']:,} weights, {100 * figures['zeros']:.2f} % "
        f"zeros, {figures['macs_as_written'] / 1e9:.2f} GMAC an inference as written",
        f"{figures['macs_rewritten'] / 1e9:.2f} GMAC after the rewrites; {figures['macs_executed'] / 1e9:.2f} "
        "executed, blocks of zeros skipped and input channels filled up to fours; "
        f"{figures['macs_filtered'] / 1e9:.2f} of these of int16, by Winograd's filtering",
    )
    say()
    print_table(COLUMNS, [_row(layer) for layer in figures["layers"]])
    say()
    say_wrapped(
        "weights: output x input channels x height x width; empty 1x4, 4x4: share of the blocks of that many output x "
        "input channels that hold nothing but zeros"
    )


def _layer(graph: Graph, op: Convolution, step: Step | None) -> dict[str, Any]:
    return {
        "name": op.name,
        "weights": list(op.weight.shape),
        "stride": op.stride[0],
        "dilation": op.dilation[0],
        "output": list(graph.shape(op.name)),
        "zeros": float((op.weight == 0).mean()),
        "empty_1x4": 1 - float(block_density(op.weight, 1)),
        "empty_4x4": 1 - float(block_density(op.weight, 4)),
        "packed_bytes": int(step.weight_bytes) if step else 0,
        "kernel": step.kernel if step else "none",
        "why": step.reason if step else "not needed",
    }


def _row(layer: dict[str, Any]) -> tuple[str, ...]:
    dilation = f" d{layer['dilation']}" if layer["dilation"] != 1 else ""
    return (
        layer["name"],
        _times(layer["weights"]),
        f"s{layer['stride']}{dilation}",
        _times(layer["output"]),
        *(f"{100 * layer[name]:.1f}" for name in ("zeros", "empty_1x4", "empty_4x4")),
        f"{layer['packed_bytes']}",
        layer["kernel"],
        layer["why"],
    )


def _times(lengths: list[int]) -> str:
    return "x".join(map(str, lengths))
