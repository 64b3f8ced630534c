"""`sparse-icnet report`: a network as one page that works from disk."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import model_of, ready
from sparse_icnet.cli.terminal import note, say
from sparse_icnet.files import check_writable
from sparse_icnet.image import to_rgb

MARK = b'name="generator" content="sparse-icnet '
HEAD = 1 << 12  # bytes of a page that hold its mark


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    _check_place(output, arguments.overwrite)
    image = bundled.SAMPLE_IMAGE if arguments.image is None else Path(arguments.image)
    to_rgb(image)  # an unreadable one is refused before the work
    model = model_of(arguments)
    ready(model, arguments.quiet)
    if not arguments.quiet:
        note(
            "looking for zeros"
            if arguments.no_timing
            else "measuring and looking for zeros, about half a minute"
        )
    from sparse_icnet.study.report import write_report

    write_report(model, output, image, timing=not arguments.no_timing)
    say(f"{output} ({output.stat().st_size:,} bytes)")
    return 0


def _check_place(output: Path, overwrite: bool) -> None:
    """Raise where the page cannot be written, or something else than a page is in the way."""
    check_writable(output)
    if overwrite:
        return
    with contextlib.suppress(FileNotFoundError), open(output, "rb") as file:
        if MARK not in file.read(HEAD):
            raise ValueError(
                f"{output}: expected nothing or a page of this command, found another file (--overwrite replaces it)"
            )
