"""The parser: what is wrong is said in one line, with what may have been meant."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from sparse_icnet.cli.entry import BAD_INPUT, complain
from sparse_icnet.cli.terminal import flush, say
from sparse_icnet.suggest import did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse with the error lines of this command and suggestions for what is mistyped."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        complain(f"{command}: {message}" if command else message, hint=f"see {self.prog} --help")
        raise SystemExit(BAD_INPUT)

    def _print_message(self, message: str, file: Any = None) -> None:
        """What --help and --version print; argparse would say nothing of a full disk."""
        if message and file is sys.stdout:
            say(message.removesuffix("\n"))
            flush()
        else:
            super()._print_message(message, file)

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

    def format_help(self) -> str:
        self._action_max_length += 2  # argparse forgets that commands stand further in than options
        return super().format_help()


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
    if getattr(arguments, "model", None) is None:
        arguments.model = here
    return arguments
