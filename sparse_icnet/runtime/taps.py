"""What the taps of a window read: planes and byte offsets, and the shifted copies and padding that this takes.

`sparse_icnet.runtime.layout` says why: in maps stored as phases a tap is a plane, moved by whole grid rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.network.graph import Convolution, MaxPool
from sparse_icnet.runtime.budget import check_memory
from sparse_icnet.runtime.layout import SLACK, VECTOR_PIXELS, Arena, Buffer, View
from sparse_icnet.runtime.steps import PlanError, Step, int32_table

MAX_SHIFT = SLACK // 4 - VECTOR_PIXELS  # pixels that a shifted load may start outside its buffer


def taps_of(op: Convolution | MaxPool, source: View, phases: tuple[int, int]) -> NDArray[np.int64]:
    """int64 (phases, kh * kw, 3): plane, grid row shift and grid column shift that each tap of each phase reads.

    Output pixel (k*Y + q) at tap t reads input row s*(k*Y + q) + d*t - pad = (s*k)*Y + r with
    r = s*q + d*t - pad: phase r mod s*k, shifted by floor(r / (s*k)) grid rows.  It lies outside the map exactly
    when the shifted grid row lies outside the grid.  Asks the buffer of `source` for the shifted copies and the padding
    that this needs.
    """
    if isinstance(op, Convolution):
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
    buffer, grid = source.buffer, source.buffer.grid
    columns = int(np.abs(taps[:, :, 2]).max())
    if columns > MAX_SHIFT:
        raise PlanError(
            f"operation {op.name!r}: a tap may reach at most {MAX_SHIFT} columns of the {grid.rows}x"
            f"{grid.columns} grid away, found {columns}"
        )
    # A convolution that stores a shifted copy of its output writes up to `columns` pixels before or behind it.
    rows = max(int(np.abs(taps[:, :, 1]).max()), -(-columns // grid.pitch_pixels))
    buffer.pad_rows = max(buffer.pad_rows, rows)
    keys, which = _planes_read(taps)
    first, last = np.zeros((2, len(keys)), np.int64)
    np.minimum.at(first, which, taps[..., 1].reshape(-1))
    np.maximum.at(last, which, taps[..., 1].reshape(-1))
    for (tap_plane, shift), top, bottom in zip(keys, first.tolist(), last.tolist(), strict=True):
        if shift:
            buffer.shifts.setdefault((tap_plane, shift), len(buffer.shifts))
        if top or bottom or shift:
            above, below = buffer.edges.get((tap_plane, shift), (0, 0))
            buffer.edges[tap_plane, shift] = max(above, -top), max(below, bottom)
    check_memory(buffer.bytes, f"operation {op.name!r}, its input with shifted copies")
    return taps


def _planes_read(taps: NDArray[np.int64]) -> tuple[list[tuple[int, int]], NDArray[np.intp]]:
    """The (plane, column shift) that taps int64 (phases, taps, 3) read, in order, and which one each of them reads."""
    keys, which = np.unique(
        taps[..., 0] * (2 * MAX_SHIFT + 1) + taps[..., 2] + MAX_SHIFT, return_inverse=True
    )
    pairs = [divmod(key, 2 * MAX_SHIFT + 1) for key in keys.tolist()]
    return [(plane, shift - MAX_SHIFT) for plane, shift in pairs], which.reshape(-1)


def tap_offsets(buffer: Buffer, taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (phases, taps): byte offset within a group of what each tap reads for grid row 0."""
    keys, which = _planes_read(taps)
    planes = np.array([buffer.plane_offset(*key) for key in keys], np.int64)
    return planes[which].reshape(taps.shape[:2]) + taps[..., 1] * buffer.grid.pitch


