"""What the taps of a window read: planes and byte offsets, and the shifted copies and padding that this takes.

`sparse_icnet.operators.storage` says why: in maps stored as phases a tap is a plane, moved by whole grid rows and columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import AnyConvolution, MaxPool, Size
from sparse_icnet.operators.storage import SLACK, VECTOR_PIXELS, Demand, MapLayout, PlanError, View

MAX_SHIFT = SLACK // 4 - VECTOR_PIXELS  # pixels that a shifted load may start outside its map


def taps_of(op: AnyConvolution | MaxPool, source: View, phases: Size) -> NDArray[np.int64]:
    """int64 (phases, kh * kw, 3): plane, grid row shift and grid column shift that each tap of each phase reads.

    Output pixel (k*Y + q) at tap t reads input row s*(k*Y + q) + d*t - pad = (s*k)*Y + r with
    r = s*q + d*t - pad: phase r mod s*k, shifted by floor(r / (s*k)) grid rows.  It lies outside the map exactly
    when the shifted grid row lies outside the grid.

    Raises PlanError for a tap that is more than MAX_SHIFT grid columns away.
    """
    if isinstance(op, AnyConvolution):
        kernel, dilation = op.weight.shape[2:], op.dilation
    else:
        kernel, dilation = op.kernel, (1, 1)
    axes = []
    for axis in (0, 1):
        r = (
            op.stride[axis] * np.arange(phases[axis])[:, None]
            + dilation[axis] * np.arange(kernel[axis])[None, :]
            - op.padding[axis]
        )
        axes.append((r % source.phases[axis], r // source.phases[axis]))
    (row_phase, row_shift), (column_phase, column_shift) = axes
    shape = (phases[0], phases[1], kernel[0], kernel[1])
    plane = source.planes[row_phase[:, None, :, None], column_phase[None, :, None, :]]
    taps = np.stack(
        [
            plane,
            np.broadcast_to(row_shift[:, None, :, None], shape),
            np.broadcast_to(column_shift[None, :, None, :], shape),
        ],
        -1,
    )
    taps = taps.reshape(phases[0] * phases[1], kernel[0] * kernel[1], 3)
    columns, grid = int(np.abs(taps[:, :, 2]).max()), source.map.grid
    if columns > MAX_SHIFT:
        raise PlanError(
            f"operation {op.name!r}: a tap may reach at most {MAX_SHIFT} columns of the {grid.rows}x"
            f"{grid.columns} grid away, found {columns}"
        )
    return taps


def demand_of(reader: str, source: View, taps: NDArray[np.int64]) -> Demand:
    """What an operator with the taps of `taps_of` takes of the map of `source`."""
    keys, which = _planes_read(taps)
    first, last = np.zeros((2, len(keys)), np.int64)
    np.minimum.at(first, which, taps[..., 1].reshape(-1))
    np.maximum.at(last, which, taps[..., 1].reshape(-1))
    edges = {
        key: (-top, bottom)
        for key, top, bottom in zip(keys, first.tolist(), last.tolist(), strict=True)
        if top or bottom or key[1]
    }
    # A convolution that stores a shifted copy of its output writes up to `columns` pixels before or behind it.
    columns = int(np.abs(taps[..., 2]).max())
    rows = max(int(np.abs(taps[..., 1]).max()), -(-columns // source.map.grid.pitch_pixels))
    return Demand(reader, source.map, rows, edges)


def _planes_read(taps: NDArray[np.int64]) -> tuple[list[tuple[int, int]], NDArray[np.intp]]:
    """The (plane, column shift) that taps int64 (phases, taps, 3) read, in order, and which one each of them reads."""
    keys, which = np.unique(
        taps[..., 0] * (2 * MAX_SHIFT + 1) + taps[..., 2] + MAX_SHIFT, return_inverse=True
    )
    pairs = [divmod(key, 2 * MAX_SHIFT + 1) for key in keys.tolist()]
    return [(plane, shift - MAX_SHIFT) for plane, shift in pairs], which.reshape(-1)


def tap_offsets(layout: MapLayout, taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (phases, taps): byte offset within a group of what each tap reads for grid row 0."""
    keys, which = _planes_read(taps)
    planes = np.array([layout.plane_offset(*key) for key in keys], np.int64)
    return planes[which].reshape(taps.shape[:2]) + taps[..., 1] * layout.map.grid.pitch


def int32_table(values: NDArray[np.int64], what: str) -> NDArray[np.int32]:
    """`values` as int32, C-contiguous, for a kernel that reads them from a table; PlanError if one does not fit.

    what  whose table it is, for the error
    """
    if values.size:
        low, high = int(values.min()), int(values.max())
        if low < -(1 << 31) or high >= 1 << 31:
            raise PlanError(f"{what}: its maps are too large for 32-bit offsets, found {low}..{high}")
    return np.ascontiguousarray(values, np.int32)
