"""The one table of CPUs: which dot product each has, which kernels exist for it and how fast they are to one another.

`TARGET` is the entry of the CPU that Numba compiles for.  Nothing else of the package asks what a CPU is: a class of CPUs
without an entry, or an entry without one of its facts, is an error and not a silent slow path.  Does not import Numba.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from sparse_icnet.host import host


class Dot(Enum):
    """How the products of four codes and four weights of each lane are added.

    BYTES    one instruction multiplies and adds all four: a row of a block is one 32-bit lane of weights
    COUPLES  two blocks that `sparse_icnet.sparse.couples` proves safe are multiplied together by saturating instructions,
             a lane each; a block alone as PAIRS
    PAIRS    the even and the odd pair of weights as int16, two lanes in place of one
    """

    BYTES = "bytes"
    COUPLES = "couples"
    PAIRS = "pairs"


@dataclass(frozen=True, slots=True)
class ByteDot:
    """The instruction of Dot.BYTES: its name to LLVM, its lanes of int32, and whether its operands are of i8 or of i32."""

    name: str
    lanes: int
    operands: Literal["i8", "i32"]


@dataclass(frozen=True, slots=True)
class MicroKernel:
    """A tile of the block-sparse convolution that stays in registers; what the packer must obey.

    name          as `sparse-icnet info` prints it: rows x vectors, then the class of CPUs
    rows          output channels in a block (R)
    vectors       vectors of 16 pixels in a tile (P)
    speed         products a second of single blocks, relative to the first micro-kernel of the CPU: with fewer rows the
                  loads of activations are shared by fewer dot products
    couple_speed  the same of couples, relative to single blocks of the first; 0 where there are none
    """

    name: str
    rows: int
    vectors: int
    speed: float
    couple_speed: float = 0.0


@dataclass(frozen=True, slots=True)
class Filtering:
    """Winograd's filtering (`sparse_icnet.sparse.winograd`) on a class of CPUs.

    name      as `sparse-icnet info` prints it: the outputs of a tile, then the class of CPUs
    vectors   of 16 tiles that its products keep in registers, beside 4 output channels: few, many
    product   time of a pair of input channels x an output channel x a vector of 16 tiles and one element; inputs: of the
              transform of four input channels x a vector; outputs: of the outputs of one channel x a vector; each relative
              to the time of a single block row x a vector of the direct convolution
    """

    name: str
    vectors: tuple[int, int]
    product: float
    inputs: float
    outputs: float


@dataclass(frozen=True, slots=True)
class Target:
    """A class of CPUs with the same dot product.

    name           of the dot product in use
    family         x86, arm64, or any
    feature        what LLVM calls the feature that a CPU of this class has, "" if it needs none
    cpus           LLVM's names of the CPUs of which this is the best class; one that ends in * is a beginning
    includes       further features of these CPUs that decide between classes, or the extra one of byte tables
    x86_registers  registers that a vector of 16 lanes takes, whose instructions are called by name: 1, 2 or 4 of 512, 256
                   or 128 bits; 0 on other CPUs, where LLVM chooses
    dot, byte_dot  the dot product
    code_shift     what the dot product takes away from each code, which where the sums begin makes up for
    kernels        micro-kernels of the convolution, tiles that fill the registers
    filtering      Winograd's filtering
    float_kernel   of the convolution of float32: four output channels x vectors that fill most registers with sums
    measured       whether speeds and costs are measured (bench/kernels.py) or estimated from those of other CPUs
    """

    name: str
    family: Literal["x86", "arm64", "any"]
    feature: str
    cpus: tuple[str, ...]
    includes: tuple[str, ...]
    x86_registers: Literal[0, 1, 2, 4]
    dot: Dot
    byte_dot: ByteDot | None
    code_shift: Literal[0, 128]
    kernels: tuple[MicroKernel, ...]
    filtering: Filtering
    float_kernel: MicroKernel
    measured: bool

    @property
    def lanes_per_row(self) -> int:
        """32-bit lanes of weights that one row of an entry takes."""
        return 1 if self.dot is Dot.BYTES else 2

    @property
    def blocks_per_entry(self) -> int:
        """Blocks that an entry has room for; one alone uses the first place."""
        return 2 if self.couples else 1

    @property
    def couples(self) -> bool:
        """Whether two blocks may be multiplied together."""
        return self.dot is Dot.COUPLES

    def kernel_index(self, kernel: MicroKernel) -> int:
        """The number by which the compiled code knows a micro-kernel."""
        return self.kernels.index(kernel)


# A CPU with AVX-512 VNNI but without the instruction that looks up 64 bytes in a table of 128.
_WITHOUT_BYTE_TABLES = ("cascadelake", "cooperlake")

# Best first: a CPU belongs to the first class whose family and feature it has.
TARGETS: tuple[Target, ...] = (
    Target(
        name="avx512vnni",
        family="x86",
        feature="avx512vnni",
        cpus=(
            *_WITHOUT_BYTE_TABLES,
            "icelake-client",
            "icelake-server",
            "rocketlake",
            "tigerlake",
            "sapphirerapids",
            "emeraldrapids",
            "graniterapids",
            "znver4",
            "znver5",
        ),
        includes=("avx512vbmi", "avx512bw", "avx2"),
        x86_registers=1,
        dot=Dot.BYTES,
        byte_dot=ByteDot("llvm.x86.avx512.vpdpbusd.512", 16, "i32"),
        code_shift=0,
        kernels=(
            # Planes of 45 vectors (24 x 30) are nine of its tiles: with six vectors a tile 5 % more for 4x4 blocks.
            MicroKernel("4x5_avx512vnni", 4, 5, 1.0),
            MicroKernel("4x3_avx512vnni", 4, 3, 0.95),
            MicroKernel("2x12_avx512vnni", 2, 12, 0.93),
            MicroKernel("2x9_avx512vnni", 2, 9, 0.91),
        ),
        filtering=Filtering("winograd4x4_avx512vnni", (2, 3), 1.10, 860.0, 186.0),
        float_kernel=MicroKernel("float4x6_avx512vnni", 4, 6, 1.0),
        measured=True,
    ),
    Target(
        name="avxvnni",
        family="x86",
        feature="avxvnni",
        cpus=("alderlake", "raptorlake", "meteorlake", "arrowlake", "sierraforest", "lunarlake"),
        includes=("avx2",),
        x86_registers=2,
        dot=Dot.BYTES,
        byte_dot=ByteDot("llvm.x86.avx512.vpdpbusd.256", 8, "i32"),
        code_shift=0,
        kernels=(MicroKernel("4x1_avxvnni", 4, 1, 1.0), MicroKernel("2x3_avxvnni", 2, 3, 0.8)),
        filtering=Filtering("winograd4x4_avxvnni", (1, 1), 1.05, 300.0, 120.0),
        float_kernel=MicroKernel("float4x1_avxvnni", 4, 1, 1.0),
        measured=False,
    ),
    Target(
        name="avx512bw",
        family="x86",
        feature="avx512bw",
        cpus=("skylake-avx512", "cannonlake", "x86-64-v4"),
        includes=("avx2",),
        x86_registers=1,
        dot=Dot.COUPLES,
        byte_dot=None,
        code_shift=0,
        kernels=(MicroKernel("4x4_avx512bw", 4, 4, 1.0, 1.7), MicroKernel("2x6_avx512bw", 2, 6, 0.97, 1.68)),
        filtering=Filtering("winograd4x4_avx512bw", (2, 3), 0.45, 155.0, 60.0),
        float_kernel=MicroKernel("float4x6_avx512bw", 4, 6, 1.0),
        measured=False,
    ),
    Target(
        name="avx2",
        family="x86",
        feature="avx2",
        cpus=("haswell", "broadwell", "skylake", "znver1", "znver2", "znver3", "x86-64-v3"),
        includes=(),
        x86_registers=2,
        dot=Dot.COUPLES,
        byte_dot=None,
        code_shift=0,
        kernels=(MicroKernel("4x1_avx2", 4, 1, 1.0, 1.45), MicroKernel("2x2_avx2", 2, 2, 0.86, 1.35)),
        filtering=Filtering("winograd4x4_avx2", (1, 1), 0.42, 155.0, 58.0),
        float_kernel=MicroKernel("float4x1_avx2", 4, 1, 1.0),
        measured=True,
    ),
    Target(
        name="sse2",
        family="x86",
        feature="",
        cpus=(),
        includes=(),
        x86_registers=4,
        dot=Dot.PAIRS,
        byte_dot=None,
        code_shift=0,
        kernels=(MicroKernel("4x1_sse2", 4, 1, 1.0), MicroKernel("2x1_sse2", 2, 1, 0.8)),
        filtering=Filtering("winograd4x4_sse2", (1, 1), 0.45, 155.0, 60.0),
        float_kernel=MicroKernel("float4x1_sse2", 4, 1, 1.0),
        measured=False,
    ),
    # Arm's instruction takes signed bytes alone.
    Target(
        name="dotprod",
        family="arm64",
        feature="dotprod",
        cpus=(
            *(f"cortex-a{n}" for n in (55, 75, 76, 77, 78, 510, 520, 710, 715, 720, 725)),
            *("cobalt-100", "grace", "olympus", "oryon-1"),
            *(f"apple-a{n}" for n in range(13, 20)),
            *("ampere1*", "apple-m*", "cortex-x*", "neoverse-*"),
        ),
        includes=(),
        x86_registers=0,
        dot=Dot.BYTES,
        byte_dot=ByteDot("llvm.aarch64.neon.sdot.v4i32.v16i8", 4, "i8"),
        code_shift=128,
        kernels=(MicroKernel("4x1_dotprod", 4, 1, 1.0), MicroKernel("2x2_dotprod", 2, 2, 0.9)),
        filtering=Filtering("winograd4x4_dotprod", (1, 1), 3.5, 400.0, 160.0),
        float_kernel=MicroKernel("float4x1_dotprod", 4, 1, 1.0),
        measured=False,
    ),
    Target(
        name="generic",
        family="any",
        feature="",
        cpus=(),
        includes=(),
        x86_registers=0,
        dot=Dot.PAIRS,
        byte_dot=None,
        code_shift=0,
        kernels=(MicroKernel("4x1_generic", 4, 1, 1.0), MicroKernel("2x2_generic", 2, 2, 0.8)),
        filtering=Filtering("winograd4x4_generic", (1, 1), 0.5, 155.0, 60.0),
        float_kernel=MicroKernel("float4x1_generic", 4, 1, 1.0),
        measured=False,
    ),
)


def chosen_target() -> Target:
    """The class of the CPU that Numba compiles for."""
    families = {"any"} | ({"x86"} if is_x86() else {"arm64"} if is_arm64() else set())
    features = _features()
    for target in TARGETS:
        if target.family in families and (not target.feature or features.get(target.feature)):
            return target
    raise RuntimeError(f"sparse_icnet.target has no entry for the CPU {target_cpu()!r}")


def target_cpu() -> str:
    """LLVM's name of the CPU that Numba compiles for."""
    name = os.environ.get("NUMBA_CPU_NAME", "")
    return name if name not in ("", "host") else host().name


