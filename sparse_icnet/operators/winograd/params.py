"""What the kernels of Winograd's filtering read, and the scratch memory of its transforms."""

from __future__ import annotations

from sparse_icnet.operators.params import Epilogue
from sparse_icnet.operators.record import Table, record

# Scratch for a tile of filtering on its way through a transform: 36 vectors of codes, then twice as many pairs.
WORK_BYTES = 64 * 3 * 36


@record
class Elements:
    """From the codes of the input to its elements, 36 for each tile; also the record of the step that does only this.

    groups            of four input channels
    chunks            of vectors of tiles in one phase of tiles; vectors_per_task: of each, whole register tiles
    source            address of the codes, source_stride: bytes from one group to the next
    offsets           int32: (phases of tiles, 36) byte offset of each pixel of a tile in a group, or, where tables say
                      where the pixels lie, (36, lanes) of each lane
    offsets_phase     bytes from one phase to the next
    gathered          bytes from one pixel of a tile to the next in the tables, 0 if there are none
    in_order          int32 (36,): byte offset of each pixel once it is gathered; None without tables
    address           of the elements that a step before has made; 0: each task makes its own in scratch
    element_bytes     from one element to the next
    """

    groups: int
    chunks: int
    vectors_per_task: int
    source: int
    source_stride: int
    offsets: Table
    offsets_phase: int
    gathered: int
    in_order: Table
    address: int
    element_bytes: int


@record
class WinogradParams:
    """A task is a few vectors of tiles of one phase of tiles, for all or some groups of four output channels.

    inputs            whose elements are multiplied
    vectors           of 16 tiles in one phase
    groups            of four output channels; groups_at_once: those whose sums are kept at a time
    columns           phases of the output side by side
    weights           int32: `pack.pack_weights`
    sums              byte offset of the sums of products in scratch, sums_element_bytes: from one element to the next
    scattered         int32 (16, lanes): byte offset of each output of each lane within a group, -1 where there is none;
                      None where the outputs of a tile lie in planes of their own
    scattered_bytes   from one output of a tile to the next in that table
    """

    inputs: Elements
    vectors: int
    groups: int
    groups_at_once: int
    columns: int
    weights: Table
    sums: int
    sums_element_bytes: int
    scattered: Table
    scattered_bytes: int
    epilogue: Epilogue
