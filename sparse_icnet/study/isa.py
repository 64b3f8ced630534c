"""Classes of CPUs that may be chosen: what to put into the environment of a process that compiles for them.

Importing this decides nothing: `sparse_icnet.target` reads the environment once, when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping

# Without the empty list of features Numba lets LLVM use all that the host has: vpdpwssd and 512-bit registers in "AVX2"
# code.
ISA_ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    "native": {},
    "avx512bw": {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": ""},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "generic": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}
ISAS = tuple(ISA_ENVIRONMENT)
# What a CPU must have to run their code.
_NEEDS = {"native": "", "avx512bw": "avx512bw", "avx2": "avx2", "generic": ""}


def check_runnable(isa: str) -> None:
    """ValueError where this CPU cannot run the code of the class `isa`."""
    if isa == "native":
        return
    from sparse_icnet.host import host
    from sparse_icnet.target import is_x86

    if not is_x86():
        raise ValueError(
            f"--isa {isa}: expected an x86-64 CPU, on which there is a choice; here there is native alone"
        )
    need = _NEEDS[isa]
    if need and not host().features.get(need):
        raise ValueError(f"--isa {isa}: expected a CPU with {need}, this one has none")
