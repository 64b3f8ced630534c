"""The weights of a Winograd convolution as its kernel reads them, and where the pixels of gathered tiles lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, Size
from sparse_icnet.operators.storage import VECTOR_PIXELS, MapLayout, View
from sparse_icnet.operators.taps import int32_table
from sparse_icnet.sparse.winograd import ELEMENTS, INPUTS, OUTPUTS, TAPS, transformed

if TYPE_CHECKING:
    from sparse_icnet.operators.winograd.tiling import Tiling


def pack_weights(op: Convolution, at_once: int) -> NDArray[np.int32]:
    """Lanes of two int16 as the kernel reads them: [output groups at once][element][group][pair][4 output channels].

    Pair 2 g + h of input channels holds channels 4 g + h and 4 g + h + 2, as the bytes of a lane are taken apart.
    """
    outputs, inputs = op.weight.shape[:2]
    padded = np.pad(op.weight, ((0, -outputs % 4), (0, -inputs % 4), (0, 0), (0, 0)))
    groups = padded.shape[0] // 4
    # Channels are put in order before the transform, while there are nine numbers of each filter: (groups, 4 outputs,
    # input groups, 2 of a pair, 2 pairs, taps) -> taps outermost, outputs innermost, a pair in one lane.
    taps = padded.reshape(groups, 4, -1, 2, 2, TAPS, TAPS).transpose(5, 6, 0, 2, 4, 1, 3)
    halves = transformed(np.ascontiguousarray(taps)).reshape(ELEMENTS, -1)
    packed = halves.view(np.int32).reshape(ELEMENTS, groups, -1)
    return np.concatenate([packed[:, i : i + at_once].reshape(-1) for i in range(0, groups, at_once)])


def weight_bytes(op: Convolution) -> int:
    """Bytes of `pack_weights(op, ...)`."""
    size: int = 2 * ELEMENTS * math.prod(n + -n % 4 for n in op.weight.shape[:2])
    return size


def gathered(
    op: Convolution,
    tiles: Tiling,
    size: Size,
    source: tuple[View, MapLayout],
    target: tuple[View, MapLayout],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tables of a tiling with `starts`: int32 (ELEMENTS, lanes) and (OUTPUTS**2, lanes) byte offsets.

    Of the pixel of each tile in the input, within a group of channels: the row of padding above the first plane where
    there is none.  And in the output: -1 where there is none.  Lanes: those of whole tasks.
    """
    assert tiles.starts is not None
    dilation = op.dilation[0]
    lanes = tiles.blocks * tiles.at_once * VECTOR_PIXELS
    starts = np.full((lanes, 2), -1, np.int64)
    starts[: len(tiles.starts)] = tiles.starts
    used = starts[:, 0] >= 0
    view, layout = source
    outside = layout.plane_offset(int(view.planes[0, 0])) - layout.map.grid.pitch
    inputs = _pixels(source, size, starts, dilation * (np.arange(INPUTS) - 1), used, outside)
    outputs = _pixels(target, size, starts, dilation * np.arange(OUTPUTS), used, -1)
    what = f"convolution {op.name!r}"
    return int32_table(inputs, what), int32_table(outputs, what)


def _pixels(
    source: tuple[View, MapLayout],
    size: Size,
    starts: NDArray[np.int64],
    steps: NDArray[np.int64],
    used: NDArray[np.bool_],
    outside: int,
) -> NDArray[np.int64]:
    """int64 (steps * steps, lanes): byte offset of the pixel start + (step, step) of each lane, or `outside`."""
    view, layout = source
    grid, phases = layout.map.grid, view.phases
    at = [starts[None, :, axis] + steps[:, None] for axis in (0, 1)]  # (steps, lanes)
    inside = [(x >= 0) & (x < n) & used for x, n in zip(at, size, strict=True)]
    rows, columns = (np.where(ok, x, 0) for x, ok in zip(at, inside, strict=True))
    rows, columns = rows[:, None], columns[None, :]
    planes = layout.plane_offsets()[view.planes[rows % phases[0], columns % phases[1]]]
    pixels = planes + rows // phases[0] * grid.pitch + columns // phases[1] * 4
    result = np.where(inside[0][:, None] & inside[1][None, :], pixels, outside)
    return result.reshape(len(steps) ** 2, -1)
