"""What each command takes: its arguments, their help.  Nothing is imported here that a `--help` could wait for.

A command is a function in a module of its kind, which stands in COMMANDS, and a module of `sparse_icnet.cli` with its name,
whose `run(arguments)` is imported when the command runs.
"""

from __future__ import annotations

import sparse_icnet
from sparse_icnet.cli.commands import installation, models, pictures, study
from sparse_icnet.cli.parser import Help, Parser

# In the order of the help.
COMMANDS = (
    pictures.segment,
    models.models,
    pictures.evaluate,
    pictures.verify,
    models.convert,
    models.export,
    models.info,
    study.explain,
    study.profile,
    study.analyze,
    study.report,
    installation.warmup,
    installation.completion,
)

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
  1    a check failed: verify or explain --at found a mismatch, or verify a
       result too trivial to prove anything
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
    for add in COMMANDS:
        add(commands)
    return parser
