"""What a graph may hold, and the error of one that holds anything else."""

from __future__ import annotations

# All are far above any network of this kind, and so low that products of a few of them, and what a reader or the planner
# computes from them, stay far below 2**63.
MAX_LENGTH = 1 << 16  # rows and columns of any tensor, each size of weights
MAX_CHANNELS = 1 << 14  # of any tensor
MAX_SIDE = 1 << 14  # rows and columns of a picture, and of the input that is asked for
MAX_ELEMENTS = 1 << 31  # of a tensor
MAX_WINDOW = 1 << 12  # along an axis: stride, dilation, padding of a window, bins of a pool, kernels in files
MAX_TAPS = 1 << 14  # kernel positions of a window, bins of an average pool
MAX_WEIGHTS = 1 << 26  # of a convolution


class GraphError(ValueError):
    """A graph that cannot be what it claims: the message names the operation, what was expected and what came."""
