"""Options that several commands share, and what the words behind options mean."""

from __future__ import annotations

import argparse

from sparse_icnet.suggest import did_you_mean

RESULT_KINDS = ("classes", "overlay", "side-by-side", "confidence", "probabilities")


def add_model(
    parser: argparse.ArgumentParser,
    positional: bool = True,
    metavar: str = "MODEL",
    text: str = "see --model",
    short: bool = True,
    needed: bool = True,
) -> None:
    """--model, and the place for it that some commands have as well (`parse` makes one of both); how it is read.

    short   whether --output names an output of the model, not a place for results
    needed  whether the command takes the default model where none is named
    """
    default = " (default)" if needed and metavar == "MODEL" else ""
    if positional:
        parser.add_argument("model_here", nargs="?", metavar=metavar, help=text)
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"a file, or a bundled model by its name: sparse-60{default} or block4x4",
    )
    add_reading(parser, short)


def add_reading(parser: argparse.ArgumentParser, short: bool = True) -> None:
    """How a model is read; `short` as for `add_model`."""
    parser.add_argument(
        *(("--output",) if short else ()),
        "--model-output",
        dest="model_output",
        metavar="NAME",
        help="of a MODEL with several outputs, such as auxiliary heads, the one to compute",
    )
    parser.add_argument(
        "--bgr",
        action="store_true",
        help="MODEL expects blue, green, red, as OpenCV reads pictures, which no file says",
    )


def add_size_and_threads(
    parser: argparse.ArgumentParser, threads: str = "default: one for each core"
) -> None:
    add_size(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help=threads)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        type=json_place,
        metavar="FILE.json",
        help="the figures as JSON as well, into a file; without FILE on standard output, and nothing else there",
    )


def add_trace(parser: argparse._ActionsContainer, what: str = "one inference") -> None:
    parser.add_argument(
        "--trace",
        type=trace_file,
        metavar="FILE.json",
        help=f"{what} as trace events, every task of every thread, for ui.perfetto.dev or chrome://tracing",
    )


def add_talk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="errors and results alone")
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="more: what is done and why; twice: all that the logger sparse_icnet says",
    )


def add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=size,
        metavar="HxW",
        help="network input, height x width, multiples of 32 for ICNet (default: what the model says, else 768x960)",
    )


def folder(text: str) -> str:
    """The name of a folder; an empty one, which as a path would be the current folder, is refused."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, found an empty name")
    return text


def size(text: str) -> tuple[int, int]:
    """'768x960' -> (768, 960)."""
    height, x, width = text.lower().partition("x")
    if not (x and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 768x960, found {text!r}")
    return int(height), int(width)


def place(text: str) -> tuple[int, int, int]:
    """'12,40,55' -> (12, 40, 55): channel, row and column, counted from 0."""
    words = text.replace(" ", "").split(",")
    if len(words) != 3 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise argparse.ArgumentTypeError(
            f"expected CHANNEL,ROW,COLUMN counted from 0, such as 12,40,55, found {text!r}"
        )
    channel, row, column = map(int, words)
    return channel, row, column


def positive(text: str) -> int:
    """A positive integer below 2^31."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 1 << 31):
        raise argparse.ArgumentTypeError(f"expected a positive integer, found {text!r}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """'2/8' -> (2, 8): the second of eight parts."""
    part, _, parts = text.partition("/")
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        part = parts = "0"
    if not 1 <= int(part) <= int(parts):
        raise argparse.ArgumentTypeError(f"expected I/N such as 1/8 with I from 1 to N, found {text!r}")
    return int(part), int(parts)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def kinds(text: str) -> tuple[str, ...]:
    """'classes,overlay' -> its parts, in the order of `RESULT_KINDS`."""
    words = text.replace(" ", "").split(",")
    for word in words:
        if word not in RESULT_KINDS:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(RESULT_KINDS)} with commas between them, found {word!r}"
                f"{did_you_mean(word, RESULT_KINDS)}"
            )
    return tuple(kind for kind in RESULT_KINDS if kind in words)


def html_page(text: str) -> str:
    """A file for a page."""
    if not text.lower().endswith((".html", ".htm")):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .html, found {text!r}")
    return text


def trace_file(text: str) -> str:
    """A file for trace events."""
    if not text.lower().endswith(".json"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .json, found {text!r}")
    return text


def json_place(text: str) -> str:
    """A file for figures, or - for standard output."""
    if text != "-" and not text.lower().endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in .json, or - for standard output, found {text!r}"
        )
    return text
