"""What LLVM says of this CPU, without loading LLVM each time: that takes 40 ms and 42 MB.

LLVM is asked once.  Its answer is kept in a file, as machine code is (`private_files`), under a digest of all that it
asks the CPU itself: the answers of the instruction CPUID, and which registers the system saves.  A program that
emulates another CPU answers as that one.  Where CPUID cannot be asked, LLVM is, in every process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

import llvmlite

from sparse_icnet import private_files
from sparse_icnet.pages import EXECUTE, READ, Pages, is_x86_64_linux

# void cpuid(unsigned leaf, unsigned subleaf, unsigned out[4]), System V calling convention:
# push rbx; mov r8, rdx; mov eax, edi; mov ecx, esi; cpuid; mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx;
# mov [r8+12], edx; pop rbx; ret
_CPUID = bytes.fromhex("53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3")
# unsigned long xgetbv(void): xor ecx, ecx; xgetbv; shl rdx, 32; or rax, rdx; ret
_XGETBV = bytes.fromhex("31c9 0f01d0 48c1e220 4809d0 c3")
# (leaf, subleaf) that LLVM reads (llvm/lib/TargetParser/Host.cpp).
_LEAVES = ((0, 0), (1, 0), (7, 0), (7, 1), (0xD, 1), (0x14, 0), (0x19, 0), (0x1E, 1), (0x24, 0))
_EXTENDED_LEAVES = ((0x80000000, 0), (0x80000001, 0), (0x80000008, 0))
_MAGIC = b"sparse-icnet host 1\n"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Host:
    """A CPU as LLVM sees it: its name, and whether it has each feature that LLVM knows."""

    name: str
    features: dict[str, bool]

    def flattened(self) -> str:
        """The features as LLVM takes them: "+avx,-avx512f"."""
        return ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(self.features.items()))


@functools.cache
def host() -> Host:
    """The CPU of this process."""
    identity = _identity()
    if identity is None:
        return _asked()
    name = f"host-{hashlib.sha256(identity).hexdigest()[:24]}.json"
    for folder in private_files.cache_folders():
        try:
            kept = _parsed(private_files.read(folder / name, _MAX_BYTES))
        except OSError:
            continue
        if kept is not None:
            return kept
    found = _asked()
    body = json.dumps({"name": found.name, "features": found.features}).encode()
    for folder in private_files.cache_folders():
        with contextlib.suppress(OSError):
            private_files.write(folder / name, private_files.sealed(_MAGIC, body))
            break
    return found


def _asked() -> Host:
    from llvmlite import binding

    return Host(str(binding.get_host_cpu_name()), dict(binding.get_host_cpu_features()))


def _parsed(content: bytes) -> Host | None:
    """What a file says; None if it is damaged."""
    body = private_files.unsealed(_MAGIC, content)
    if body is None:
        return None
    values = json.loads(body)
    return Host(values["name"], values["features"])


def _identity() -> bytes | None:
    """All that decides LLVM's answer; None where CPUID cannot be asked."""
    if not is_x86_64_linux():
        return None
    try:
        answers = _cpuid()
    except OSError:  # a system that lets no process make code
        return None
    return repr((llvmlite.__version__, platform.machine(), sys.platform, answers)).encode()


def _cpuid() -> list[tuple[int, ...]]:
    """Registers EAX, EBX, ECX, EDX for each leaf that this CPU has, and XCR0."""
    pages = Pages(128)
    pages.write(0, _CPUID)
    pages.write(64, _XGETBV)
    pages.protect(0, pages.size, READ | EXECUTE)
    ask = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(pages.address)
    xcr0 = ctypes.CFUNCTYPE(ctypes.c_uint64)(pages.address + 64)
    highest = {0: _registers(ask, 0, 0)[0], 0x80000000: _registers(ask, 0x80000000, 0)[0]}
    answers: list[tuple[int, ...]] = []
    for leaf, subleaf in (*_LEAVES, *_EXTENDED_LEAVES):
        if leaf > highest[leaf & 0x80000000]:  # the CPU would answer for another leaf
            continue
        eax, ebx, ecx, edx = _registers(ask, leaf, subleaf)
        if leaf == 1:
            ebx &= 0xFFFF  # above it stands the number of the core that runs this
            if ecx >> 27 & 1:  # the system saves registers by XSAVE
                answers.append((xcr0(),))
        if leaf == 0xD:
            ebx = 0  # bytes that are saved at this moment
        answers.append((leaf, subleaf, eax, ebx, ecx, edx))
    return answers


def _registers(ask: Callable[..., None], leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    out = ctypes.create_string_buffer(16)
    ask(leaf, subleaf, ctypes.addressof(out))
    eax, ebx, ecx, edx = struct.unpack("<4I", out.raw)
    return eax, ebx, ecx, edx
