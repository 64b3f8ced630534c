"""What campaigns work on: a small model, pictures with the results they must have, commands in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from networks import random_icnet, random_picture
from PIL import Image

from sparse_icnet.formats import native
from sparse_icnet.run import machine_code

from . import HELPERS, ROOT

SIZE = (192, 192)
SMALL = ("--size", "192x192", "--threads", "1")
PATIENCE = 300.0  # seconds after which a process that does not end is a fault, on however busy a machine
# Says when the command is there to answer: before, only the interpreter could.
START = (
    "import os, sys\nfrom sparse_icnet.cli import main\n"
    "if __name__ == '__main__':\n    os.write(int(sys.argv.pop(1)), b'x')\n    sys.exit(main())\n"
)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    code     as `subprocess` has it
    seconds  from its signal, or from its start, to its end
    answered whether it came so far as to answer
    """

    code: int
    out: str
    err: str
    seconds: float
    answered: bool = True

    @property
    def complaint(self) -> str:
        """What it printed, in one line."""
        return f"exit code {self.code}, stdout {self.out[-300:]!r}, stderr {self.err[-600:]!r}"

    def one_line(self, *codes: int) -> bool:
        """Whether it ended with one of `codes` and one line of error, the form of all errors of the command."""
        lines = self.err.splitlines()
        return self.code in codes and len(lines) == 1 and lines[0].startswith("sparse-icnet: error: ")


class Workshop:
    """A folder with all that campaigns need, gone with the context."""

    def __init__(self, folder: Path, pictures: int) -> None:
        machine_code.warm_up()
        self.folder = folder
        self.model = folder / "model.npz"
        native.save(random_icnet(SIZE, seed=1), self.model)
        self.frames = folder / "frames"
        self.frames.mkdir()
        for i in range(pictures):
            Image.fromarray(random_picture(120, 160, seed=i)).save(self.frames / f"{i:03d}.png")
        self.script = folder / "start.py"
        self.script.write_text(START)
        whole = self.run(*self.segment(folder / "expected"))
        if whole.code:
            raise RuntimeError(f"the pictures cannot be segmented at all: {whole.complaint}")
        self.seconds = whole.seconds
        self.expected = contents(folder / "expected")

    def segment(self, out: Path, *more: str) -> list[str]:
        """The command that segments all pictures."""
        command = ["segment", str(self.frames), "-o", str(out), "--model", str(self.model)]
        return [*command, "--no-legend", "-q", *SMALL, *more]

    def start(self, *words: str, **options: object) -> subprocess.Popen[str]:
        """The command in a process and session of its own, which has begun to answer."""
        reader, writer = os.pipe()
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(HELPERS)]))
        child = subprocess.Popen(
            [sys.executable, str(self.script), str(writer), *words],
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=(writer,),
            **{  # type: ignore[call-overload]
                "env": environment,
                "preexec_fn": _listen,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "stdin": subprocess.DEVNULL,
                **options,
            },
        )
        os.close(writer)
        self.answered = os.read(reader, 1) == b"x"
        os.close(reader)
        return child

    def run(self, *words: str, **options: object) -> Ended:
        """The command from its start to its end."""
        start = time.monotonic()
        return replace(end(self.start(*words, **options), start), answered=self.answered)


def _listen() -> None:
    """A shell's background job ignores Ctrl-C, and its children would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def end(child: subprocess.Popen[str], start: float) -> Ended:
    """Wait for a process; one that does not end is killed with its session and gives the code -9."""
    try:
        out, err = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
    return Ended(child.returncode, out or "", err or "", time.monotonic() - start)


@contextmanager
def workshop(pictures: int = 24) -> Iterator[Workshop]:
    """A workshop in a new folder."""
    with tempfile.TemporaryDirectory(prefix="hard-") as folder:
        yield Workshop(Path(folder), pictures)


def contents(folder: Path) -> dict[str, bytes]:
    """Path below `folder` -> content of all files but the manifest, hidden ones as well."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("manifest"):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def wrong_files(folder: Path, expected: dict[str, bytes], hidden: bool = False) -> list[str]:
    """Names of what is in `folder` and not as it must be; lines of the manifest that say what is not so.

    hidden  whether files that are not whole may be there under their hidden names
    """
    found = contents(folder) if folder.is_dir() else {}
    wrong = []
    for name, content in found.items():
        if Path(name).name.startswith("."):
            wrong += [] if hidden else [name]
        elif expected.get(name) != content:
            wrong.append(name)
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text().split("\n") if manifest.exists() else [""]
    for line in lines[:-1]:
        for name in json.loads(line)["results"].values():
            if name not in found:
                wrong.append(f"manifest: {name}")
    return wrong


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it becomes true in time."""
    stop = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > stop:
            return False
        time.sleep(0.01)
    return True
