"""What the commands print: lines, tables, progress.  The one module that knows Rich (extra `cli`).

Without Rich the content is the same: the head of a table is not bold, and progress is a line that is written over on a
terminal.  Where standard error is no terminal, progress is a line every few seconds, with Rich or without.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sparse_icnet.files import replacing

STDOUT = "standard output"
EVERY = 5.0  # seconds between lines of progress where there is no terminal


def say(text: object = "") -> None:
    """One or more lines on standard output.  Raises OSError that names it (a full disk), BrokenPipeError."""
    try:
        print("\n".join(map(printable, str(text).split("\n"))))
    except OSError as error:
        raise _named(error) from error


def say_wrapped(*paragraphs: str) -> None:
    """Each as lines no longer than the terminal is wide."""
    for text in paragraphs:
        say(textwrap.fill(text, max(width(), 40), break_long_words=False, break_on_hyphens=False))


def flush() -> None:
    """Send on what was said; raises as `say`."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _named(error) from error


def printable(line: str) -> str:
    """The line without what would steer a terminal: names of files hold any character."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def note(text: str) -> None:
    """A line on standard error for people, which is no error."""
    with contextlib.suppress(OSError):
        print(f"sparse-icnet: {printable(text)}", file=sys.stderr, flush=True)


def _named(error: OSError) -> OSError:
    return OSError(error.errno, error.strerror, STDOUT)  # a BrokenPipeError by its number


def width() -> int:
    """Columns of the terminal; COLUMNS where it is set; else 80."""
    return shutil.get_terminal_size().columns


def times(lengths: Iterable[int]) -> str:
    """A shape as people read it: 64x48x60."""
    return "x".join(map(str, lengths))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    title  its head
    rank   0: always shown; the higher, the earlier it is left out where there is no room
    least  characters to which its cells may be shortened before a column is left out; 0: they may not
    """

    title: str
    rank: int = 0
    least: int = 0


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    """A table of at most `room` columns of text, if the columns of rank 0 leave it that: its head, then its rows.

    Numbers stand to the right.  Columns go by rank where there is no room for them; what is left over then goes to those
    that were to be shortened.
    """
    chosen = list(range(len(columns)))
    whole = [max(len(title), *(len(row[c]) for row in rows), 0) for c, title in enumerate(_titles(columns))]
    least = [min(size, column.least or size) for size, column in zip(whole, columns, strict=True)]
    while sum(least[c] + 2 for c in chosen) - 2 > room and any(columns[c].rank for c in chosen):
        chosen.remove(max(chosen, key=lambda c: (columns[c].rank, c)))
    spare = room + 2 - sum(least[c] + 2 for c in chosen)
    sizes = {}
    for c in chosen:
        sizes[c] = min(whole[c], least[c] + max(spare, 0))
        spare -= sizes[c] - least[c]
    right = {c: all(_is_number(row[c]) for row in rows) for c in chosen}
    lines = []
    for cells in (_titles(columns), *rows):
        parts = []
        for c in chosen:
            cell = cells[c] if len(cells[c]) <= sizes[c] else cells[c][: sizes[c] - 2] + ".."
            parts.append(cell.rjust(sizes[c]) if right[c] else cell.ljust(sizes[c]))
        lines.append("  ".join(parts).rstrip())
    return lines


def _titles(columns: Sequence[Column]) -> list[str]:
    return [column.title for column in columns]


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """`table_lines` as wide as the terminal."""
    head, *lines = table_lines(columns, rows, width())
    _emphasized(head)
    for line in lines:
        say(line)


def _is_number(cell: str) -> bool:
    bare = cell.removesuffix(" %").replace(",", "").replace(".", "", 1).removeprefix("-")
    return not cell or bare.isdigit()


def _emphasized(line: str) -> None:
    """Bold where standard output is a terminal and Rich is there."""
    rich = _rich() if sys.stdout.isatty() else None
    if rich is None:
        say(line)
        return
    from rich.console import Console
    from rich.text import Text

    Console(width=max(len(line), width()), highlight=False).print(Text(line, "bold"), soft_wrap=True)


def _rich() -> Any:
    try:
        import rich
    except ImportError:
        return None
    return rich


def write_json(values: Mapping[str, Any], place: str) -> None:
    """`values` as JSON into the file `place`, whole or not at all; '-' is standard output."""
    text = json.dumps(values, indent=2, allow_nan=False)
    if place == "-":
        say(text)
        return
    with replacing(Path(place)) as temporary:
        temporary.write_text(text + "\n", "utf-8")


class Progress:
    """How far a long command is, on standard error: `with Progress(...) as progress: progress.advance(1)`.

    On a terminal a line that is written over, with rate and time left; elsewhere a line every few seconds.  Nothing where
    there is one thing to do; a total of 0 is not known yet.
    """

    def __init__(self, total: int, unit: str, quiet: bool = False) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._quiet = quiet or total == 1
        self._stream: TextIO = sys.stderr
        self._live = not self._quiet and self._stream.isatty()
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._live and _rich() is not None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.completed:.0f} of {task.total:.0f} {task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=Console(file=self._stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.unit, total=max(self.total, 1), rate="")
        return self

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self.reach(self.done + count, self.total)

    def reach(self, done: int, total: int) -> None:
        """So many are done of so many."""
        self.done, self.total = done, total
        if self._quiet:
            return
        now = time.monotonic()
        if self._bar is not None:
            rate = self.done / max(now - self._start, 1e-9)
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f} a second")
        elif now - self._last >= (0.1 if self._live else EVERY):
            self._last = now
            self._write(progress_text(self.done, self.total, self.unit, now - self._start))

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            if self._live:
                self._stream.write(f"\r{text[: width() - 1]}\x1b[K")
            else:
                self._stream.write(f"sparse-icnet: {text}\n")
            self._stream.flush()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Lines may be printed within; the line of progress makes room for them."""
        if self._bar is None and self._live:
            self._write("")
        elif self._bar is not None:
            self._bar.stop()
        yield
        if self._bar is not None:
            self._bar.start()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._live:
            self._write("")


def progress_text(done: int, total: int, unit: str, seconds: float) -> str:
    """'120 of 300 pictures, 14.2 a second, 13 s left'."""
    rate = done / max(seconds, 1e-9)
    text = f"{done} of {total} {unit}, {rate:.1f} a second"
    return text if done >= total else f"{text}, {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """'13 s', '4 min 10 s', '3 h 5 min'."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
