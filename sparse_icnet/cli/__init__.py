"""The command line: parse, call the module of a command, turn errors into exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import sparse_icnet

OK, MISMATCH, BAD_INPUT, INTERNAL = 0, 1, 2, 3

DESCRIPTION = """\
Segment road scenes with ICNet in INT8, on the CPU: sky, building, pole, road, pavement, tree,
sign symbol, fence, vehicle, pedestrian, bicyclist (CamVid's classes).
"""
EPILOG = """\
examples:
  sparse-icnet segment --sample -o out           the bundled photo -> out/china.classes.png, china.overlay.png
  sparse-icnet segment street.jpg frames/ -o out a photo and every picture of a folder
  sparse-icnet verify street.jpg                 is the result that of the reference, bit for bit?
  sparse-icnet verify --against openvino         and that of OpenVINO?  (extra `reference`)
  sparse-icnet convert model.xml model.npz       OpenVINO IR or ONNX -> the native file, or back
  sparse-icnet eval --data CamVid                mIoU on CamVid/val and CamVid/valannot

MODEL is a .npz, an OpenVINO .xml (its .bin beside it), an .onnx, or the name of a bundled model.
`sparse-icnet COMMAND --help` tells more of each command.

exit codes:
  0    done; for verify: everything agrees
  1    a check failed: verify found a mismatch, or a result too trivial to prove anything
  2    wrong usage or bad input: no such file, not a model, an unreadable picture (the others are done), a
       missing optional package
  3    an error inside sparse-icnet itself: please report it
  130  interrupted (Ctrl-C)
  141  the reader of the output went away
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors of this command."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        _complain(f"{command}: {message}" if command else message, hint=f"see {self.prog} --help")
        raise SystemExit(BAD_INPUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold anything
    warnings.filterwarnings("ignore", module=r"PIL\b")  # of damage that Pillow can live with
    try:
        arguments = build_parser().parse_args(argv)
        code = import_module(f"sparse_icnet.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _complain("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _drop_stdout()
        return 141  # 128 + SIGPIPE, which Windows does not name
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        _complain(f"{where}{error.strerror or error}")
        return BAD_INPUT
    except (ValueError, ImportError, MemoryError) as error:
        if os.environ.get("SPARSE_ICNET_TRACEBACK"):
            raise
        _complain(str(error) or "not enough memory")
        return BAD_INPUT
    except Exception as error:
        if os.environ.get("SPARSE_ICNET_TRACEBACK"):
            raise
        _complain(
            f"internal error: {type(error).__name__}: {error}", hint="SPARSE_ICNET_TRACEBACK=1 shows where"
        )
        return INTERNAL


def _complain(message: str, hint: str = "") -> None:
    line = " ".join(message.splitlines()) + (f" ({hint})" if hint else "")
    print(f"sparse-icnet: error: {line}", file=sys.stderr)


def _drop_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # stdout is not a file: nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The parser, one sub-parser a command; each sets `command` to a module of this package."""
    parser = _Parser(
        prog="sparse-icnet",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sparse-icnet {sparse_icnet.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_segment, _verify, _convert, _export, _info, _eval, _profile):
        add(commands)
    return parser


def _command(
    commands, name: str, summary: str, text: str, module: str | None = None
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=module or name)
    return parser


def _segment(commands) -> None:
    parser = _command(
        commands,
        "segment",
        "pictures -> class maps and overlays",
        """\
Writes for each picture NAME.jpg two files into the output folder, both as large as the picture:
  NAME.classes.png  the class of each pixel, an indexed PNG (pixel value = class index, CamVid's colours)
  NAME.overlay.png  the picture with the colours laid over it

A FOLDER stands for the pictures directly in it, in order of their names.  Pictures of one NAME are told
apart as NAME-2, NAME-3 ...  An unreadable picture is reported, the others are done, the exit code is 2.""",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE|FOLDER", help="pictures and folders of pictures")
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="where to write; made if missing"
    )
    parser.add_argument("--sample", action="store_true", help="segment the bundled sample photo")
    parser.add_argument("--no-overlay", action="store_true", help="write class maps only")
    parser.add_argument("-q", "--quiet", action="store_true", help="no line for each picture")
    _add_model_options(parser, option=True)


def _verify(commands) -> None:
    parser = _command(
        commands,
        "verify",
        "compare the engine with a reference",
        """\
Runs the engine and a reference on the same pictures (the bundled sample if none is given) and reports for
each how far they agree.
  oracle       NumPy, the definition of the arithmetic: every tensor must be equal, bit for bit
  openvino     OpenVINO's int8 and float executions of the same network (extra `reference`)
  onnxruntime  ONNX Runtime's (extras `reference` and `onnx`)
Other runtimes round at other places: classes may differ from theirs about as often as between float32 and
float64 evaluations of the same network (the noise floor), times 1.5.  A result that proves nothing, such
as one class everywhere, does not pass.  Exit code 1: mismatch.""",
    )
    parser.usage = "%(prog)s [-h] [--against REFERENCE] [--size HxW] [--threads N] [MODEL] [IMAGE|FOLDER ...]"
    parser.add_argument(
        "files", nargs="*", metavar="MODEL, IMAGE|FOLDER", help="default: bundled model, sample"
    )
    parser.add_argument(
        "--against", choices=("oracle", "openvino", "onnxruntime"), default="oracle", help="default: oracle"
    )
    _add_size_and_threads(parser)


def _convert(commands) -> None:
    parser = _command(
        commands,
        "convert",
        "one model format to another",
        """\
Reads OpenVINO IR (version 7, 10, 11), ONNX (QDQ or FakeQuantize) or the native .npz and writes the format
that the name of OUT asks for: .npz, .xml (its .bin beside it) or .onnx (extra `onnx`).""",
        module="convert",
    )
    parser.add_argument("model", metavar="IN", help="model to read")
    parser.add_argument("output", metavar="OUT", help=".npz, .xml or .onnx to write")
    parser.add_argument(
        "--gather-zeros",
        action="store_true",
        help="permute channels so that more 4x4 blocks of weights are empty and can be skipped: same results, faster",
    )
    parser.set_defaults(size=None)


def _export(commands) -> None:
    parser = _command(
        commands,
        "export",
        "write a model as OpenVINO IR or ONNX",
        """\
Writes MODEL (default: the bundled weights) as OpenVINO IR, OUT.xml with OUT.bin beside it, or as ONNX (QDQ;
extra `onnx`).  OpenVINO and ONNX Runtime load and run the result.""",
        module="convert",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the bundled weights")
    parser.add_argument("output", metavar="OUT.xml|OUT.onnx", help="file to write")
    parser.set_defaults(gather_zeros=False)
    _add_size(parser)


def _info(commands) -> None:
    parser = _command(
        commands,
        "info",
        "what a model is made of, layer by layer",
        """\
Prints of each convolution its shape, the share of zero weights, how many 1x4 and 4x4 blocks (output x input
channels) hold a non-zero, which kernel the engine chose and why, and the bytes of its packed weights.""",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the bundled weights")
    _add_size_and_threads(parser)


def _eval(commands) -> None:
    parser = _command(
        commands,
        "eval",
        "accuracy on a folder of labelled frames",
        """\
Mean intersection over union on CamVid-style folders: DIR/val/NAME.png and labels DIR/valannot/NAME.png, 8-bit
images of class indices.  Frames are resized to the network (bilinear), labels likewise (nearest).  Class 11,
unlabelled, is ignored; a class that no label holds is left out of the mean and named.  Two columns: smooth class
maps, as `segment` writes them, and the network's blocks of 8 x 8 pixels, as the model card says.""",
    )
    parser.add_argument("--data", metavar="DIR", required=True, help="folder with SPLIT/ and SPLITannot/")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N frames")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    _add_model_options(parser, option=False)


def _profile(commands) -> None:
    parser = _command(
        commands,
        "profile",
        "where the time of one inference goes",
        """\
Times every step from an image (random pixels) to its class map by itself, median of N runs: milliseconds,
share of the whole, multiply-accumulates a second (executed, and counting the zero blocks skipped).""",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the bundled weights")
    parser.add_argument("--runs", type=_positive, default=10, metavar="N", help="default: 10")
    _add_size_and_threads(parser)


def _add_model_options(parser: argparse.ArgumentParser, option: bool) -> None:
    if option:
        parser.add_argument("--model", metavar="MODEL", help="default: the bundled weights")
    else:
        parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the bundled weights")
    _add_size_and_threads(parser)


def _add_size_and_threads(parser: argparse.ArgumentParser) -> None:
    _add_size(parser)
    parser.add_argument("--threads", type=_positive, metavar="N", help="default: one for each core")


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="network input, height x width, multiples of 32 for ICNet (default: as the file says, 768x960 if it does not)",
    )


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.lower().partition("x")
    if not (x and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 768x960, found {text!r}")
    return int(height), int(width)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 1 << 31):
        raise argparse.ArgumentTypeError(f"expected a positive integer, found {text!r}")
    return int(text)
