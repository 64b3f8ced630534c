"""From real values to codes: clip, round half to even, saturate, four channels to a lane."""

from __future__ import annotations

from llvmlite import ir
from numba.extending import intrinsic

from sparse_icnet.network.arithmetic import ROUNDING
from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import LANES, VECTOR_BYTES
from sparse_icnet.simd.vectors import f32x16, i32x16

# Names of the instructions below on vectors of 512, 256 and 128 bits, by `llvm.REGISTERS`.
_CONVERT = {1: "avx512.mask.cvtps2dq.512", 2: "avx.cvt.ps2dq.256", 4: "sse2.cvtps2dq"}
_NARROW = {1: "avx512.packssdw.512", 2: "avx2.packssdw", 4: "sse2.packssdw.128"}
_NARROWER = {1: "avx512.packuswb.512", 2: "avx2.packuswb", 4: "sse2.packuswb.128"}
# Both narrowing instructions work within 128 bits: 4 pixels of one vector, then the same 4 pixels of the other.
_SIDE_BY_SIDE = [place + lane + i for lane in range(0, 16, 4) for place in (0, 16) for i in range(4)]
_WORDS_SIDE_BY_SIDE = [place + lane + i for lane in range(0, 32, 8) for place in (0, 32) for i in range(8)]
_INTERLEAVED = [lane + 4 * row + i for lane in range(0, 64, 16) for i in range(4) for row in range(4)]


def round_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Two vectors of real values, |x| < 2**31 -> <32 x i16>: round half to even, saturate.

    x86 rounds in the direction that is set for all float32 arithmetic: `run` sets half to even.
    Elsewhere the sum x + 1.5 * 2**23 of a clipped x has no fraction bits left: the addition itself rounds x, and the
    low bits of the sum hold the integer.
    """
    if not llvm.REGISTERS:
        low, high, magic = (llvm.constant(llvm.F32X16, value) for value in (-(2.0**15), 2.0**15 - 1, MAGIC))
        rounded = [
            builder.bitcast(builder.fadd(clip(builder, x, low, high), magic), llvm.I32X16) for x in (a, b)
        ]
        a, b = (builder.trunc(lane, ir.VectorType(llvm.I16, LANES)) for lane in rounded)
        return llvm.shuffle(builder, a, b, _SIDE_BY_SIDE)
    integers = ir.VectorType(llvm.I32, LANES // llvm.REGISTERS)
    # AVX-512: what to give for masked lanes, no lane masked, no rounding direction of its own
    masked = [ir.Constant(integers, ir.Undefined), ir.Constant(llvm.I16, -1), ir.Constant(llvm.I32, 4)]
    parts = []
    for pair in zip(
        llvm.slices(builder, a, llvm.REGISTERS), llvm.slices(builder, b, llvm.REGISTERS), strict=True
    ):
        rounded = [
            llvm.call(
                builder,
                f"llvm.x86.{_CONVERT[llvm.REGISTERS]}",
                integers,
                [x, *(masked if llvm.REGISTERS == 1 else [])],
            )
            for x in pair
        ]
        kind = ir.VectorType(llvm.I16, 2 * LANES // llvm.REGISTERS)
        parts.append(llvm.call(builder, f"llvm.x86.{_NARROW[llvm.REGISTERS]}", kind, rounded))
    return llvm.join(builder, parts)


def interleave_codes(builder: ir.IRBuilder, ab: ir.Value, cd: ir.Value) -> ir.Value:
    """The <32 x i16> of rows a, b and of rows c, d -> <64 x i8>: saturated to 0..255, lanes of four bytes a, b, c, d."""
    if llvm.REGISTERS:
        kind = ir.VectorType(llvm.I8, VECTOR_BYTES // llvm.REGISTERS)
        pairs = zip(
            llvm.slices(builder, ab, llvm.REGISTERS), llvm.slices(builder, cd, llvm.REGISTERS), strict=True
        )
        parts = [
            llvm.call(builder, f"llvm.x86.{_NARROWER[llvm.REGISTERS]}", kind, list(pair)) for pair in pairs
        ]
        codes = llvm.join(builder, parts)
    else:
        narrow = []
        for x in (ab, cd):
            for predicate, bound in ((">", 0), ("<", 255)):
                limit = llvm.constant(llvm.I16X32, bound)
                x = builder.select(builder.icmp_signed(predicate, x, limit), x, limit)
            narrow.append(builder.trunc(x, ir.VectorType(llvm.I8, 2 * LANES)))
        codes = llvm.shuffle(builder, narrow[0], narrow[1], _WORDS_SIDE_BY_SIDE)
    return llvm.shuffle(builder, codes, ir.Constant(codes.type, ir.Undefined), _INTERLEAVED)


def clip(builder: ir.IRBuilder, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """min(max(x, low), high); a NaN gives low."""
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


MAGIC = float(ROUNDING)  # 1.5 * 2**23


@intrinsic
def pack_codes(typing, a, b, c, d, pair):
    """rint(x) + the int16 in each half of `pair`, saturated to 0..255, of four channels: lanes of four bytes.

    Each |x| < 2**15 - 256, so that the sum is exact.
    """

    def emit(context, builder, signature, arguments):
        *rows, pair = arguments
        pair = builder.bitcast(pair, llvm.I16X32)
        pairs = [builder.add(round_pairs(builder, *rows[i : i + 2]), pair) for i in (0, 2)]
        return builder.bitcast(interleave_codes(builder, *pairs), llvm.I32X16)

    return i32x16(f32x16, f32x16, f32x16, f32x16, i32x16), emit
