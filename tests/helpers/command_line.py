"""What the tests of the command line share."""

from __future__ import annotations

import contextlib
import json

import numpy as np
from PIL import Image

SMALL = ["--size", "192x192", "--threads", "1"]


def assert_one_error_line(result, *parts, code=2):
    """The exit code, exactly one line on stderr in the common form, naming `parts`."""
    assert result[0] == code, result
    lines = result[2].splitlines()
    assert len(lines) == 1, result[2]
    assert lines[0].startswith("sparse-icnet: error: ")
    for part in parts:
        assert str(part) in lines[0]


def errors_of(err: str) -> str:
    """Its lines without those that -v asks for."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("sparse-icnet: ") or "error" in line)


def pictures_of(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix == ".png")


def manifest_of(folder):
    """The lines that are whole."""
    entries = []
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def read_map(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "P"
        return np.asarray(picture)