def is_x86() -> bool:
    return _architecture() in ("x86_64", "i386", "i686", "amd64")


def is_arm64() -> bool:
    return _architecture().startswith(("aarch64", "arm64"))


def _architecture() -> str:
    return platform.machine().lower()


def _features() -> dict[str, bool]:
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
    # Of an Arm CPU LLVM says little more than the name.
    return host().features if is_x86() else _named_features(target_cpu()) | host().features


def _named_features(name: str) -> dict[str, bool]:
    """Features that decide between classes, of a CPU in the table; of any other none.

    LLVM knows the features of a name, Python does not.
    """
    features = {
        feature
        for target in TARGETS
        if any(name == cpu or (cpu[-1] == "*" and name.startswith(cpu[:-1])) for cpu in target.cpus)
        for feature in (target.feature, *target.includes)
    }
    if name in _WITHOUT_BYTE_TABLES:
        features.remove("avx512vbmi")
    if name == "cannonlake":
        features.add("avx512vbmi")
    return dict.fromkeys(features, True)


TARGET = chosen_target()
# One instruction looks up 64 bytes in a table of 128.
HAS_BYTE_TABLES = TARGET.x86_registers == 1 and bool(_features().get("avx512vbmi"))
# Whether loads that cross cache lines are free: vectors of 512 bits always do so, at no cost on Zen 4 (bench/kernels.py)
# but on Intel's cores.
FREE_UNALIGNED_LOADS = target_cpu().startswith("znver") or TARGET.x86_registers != 1
