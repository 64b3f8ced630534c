"""Proof of what comes with a call: the tables of the pixels of a picture along each axis, (Q11)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.interpolation.params import VECTOR_SLACK


def prove_axis(points: int, length: int, starts: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
    """Raise ProofError unless the tables of `length` pixels along an axis of `points` keep the kernels inside."""
    cells = max(points - 1, 1)
    whole = starts.shape == (cells + 1,) and starts[0] == 0 and starts[-1] == length
    room = weights.shape == (2, length + VECTOR_SLACK) and weights.flags.c_contiguous
    if not (whole and room and starts.flags.c_contiguous and (np.diff(starts) >= 0).all()):
        from sparse_icnet.plan.proof import ProofError

        raise ProofError(f"the tables of {length} pixels over {points} grid points do not belong to them")
