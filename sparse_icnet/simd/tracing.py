"""What `sparse_icnet.run.traced_loop` needs beside: the time."""

from __future__ import annotations

import os
import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparse_icnet.simd import llvm


@intrinsic
def clock(typing):
    """Ticks of the system's monotonic clock, int64: nanoseconds, on Windows those of its performance counter.

    The clock of Python's `time.perf_counter` on Linux and Windows.  One reading takes some 45 ns on Zen 4 under Linux,
    where no system call is made; the time-stamp counter alone would take 17, but neither its rate nor its reading is
    the same on every CPU.
    """

    def emit(context, builder, signature, arguments):
        if os.name == "nt":
            ticks = cgutils.alloca_once(builder, llvm.I64)
            llvm.call(builder, "QueryPerformanceCounter", llvm.I32, [ticks])
            return builder.load(ticks)
        parts = cgutils.alloca_once(builder, ir.ArrayType(llvm.I64, 2))
        # On macOS CLOCK_MONOTONIC counts microseconds.
        which = getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)
        identity = ir.Constant(llvm.I32, which)
        llvm.call(builder, "clock_gettime", llvm.I32, [identity, builder.bitcast(parts, cgutils.voidptr_t)])
        seconds, nanoseconds = (builder.extract_value(builder.load(parts), i) for i in (0, 1))
        return builder.add(builder.mul(seconds, ir.Constant(llvm.I64, 10**9)), nanoseconds)

    return types.int64(), emit
