"""Block CSR: the packed form of a layer, blocks of R output x 4 input channels at one kernel position.

Four input channels fill the 32-bit lane that one dot-product instruction multiplies, R output channels
share one load of the activations.  A block is kept if any of its weights is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANE_CHANNELS = 4


@dataclass(frozen=True, slots=True, eq=False)
class BlockCSR:
    """int8 weights of `shape` (O, I, kh, kw) in blocks of (rows, 4).

    Row group r holds output channels r * rows to (r + 1) * rows - 1, column c = (g * kh + y) * kw + x
    input channels 4 * g to 4 * g + 3 at kernel position (y, x).  Channels beyond O or I are zero.

    indptr   int32 (groups + 1,)
    indices  int32 (nnz,), columns ascending within a row group
    data     int8 (nnz, rows, 4)
    """

    shape: tuple[int, int, int, int]
    rows: int
    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    data: NDArray[np.int8]

    @classmethod
    def from_dense(cls, weight: NDArray[np.int8], rows: int) -> BlockCSR:
        """Pack an int8 (O, I, kh, kw) array; blocks of zeros are dropped.  ValueError for another array or no rows."""
        blocks = _blocks(weight, rows)  # (row groups, columns, rows, 4)
        group, column = np.nonzero(_occupied(blocks))
        indptr = np.zeros(blocks.shape[0] + 1, np.int32)
        np.cumsum(np.bincount(group, minlength=blocks.shape[0]), out=indptr[1:])
        return cls(
            weight.shape, rows, indptr, column.astype(np.int32), np.ascontiguousarray(blocks[group, column])
        )

    def to_dense(self) -> NDArray[np.int8]:
        """int8 (O, I, kh, kw)."""
        outputs, inputs, height, width = self.shape
        groups, lanes = -(-outputs // self.rows), -(-inputs // LANE_CHANNELS)
        blocks = np.zeros((groups, lanes * height * width, self.rows, LANE_CHANNELS), np.int8)
        group = np.repeat(np.arange(groups), np.diff(self.indptr))
        blocks[group, self.indices] = self.data
        padded = blocks.reshape(groups, lanes, height, width, self.rows, LANE_CHANNELS)
        padded = padded.transpose(0, 4, 1, 5, 2, 3).reshape(
            groups * self.rows, lanes * LANE_CHANNELS, height, width
        )
        return np.ascontiguousarray(padded[:outputs, :inputs])

    @property
    def blocks(self) -> int:
        """Number of stored blocks."""
        return self.indices.size

    @property
    def density(self) -> float:
        """Stored blocks over all blocks."""
        _, inputs, height, width = self.shape
        columns = -(-inputs // LANE_CHANNELS) * height * width
        return self.blocks / (columns * (self.indptr.size - 1))


def block_density(weight: NDArray[np.int8] | NDArray[np.float32], rows: int) -> float:
    """Share of the blocks of `rows` output x 4 input channels of (O, I, kh, kw) weights that hold a non-zero, 0 to 1."""
    return float(_occupied(_blocks((weight != 0).astype(np.int8), rows)).mean())


def _occupied(blocks: NDArray[np.int8]) -> NDArray[np.bool_]:
    """(row groups, columns): whether a block holds a non-zero; four int8 at a time, much faster than `any`."""
    packed = np.ascontiguousarray(blocks).view(np.int32)[..., 0]
    union = packed[..., 0].copy()
    for r in range(1, packed.shape[2]):
        union |= packed[..., r]
    occupied: NDArray[np.bool_] = union != 0
    return occupied


def _blocks(weight: NDArray[np.int8], rows: int) -> NDArray[np.int8]:
    """(O, I, kh, kw) -> (row groups, lanes * kh * kw, rows, 4), padded with zeros."""
    if weight.dtype != np.int8 or weight.ndim != 4:
        raise ValueError(f"expected int8 weights (O, I, kh, kw), found {weight.dtype} {weight.shape}")
    if rows < 1:
        raise ValueError(f"expected at least one row in a block, found {rows}")
    outputs, inputs, height, width = weight.shape
    padded = weight
    if outputs % rows or inputs % LANE_CHANNELS:
        padded = np.pad(weight, ((0, -outputs % rows), (0, -inputs % LANE_CHANNELS), (0, 0), (0, 0)))
    groups, lanes = padded.shape[0] // rows, padded.shape[1] // LANE_CHANNELS
    return (
        padded.reshape(groups, rows, lanes, LANE_CHANNELS, height, width)
        .transpose(0, 2, 4, 5, 1, 3)
        .reshape(groups, lanes * height * width, rows, LANE_CHANNELS)
    )
