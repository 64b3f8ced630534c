"""A subject of an analysis in a process of its own, for another class of CPUs: Numba reads its environment once.

`Elsewhere` starts ``python -m sparse_icnet.study.worker``, which takes one JSON line with what to measure and answers with
its facts, then takes the number of a round a line and answers with its times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sparse_icnet.network.graph import Size
from sparse_icnet.study.measure import Facts, Round


class Elsewhere:
    """A model measured in another process; ValueError with its error where it fails.

    model        as `sparse_icnet.load` takes it; size, threads, output, bgr too
    environment  what to change in that of this process
    image        a file; None: the bundled photo
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None,
        size: Size | None,
        threads: int | None,
        label: str,
        environment: Mapping[str, str],
        output: str | None = None,
        bgr: bool = False,
        image: str | None = None,
        dense: bool = True,
        peak: bool = True,
    ) -> None:
        self._label = label
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sparse_icnet.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        path = None if model is None else os.fspath(model)
        wanted = {"path": path, "size": size, "threads": threads, "output": output, "bgr": bgr}
        wanted |= {"image": image, "label": label, "dense": dense, "peak": peak}
        try:
            self.facts = Facts.of(self._ask(wanted))
        except BaseException:
            self.close()
            raise

    def round(self, number: int) -> Round:
        """See `Subject`."""
        return Round(**self._ask(number))

    def _ask(self, question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            raise ValueError(
                f"{self._label}: the process that measured ended with code {self._process.wait()}"
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ValueError(f"{self._label}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> int:
    """The other process."""
    from sparse_icnet.loading import load
    from sparse_icnet.study.analyze import here

    replies, sys.stdout = sys.stdout, sys.stderr  # whatever prints would be taken for a reply

    def reply(values: Any) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    try:
        wanted = json.loads(sys.stdin.readline())
        size = None if wanted["size"] is None else (wanted["size"][0], wanted["size"][1])
        net = load(wanted["path"], size, wanted["threads"], output=wanted["output"], bgr=wanted["bgr"])
        subject = here(net, wanted["image"], wanted["dense"], wanted["peak"], wanted["label"])
        reply(asdict(subject.facts))
        for line in sys.stdin:
            reply(asdict(subject.round(json.loads(line))))
    except BrokenPipeError:
        return 1
    except Exception as error:
        reply({"error": " ".join(str(error).split()) or type(error).__name__})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
