"""What each command takes: its arguments, their help.  Nothing is imported here that a `--help` could wait for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import sparse_icnet
from sparse_icnet.cli.options import (
    RESULT_KINDS,
    add_json,
    add_model,
    add_size,
    add_size_and_threads,
    add_talk,
    folder,
    html_page,
    kinds,
    place,
    positive,
    shard,
    share,
)
from sparse_icnet.cli.parser import Help, Parser

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[Parser]

DESCRIPTION = """\
Segment road scenes with ICNet in INT8, on the CPU: sky, building, pole, road,
pavement, tree, sign symbol, fence, vehicle, pedestrian, bicyclist (CamVid's
classes).
"""
EPILOG = """\
examples:
  sparse-icnet segment --sample -o out        the bundled photo
  sparse-icnet segment a.jpg frames/ -o out   a photo and a folder of pictures
  sparse-icnet segment a.jpg -o out --model block4x4    the faster model
  sparse-icnet verify a.jpg                   the reference's result, every bit?
  sparse-icnet verify --against openvino      and OpenVINO's? (extra `reference`)
  sparse-icnet convert model.xml model.npz    OpenVINO IR or ONNX to the native
                                              file, or back
  sparse-icnet explain conv3_1/3x3            one layer: zeros, kernel, machine code
  sparse-icnet eval --data CamVid             mIoU on CamVid/val, CamVid/valannot

MODEL is a .npz, an OpenVINO .xml (its .bin beside it), an .onnx, or a bundled
model by its name: sparse-60, block4x4 (`sparse-icnet models` compares them).
`sparse_icnet/formats/README.md` lists which files of which tools are read.
`sparse-icnet COMMAND --help` tells more of each command.

exit codes:
  0    done; for verify: everything agrees
  1    a check failed: verify found a mismatch, or a result too trivial to
       prove anything
  2    wrong usage or bad input: no such file, not a model, an unreadable
       picture (the others are done), a result of another source in the way, a
       missing optional package
  3    an error inside sparse-icnet itself: please report it
  130  interrupted (Ctrl-C)
  141  the reader of the output went away
"""


def build_parser() -> Parser:
    """The parser, one sub-parser a command; each sets `command`, and `module` to the module that runs it."""
    parser = Parser(prog="sparse-icnet", description=DESCRIPTION, epilog=EPILOG, formatter_class=Help)
    parser.add_argument("--version", action="version", version=f"sparse-icnet {sparse_icnet.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser, title="commands"
    )
    for add in (
        *(_segment, _models, _eval, _verify, _convert, _export),
        *(_info, _explain, _profile, _report, _warmup, _completion),
    ):
        add(commands)
    return parser


def _command(commands: Commands, name: str, summary: str, text: str, module: str | None = None) -> Parser:
    parser: Parser = commands.add_parser(name, help=summary, description=text, formatter_class=Help)
    parser.set_defaults(module=module or name)
    return parser


def _segment(commands: Commands) -> None:
    parser = _command(
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
    add_model(parser, positional=False, short=False)
    add_size_and_threads(parser)
    add_talk(parser)


def _verify(commands: Commands) -> None:
    parser = _command(
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


def _convert(commands: Commands) -> None:
    parser = _command(
        commands,
        "convert",
        "one model format to another",
        """\
Reads OpenVINO IR (version 7, 10, 11), ONNX (QDQ or FakeQuantize) or the native
.npz and writes the format that the name of OUT asks for: .npz, .xml (its .bin
beside it) or .onnx (extra `onnx`).  OUT is replaced if it is there; a .bin only
together with its .xml.""",
    )
    add_model(parser, metavar="IN", text="model to read")
    parser.add_argument("output", metavar="OUT", help=".npz, .xml or .onnx to write")
    parser.add_argument(
        "--gather-zeros",
        action="store_true",
        help="permute channels so that more 4x4 blocks of weights are empty and can be skipped: same results, faster",
    )
    parser.set_defaults(size=None)
    add_talk(parser)


def _export(commands: Commands) -> None:
    parser = _command(
        commands,
        "export",
        "write a model as OpenVINO IR or ONNX",
        """\
Writes MODEL as OpenVINO IR, OUT.xml with OUT.bin beside it, or as ONNX (QDQ;
extra `onnx`).  OpenVINO and ONNX Runtime load and run the result.""",
        module="convert",
    )
    add_model(parser)
    parser.add_argument("output", metavar="OUT.xml|OUT.onnx", help="file to write")
    parser.set_defaults(gather_zeros=False)
    add_size(parser)
    add_talk(parser)


def _info(commands: Commands) -> None:
    parser = _command(
        commands,
        "info",
        "what a model is made of, layer by layer",
        """\
