"""The tiles of `sparse_icnet.study.peak_kernel`.  Does not import Numba."""

from __future__ import annotations

from sparse_icnet.target import TARGET, Dot

# Rows x vectors of 16 lanes: as many sums as fit beside the operands.
_SHAPES = {
    "avx512vnni": (4, 3),
    "avxvnni": (5, 1),
    "avx512bw": (4, 3),
    "avx2": (6, 1),
    "sse2": (3, 1),
    "dotprod": (4, 1),
    "generic": (4, 1),
}
ROWS, VECTORS = _SHAPES[TARGET.name]
# Products of one step of the tile: of a vector of 16 lanes four to a lane with a dot product of four bytes, twice as many
# of a couple, else those of one pair of int16.
PRODUCTS_OF_BYTES = ROWS * VECTORS * (64 if TARGET.dot is Dot.BYTES else 128 if TARGET.couples else 32)
PRODUCTS_OF_PAIRS = ROWS * VECTORS * 32
