"""Compile the kernels for a class of CPUs of another architecture, for an emulator to load: run as a program.

    python tests/helpers/cross.py dotprod DIR

An emulated compiler takes minutes; this one takes as long as for the host.  DIR is then NUMBA_CACHE_DIR of the emulated
process, which needs the same versions of numba and llvmlite.  With QEMU and an interpreter for 64-bit Arm (of Debian's
arm64 packages, unpacked into ROOT; wheels for it, unpacked into SITE):

    NUMBA_CACHE_DIR=DIR python -m tests.exact --paths dotprod --parts digests sums requantization --quick --python \\
        "qemu-aarch64 -cpu max -L ROOT -E PYTHONPATH=SITE ROOT/usr/bin/python3"
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import code_paths
from llvmlite import binding

TRIPLES = {"aarch64": "aarch64-unknown-linux-gnu"}


def main(name: str, folder: Path) -> None:
    path = next(path for path in code_paths.PATHS if path.name == name)
    triple = TRIPLES[path.family]
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    # What Numba and the package ask for the machine that they compile for.
    binding.get_process_triple = binding.get_default_triple = lambda: triple
    binding.Target.from_default_triple = classmethod(lambda cls: cls.from_triple(triple))
    platform.machine = lambda: path.family
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    code_paths.enter(name)
    from sparse_icnet.run import machine_code

    machine_code._machine_codes(machine_code.usual())
    print(*sorted(folder.iterdir()), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
