"""Transpositions of lanes and of RGB pixels, and the prefetches that they need."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sparse_icnet.simd import llvm
from sparse_icnet.simd.llvm import LANES, VECTOR_BYTES


def _prefetch(builder: ir.IRBuilder, address: ir.Value, write: int) -> None:
    """Ask for the cache line at `address`, which need not exist."""
    flags = [ir.Constant(llvm.I32, flag) for flag in (write, 3, 1)]
    place = builder.inttoptr(address, ir.PointerType(llvm.I8))
    llvm.call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *flags])


@intrinsic
def prefetch(typing, address):
    """Ask for the cache line at `address`, which need not exist, to read it soon."""

    def emit(context, builder, signature, arguments):
        _prefetch(builder, arguments[0], 0)
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def scatter_16x16(typing, source, stride, target, planes):
    """Transpose 16 x 16 lanes of 32 bits: lane (i, j) at source + i * stride + 4 * j goes to target + planes[j] + 4 * i.

    planes  address of 16 int64 byte offsets
    Sixteen places at once are more than a CPU prefetches by itself: asks for the line of the second vector behind each.
    """
    quarter = ir.VectorType(llvm.I32, 4)
    pair = [
        [lane + i for lane in range(0, LANES, 4) for i in (k, k + LANES, k + 1, k + 1 + LANES)]
        for k in (0, 2)
    ]
    half = [
        [lane + i for lane in range(0, LANES, 4) for i in (k, k + 1, k + LANES, k + 1 + LANES)]
        for k in (0, 2)
    ]

    def emit(context, builder, signature, arguments):
        source, stride, target, planes = arguments
        rows = [builder.add(source, builder.mul(stride, ir.Constant(llvm.I64, i))) for i in range(LANES)]
        for j in range(0, LANES, 4):
            # Quarter q of vector i: row i + 4q, columns j to j + 3.  Then each quarter is a 4 x 4 transposition.
            a, b, c, d = (
                llvm.join(builder, [llvm.load(builder, row, quarter, 4 * j) for row in rows[i::4]])
                for i in range(4)
            )
            for first in (0, 1):
                x, y = llvm.shuffle(builder, a, b, pair[first]), llvm.shuffle(builder, c, d, pair[first])
                for second in (0, 1):
                    offset = llvm.load(builder, planes, llvm.I64, 8 * (j + 2 * first + second))
                    place = builder.add(target, offset)
                    vector = llvm.shuffle(builder, x, y, half[second])
                    builder.store(vector, llvm.pointer(builder, place, llvm.I32X16), align=1)
                    _prefetch(builder, builder.add(place, ir.Constant(llvm.I64, 2 * VECTOR_BYTES)), 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), emit


@intrinsic
def put_rgb_codes(typing, source, table, target):
    """64 pixels u8 (R, G, B) at `source` to 64 lanes at `target`: bytes table[0][R], table[1][G], table[2][B], 0.

    table  address of u8 (3, 256).  Only where HAS_BYTE_TABLES.
    """
    double = list(range(VECTOR_BYTES))

    def emit(context, builder, signature, arguments):
        source, table, target = arguments
        image = [llvm.load(builder, source, llvm.I8X64, VECTOR_BYTES * i) for i in range(3)]
        codes = []
        for channel in range(3):
            # Byte 3i + channel of 192: those of the first two vectors, then those of the third.
            lanes = [min(3 * i + channel, 2 * VECTOR_BYTES - 1) for i in double]
            pixels = llvm.shuffle(builder, image[0], image[1], lanes)
            lanes = [
                i if 3 * i + channel < 2 * VECTOR_BYTES else 3 * i + channel - VECTOR_BYTES for i in double
            ]
            pixels = llvm.shuffle(builder, pixels, image[2], lanes)
            quarters = [
                llvm.load(builder, table, llvm.I8X64, 256 * channel + VECTOR_BYTES * i) for i in range(4)
            ]
            low, high = (
                llvm.call(builder, "llvm.x86.avx512.vpermi2var.qi.512", llvm.I8X64, [a, pixels, b])
                for a, b in (quarters[:2], quarters[2:])
            )
            upper = builder.icmp_signed("<", pixels, ir.Constant(llvm.I8X64, None))
            codes.append(builder.select(upper, high, low))
        codes.append(ir.Constant(llvm.I8X64, None))
        for i in range(4):
            quarter = range(16 * i, 16 * i + 16)
            red_green = llvm.shuffle(
                builder, codes[0], codes[1], [k + 64 * c for k in quarter for c in (0, 1)]
            )
            blue = llvm.shuffle(builder, codes[2], codes[3], [k + 64 * c for k in quarter for c in (0, 1)])
            pairs = ir.VectorType(llvm.I16, LANES)
            red_green, blue = builder.bitcast(red_green, pairs), builder.bitcast(blue, pairs)
            pixel = llvm.shuffle(
                builder, red_green, blue, [k + LANES * c for k in range(LANES) for c in (0, 1)]
            )
            builder.store(
                builder.bitcast(pixel, llvm.I32X16),
                llvm.pointer(builder, target, llvm.I32X16, VECTOR_BYTES * i),
                align=1,
            )
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), emit


@intrinsic
def put_rgb_products(typing, source, factors, target):
    """64 pixels u8 (R, G, B) at `source` to 64 lanes at `target`, each byte by a product instead of a table.

    factors  address of u16 (6, 2), two halves of a lane: multipliers of R and B, of G and nothing; what is added to their
             products; what is then taken away.  A byte x becomes ((256 * x * multiplier >> 16) + added - taken) >> 8, where
             sum and difference saturate.
    """
    parts = llvm.REGISTERS or 1
    lanes = LANES // parts
    halves, wide = ir.VectorType(llvm.I16, 2 * lanes), ir.VectorType(llvm.I32, 2 * lanes)
    piece = ir.VectorType(llvm.I8, 16)

    def emit(context, builder, signature, arguments):
        source, factors, target = arguments
        rows = [llvm.load(builder, factors, llvm.I32, 4 * i) for i in range(6)]
        even, odd = (
            [
                builder.bitcast(llvm.splat(builder, row, ir.VectorType(llvm.I32, lanes)), halves)
                for row in rows[i::2]
            ]
            for i in (0, 1)
        )
        eight, upper = llvm.constant(halves, 8), llvm.constant(halves, -256)

        def scaled(x, factors):
            multiplier, added, taken = factors
            product = builder.mul(builder.zext(x, wide), builder.zext(multiplier, wide))
            y = builder.trunc(builder.lshr(product, llvm.constant(wide, 16)), halves)
            kind = f"v{halves.count}i16"
            y = llvm.call(builder, f"llvm.uadd.sat.{kind}", halves, [y, added])
            return llvm.call(builder, f"llvm.usub.sat.{kind}", halves, [y, taken])

        for first in range(0, 64, lanes):
            quarters = []
            for pixel in range(first, first + lanes, 4):
                # 16 bytes for 12, none of them behind the last pixel.
                start = min(3 * pixel, 3 * 64 - 16)
                x = llvm.load(builder, source, piece, start)
                skipped = 3 * pixel - start
                order = [i for p in range(4) for i in (*range(skipped + 3 * p, skipped + 3 * p + 3), 16)]
                quarters.append(llvm.shuffle(builder, x, ir.Constant(piece, None), order))
            pixels = builder.bitcast(llvm.join(builder, quarters), halves)
            red_blue = builder.lshr(scaled(builder.shl(pixels, eight), even), eight)
            green = builder.and_(scaled(builder.and_(pixels, upper), odd), upper)
            codes = builder.or_(red_blue, green)
            builder.store(codes, llvm.pointer(builder, target, halves, 4 * first), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), emit
