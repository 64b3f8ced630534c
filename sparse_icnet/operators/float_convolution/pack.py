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
    """The weights that are not 0, in the order of (Q12); output channels are filled up to whole groups of four.

    indptr  int32 (4 * groups + 1,): the range of each output channel
    taps, channels  int64 (n,): tap and input channel of each weight
    values  float32 (n,)
    """

    indptr: NDArray[np.int32]
    taps: NDArray[np.int64]
    channels: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, op: FloatConvolution) -> Weights:
        outputs, inputs = op.weight.shape[:2]
        ordered = op.weight.transpose(0, 2, 3, 1).reshape(outputs, -1)
        rows, columns = np.nonzero(ordered)
        counts = np.bincount(rows, minlength=outputs + -outputs % 4)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return cls(
            int32_table(indptr, f"convolution {op.name!r}"),
            columns // inputs,
            columns % inputs,
            np.ascontiguousarray(ordered[rows, columns]),
        )

    def offsets(self, name: str, source: MapLayout, taps: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 (phases, n): byte offset of the first pixel that each weight reads, tap and padding included.

        taps  of the convolution `name`, as `taps_of` gives them
        """
        places = tap_offsets(source, taps)[:, self.taps] + self.channels * source.stride
        return int32_table(places, f"convolution {name!r}")
