"""Couples: two blocks whose products may be added up in int16, proved from their weights alone.

Without VNNI the fastest product is `vpmaddubsw`: u8 activations x s8 weights, two neighbouring products added into
int16, saturating.  With p the sum of the positive weights behind one int16 and -n that of the negative ones (two weights
of one block, four of a couple), every value on the way lies in [-255 n, 255 p], whatever the activations.  So

    p <= 128 and n <= 128   =>   -32768 < -255 * 128 <= sum <= 255 * 128 = 32640 <= 32767:

nothing saturates, and the products of both blocks are widened to int32 once.  Blocks without a partner stay single and
are multiplied as int16 pairs, which is exact for any weights.  Which blocks are coupled changes no bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.sparse.block_csr import BlockCSR

LIMIT = 128  # of p and of n: 255 * LIMIT fits int16
ALL_TRUE = 0x01010101  # four bytes of booleans
ROUNDS = 12  # of the search for partners; twice as many found 1 to 3 % more on the bundled models


@dataclass(frozen=True, slots=True, eq=False)
class BlockOrder:
    """The order in which a micro-kernel multiplies the stored blocks of each row group: couples, then single blocks.

    indptr  int32 (2 * groups + 1,): couples of row group r are entries indptr[2r] to indptr[2r + 1] - 1, its single
            blocks follow up to indptr[2r + 2] - 1
    blocks  int32 (entries, 2): numbers of the stored blocks; of a single block twice the same
    """

    indptr: NDArray[np.int32]
    blocks: NDArray[np.int32]

    @property
    def coupled(self) -> NDArray[np.bool_]:
        """(entries,): which entries are couples."""
        coupled: NDArray[np.bool_] = self.blocks[:, 0] != self.blocks[:, 1]
        return coupled

    @property
    def couples(self) -> int:
        """Number of entries that are couples."""
        return int(np.count_nonzero(self.coupled))

    @property
    def singles(self) -> int:
        """Number of entries that are single blocks."""
        return len(self.blocks) - self.couples


def block_order(blocks: BlockCSR, couple: bool) -> BlockOrder:
    """Every stored block in one entry; as many as possible in couples if `couple`, else none."""
    number = np.arange(blocks.blocks, dtype=np.int32)
    if not couple:
        return BlockOrder(np.repeat(blocks.indptr, 2)[:-1], np.stack([number, number], 1))
    partner = _partners(blocks)
    second = np.where(partner < 0, number, partner)
    listed = second >= number  # a couple stands where its first block stood
    first, second, group = number[listed], second[listed], _row_groups(blocks)[listed]
    single = first == second
    part = 2 * group + single
    order = np.argsort(part, kind="stable")
    indptr = np.zeros(2 * (blocks.indptr.size - 1) + 1, np.int32)
    np.cumsum(np.bincount(part, minlength=indptr.size - 1), out=indptr[1:])
    return BlockOrder(indptr, np.stack([first[order], second[order]], 1))


def sign_sums(data: NDArray[np.int8]) -> NDArray[np.uint16]:
    """int8 (n, rows, 4) -> uint16 (n, 4 * rows): p, then n, of each pair of weights of each row."""
    pairs = data.reshape(-1, 2 * data.shape[1], 2)
    positive = np.maximum(pairs, 0).view(np.uint8)
    # -(-128) stays -128 in int8, whose bits are those of 128.
    negative = np.negative(np.minimum(pairs, 0)).view(np.uint8)
    return np.concatenate([x[..., 0] + x[..., 1].astype(np.uint16) for x in (positive, negative)], 1)


def _row_groups(blocks: BlockCSR) -> NDArray[np.int32]:
    """int32 (nnz,): row group of each stored block."""
    return np.repeat(np.arange(blocks.indptr.size - 1, dtype=np.int32), np.diff(blocks.indptr))


def _partners(blocks: BlockCSR) -> NDArray[np.int32]:
    """int32 (nnz,): the other block of the couple, or -1.

    A tournament in each row group: the blocks without a partner stand in a circle, the heaviest first, and block k
    meets block (m - 1 - round - k) mod m of the m that are left; those that fit together leave.
    """
    partner = np.full(blocks.blocks, -1, np.int32)
    sums = sign_sums(blocks.data)
    heaviest = sums.max(1, initial=0)
    left = np.flatnonzero(heaviest <= LIMIT)
    group = _row_groups(blocks)
    left = left[np.argsort(group[left] * (LIMIT + 1) + LIMIT - heaviest[left], kind="stable")]
    sums = sums.astype(np.uint8)  # 256 wraps, but only in blocks that are not left
    barren = 0  # turns since two blocks fitted together
    for turn in range(ROUNDS):
        sizes = np.bincount(group[left], minlength=blocks.indptr.size - 1)
        most = sizes.max(initial=0)
        if most < 2 or barren >= most:
            break  # every block has met every other
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        size = np.repeat(sizes, sizes)
        place = np.arange(left.size) - first
        other = (size - 1 - turn - place) % size
        one = np.flatnonzero(place < other)
        two = first[one] + other[one]
        fits = (sums[left[one]] <= LIMIT - sums[left[two]]).view(np.uint32)
        fits = (fits == ALL_TRUE).all(1)  # four at a time
        one, two = one[fits], two[fits]
        barren = 0 if one.size else barren + 1
        partner[left[one]], partner[left[two]] = left[two], left[one]
        stays = np.ones(left.size, bool)
        stays[one] = stays[two] = False
        left = left[stays]
    return partner
