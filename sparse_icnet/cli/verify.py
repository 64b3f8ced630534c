"""`sparse-icnet verify`: the engine against the oracle, OpenVINO or ONNX Runtime on the same pictures."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

from numpy.typing import NDArray

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import check_json, expand, model_of, ready, split_model
from sparse_icnet.cli.terminal import Progress, say, say_wrapped, write_json
from sparse_icnet.model import Model
from sparse_icnet.reference import compare
from sparse_icnet.reference.engines import SessionEngine
from sparse_icnet.reference.report import Report

OK, MISMATCH = 0, 1


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    files = arguments.files
    named, rest = split_model(files)
    if named is not None and arguments.model is not None:
        raise ValueError(f"verify: expected one model, found {named} and --model {arguments.model}")
    if named is not None:
        arguments.model, files = named, rest
    pictures = [Path(source.path) for source in expand(files).sources] or [bundled.SAMPLE_IMAGE]
    net = model_of(arguments)
    blobs = _Blobs(net, pictures)
    if arguments.json != "-":
        say_wrapped(
            f"{bundled.resolve(arguments.model)} at {net.size[0]}x{net.size[1]} against {arguments.against}, "
            f"{len(pictures)} picture{'s' * (len(pictures) > 1)}"
        )
    ready(net, arguments.quiet)
    with Progress(len(pictures), "pictures", arguments.quiet) as progress:
        started = itertools.count()
        report = compare.verify(
            net.graph,
            blobs,
            arguments.against,
            SessionEngine(net.graph, net.session, net.threads),
            names=[picture.name for picture in pictures],
            threads=arguments.threads,
            progress=lambda _: progress.advance(1 if next(started) else 0),  # said when a picture begins
        )
    if arguments.json != "-":
        say(report)
    if arguments.json:
        write_json(_figures(report, arguments), arguments.json)
    return OK if report.passed else MISMATCH


class _Blobs(Sequence[NDArray[Any]]):
    """Inputs of the network as the file takes them, each made when it is asked for: those of a folder would fill memory."""

    def __init__(self, net: Model, pictures: Sequence[Path]) -> None:
        self._net, self._pictures = net, pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> _Blobs: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | _Blobs:
        if isinstance(index, slice):
            return _Blobs(self._net, self._pictures[index])
        return self._net.blob(self._pictures[index])


def _figures(report: Report, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": bundled.short_name(bundled.resolve(arguments.model)),
        "against": report.against,
        "passed": report.passed,
        "problems": list(report.problems),
        "tensors_equal": report.traced,
        "pictures": [
            {name: None if value != value else value for name, value in asdict(row).items()}  # NaN: no figure
            for row in report.differences
        ],
        "allowed": {runtime: report.allowed(runtime) for runtime in report.runtimes},
        "notes": list(report.notes),
    }
