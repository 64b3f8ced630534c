"""Commands on this installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_icnet.cli.commands.command import command
from sparse_icnet.cli.options import add_model, add_size_and_threads, add_talk

if TYPE_CHECKING:
    from sparse_icnet.cli.commands.command import Commands


def warmup(commands: Commands) -> None:
    parser = command(
        commands,
        "warmup",
        "compile the kernels now, not at the first inference",
        """\
The first inference on a machine compiles the kernels for its CPU (5 to 60 s)
and keeps the machine code: in NUMBA_CACHE_DIR if that is set, else beside the
sources, else in the user's cache folder.  This does it ahead, for instance when
the image of a container is built.  Where nothing can be kept the exit code is
2.

Of a native MODEL the plan is kept as well, some 2 to 20 MB: what the engine
makes of it for this CPU, --size and --threads.  Commands that ask for the same
then start in half the time.  Without this a plan is kept when a model is loaded
the second time; SPARSE_ICNET_KEEP_PLANS=0 keeps and uses none.""",
    )
    add_model(parser, text="keep its plan as well", needed=False)
    add_size_and_threads(parser)
    add_talk(parser)


def completion(commands: Commands) -> None:
    parser = command(
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
