"""What the kernel of the convolution of float32 reads."""

from __future__ import annotations

from sparse_icnet.operators.params import Output
from sparse_icnet.operators.record import Table, record
from sparse_icnet.target import TARGET

VECTORS = TARGET.float_kernel.vectors  # of 16 pixels in a tile


@record
class FloatConvolutionParams:
    """A task is one tile of vectors of one phase, for a range of groups of four output channels.

    phases      of the output; vectors: of 16 pixels in one of its planes; chunks: tiles that divide a plane
    groups      of four output channels; groups_per_task: of them, at most
    source      address of the real values that it reads, in the unit 1
    offsets     int32 (phases, n): byte offset in the source of the first pixel that each block reads; offsets_phase: bytes
                from one phase to the next
    indptr      int32 (groups + 1,): the range of the blocks of each group
    weights     float32 (n, 4): a block is the weights of a group for one tap and input channel
    multiplier  f32(1 / u); biases: float32 (4 * groups,)
    """

    phases: int
    vectors: int
    chunks: int
    groups: int
    groups_per_task: int
    source: int
    offsets: Table
    offsets_phase: int
    indptr: Table
    weights: Table
    multiplier: float
    biases: Table
    output: Output
