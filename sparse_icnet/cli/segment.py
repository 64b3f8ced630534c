"""`sparse-icnet segment`: pictures -> class maps, overlays and other results, and their manifest."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from sparse_icnet import bundled, render, video
from sparse_icnet.cli.entry import complain
from sparse_icnet.cli.inputs import expand, model_of, ready
from sparse_icnet.cli.terminal import Progress, duration, flush, note, say
from sparse_icnet.files import check_writable, remove_dead
from sparse_icnet.jobs.batch import Batch, Summary, manifest_name, shard_of
from sparse_icnet.jobs.manifest import Manifest
from sparse_icnet.jobs.outputs import DRAWN_KINDS
from sparse_icnet.jobs.overlap import StoppedError, in_order
from sparse_icnet.jobs.side_by_side import SideBySide
from sparse_icnet.jobs.sources import Found, Source, counted, folders_of
from sparse_icnet.jobs.work import FRAMES, Options, Record, model_digest, segment_source
from sparse_icnet.model import Model
from sparse_icnet.processes import default_threads
from sparse_icnet.run import machine_code

DONE, BAD_INPUT = 0, 2


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    found = _sources(arguments, output)
    many = arguments.workers is not None or arguments.scheduler is not None
    if arguments.trace is not None:
        _check_trace(arguments, found.sources)
    if arguments.workers is not None and arguments.scheduler is not None:
        raise ValueError("segment: expected --workers or --scheduler, found both")
    if many and arguments.threads is None:
        arguments.threads = min(2, default_threads())
    model = model_of(arguments)
    options = _options(arguments, output, model, single=len(found.sources) == 1)
    sources = shard_of(found.sources, arguments.shard)
    output.mkdir(parents=True, exist_ok=True)
    for folder in folders_of(sources, output):
        remove_dead(folder)
    report = _Report(sources, options, arguments)
    with Manifest(output, manifest_name(arguments.shard)) as manifest, report.progress:
        if arguments.scheduler is not None:
            with _cluster(arguments.scheduler) as executor:
                Batch(model, options, manifest, report.add, tick=report.tick).run(sources, executor)
        else:
            draws = options.drawn == "png" and not set(DRAWN_KINDS).isdisjoint(options.save)
            ready(model, arguments.quiet, [machine_code.PACK] if draws else [])
            if arguments.trace is not None:
                model.trace(found.sources[0].path, arguments.trace, not arguments.blocks)
            if arguments.workers is not None:
                batch = Batch(model, options, manifest, report.add, tick=report.tick)
                batch.run(sources, workers=arguments.workers)
            else:
                _segment_here(model, sources, options, manifest, report)
    report.end()
    return BAD_INPUT if report.summary.failures else DONE


def _check_trace(arguments: argparse.Namespace, sources: Sequence[Source]) -> None:
    """Raise now what --trace would raise after the work."""
    if arguments.scheduler is not None:
        raise ValueError("--trace: expected an inference of this process, found --scheduler")
    if sources[0].is_film:
        raise ValueError(f"--trace: expected a picture as the first source, found the film {sources[0].path}")
    check_writable(Path(arguments.trace))


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask cluster."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("--scheduler needs Dask: pip install 'sparse-icnet[batch]'") from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:  # no such address, nobody there
        raise ValueError(
            f"--scheduler {address}: expected the address of a Dask scheduler such as tcp://host:8786: {error}"
        ) from error
    with client:
        try:
            yield client.get_executor(retries=3)
        except KeyboardInterrupt:
            # Of the answers that nobody waits for any more Dask says much, up to the end of this process.
            logging.disable(logging.CRITICAL)
            raise
        except BrokenExecutor as error:
            raise ValueError(
                f"--scheduler {address}: {error}; what is done is recorded, --skip-existing goes on from there"
            ) from error


def _segment_here(
    model: Model, sources: Sequence[Source], options: Options, manifest: Manifest, report: _Report
) -> None:
    """In this process, by a few threads."""
    stop, one_at_a_time = threading.Event(), threading.Lock()
    films = any(source.is_film for source in sources)
    network = SideBySide(model, None if films else len(sources))
    frames = max(FRAMES, network.count + 1)  # one more than are computed: it is decoded or drawn

    def tick(done: int, total: int) -> None:
        if stop.is_set():
            raise StoppedError
        report.tick(done, total)

    def segment(source: Source) -> list[Record]:
        # Within a film its frames are worked on at the same time.
        with one_at_a_time if source.is_film else nullcontext():
            return list(segment_source(network, source, options, manifest, tick, frames))

    with closing(in_order(segment, sources, stop=stop)) as results:
        for source, records in zip(sources, results, strict=True):
            for line in filter(None, (record.line() for record in records)):
                manifest.append(line)
            report.add(source, records)


class _Report:
    """What is printed of the sources as they are done, and in the end."""

    def __init__(self, sources: Sequence[Source], options: Options, arguments: argparse.Namespace) -> None:
        self.summary = Summary(sources=len(sources))
        self._options, self._quiet, self._count = options, arguments.quiet, 0
        self._verbose = not arguments.quiet and (arguments.verbose or len(sources) == 1)
        self._one_film = len(sources) == 1 and sources[0].is_film
        self.progress = (
            Progress(0, "frames", arguments.quiet)
            if self._one_film
            else Progress(len(sources), "files", arguments.quiet)
        )
        self._start = time.perf_counter()

    def tick(self, done: int, total: int) -> None:
        """So many frames of a film are done."""
        if self._one_film:
            self.progress.reach(done, total)

    def add(self, source: Source, records: Sequence[Record]) -> None:
        """A source is done."""
        self._count += 1
        self.summary.add(records)
        errors = [record.error for record in records if record.error]
        good = [record for record in records if not record.error]
        lost = [record for record in good if record.unreadable and not self._quiet]
        if errors or lost or (good and self._verbose):
            with self.progress.aside():
                for record in lost:
                    note(
                        f"{record.source}: {record.unreadable} of {record.frames} frames could not be decoded"
                    )
                for error in errors:
                    complain(error)
                if good and self._verbose:
                    total = self.summary.sources
                    count = f"[{self._count}/{total}] " if total > 1 else ""
                    say(f"{count}{source.path}: {_line(good, self._options)}")
                    flush()
        if not self._one_film:
            self.progress.advance()

    def end(self) -> None:
        """The last line, of several sources."""
        if self.summary.sources > 1 and not self._quiet:
            say(_summary(self.summary, time.perf_counter() - self._start, self._options.output))


def _options(arguments: argparse.Namespace, output: Path, model: Model, single: bool) -> Options:
    palette = None
    if arguments.palette != "camvid":
        colours = render.palette(arguments.palette, len(model.class_names)).tolist()
        palette = tuple((red, green, blue) for red, green, blue in colours)
    path = bundled.resolve(arguments.model)
    save = ("classes",) if arguments.no_overlay else arguments.save
    return Options(
        output,
        model_name=bundled.short_name(path),
        model_digest=model_digest(path, arguments.model_output, arguments.bgr),
        save=save or ("classes", "overlay"),
        save_of_films=save or ("overlay",),
        smooth=not arguments.blocks,
        alpha=arguments.alpha,
        legend=single if arguments.legend is None else arguments.legend,
        palette=palette,
        dtype=arguments.dtype,
        drawn=arguments.drawn,
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


def _summary(summary: Summary, seconds: float, output: Path) -> str:
    count = summary.pictures + summary.frames
    rate = f", {count / seconds:.1f} a second" if count and seconds > 1 else ""
    frames = f" and {summary.frames} frames of videos" if summary.frames else ""
    there = f", {summary.skipped} were there" if summary.skipped else ""
    time_taken = f"{seconds:.1f} s" if seconds < 120 else duration(seconds)
    done = f"{summary.done} of {summary.sources} done: {summary.pictures} pictures{frames}"
    return f"{done} in {time_taken}{rate}{there} -> {output}"
