"""`sparse-icnet segment`: pictures -> class maps, overlays and other results, and their manifest."""

from __future__ import annotations

import argparse
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from sparse_icnet import bundled, render, video
from sparse_icnet.cli.entry import complain
from sparse_icnet.cli.inputs import expand, model_of, ready
from sparse_icnet.cli.terminal import Progress, duration, flush, note, say
from sparse_icnet.jobs.manifest import Manifest
from sparse_icnet.jobs.overlap import StoppedError, in_order
from sparse_icnet.jobs.sources import Found, Source, counted
from sparse_icnet.jobs.work import Options, Record, model_digest, segment_source
from sparse_icnet.model import Model

DONE, BAD_INPUT = 0, 2


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    found = _sources(arguments, output)
    model = model_of(arguments)
    options = _options(arguments, output, model, single=len(found.sources) == 1)
    output.mkdir(parents=True, exist_ok=True)
    with Manifest(output) as manifest:
        ready(model, arguments.quiet)
        return _segment_all(model, found.sources, options, manifest, arguments)


def _segment_all(
    model: Model, sources: list[Source], options: Options, manifest: Manifest, arguments: argparse.Namespace
) -> int:
    stop, one_at_a_time = threading.Event(), threading.Lock()
    one_film = len(sources) == 1 and sources[0].is_film
    progress = Progress(0 if one_film else len(sources), "frames" if one_film else "files", arguments.quiet)

    def tick(done: int, total: int) -> None:
        if stop.is_set():
            raise StoppedError
        if one_film:
            progress.reach(done, total)

    def segment(source: Source) -> list[Record]:
        # Within a film its frames are worked on at the same time.
        with one_at_a_time if source.is_film else nullcontext():
            return list(segment_source(model, source, options, manifest, tick))

    total = len(sources)
    verbose = not arguments.quiet and (arguments.verbose or total == 1)
    failures = pictures = skipped = 0
    start = time.perf_counter()
    with progress:
        for number, records in enumerate(in_order(segment, sources, stop=stop), 1):
            for line in filter(None, (record.line() for record in records)):
                manifest.append(line)
            errors = [record.error for record in records if record.error]
            good = [record for record in records if not record.error]
            failures += bool(errors)
            pictures += sum(not record.skipped for record in good)
            skipped += sum(record.skipped for record in good)
            lost = [record for record in good if record.unreadable and not arguments.quiet]
            if errors or lost or (good and verbose):
                with progress.aside():
                    for record in lost:
                        note(
                            f"{record.source}: {record.unreadable} of {record.frames} frames could not be decoded"
                        )
                    for error in errors:
                        complain(error)
                    if good and verbose:
                        count = f"[{number}/{total}] " if total > 1 else ""
                        say(f"{count}{sources[number - 1].path}: {_line(good, options)}")
                        flush()
            if not one_film:
                progress.advance()
    if total > 1 and not arguments.quiet:
        say(_summary(total - failures, total, pictures, skipped, time.perf_counter() - start, options.output))
    return BAD_INPUT if failures else DONE


def _options(arguments: argparse.Namespace, output: Path, model: Model, single: bool) -> Options:
    palette = None
    if arguments.palette != "camvid":
        colours = render.palette(arguments.palette, len(model.classes)).tolist()
        palette = tuple((red, green, blue) for red, green, blue in colours)
    path = bundled.resolve(arguments.model)
    save = ("classes",) if arguments.no_overlay else arguments.save
    return Options(
        output,
        model_name=bundled.short_name(path),
        model_digest=model_digest(path),
        save=save or ("classes", "overlay"),
        save_of_films=save or ("overlay",),
        smooth=not arguments.blocks,
        alpha=arguments.alpha,
        legend=single if arguments.legend is None else arguments.legend,
        palette=palette,
        dtype=arguments.dtype,
        skip_existing=arguments.skip_existing,
        overwrite=arguments.overwrite,
    )


def _sources(arguments: argparse.Namespace, output: Path) -> Found:
    """What is to be segmented; says what was left out."""
    sample = [str(bundled.SAMPLE_IMAGE)] if arguments.sample else []
    if not (sample or arguments.images or arguments.lists):
        raise ValueError("segment: expected pictures, a folder, a pattern, --from or --sample, found none")
    found = expand([*sample, *arguments.images], arguments.lists, arguments.recursive, output, films=True)
    if not found.sources:
        raise ValueError(
            f"segment: expected pictures, found only results of sparse-icnet ({len(found.results)})"
            if found.results
            else "segment: expected pictures, found none"
        )
    if not arguments.quiet:
        if found.results:
            note(f"{len(found.results)} left out, results of sparse-icnet: {_some(found.results)}")
        if found.unread:
            films = not found.unread.keys().isdisjoint(video.SUFFIXES)
            hint = f"; {video.EXTRA}" if films else ""
            note(f"left out, formats that are not read here: {counted(found.unread)}{hint}")
    return found


def _some(paths: list[Path], most: int = 3) -> str:
    return ", ".join(map(str, paths[:most])) + (", ..." if len(paths) > most else "")


def _line(records: list[Record], options: Options) -> str:
    """'road 31 %, sky 20 % -> files' of one picture, the number of frames and their folder of several."""
    first = records[0]
    paths = [str(options.output / name) for name in first.results.values()]
    if all(record.skipped for record in records):
        return "skipped, its results are there"
    shares = ", ".join(f"{name} {render.share_text(share)}" for name, share in list(first.shares.items())[:4])
    if first.frames is not None and first.unreadable is not None:
        return f"{first.frames - first.unreadable} frames, {shares} -> {', '.join(paths)}"
    if first.frame is None:
        return f"{shares} -> {', '.join(paths)}"
    new = sum(not record.skipped for record in records)
    return f"{new} of {len(records)} frames -> {Path(paths[0]).parent}/"


def _summary(good: int, total: int, pictures: int, skipped: int, seconds: float, output: Path) -> str:
    rate = f", {pictures / seconds:.1f} a second" if pictures and seconds > 1 else ""
    there = f", {skipped} were there" if skipped else ""
    time_taken = f"{seconds:.1f} s" if seconds < 120 else duration(seconds)
    return f"{good} of {total} done: {pictures} pictures in {time_taken}{rate}{there} -> {output}"
