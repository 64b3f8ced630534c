"""Tables and progress of the command line, with Rich and without."""

from __future__ import annotations

import io
import sys

import pytest

from sparse_icnet.cli import terminal
from sparse_icnet.cli.terminal import Column, Progress, duration, progress_text, table_lines

COLUMNS = (Column("name"), Column("bytes", rank=2), Column("zeros %", rank=1), Column("why", rank=3, least=6))
ROWS = [("first", "12", "1.5", "because it is so"), ("second", "3", "100.0", "no")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("room", range(8, 60))
def test_a_table_fits(room):
    lines = table_lines(COLUMNS, ROWS, room)
    assert len(lines) == 3
    assert max(map(len, lines)) <= room
    assert lines[1].startswith("first")


def test_columns_go_by_rank_and_cells_are_shortened_first():
    assert table_lines(COLUMNS, ROWS, 100) == [
        "name    bytes  zeros %  why",
        "first      12      1.5  because it is so",
        "second      3    100.0  no",
    ]
    assert table_lines(COLUMNS, ROWS, 34)[1] == "first      12      1.5  because .."
    assert table_lines(COLUMNS, ROWS, 29)[0] == "name    bytes  zeros %"
    assert table_lines(COLUMNS, ROWS, 20)[0] == "name    zeros %"
    assert table_lines(COLUMNS, ROWS, 2)[0] == "name"


def test_a_table_without_rows():
    assert table_lines(COLUMNS, [], 80) == ["name  bytes  zeros %  why"]


def test_texts():
    assert progress_text(120, 300, "frames", 10) == "120 of 300 frames, 12.0 a second, 15 s left"
    assert progress_text(300, 300, "frames", 10) == "300 of 300 frames, 30.0 a second"
    assert [duration(s) for s in (0.4, 119, 120, 250, 7200, 9000)] == [
        "0 s",
        "119 s",
        "2 min 0 s",
        "4 min 10 s",
        "2 h 0 min",
        "2 h 30 min",
    ]


def shown(monkeypatch, stream, quiet=False, total=50, seconds=1.0):
    """What the progress of `total` steps of `seconds` each writes to `stream`."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(total, "frames", quiet) as progress:
        for _ in range(total):
            now[0] += seconds
            progress.advance()
    return stream.getvalue()


def test_names_cannot_steer_the_terminal(capsys):
    terminal.say("a\x1b[2J\u202eb\nü c")
    terminal.note("a\x1b[2J")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[2J\\u202eb\nü c\n"
    assert err == "sparse-icnet: a\\x1b[2J\n"


def test_a_line_every_few_seconds_where_there_is_no_terminal(monkeypatch):
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) == 10
    assert lines[0] == "sparse-icnet: 5 of 50 frames, 1.0 a second, 45 s left"
    assert not any("\x1b" in line or "\r" in line for line in lines)
    assert shown(monkeypatch, io.StringIO(), seconds=0.01) == ""


def test_one_line_written_over_on_a_terminal_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    text = shown(monkeypatch, Terminal())
    assert "\n" not in text
    assert "\r49 of 50 frames, 1.0 a second, 1 s left\x1b[K" in text
    assert text.endswith("\r\x1b[K")


def test_a_bar_with_rich(monkeypatch):
    pytest.importorskip("rich")
    text = shown(monkeypatch, Terminal(), total=5)
    assert "5 of 5 frames" in text
    assert "a second" in text


def test_nothing_when_quiet_or_for_one(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        assert shown(monkeypatch, stream, quiet=True) == ""
        assert shown(monkeypatch, stream, total=1) == ""
