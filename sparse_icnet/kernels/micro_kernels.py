"""The micro-kernels of the block-sparse convolution that exist for this CPU.

Micro-kernels are named rows x vectors: ``4x6`` keeps 4 output channels x 6 vectors of 16 pixels in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparse_icnet.kernels.isa import HAS_COUPLES, ISA, WORDS_PER_ENTRY_ROW


@dataclass(frozen=True, slots=True)
class MicroKernel:
    """What the packer must obey.

    rows     output channels in a block (R)
    vectors  vectors of 16 pixels in a tile (P)
    words    32-bit words that one row of an entry takes: 1 with VNNI or on Arm, 2 as int16 pairs or of two blocks
    """

    rows: int
    vectors: int
    words: int = WORDS_PER_ENTRY_ROW

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.vectors}_{ISA}"


BLOCKS_PER_ENTRY = 2 if HAS_COUPLES else 1  # offsets that an entry takes; a single block uses the first

# Tiles that fill the registers of each instruction set: 32 of 512 bits, 16 of 256 bits, 16 or (Arm) 32 of 128 bits.
_TILES = {
    "avx512vnni": ((4, 6), (4, 3), (2, 12), (2, 9)),
    "avx512bw": ((4, 4), (2, 6)),
    "avxvnni": ((4, 1), (2, 3)),
    "avx2": ((4, 1), (2, 2)),
    "sse2": ((4, 1), (2, 1)),
    "dotprod": ((4, 1), (2, 2)),
    "generic": ((4, 1), (2, 2)),
}
REGISTRY = tuple(MicroKernel(rows, vectors) for rows, vectors in _TILES[ISA])
# Scratch of one thread: a tile on its way out, then the tile of a fused residual convolution; rows of real values or of
# pairs lie TILE_ROW_BYTES apart.
TILE_ROW_BYTES = 64 * max(kernel.vectors for kernel in REGISTRY)
TILE_BYTES = 4 * TILE_ROW_BYTES
SCRATCH_BYTES = 2 * TILE_BYTES

# Vectors of 16 tiles that the products of Winograd's filtering keep in registers, beside 4 output channels; and scratch
# of one thread for a tile on its way through a transform: 36 words of codes, then twice as many pairs.
WINOGRAD_VECTORS = (2, 3) if ISA.startswith("avx512") else (1, 1)
WINOGRAD_WORK_BYTES = 64 * 3 * 36
