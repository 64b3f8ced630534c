"""`sparse-icnet verify`: the engine against the oracle, OpenVINO or ONNX Runtime on the same pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import expand, model_of, split_model
from sparse_icnet.cli.terminal import say
from sparse_icnet.reference import compare

OK, MISMATCH = 0, 1


def run(arguments: argparse.Namespace) -> int:
    files = arguments.files
    if arguments.model is None:
        arguments.model, files = split_model(files)
    pictures = [Path(source.path) for source in expand(files).sources] or [bundled.SAMPLE_IMAGE]
    net = model_of(arguments)
    blobs = [net.blob(picture)[0] for picture in pictures]
    say(
        f"{bundled.resolve(arguments.model)} at {net.size[0]}x{net.size[1]} against {arguments.against}, "
        f"{len(pictures)} picture{'s' * (len(pictures) > 1)}"
    )
    report = compare.verify(
        net.graph,
        blobs,
        arguments.against,
        compare.SessionEngine(net.graph, net.session, net.threads),
        names=[picture.name for picture in pictures],
        threads=arguments.threads,
        progress=_progress if len(pictures) > 1 else None,
    )
    say(report)
    return OK if report.passed else MISMATCH


def _progress(picture: str) -> None:
    print(f"{picture} ...", file=sys.stderr)
