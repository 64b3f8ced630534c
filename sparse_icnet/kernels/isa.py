"""Which CPU the kernels are compiled for, and so which dot product they use.  Does not import Numba."""

from __future__ import annotations

import os

from llvmlite import binding


def _target_features() -> dict[str, bool]:
    """Features that kernels may use: those of the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say.

    With a name alone Numba still lets LLVM use every feature of the host: the dot product is that of the named CPU, the
    code around it is not.  An empty NUMBA_CPU_FEATURES beside the name gives exactly that CPU.
    """
    name = os.environ.get("NUMBA_CPU_NAME", "")
    listed = os.environ.get("NUMBA_CPU_FEATURES")
    named = _named_features(name)
    if listed is not None:
        return named | {f[1:]: f[0] == "+" for f in listed.split(",") if f[:1] in "+-" and len(f) > 1}
    if name not in ("", "host"):
        return named
    host = dict(binding.get_host_cpu_features())
    # Of an Arm CPU LLVM says little more than the name.
    return host if is_x86() else _named_features(target_cpu()) | host


def _named_features(name: str) -> dict[str, bool]:
    """Features that decide the dot product, of a CPU known by its name to LLVM; of any other none."""
    # LLVM knows the features of a name, Python does not.  The names below are those that have AVX-512 VNNI, AVX2 or the
    # dot product of Armv8.2; any other name runs the baseline of its architecture.
    vnni = {
        "cascadelake",
        "cooperlake",
        "icelake-client",
        "icelake-server",
        "rocketlake",
        "tigerlake",
        "sapphirerapids",
        "emeraldrapids",
        "graniterapids",
        "znver4",
        "znver5",
    }
    avx512 = vnni | {"skylake-avx512", "cannonlake"}
    avxvnni = {"alderlake", "raptorlake", "meteorlake", "arrowlake", "sierraforest", "lunarlake"}
    avx2 = avx512 | avxvnni | {"haswell", "broadwell", "skylake", "znver1", "znver2", "znver3", "x86-64-v3"}
    arm = {f"cortex-a{n}" for n in (55, 75, 76, 77, 78, 510, 520, 710, 715, 720, 725)}
    arm |= {"cobalt-100", "grace", "olympus", "oryon-1"} | {f"apple-a{n}" for n in range(13, 20)}
    return {
        "dotprod": name in arm or name.startswith(("ampere1", "apple-m", "cortex-x", "neoverse-")),
        "avx512vnni": name in vnni,
        "avx512vl": name in avx512,
        "avx512bw": name in avx512 or name == "x86-64-v4",
        "avx512vbmi": name in vnni - {"cascadelake", "cooperlake"} | {"cannonlake"},
        "avxvnni": name in avxvnni,
        "avx2": name in avx2 or name == "x86-64-v4",
    }


def target_cpu() -> str:
    """LLVM's name of the CPU that Numba compiles for."""
    name = os.environ.get("NUMBA_CPU_NAME", "")
    return name if name not in ("", "host") else binding.get_host_cpu_name()


def _architecture() -> str:
    return binding.get_process_triple().split("-")[0]


def is_x86() -> bool:
    return _architecture() in ("x86_64", "i386", "i686", "amd64")


def instruction_set() -> str:
    """The dot product in use: avx512vnni, avxvnni, avx512bw, avx2, sse2; dotprod of 64-bit Arm; or generic."""
    features = _target_features()
    if not is_x86():
        arm = _architecture().startswith(("aarch64", "arm64"))
        return "dotprod" if arm and features.get("dotprod") else "generic"
    for name in ("avx512vnni", "avxvnni", "avx512bw", "avx2"):
        if features.get(name):
            return name
    return "sse2"


ISA = instruction_set()
# The dot-product instructions of VNNI and of Arm take four int8 weights in one 32-bit word.  Other CPUs multiply pairs
# of int16: the packer then stores the even and the odd pair of weights, two words in place of one.  With AVX2 or AVX-512
# two blocks that `sparse_icnet.sparse.couples` proves safe are multiplied together, one word each.
HAS_VNNI = ISA in ("avx512vnni", "avxvnni")
HAS_DOT4 = HAS_VNNI or ISA == "dotprod"
HAS_COUPLES = ISA in ("avx512bw", "avx2")
WORDS_PER_ENTRY_ROW = 1 if HAS_DOT4 else 2
# Arm's instruction takes signed bytes alone: it multiplies code - 128, and where the sums begin makes up for that.
CODE_SHIFT = 128 if ISA == "dotprod" else 0
# One instruction looks up 64 bytes in a table of 128.
HAS_BYTE_TABLES = ISA.startswith("avx512") and bool(_target_features().get("avx512vbmi"))
