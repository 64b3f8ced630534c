"""The weights of a convolution as its micro-kernel reads them, and where each block reads."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution
from sparse_icnet.operators.storage import MapLayout
from sparse_icnet.operators.taps import int32_table, tap_offsets
from sparse_icnet.sparse.block_csr import BlockCSR
from sparse_icnet.sparse.couples import BlockOrder, block_order
from sparse_icnet.target import TARGET, Dot


@lru_cache(maxsize=4)  # the kernel is chosen by these blocks, then packs them
def blocks_of(op: Convolution, rows: int) -> BlockCSR:
    """Blocks of `rows` output channels of `op`, whose output channels are padded to whole groups of four."""
    return BlockCSR.from_dense(_padded(op), rows)


@lru_cache(maxsize=4)
def order_of(op: Convolution, rows: int) -> BlockOrder:
    """The order in which a micro-kernel multiplies the blocks of `blocks_of(op, rows)`."""
    return block_order(blocks_of(op, rows), TARGET.couples)


@lru_cache(maxsize=4)
def estimated_entries(op: Convolution, rows: int) -> tuple[float, float]:
    """(single blocks, couples) of `order_of(op, rows)`; of many output channels from 4 to 7 groups of four alone.

    The search for couples is most of the time of planning, and only the micro-kernel that is chosen needs all of them.
    """
    weight = _padded(op)
    groups = weight.reshape(-1, 4, *weight.shape[1:])
    sample = groups[:: max(1, len(groups) // 4)]
    order = block_order(BlockCSR.from_dense(sample.reshape(-1, *weight.shape[1:]), rows), TARGET.couples)
    share = len(groups) / len(sample)
    return order.singles * share, order.couples * share


def _padded(op: Convolution) -> NDArray[np.int8]:
    padding = -op.weight.shape[0] % 4
    return np.pad(op.weight, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else op.weight


def pack_weights(blocks: BlockCSR, order: BlockOrder) -> NDArray[np.int32]:
    """The weights of `blocks` as the micro-kernel reads them: int32 (entries, TARGET.lanes_per_row * rows).

    With Dot.BYTES one lane holds the four int8 of a row.  Otherwise an entry of one block holds the even weights of
    all rows first, as int16 pairs (w0, w2), then the odd ones (w1, w3); a couple the lanes of its first block, then those
    of its second.
    """
    data = np.ascontiguousarray(blocks.data)
    rows = data.view(np.int32).reshape(-1, blocks.rows)
    if TARGET.dot is Dot.BYTES:
        return rows[order.blocks[:, 0]]
    packed = rows[order.blocks].reshape(-1, 2 * blocks.rows)
    alone = ~order.coupled
    single = data[order.blocks[alone, 0]]
    pairs = np.stack([single[..., 0::2], single[..., 1::2]], 1).astype(np.int16)
    packed[alone] = pairs.view(np.int32).reshape(-1, 2 * blocks.rows)
    return packed


def block_offsets(
    op: Convolution, source: MapLayout, taps: NDArray[np.int64], columns: NDArray[np.int32]
) -> NDArray[np.int32]:
    """int32 (phases, n): byte offset of the first pixel that each block reads, tap and padding included.

    taps     of `op`, as `taps_of` gives them
    columns  int32 (n,), block columns of `BlockCSR`
    """
    tap_count = op.weight.shape[2] * op.weight.shape[3]
    lane, tap = columns // tap_count, columns % tap_count
    offsets = tap_offsets(source, taps)[:, tap] + lane.astype(np.int64) * source.stride
    return int32_table(offsets, f"convolution {op.name!r}")
