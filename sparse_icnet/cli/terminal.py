"""What the commands print: lines, tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence

STDOUT = "standard output"


def say(text: object = "") -> None:
    """One or more lines on standard output.  Raises OSError that names it (a full disk), BrokenPipeError."""
    try:
        print(text)
    except OSError as error:
        raise _named(error) from error


def flush() -> None:
    """Send on what was said; raises as `say`."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _named(error) from error


def _named(error: OSError) -> OSError:
    return OSError(error.errno, error.strerror, STDOUT)  # a BrokenPipeError by its number


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; columns of numbers (or nothing) to the right."""
    cells = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    for line in cells:
        say(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
        )


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").replace(".", "", 1).removeprefix("-").isdigit()
