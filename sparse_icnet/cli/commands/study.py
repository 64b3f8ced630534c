"""Commands for those who study a network and its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_icnet.cli.commands.command import command
from sparse_icnet.cli.options import (
    add_json,
    add_model,
    add_size_and_threads,
    add_talk,
    html_page,
    place,
    positive,
)

if TYPE_CHECKING:
    from sparse_icnet.cli.commands.command import Commands


def explain(commands: Commands) -> None:
    parser = command(
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


def profile(commands: Commands) -> None:
    parser = command(
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


def report(commands: Commands) -> None:
    parser = command(
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
    add_model(parser, short=False)
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
