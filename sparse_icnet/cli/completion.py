"""`sparse-icnet completion`: a script with which bash or zsh completes commands, options, models and files (shtab)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from sparse_icnet import bundled
from sparse_icnet.cli.terminal import say
from sparse_icnet.network.icnet import layer_specs

_FILES = frozenset(
    {"FILE", "LIST", "IN", "OUT", "OUT.xml|OUT.onnx", "FILE.json", "FILE.html", "IMAGE|FOLDER|PATTERN"}
)
_MODELS = frozenset({"MODEL", "MODEL, IMAGE|FOLDER"})
_PALETTES = "NAME|FILE"
_LAYERS = "LAYER"


def run(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install 'sparse-icnet[cli]'") from error
    from sparse_icnet.cli.commands import build_parser

    parser = build_parser()
    for action in _actions(parser):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if metavar in _FILES:
            action.complete = shtab.FILE
        elif metavar == "DIR":
            action.complete = shtab.DIRECTORY
        elif metavar in _MODELS:
            action.complete = {"bash": "_sparse_icnet_models", "zsh": "_sparse_icnet_models"}
        elif metavar == _LAYERS:
            action.complete = {"bash": "_sparse_icnet_layers", "zsh": "_sparse_icnet_layers"}
        elif metavar == _PALETTES:
            action.complete = {"bash": "_sparse_icnet_palettes", "zsh": "_sparse_icnet_palettes"}
    words = {
        "models": bundled.names(),
        "palettes": ["camvid", "colour-blind"],
        "layers": [layer.name for layer in layer_specs()],
    }
    preamble: Any = {
        "bash": "".join(
            f'_sparse_icnet_{name}() {{ compgen -W "{" ".join(known)}" -- "$1"; compgen -f -- "$1"; }}\n'
            for name, known in words.items()
        ),
        "zsh": "".join(
            f"_sparse_icnet_{name}() {{ compadd {' '.join(known)}; _files; }}\n"
            for name, known in words.items()
        ),
    }
    say(shtab.complete(parser, shell=arguments.shell, preamble=preamble))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Of the parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
