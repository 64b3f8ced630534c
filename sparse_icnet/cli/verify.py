"""`sparse-icnet verify`: the engine against the oracle, OpenVINO or ONNX Runtime on the same pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.cli.inputs import pictures_in, split_model
from sparse_icnet.model import load
from sparse_icnet.reference import compare

OK, MISMATCH = 0, 1


def run(arguments: argparse.Namespace) -> int:
    model, files = split_model(arguments.files)
    pictures = [picture for file in files for picture in _pictures(Path(file))] or [bundled.SAMPLE_IMAGE]
    net = load(model, arguments.size, arguments.threads)
    blobs = [net.blob(picture)[0] for picture in pictures]
    print(
        f"{bundled.resolve(model)} at {net.size[0]}x{net.size[1]} against {arguments.against}, "
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
    print(report)
    return OK if report.passed else MISMATCH


def _pictures(path: Path) -> list[Path]:
    return pictures_in(path) if path.is_dir() else [path]


def _progress(picture: str) -> None:
    print(f"{picture} ...", file=sys.stderr)
