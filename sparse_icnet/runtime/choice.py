"""Which kernel computes a convolution, by a cost model fitted to measured kernels, and the weights as it reads them."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels.sizes import LINE
from sparse_icnet.network.graph import Convolution
from sparse_icnet.runtime import winograd
from sparse_icnet.sparse.block_csr import BlockCSR
from sparse_icnet.sparse.couples import Entries, entries
from sparse_icnet.target import TARGET, Dot, MicroKernel

# Vectors of one task, rounded up to whole tiles: all of them use the weights of a group while those are in the
# first-level cache.
TASK_VECTORS = 6
# With register tiles of one or two vectors, for which the loads count, a task has no more than so many bytes of
# activations either, which all groups read again: on Zen 3 a tenth less time for 512 and 1024 input channels.
TASK_BYTES = 24 << 10


def tail_kernel(kernel: MicroKernel, vectors: int) -> MicroKernel:
    """The narrowest micro-kernel with as many rows for the vectors that whole tiles of `kernel` leave over."""
    rest = vectors % kernel.vectors
    fitting = [k for k in TARGET.kernels if k.rows == kernel.rows and rest <= k.vectors <= kernel.vectors]
    return min(fitting, key=lambda k: k.vectors)


@lru_cache(maxsize=4)  # the kernel is chosen by these blocks, then packs them
def blocks_of(op: Convolution, rows: int) -> BlockCSR:
    """Blocks of `rows` output channels of `op`, whose output channels are padded to whole groups of four."""
    return BlockCSR.from_dense(_padded(op), rows)


def _padded(op: Convolution) -> NDArray[np.int8]:
    padding = -op.weight.shape[0] % 4
    return np.pad(op.weight, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else op.weight


@lru_cache(maxsize=4)
def entries_of(op: Convolution, rows: int) -> Entries:
    """The order in which a micro-kernel multiplies the blocks of `blocks_of(op, rows)`."""
    return entries(blocks_of(op, rows), TARGET.couples)


def choose_kernel(op: Convolution, vectors: int) -> tuple[MicroKernel, str]:
    """The micro-kernel with the least estimated time for these weights on planes of `vectors` vectors, and why."""
    costs = direct_costs(op, vectors)
    best = min(costs, key=costs.__getitem__)
    others = ", ".join(
        f"{k.name} {costs[k] / max(costs[best], 1):.2f}x" for k in TARGET.kernels if k is not best
    )
    return best, f"least estimated time; {others}"


def choose_winograd(op: Convolution, tiles: winograd.Tiling | None, planes: int, vectors: int) -> str:
    """Why `op` is computed by Winograd's filtering; empty if it is not, since another way has the least estimated time.

    vectors  of one plane of the output
    """
    if tiles is None:
        return ""
    cost = winograd.estimated_cost(op, tiles)
    direct = planes * min(direct_costs(op, vectors).values())
    return f"least estimated time; direct {direct / cost:.2f}x" if cost < direct else ""


def direct_costs(op: Convolution, vectors: int) -> dict[MicroKernel, float]:
    """Estimated time of each micro-kernel for these weights on a plane of `vectors` vectors.

    Stored products, times vectors in whole tiles, over the relative speed of the kernel for them.
    """
    costs = {}
    for kernel in TARGET.kernels:
        whole, rest = divmod(vectors, kernel.vectors)
        computed = whole * kernel.vectors + (tail_kernel(kernel, vectors).vectors if rest else 0)
        singles, couples = _estimated_entries(op, kernel.rows)
        cost = singles / kernel.speed
        if couples:
            cost += 2 * couples / kernel.couple_speed
        costs[kernel] = cost * kernel.rows * computed
    return costs


def vectors_of_task(op: Convolution, kernel: MicroKernel) -> int:
    """Vectors of pixels of one task, whole tiles of `kernel`."""
    vectors = TASK_VECTORS
    if kernel.vectors <= 2:
        inputs, *window = op.weight.shape[1:]
        vectors = min(vectors, TASK_BYTES // (LINE * -(-inputs // 4) * math.prod(window)))
    return max(1, -(-vectors // kernel.vectors)) * kernel.vectors


@lru_cache(maxsize=4)
def _estimated_entries(op: Convolution, rows: int) -> tuple[float, float]:
    """(single blocks, couples) of `entries_of(op, rows)`; of many output channels from 4 to 7 groups of four alone.

    The search for couples is most of the time of planning, and only the micro-kernel that is chosen needs all of them.
    """
    weight = _padded(op)
    groups = weight.reshape(-1, 4, *weight.shape[1:])
    sample = groups[:: max(1, len(groups) // 4)]
    stored = entries(BlockCSR.from_dense(sample.reshape(-1, *weight.shape[1:]), rows), TARGET.couples)
    share = len(groups) / len(sample)
    return stored.singles * share, stored.couples * share


def pack_weights(blocks: BlockCSR, stored: Entries) -> NDArray[np.int32]:
    """The words of `blocks` as its micro-kernel reads them: int32 (entries, words * rows).

    With VNNI or on Arm one word holds the four int8 of a row.  Otherwise an entry of one block holds the even weights of
    all rows first, as int16 pairs (w0, w2), then the odd ones (w1, w3); a couple the words of its first block, then its
    second.
    """
    data = np.ascontiguousarray(blocks.data)
    rows = data.view(np.int32).reshape(-1, blocks.rows)
    if TARGET.dot is Dot.BYTES:
        return rows[stored.blocks[:, 0]]
    words = rows[stored.blocks].reshape(-1, 2 * blocks.rows)
    alone = ~stored.coupled
    single = data[stored.blocks[alone, 0]]
    pairs = np.stack([single[..., 0::2], single[..., 1::2]], 1).astype(np.int16)
    words[alone] = pairs.view(np.int32).reshape(-1, 2 * blocks.rows)
    return words
