"""Commands on pictures: what a network makes of them, and whether that is right."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sparse_icnet.cli.commands.command import command
from sparse_icnet.cli.options import (
    RESULT_KINDS,
    add_json,
    add_model,
    add_size_and_threads,
    add_talk,
    add_trace,
    folder,
    kinds,
    positive,
    shard,
    share,
)

if TYPE_CHECKING:
    from sparse_icnet.cli.commands.command import Commands


def segment(commands: Commands) -> None:
    parser = command(
        commands,
        "segment",
        "pictures, videos -> class maps and overlays",
        """\
Writes for each picture into the output folder what --save names:
  street.jpg.classes.png       the class of each pixel, an indexed PNG (pixel
                               value = class index), as large as the picture
  street.jpg.overlay.png       the picture with the colours of the classes
                               laid over it, of a single picture with a legend
  street.jpg.side-by-side.png  the picture, and beside it the overlay
  street.jpg.confidence.png    grey: the probability of each pixel's class
  street.jpg.probabilities.npy (classes, height, width)
and a line in manifest.jsonl: source, digest, size, model, results, shares of
the classes, confidence, milliseconds.

A FOLDER stands for the pictures in it, in order of their names, a quoted
'PATTERN' for what it matches.  Results keep the tree: frames/seq1/0001.jpg of
--recursive frames/ goes to seq1/0001.jpg.classes.png.  Of an animation (GIF,
WebP, PNG, AVIF) each frame is a picture: walk.gif/00001.classes.png.

A video (.mp4 .mov .mkv .webm .avi .m4v; extra `video`) gives a video of the
same size and rate without sound, drive.avi.overlay.mp4, and, where --save names
them, classes, confidence or probabilities of each frame,
drive.avi/00001.classes.png.  Frames that cannot be decoded are
counted and said.

Each result says inside whose it is.  Results are no input.  One of the same
picture is replaced; one of another, or any other file in the way, only with
--overwrite.  An unreadable picture is reported, the others are done, the exit
code is 2.""",
    )
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE|FOLDER|PATTERN", help="pictures, videos, folders, quoted patterns"
    )
    parser.set_defaults(many="images")
    sources = parser.add_argument_group("sources")
    sources.add_argument("--sample", action="store_true", help="segment the bundled sample photo")
    sources.add_argument("--recursive", action="store_true", help="look into the folders in a folder as well")
    sources.add_argument(
        "--from",
        dest="lists",
        action="append",
        default=[],
        metavar="LIST",
        help="a file with a path in each line, - for standard input; names of results keep these paths",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "-o", "--output", type=folder, metavar="DIR", required=True, help="where to write; made if missing"
    )
    results.add_argument(
        "--save",
        type=kinds,
        metavar="KINDS",
        help=f"some of {', '.join(RESULT_KINDS)} with commas between them "
        "(default: classes,overlay; of a video overlay)",
    )
    results.add_argument(
        "--drawn",
        choices=("png", "jpeg"),
        default="png",
        help="format of overlays and side-by-side pictures; JPEG takes a tenth of the time (default: png)",
    )
    results.add_argument("--no-overlay", action="store_true", help="the same as --save classes")
    results.add_argument(
        "--blocks", action="store_true", help="the network's own blocks of 8 x 8 pixels, no smooth edges"
    )
    results.add_argument(
        "--alpha", type=share, default=0.55, help="share of the colour in overlays, 0 to 1 (default: 0.55)"
    )
    results.add_argument(
        "--legend",
        action=argparse.BooleanOptionalAction,
        help="names and shares beside overlays (default: of a single picture)",
    )
    results.add_argument(
        "--palette",
        default="camvid",
        metavar="NAME|FILE",
        help="camvid, colour-blind, or a file with (r, g, b) in each line (default: camvid)",
    )
    results.add_argument("--classes", metavar="FILE", help="names of the classes, one in each line")
    results.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of probabilities (default: float16)",
    )
    results.add_argument(
        "--skip-existing",
        action="store_true",
        help="go on where an earlier run stopped: leave out what manifest.jsonl and the files say is done, "
        "of the same picture, model and options",
    )
    results.add_argument(
        "--overwrite", action="store_true", help="replace whatever is in the way of a result"
    )
    many = parser.add_argument_group("many processes and machines")
    many.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="so many processes, of --threads each (default: 2)",
    )
    many.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="the workers of a Dask cluster, tcp://host:8786, which see the same folders (extra `batch`)",
    )
    many.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="the I-th of N parts, for array jobs: each N-th source; all find the same ones",
    )
    add_trace(results, "the inference of the first picture")
    add_model(parser, positional=False, short=False)
    add_size_and_threads(
        parser,
        "that compute, of a single picture all together, of several each its own picture (default: one for each core)",
    )
    add_talk(parser)


def evaluate(commands: Commands) -> None:
    parser = command(
        commands,
        "eval",
        "accuracy on a folder of labelled frames",
        """\
Mean intersection over union on CamVid-style folders: DIR/val/NAME.png and
labels DIR/valannot/NAME.png, 8-bit images of class indices.  Frames are resized
to the network (bilinear), labels likewise (nearest).  Class 11, unlabelled, is
ignored; a class that no label holds is left out of the mean and named.

Two columns: smooth class maps, as `segment` writes them, and the network's
blocks of 8 x 8 pixels, as the model card says.""",
    )
    parser.usage = "%(prog)s [options] --data DIR [MODEL]"
    add_model(parser)
    parser.add_argument(
        "--data", type=folder, metavar="DIR", help="folder with SPLIT/ and SPLITannot/ (required)"
    )
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N frames")
    add_json(parser)
    add_size_and_threads(parser)
    add_talk(parser)


def verify(commands: Commands) -> None:
    parser = command(
        commands,
        "verify",
        "compare the engine with a reference",
        """\
Runs the engine and a reference on the same pictures (the bundled sample if none
is given) and reports for each how far they agree.
  oracle       NumPy, the definition of the arithmetic: every tensor and
               the smooth class map must be equal, bit for bit
  openvino     OpenVINO's int8 and float executions of the same network (extra
               `reference`)
  onnxruntime  ONNX Runtime's (extras `reference` and `onnx`)
Other runtimes round at other places: classes may differ from theirs about as
often as between float32 and float64 evaluations of the same network (the noise
floor), times 1.5.  A result that proves nothing, such as one class everywhere,
does not pass.  Exit code 1: mismatch.""",
    )
    parser.usage = "%(prog)s [options] [MODEL] [IMAGE|FOLDER ...]"
    parser.add_argument(
        "files", nargs="*", metavar="MODEL, IMAGE|FOLDER", help="default: the default model, the sample"
    )
    parser.set_defaults(many="files")
    parser.add_argument(
        "--against", choices=("oracle", "openvino", "onnxruntime"), default="oracle", help="default: oracle"
    )
    add_json(parser)
    add_model(parser, positional=False)
    add_size_and_threads(parser)
    add_talk(parser)