def block_offsets(
    op: Convolution, source: View, taps: NDArray[np.int64], columns: NDArray[np.int32]
) -> NDArray[np.int32]:
    """int32 (phases, n): byte offset of the first pixel that each block reads, tap and padding included.

    columns  int32 (n,), block columns of `BlockCSR`
    """
    tap_count = op.weight.shape[2] * op.weight.shape[3]
    lane, tap = columns // tap_count, columns % tap_count
    offsets = tap_offsets(source.buffer, taps)[:, tap] + lane.astype(np.int64) * source.buffer.stride
    return int32_table(offsets, f"convolution {op.name!r}")


def copies(buffer: Buffer, arena: Arena) -> int:
    """Address of the table by which a convolution stores the shifted copies of its output."""
    grid = buffer.grid
    masks: dict[int, int] = {}
    columns = np.arange(grid.vectors * VECTOR_PIXELS) % grid.pitch_pixels
    padding = np.int32(buffer.zero_pixel).view(np.uint32)
    for _, shift in buffer.shifts:
        if shift not in masks:
            # A pixel of column x lands in column x - shift; padding columns hold no pixel.
            keep = (columns < grid.columns) & (columns >= shift) & (columns - shift < grid.columns)
            lanes = np.where(keep, np.uint32(0xFFFFFFFF), np.uint32(0)).reshape(-1, 1, VECTOR_PIXELS)
            masks[shift] = arena.put(np.concatenate([lanes, ~lanes & padding], 1))
    entries: list[list[tuple[int, int]]] = [[] for _ in range(buffer.planes)]
    for plane, shift in buffer.shifts:
        distance = buffer.plane_offset(plane, shift) - buffer.plane_offset(plane)
        entries[plane].append((distance - 4 * shift, masks[shift]))
    return _ranged_table(arena, entries)


def _ranged_table(arena: Arena, entries: list[list[tuple[int, int]]]) -> int:
    """Address of int64: the range of the entries of each plane (planes + 1,), then all entries (n, 2)."""
    ranges = np.cumsum([0, *map(len, entries)], dtype=np.int64)
    flat = np.array([entry for plane in entries for entry in plane], np.int64)
    return arena.put(np.concatenate([ranges, flat.reshape(-1)]))


def fill_padding(step: Step, arena: Arena, planes: Iterable[int] | None = None) -> None:
    """Make `step` write the padding of its output, which other tensors overwrite between two inferences.

    planes  the step calls `elementwise.pad` with each of these in turn; None: once, with the group
    """
    assert step.output is not None
    buffer = step.output.buffer
    if not buffer.edges:
        return
    entries: list[list[tuple[int, int]]]
    if planes is None:
        places, entries = dict.fromkeys(range(buffer.planes), 0), [[]]
    else:
        places = {plane: i for i, plane in enumerate(planes)}
        entries = [[] for _ in places]
    for plane, shift in buffer.edges:
        start = 0 if planes is None else buffer.plane_offset(plane)
        entries[places[plane]] += [(at - start, size) for at, size in buffer.padding(plane, shift)]
    step.fields |= {
        f.PHASES: len(entries),
        f.PADDING: _ranged_table(arena, entries),
        f.PADDING_VALUE: buffer.zero_pixel,
    }


def shift_step(buffer: Buffer, pads: bool) -> Step:
    """Makes the shifted copies of `buffer`, and its padding if `pads`; dropped from the plan if no consumer reads any."""
    step = Step(f"{buffer.name}/shift", Kind.SHIFT, buffer.groups, output=View.of(buffer), reads=[buffer])

    def fill(step: Step, arena: Arena) -> None:
        rows = [
            (buffer.plane_offset(plane), buffer.plane_offset(plane, shift), shift)
            for plane, shift in buffer.shifts
        ]
        step.fields |= {
            f.IN: buffer.address,
            f.IN_GROUP: buffer.stride,
            f.TABLE: arena.put(np.array(rows, np.int64)),
            f.COUNT: len(rows),
            f.HEIGHT: buffer.grid.rows,
            f.WIDTH: buffer.grid.columns,
            f.PITCH: buffer.grid.pitch,
            f.IN_ZERO: buffer.zero_pixel,
        }
        if pads:
            fill_padding(step, arena)

    step.fill = fill
    return step
