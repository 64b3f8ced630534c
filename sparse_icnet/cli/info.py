"""`sparse-icnet info`: what a model is made of, layer by layer, and what the engine makes of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, model_of
from sparse_icnet.cli.terminal import Column, print_table, say, say_wrapped, times, write_json
from sparse_icnet.info import LayerInfo, ModelInfo

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
    info = model.info()
    if arguments.json != "-":
        _print(path, info)
    if arguments.json:
        about = {"model": bundled.short_name(path), "file": str(path), "file_bytes": path.stat().st_size}
        write_json({**about, **info.to_dict()}, arguments.json)
    return 0


def _print(path: Path, info: ModelInfo) -> None:
    free = " (the file leaves the size free)" if info.size_is_free else ""
    say(f"{path} ({path.stat().st_size:,} bytes)")
    say_wrapped(
        f"input {times((3, *info.size))} RGB{free}, output {times(info.output_shape)}: {info.output}",
        f"the file takes {info.takes}, and gives {info.gives}",
        f"classes: {', '.join(info.class_names)}",
        f"{len(info.layers)} convolutions, {info.weights:,} weights, {100 * info.zeros:.2f} % "
        f"zeros, {info.macs_as_written / 1e9:.2f} GMAC an inference as written",
        f"{info.dense_macs / 1e9:.2f} GMAC after the rewrites; {info.macs / 1e9:.2f} "
        "executed, blocks of zeros skipped and input channels filled up to fours; "
        f"{info.filtered_macs / 1e9:.2f} of these of int16, by Winograd's filtering",
        *_in_float32(info),
        *([f"notes: {info.notes}"] if info.notes else []),
    )
    say()
    print_table(COLUMNS, [_row(layer) for layer in info.layers])
    say()
    say_wrapped(
        "weights: output x input channels x height x width; empty 1x4, 4x4: share of the blocks of that many output x "
        "input channels that hold nothing but zeros"
    )


def _in_float32(info: ModelInfo) -> list[str]:
    """What layers that the file leaves in float32 cost; nothing where there are none."""
    layers = [layer for layer in info.layers if layer.dtype == "float32"]
    if not layers:
        return []
    names = ", ".join(layer.name for layer in layers)
    work = sum(layer.macs for layer in layers) / 1e9
    return [
        f"float32 in the file, which takes some five to ten times as long as int8: {len(layers)} of {len(info.layers)} "
        f"convolutions, {work:.2f} GMAC: {names}"
    ]


def _row(layer: LayerInfo) -> tuple[str, ...]:
    dilation = f" d{layer.dilation[0]}" if layer.dilation != (1, 1) else ""
    return (
        layer.name,
        times(layer.weight_shape),
        f"s{layer.stride[0]}{dilation}",
        times(layer.output_shape),
        *(f"{100 * share:.1f}" for share in (layer.zeros, layer.empty_1x4, layer.empty_4x4)),
        f"{layer.weight_bytes}",
        layer.kernel,
        layer.reason,
    )
