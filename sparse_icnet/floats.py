"""How a thread calculates with floats: rounding to nearest, subnormal numbers kept, no traps, whatever was set before.

Some libraries change these settings of a thread and do not restore them (those compiled with `-ffast-math`, for
example), and then sums have other bits.

x86 keeps the settings in MXCSR, 64-bit Arm in FPCR.  The compiled kernels set their own (`sparse_icnet.simd.environment`);
`standard_floats` is for Python: reading a model, folding its constants, planning.  What a caller computes itself, and how
Pillow resizes pictures, follows the settings of the caller.  On other CPUs nothing is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator

from sparse_icnet.target import is_arm64, is_x86

MXCSR_STANDARD = 0x1F80  # to nearest, all exceptions masked, neither flush-to-zero nor denormals-are-zero
FPCR_STANDARD = 0
STANDARD = MXCSR_STANDARD if is_x86() else FPCR_STANDARD

# i64 exchange(i64): set the settings of this thread, return what they were.
MXCSR = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define i64 @exchange(i64 %settings) {
  %word = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %word)
  %old = load i32, ptr %word
  %before = zext i32 %old to i64
  %new = trunc i64 %settings to i32
  store i32 %new, ptr %word
  call void @llvm.x86.sse.ldmxcsr(ptr %word)
  ret i64 %before
}
"""
FPCR = """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
define i64 @exchange(i64 %settings) {
  %before = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 %settings)
  ret i64 %before
}
"""


@functools.cache
def exchange() -> Callable[[int], int]:
    """Compile (some milliseconds) a function that sets the settings of the calling thread and returns what they were."""
    if not (is_x86() or is_arm64()):
        return lambda settings: settings
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(MXCSR if is_x86() else FPCR), machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(engine.get_function_address("exchange"))

    def call(settings: int) -> int:
        return int(function(settings))

    call.engine = engine  # type: ignore[attr-defined]  # the code lives as long as the function
    return call


# Variables, as the compiler of Python calculates with constants itself.
_one, _half, _quarter, _smallest = 1.0, 2.0**-53, 2.0**-54, 5e-324


def are_standard() -> bool:
    """Whether this thread rounds to nearest and keeps subnormal numbers; traps cannot be seen this way."""
    to_nearest = _one + _half == _one and _one - _quarter == _one
    return to_nearest and _smallest > 0 and _smallest * _half**-1 * _half == _smallest


@contextlib.contextmanager
def standard_floats() -> Iterator[None]:
    """Calculate with the standard settings; what was set is restored.  Also a decorator."""
    if are_standard():
        yield
        return
    before = exchange()(STANDARD)
    try:
        yield
    finally:
        exchange()(before)
