"""The weights of a convolution of float32 as its kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import FloatConvolution
from sparse_icnet.operators.storage import MapLayout
from sparse_icnet.operators.taps import int32_table, tap_offsets


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The weights of groups of four output channels in blocks, those in which one is not 0, in the order of (Q12).

    indptr  int32 (groups + 1,): the range of each group
    taps, channels  int64 (n,): tap and input channel of each block
    values  float32 (n, 4); channels beyond the last are 0
    """

    indptr: NDArray[np.int32]
    taps: NDArray[np.int64]
    channels: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, op: FloatConvolution) -> Weights:
        outputs, inputs = op.weight.shape[:2]
        ordered = op.weight.transpose(0, 2, 3, 1).reshape(outputs, -1)
        blocks = np.pad(ordered, ((0, -outputs % 4), (0, 0))).reshape(-(-outputs // 4), 4, -1)
        groups, columns = np.nonzero(blocks.any(1))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=len(blocks)))])
        return cls(
            int32_table(indptr, f"convolution {op.name!r}"),
            columns // inputs,
            columns % inputs,
            np.ascontiguousarray(blocks[groups, :, columns]),
        )

    def offsets(self, name: str, source: MapLayout, taps: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 (phases, n): byte offset of the first pixel that each block reads, tap and padding included.

        taps  of the convolution `name`, as `taps_of` gives them
        """
        places = tap_offsets(source, taps)[:, self.taps] + self.channels * source.stride
        return int32_table(places, f"convolution {name!r}")
