"""Many pictures and long films, on all cores of a machine or on many machines, by any `concurrent.futures.Executor`.

    from sparse_icnet.batch import segment_files

    if __name__ == "__main__":                                   # worker processes import the script
        summary = segment_files(["frames/", "drive.mp4"], "out")
        print(summary.pictures, summary.frames, summary.failures)

Without an executor there is one process for each pair of cores.  With one, its workers must see sources, model and output
folder under the same paths; each loads the model once.  Dask (extra `batch`), Ray and MPI:

    with distributed.Client("tcp://scheduler:8786") as client:
        segment_files(sources, output, client.get_executor(retries=3))

    class OnRay(concurrent.futures.Executor):
        def submit(self, function, /, *arguments):
            return ray.remote(function).options(max_retries=3).remote(*arguments).future()

    # mpiexec -n 9 python -m mpi4py.futures script.py
    with mpi4py.futures.MPIPoolExecutor() as executor:
        segment_files(sources, output, executor)

Array jobs need no executor: `shard=(i, n)`, i from 1 to n, takes each n-th source and writes a manifest of its own.

The executor decides where and when a task runs.  A task is one source, or some frames of a long film, whose parts are
joined at the end.  Results do not depend on who computed them, nor on how often: a task whose worker died runs again, and
its lines of the manifest, which only the caller writes, come once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from sparse_icnet import bundled, render
from sparse_icnet.files import remove_dead
from sparse_icnet.jobs.batch import AT_ONCE, STRETCH, Batch, OnRecords, Summary, manifest_name, shard_of
from sparse_icnet.jobs.manifest import Manifest
from sparse_icnet.jobs.outputs import SUFFIX_OF_KIND
from sparse_icnet.jobs.sources import expand, folders_of
from sparse_icnet.jobs.work import Options, model_digest
from sparse_icnet.loading import load
from sparse_icnet.model import Model
from sparse_icnet.network.graph import Size
from sparse_icnet.render import ALPHA, PaletteLike

__all__ = ["Summary", "segment_files"]


def segment_files(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    executor: Executor | None = None,
    *,
    model: Model | str | os.PathLike[str] | None = None,
    size: Size | None = None,
    threads: int = 2,
    workers: int | None = None,
    recursive: bool = False,
    save: Sequence[str] | None = None,
    smooth: bool = True,
    alpha: float = ALPHA,
    legend: bool = False,
    palette: PaletteLike = "camvid",
    dtype: str = "float16",
    drawn: str = "png",
    skip_existing: bool = False,
    overwrite: bool = False,
    shard: tuple[int, int] | None = None,
    stretch: int = STRETCH,
    at_once: int = AT_ONCE,
    on_records: OnRecords | None = None,
) -> Summary:
    """Segment pictures, animations and videos into the folder `output`, as `sparse-icnet segment` does.

    sources    files, folders and patterns, as on the command line
    executor   any; its workers import sparse_icnet.  None: a pool of processes, one for each pair of cores
    model      loaded, or as for `sparse_icnet.load`, with `size` and `threads`
    workers    processes of the pool; None: cores / threads
    save       kinds of results, of `sparse_icnet.result.KINDS`; None: classes and overlay, of a video the overlay
    shard      (i, n): the i-th of n parts of the sources, which all n jobs must find the same
    stretch    frames of a video that are one task, rounded up to a multiple of `sparse_icnet.video.GROUP`
    at_once    most tasks that an executor holds at a time
    on_records called with each source that is done and its records
    The others are those of `sparse_icnet.jobs.work.Options`.

    What is wrong with one source is among the failures of the summary, the others are done.  Raises ValueError for
    arguments of no use, OSError where nothing can be written, BrokenExecutor where `executor` broke, after all that was
    done has been recorded; `skip_existing` goes on from there.
    """
    output = Path(output)
    several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    found = expand([os.fspath(one) for one in several], recursive=recursive, output=output, films=True)
    net = model if isinstance(model, Model) else load(model, size, threads)
    colours = None
    if not (isinstance(palette, str) and palette == "camvid"):
        red_green_blue = render.palette(palette, len(net.class_names)).tolist()
        colours = tuple((red, green, blue) for red, green, blue in red_green_blue)
    kinds = None if save is None else _checked_kinds(save)
    options = Options(
        output,
        model_name=bundled.short_name(net.path)
        if net.path
        else bundled.short_name(None, net.graph.meta.name),
        model_digest=model_digest(net.path, net.output_name, net.bgr)
        if net.path
        else f"network:{net.digest}",
        save=kinds or ("classes", "overlay"),
        save_of_films=kinds or ("overlay",),
        smooth=smooth,
        alpha=alpha,
        legend=legend,
        palette=colours,
        dtype=dtype,
        drawn=_checked_format(drawn),
        skip_existing=skip_existing,
        overwrite=overwrite,
    )
    output.mkdir(parents=True, exist_ok=True)
    part = shard_of(found.sources, shard)
    for folder in folders_of(part, output):
        remove_dead(folder)
    with Manifest(output, manifest_name(shard)) as manifest:
        batch = Batch(net, options, manifest, on_records, stretch)
        return batch.run(part, executor, workers, at_once)


def _checked_format(drawn: str) -> str:
    if drawn not in ("png", "jpeg"):
        raise ValueError(f"drawn: expected png or jpeg, found {drawn!r}")
    return drawn


def _checked_kinds(save: Sequence[str]) -> tuple[str, ...]:
    words = [save] if isinstance(save, str) else save
    for word in words:
        if word not in SUFFIX_OF_KIND:
            raise ValueError(f"save: expected some of {', '.join(SUFFIX_OF_KIND)}, found {word!r}")
    return tuple(kind for kind in SUFFIX_OF_KIND if kind in words)
