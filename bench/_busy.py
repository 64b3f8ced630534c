"""Busy processes beside a measurement, as on a machine that others use as well.

python _busy.py      computes until it is ended: sums over 1 MB, which stay in the core's own caches
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """While the block runs, so many processes want a core each, at the priority of this one."""
    running: list[subprocess.Popen[str]] = []
    try:
        for _ in range(processes):
            one = subprocess.Popen([sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True)
            running.append(one)
            assert one.stdout is not None
            if one.stdout.readline() != "busy\n":
                raise OSError(f"a busy process ended with code {one.wait()}")
        yield
    finally:
        for one in running:
            one.kill()
            one.communicate()


def main() -> None:
    numbers = np.ones(1 << 17)
    print("busy", flush=True)
    while True:
        numbers.sum()


if __name__ == "__main__":
    main()
