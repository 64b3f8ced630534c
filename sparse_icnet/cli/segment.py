"""`sparse-icnet segment`: pictures -> class maps and overlays."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.entry import complain
from sparse_icnet.cli.inputs import expand, in_order, model_of
from sparse_icnet.cli.terminal import flush, say
from sparse_icnet.jobs.sources import Found, Source, counted
from sparse_icnet.jobs.work import Options, Record, segment_source

DONE, BAD_INPUT = 0, 2


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    found = _sources(arguments, output)
    options = Options(
        output,
        save=("classes",) if arguments.no_overlay else ("classes", "overlay"),
        overwrite=arguments.overwrite,
    )
    model = model_of(arguments)
    output.mkdir(parents=True, exist_ok=True)

    def segment(source: Source) -> list[Record]:
        return list(segment_source(model, source, options))

    total = len(found.sources)
    done = failures = 0
    start = time.perf_counter()
    for number, records in enumerate(in_order(segment, found.sources), 1):
        errors = [record.error for record in records if record.error]
        for error in errors:
            complain(error)
        failures += bool(errors)
        done += len(records) - len(errors)
        if len(records) > len(errors) and not arguments.quiet:
            count = f"[{number}/{total}] " if total > 1 else ""
            say(f"{count}{found.sources[number - 1].path}: {_line(records, options)}")
            flush()
    if total > 1 and not arguments.quiet:
        seconds = time.perf_counter() - start
        say(f"{total - failures} of {total} done, {done} pictures in {seconds:.1f} s -> {output}")
    return BAD_INPUT if failures else DONE


def _sources(arguments: argparse.Namespace, output: Path) -> Found:
    """What is to be segmented; says what was left out."""
    sample = [str(bundled.SAMPLE_IMAGE)] if arguments.sample else []
    if not (sample or arguments.images or arguments.lists):
        raise ValueError("segment: expected pictures, a folder, a pattern, --from or --sample, found none")
    found = expand([*sample, *arguments.images], arguments.lists, arguments.recursive, output)
    if not found.sources:
        raise ValueError(
            f"segment: expected pictures, found only results of sparse-icnet ({len(found.results)})"
            if found.results
            else "segment: expected pictures, found none"
        )
    if not arguments.quiet:
        if found.results:
            say(f"{len(found.results)} left out, results of sparse-icnet: {_some(found.results)}")
        if found.unread:
            say(f"left out, formats that are not read here: {counted(found.unread)}")
    return found


def _some(paths: list[Path], most: int = 3) -> str:
    return ", ".join(map(str, paths[:most])) + (", ..." if len(paths) > most else "")


def _line(records: list[Record], options: Options) -> str:
    """'road 31 %, sky 20 % -> files' of one picture, the number of frames and their folder of several."""
    first = records[0]
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in first.shares[:4])
    if first.frame is None:
        return f"{shares} -> {', '.join(str(path) for _, path in first.results)}"
    good = [record for record in records if not record.error]
    return f"{len(good)} frames, the first {shares} -> {first.results[0][1].parent}/"
