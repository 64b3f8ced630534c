"""Commands on model files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_icnet.cli.commands.command import command
from sparse_icnet.cli.options import add_json, add_model, add_size, add_size_and_threads, add_talk

if TYPE_CHECKING:
    from sparse_icnet.cli.commands.command import Commands


def models(commands: Commands) -> None:
    parser = command(
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


def convert(commands: Commands) -> None:
    parser = command(
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


def export(commands: Commands) -> None:
    parser = command(
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


def info(commands: Commands) -> None:
    parser = command(
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
