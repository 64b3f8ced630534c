"""Compressed sparse rows: the stored form of a layer's weights, one row an output channel.

Column j of row o is weight[o, i, y, x] with j = (i * kh + y) * kw + x, the C order of a dense (O, I, kh, kw) array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = (np.int8, np.float32)  # of weights


@dataclass(frozen=True, slots=True, eq=False)
class CSR:
    """Weights of `shape` (O, I, kh, kw), int8 or float32, without their zeros.

    indptr   int32 (O + 1,), row o is the slice indptr[o] : indptr[o + 1]
    indices  uint16 or uint32 (nnz,), columns, strictly ascending within a row
    data     int8 or float32 (nnz,), never 0

    Raises ValueError for arrays that do not fit together.
    """

    shape: tuple[int, int, int, int]
    indptr: NDArray[np.int32]
    indices: NDArray[np.unsignedinteger]
    data: NDArray[Any]

    @classmethod
    def from_dense(cls, weight: NDArray[Any]) -> CSR:
        """Drop the zeros of an int8 or float32 (O, I, kh, kw) array."""
        if weight.dtype not in KINDS or weight.ndim != 4:
            raise ValueError(
                f"expected int8 or float32 weights (O, I, kh, kw), found {weight.dtype} {weight.shape}"
            )
        matrix = weight.reshape(weight.shape[0], -1)
        rows, columns = np.nonzero(matrix)
        indptr = np.zeros(matrix.shape[0] + 1, np.int32)
        np.cumsum(np.bincount(rows, minlength=matrix.shape[0]), out=indptr[1:])
        index_type = np.uint16 if matrix.shape[1] <= 1 << 16 else np.uint32
        return cls(weight.shape, indptr, columns.astype(index_type), matrix[rows, columns])

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or min(self.shape) < 1:
            raise ValueError(f"expected a shape (O, I, kh, kw) of positive sizes, found {self.shape}")
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        counts = np.diff(self.indptr.astype(np.int64))
        if self.indptr.shape != (rows + 1,) or self.indptr[0] != 0 or (counts < 0).any():
            raise ValueError(f"indptr must be {rows + 1} ascending offsets from 0, found {self.indptr.shape}")
        if self.data.dtype not in KINDS or self.data.shape != (self.indptr[-1],):
            raise ValueError(
                f"data must be int8 or float32 of {self.indptr[-1]} entries, found {self.data.dtype} {self.data.shape}"
            )
        if self.indices.dtype.kind != "u" or self.indices.shape != self.data.shape:
            raise ValueError(
                f"indices must be unsigned, as many as data, found {self.indices.dtype} {self.indices.shape}"
            )
        # Flat positions must ascend strictly: that is sorted columns within each row, each at most once.
        if self.data.size:
            flat = self.flat_positions()
            if int(self.indices.max()) >= columns or (np.diff(flat) <= 0).any():
                raise ValueError(f"indices must ascend within each row and stay below {columns}")
        if not self.data.all():
            raise ValueError("data must not store zeros")

    @property
    def density(self) -> float:
        """Share of weights that are not zero."""
        return self.data.size / math.prod(self.shape)

    def flat_positions(self) -> NDArray[np.int64]:
        """Position of each stored weight in the flattened dense array."""
        rows = np.repeat(np.arange(self.shape[0], dtype=np.int64), np.diff(self.indptr))
        return rows * math.prod(self.shape[1:]) + self.indices

    def to_dense(self) -> NDArray[Any]:
        """(O, I, kh, kw), of the dtype of `data`."""
        dense = np.zeros(math.prod(self.shape), self.data.dtype)
        dense[self.flat_positions()] = self.data
        return dense.reshape(self.shape)
