"""The parser of one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_icnet.cli.parser import Help, Parser

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[Parser]


def command(commands: Commands, name: str, summary: str, text: str, module: str | None = None) -> Parser:
    """The parser of the command `name`, which `sparse_icnet.cli.MODULE` runs; None: a module of its name.

    summary  its line in the list of commands; text: above its own help
    """
    parser: Parser = commands.add_parser(name, help=summary, description=text, formatter_class=Help)
    parser.set_defaults(module=module or name)
    return parser
