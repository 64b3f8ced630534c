"""What the kernel of the block-sparse convolution reads."""

from __future__ import annotations

from sparse_icnet.operators.params import Epilogue
from sparse_icnet.operators.record import Table, record


@record
class ConvolutionParams:
    """A task is a chunk of vectors of one phase, for a range of groups of four output channels.

    phases            of the output; vectors: of 16 pixels in one of its planes
    chunks            tasks that divide a plane; vectors_per_task: of each, whole tiles
    groups            of four output channels; groups_per_task: of them, at most
    kernel            number of the micro-kernel; tile_vectors: its vectors
    remainder_kernel  number of the micro-kernel for the vectors that whole tiles leave over
    source            address of the codes that it reads
    offsets           int32 (phases, entries + AHEAD, blocks an entry): byte offset in the source of the first pixel that
                      each block reads, and behind them of any; offsets_phase: bytes from one phase to the next
    indptr            int32: for each row of blocks its first entry, first entry of a single block, and behind the last row
                      the end
    weights           int32 (entries, lanes): `pack.pack_weights`
    """

    phases: int
    vectors: int
    chunks: int
    vectors_per_task: int
    groups: int
    groups_per_task: int
    kernel: int
    tile_vectors: int
    remainder_kernel: int
    source: int
    offsets: Table
    offsets_phase: int
    indptr: Table
    weights: Table
    epilogue: Epilogue