Prints of each convolution its shape, the share of zero weights, the share of
4x4 blocks (output x input channels) that hold nothing but zeros, and which
kernel the engine chose; on a wider terminal also why, the size of its output,
the bytes of its packed weights, the share of empty 1x4 blocks.""",
    )
    add_model(parser)
    add_json(parser)
    add_size_and_threads(parser)
    add_talk(parser)


def _explain(commands: Commands) -> None:
    parser = _command(
        commands,
        "explain",
        "the life of one layer, down to a value and to the instructions",
        """\
Prints of the operation LAYER what it is in the paper and in the file, which
rewrites touched it and how many products each saved, in which forms its weights
are stored, which kernel computes it, why and where its source is, and the
equations that it computes.

--at C,Y,X adds the arithmetic of that value of its output for a picture: the
codes that are read, each product with a weight that is not zero, sum,
multiplier, bias, residual, rounding, code; by the reference, and compared with
what the engine has there.  -v lists all products.

--machine-code adds the inner loop of its kernel as this CPU runs it, from the
object code that is loaded, read by objdump or llvm-objdump; without one by
compiling the kernels once more (15 to 60 s).

examples:
  sparse-icnet explain conv3_1/3x3
  sparse-icnet explain conv3_1/increase --at 12,40,55 --image street.jpg
  sparse-icnet explain conv3_1/3x3 --model block4x4 --machine-code""",
    )
    parser.add_argument(
        "layer", metavar="LAYER", help="an operation, such as conv3_1/3x3 (`info` lists the layers)"
    )
    parser.add_argument(
        "--at", type=place, metavar="C,Y,X", help="channel, row and column of a value, from 0"
    )
    parser.add_argument("--image", metavar="FILE", help="the picture for --at (default: the bundled sample)")
    parser.add_argument("--machine-code", action="store_true", help="the inner loop of its kernel")
    add_model(parser, positional=False)
    add_json(parser)
    add_size_and_threads(parser)
    add_talk(parser)


def _eval(commands: Commands) -> None:
    parser = _command(
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


def _profile(commands: Commands) -> None:
    parser = _command(
        commands,
        "profile",
        "where the time of one inference goes",
        """\
Times every step from an image (random pixels) to its class map by itself,
median of N runs: milliseconds, share of the whole, multiply-accumulates a
second (executed, and counting the zero blocks skipped).""",
    )
    add_model(parser)
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="default: 10")
    add_json(parser)
    add_size_and_threads(parser)
    add_talk(parser)


def _report(commands: Commands) -> None:
    parser = _command(
        commands,
        "report",
        "a network as one page: its zeros, its products, its time",
        """\
Writes one HTML page that needs no network and no other file: the network drawn
with every layer, coloured by its zeros, kernels, products or time; for each
layer its zeros before and after gathering, histograms of weights and
activations, stored forms; what the rewrites save; the roofline of this machine;
accuracy and speed of the models; a picture with its classes and confidence.

Any model that the engine runs has such a page; it says what it could not
measure.""",
    )
    add_model(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=html_page,
        default="report.html",
        metavar="FILE.html",
        help="default: report.html",
    )
    parser.add_argument(
        "--image", metavar="FILE", help="picture to show and to count activations of (default: the sample)"
    )
    parser.add_argument("--no-timing", action="store_true", help="measure nothing: quicker, without times")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is no such page")
    add_size_and_threads(parser)
    add_talk(parser)


def _models(commands: Commands) -> None:
    parser = _command(
        commands,
        "models",
        "the bundled models, and when to use which",
        """\
Lists the models that come with the package: share of zero weights, share of
the multiply-accumulates that zeros make superfluous, mean IoU, what it is for.
Their names stand for their files in every command.""",
    )
    add_json(parser)
    add_talk(parser)


def _warmup(commands: Commands) -> None:
    parser = _command(
        commands,
        "warmup",
        "compile the kernels now, not at the first inference",
        """\
The first inference on a machine compiles the kernels for its CPU (15 to 60 s)
and keeps the machine code: in NUMBA_CACHE_DIR if that is set, else beside the
sources, else in the user's cache folder.  This does it ahead, for instance when
the image of a container is built.  Where nothing can be kept the exit code is
2.""",
    )
    add_talk(parser)


def _completion(commands: Commands) -> None:
    parser = _command(
        commands,
        "completion",
        "a script that completes this command in bash or zsh",
        """\
Prints a script for the shell (extra `cli`).  To keep it:
  sparse-icnet completion bash > \\
      ~/.local/share/bash-completion/completions/sparse-icnet
  sparse-icnet completion zsh > FOLDER/_sparse-icnet   (FOLDER in $fpath)""",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="for which shell")
