"""The classes of CPUs of `sparse_icnet.target` whose code this machine can run, each in a process of its own.

`enter(name)` comes before anything imports Numba or the package: it makes both compile for that class from then on.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from llvmlite import binding


@dataclass(frozen=True)
class CodePath:
    """A class of CPUs and how to get its code.

    cpu      that Numba compiles for, "" for the host; features: of it, None for those of the host
    target   the class that must be chosen
    needs    features of a host that can run the code, as LLVM spells them; family: its architecture
    forced   `sparse_icnet.target` would choose another class for this CPU
    """

    name: str
    cpu: str
    features: str | None
    target: str
    needs: tuple[str, ...] = ()
    family: str = "x86_64"
    forced: bool = False


_VNNI = ("avx512vnni", "avx512vl", "avx512bw")
PATHS = (
    CodePath("avx512vnni", "icelake-server", "", "avx512vnni", (*_VNNI, "avx512vbmi")),
    # Without the instruction that looks up 64 bytes in a table of 128.
    CodePath("avx512vnni-cascadelake", "cascadelake", "", "avx512vnni", _VNNI),
    CodePath("avx512bw", "skylake-avx512", "", "avx512bw", ("avx512bw", "avx512vl")),
    # The kernels of that class, tiles, registers and instructions; encoded as AVX-512 encodes them where the host has
    # vpdpbusd in that encoding alone.
    CodePath("avxvnni", "alderlake", "", "avxvnni", ("avxvnni",)),
    CodePath(
        "avxvnni-evex",
        "alderlake",
        "-avxvnni,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512vnni",
        "avxvnni",
        _VNNI,
        forced=True,
    ),
    CodePath("avx2", "haswell", "", "avx2", ("avx2", "fma")),
    CodePath("sse2", "x86-64", "", "sse2"),
    CodePath("dotprod", "neoverse-n1", "", "dotprod", ("dotprod",), "aarch64"),
    # The code for CPUs of no class of their own: plain LLVM vectors, compiled for the host.
    CodePath("generic", "", None, "generic", family="any", forced=True),
)


def runnable() -> tuple[str, ...]:
    """Names of the paths whose code this host can run."""
    architecture = binding.get_process_triple().split("-")[0]
    features = binding.get_host_cpu_features()
    found = []
    for path in PATHS:
        # Of an Arm CPU LLVM says little; every one that is told of by name here has what its class needs.
        has = architecture == "aarch64" or all(features.get(name) for name in path.needs)
        if path.family in ("any", architecture) and has:
            found.append(path.name)
    return tuple(found)


def enter(name: str) -> None:
    """Let this process compile for the path `name`; "native": for the host, as users do."""
    assert "numba" not in sys.modules
    assert "sparse_icnet.target" not in sys.modules
    if name == "native":
        return
    path = next(path for path in PATHS if path.name == name)
    os.environ.pop("NUMBA_CPU_FEATURES", None)
    os.environ["NUMBA_CPU_NAME"] = path.cpu
    if path.features is not None:
        os.environ["NUMBA_CPU_FEATURES"] = path.features
    from sparse_icnet import target

    if path.forced:
        chosen = next(entry for entry in target.TARGETS if entry.name == path.target)
        target.TARGET = chosen
        target.HAS_BYTE_TABLES = False
        target.FREE_UNALIGNED_LOADS = True
    if target.TARGET.name != path.target:
        raise RuntimeError(f"{name}: expected the class {path.target}, found {target.TARGET.name}")
