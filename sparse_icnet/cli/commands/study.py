"""Commands for those who study a network and its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_icnet.cli.commands.command import command
from sparse_icnet.cli.options import (
    add_json,
    add_model,
    add_reading,
    add_size,
    add_size_and_threads,
    add_talk,
    add_trace,
    html_page,
    place,
    positive,
)
from sparse_icnet.study.isa import ISAS

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
compiling its kernel once more (some seconds).

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
Times every step of the inference from the bundled photo to its class map:
milliseconds (median and quartiles of N runs), share of the whole,
multiply-accumulates a second (executed, and counting the zero blocks skipped).
Says so where the machine is too busy for the figures to mean much.  What the
zeros of a model save, `sparse-icnet analyze` measures.""",
    )
    add_model(parser)
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="default: 10")
    add_trace(parser)
    add_json(parser)
    add_size_and_threads(parser)
    add_talk(parser)


def analyze(commands: Commands) -> None:
    parser = command(
        commands,
        "analyze",
        "where the time goes and what zeros buy",
        """\
Times every layer of one model, or of two in turns (A B, B A, ...), and beside
each the same network with no zero among its weights, planned anew: what its
zeros save, in milliseconds.  Also products executed and skipped, and the share
of the most that the CPU's dot product can do, which is measured in between.

Two models, or one with two numbers of --threads or two classes of CPUs --isa:
  sparse-icnet analyze sparse-60 block4x4
  sparse-icnet analyze --threads 1 2
  sparse-icnet analyze block4x4 --isa native avx2

Every figure is the median of the rounds, with its quartiles.  A difference
whose quartiles lie on both sides of 0 is marked ~: this run cannot tell.  Where
whole inferences vary by more than a tenth between their quartiles, a warning
says so.""",
    )
    parser.usage = "%(prog)s [options] [A] [B]"
    parser.add_argument("models", nargs="*", metavar="A, B", help="models; default: the default one")
    parser.set_defaults(many="models")
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="default: 15")
    parser.add_argument(
        "--sort",
        choices=("saved", "time", "order", "difference"),
        help="layers by what their zeros save (default of one model), by time, in the order of the network, "
        "by their difference (default of two)",
    )
    parser.add_argument(
        "--no-dense", dest="dense", action="store_false", help="leave out the network without zeros: quicker"
    )
    parser.add_argument("--image", metavar="FILE", help="a picture; default: the bundled photo")
    add_reading(parser)
    add_trace(parser, "one inference of A")
    add_json(parser)
    add_size(parser)
    parser.add_argument(
        "--threads",
        type=positive,
        nargs="+",
        metavar="N",
        help="one or two numbers; default: one for each core",
    )
    parser.add_argument(
        "--isa",
        nargs="+",
        choices=ISAS,
        help="one or two of " + ", ".join(ISAS) + ": code for these CPUs, each in a process of its own",
    )
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
