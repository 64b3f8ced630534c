"""The parser: what is wrong is said in one line, with what may have been meant."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from typing import NoReturn

from sparse_icnet.cli.entry import BAD_INPUT, complain
from sparse_icnet.suggest import did_you_mean

RESULT_KINDS = ("classes", "overlay", "side-by-side", "confidence", "probabilities")


class Parser(argparse.ArgumentParser):
    """argparse with the error lines of this command and suggestions for what is mistyped."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        complain(f"{command}: {message}" if command else message, hint=f"see {self.prog} --help")
        raise SystemExit(BAD_INPUT)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action, f"expected one of {', '.join(known)}, found {value!r}{did_you_mean(str(value), known)}"
        )

    def option_names(self) -> Iterable[str]:
        """Every option that this parser knows."""
        return self._option_string_actions

    def sub_parser(self, name: str) -> Parser:
        """That of the command `name`."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found: Parser = action.choices[name]
                return found
        raise KeyError(name)


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written; options in the width of the terminal, at most 100 columns."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 100)
        super().__init__(prog, max_help_position=28, width=max(width - 2, 40))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command line; `module` is the module of `sparse_icnet.cli` that runs it.

    Options may stand between the pictures.  Raises SystemExit for --help and for what is wrong.
    """
    from sparse_icnet.cli.commands import build_parser

    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        command = parser.sub_parser(arguments.command)
        options = [word for word in rest if word.startswith("-") and word != "-"]
        if options:
            name = options[0].partition("=")[0]
            command.error(f"unknown option {name}{did_you_mean(name, command.option_names())}")
        many = getattr(arguments, "many", None)
        if many is None:
            command.error(f"unexpected argument {rest[0]!r}")
        getattr(arguments, many).extend(rest)
    here = getattr(arguments, "model_here", None)
    if here is not None and arguments.model is not None:
        parser.sub_parser(arguments.command).error(
            f"expected one model, found {here!r} and --model {arguments.model}"
        )
    arguments.model = getattr(arguments, "model", None) or here
    return arguments


def size(text: str) -> tuple[int, int]:
    """'768x960' -> (768, 960)."""
    height, x, width = text.lower().partition("x")
    if not (x and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 768x960, found {text!r}")
    return int(height), int(width)


def positive(text: str) -> int:
    """A positive integer below 2^31."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 1 << 31):
        raise argparse.ArgumentTypeError(f"expected a positive integer, found {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def kinds(text: str) -> tuple[str, ...]:
    """'classes,overlay' -> its parts, in the order of `RESULT_KINDS`."""
    words = text.replace(" ", "").split(",")
    for word in words:
        if word not in RESULT_KINDS:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(RESULT_KINDS)} with commas between them, found {word!r}"
                f"{did_you_mean(word, RESULT_KINDS)}"
            )
    return tuple(kind for kind in RESULT_KINDS if kind in words)


def json_place(text: str) -> str:
    """A file for figures, or - for standard output."""
    if text != "-" and not text.lower().endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in .json, or - for standard output, found {text!r}"
        )
    return text
