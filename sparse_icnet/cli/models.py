"""`sparse-icnet models`: the models that come with the package, in figures, and when to use which."""

from __future__ import annotations

import argparse
from typing import Any

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json
from sparse_icnet.cli.terminal import Column, print_table, say, say_wrapped, write_json
from sparse_icnet.loading import load
from sparse_icnet.model import Model

COLUMNS = (
    Column("name"),
    Column("zeros %"),
    Column("skipped %"),
    Column("mIoU %"),
    Column("in blocks %", rank=1),
    Column("GMAC executed", rank=2),
    Column("bytes", rank=3),
)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    models = [_figures(name, load(name)) for name in bundled.names()]
    if arguments.json != "-":
        _print(models)
    if arguments.json:
        write_json({"models": models}, arguments.json)
    return 0


def _figures(name: str, model: Model) -> dict[str, Any]:
    path, info, meta = bundled.resolve(name), model.info(), model.meta
    dense = sum(layer.dense_macs for layer in info.layers)
    return {
        "name": name,
        "file": str(path),
        "default": path == bundled.DEFAULT_WEIGHTS,
        "file_bytes": path.stat().st_size,
        "input": [3, *model.size],
        "zeros": info.zeros,
        "products_skipped": sum(layer.zeros * layer.dense_macs for layer in info.layers) / dense,
        "dense_macs": info.dense_macs,
        "macs_executed": info.macs,
        "accuracy": dict(meta.accuracy),
        "classes": list(meta.class_names),
        "licence": meta.licence,
        "notes": meta.notes,
    }


def _print(models: list[dict[str, Any]]) -> None:
    print_table(
        COLUMNS,
        [
            (
                model["name"],
                f"{100 * model['zeros']:.2f}",
                f"{100 * model['products_skipped']:.2f}",
                _accuracy(model, "smooth"),
                _accuracy(model, "blocks"),
                f"{model['macs_executed'] / 1e9:.2f}",
                f"{model['file_bytes']}",
            )
            for model in models
        ],
    )
    for model in models:
        say()
        default = " (default)" if model["default"] else ""
        say_wrapped(f"{model['name']}{default}: {model['notes']}  {model['licence']}.")
    say()
    say_wrapped(
        "skipped: share of the multiply-accumulates whose weight is zero; executed: what the engine computes here, of "
        f"{models[0]['dense_macs'] / 1e9:.2f} GMAC; mIoU: of smooth class maps on CamVid's validation frames, in "
        "blocks: of the network's own 8 x 8 pixels"
    )
    say_wrapped("Give a name wherever a MODEL is asked for: sparse-icnet segment --model block4x4 ...")


def _accuracy(model: dict[str, Any], kind: str) -> str:
    """In percent the figure of mean IoU whose name speaks of `kind`."""
    found = [
        figure for name, figure in model["accuracy"].items() if "miou" in name.casefold() and kind in name
    ]
    return f"{100 * found[0]:.2f}" if found else "?"
