"""The parts of a record that say where a result goes and how: what operators have in common, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Convolution, Quantizer
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.params import (
    CODES,
    NO_COPIES,
    NO_MAP,
    NO_PADDING,
    NOT_REQUANTIZED,
    NOT_ROUNDED,
    NOTHING_ADDED,
    REAL,
    Copies,
    Epilogue,
    Operand,
    Output,
    Padding,
    Requantize,
    Rounding,
    pack_constant,
)
from sparse_icnet.operators.storage import VECTOR_PIXELS, CodesMap, MapLayout, View


@dataclass(frozen=True, slots=True)
class Addend:
    """One side of a sum in the unit of the sum: codes, whose real values are scale * (code - zero), or real values."""

    view: View
    scale: float = 0.0
    zero: int = 0

    def operand(self, memory: Memory) -> Operand:
        kind = CODES if isinstance(self.view.map, CodesMap) else REAL
        return Operand(kind, memory.map(self.view), self.scale, self.zero)


def operand(addend: Addend | None, memory: Memory) -> Operand:
    """The operand of an addend, or that of none."""
    return NOTHING_ADDED if addend is None else addend.operand(memory)


def requantize(quantizer: Quantizer | None, unit: float) -> tuple[int, Requantize]:
    """(1 if there is a quantizer within an expression else 0, what it does): from values in its unit to those in `unit`."""
    if quantizer is None:
        return 0, NOT_REQUANTIZED
    low, high = quantizer.low - quantizer.zero_point, quantizer.high - quantizer.zero_point
    return 1, Requantize(low, high, float(arithmetic.dequantize_multiplier(quantizer, unit)))


def rounding(quantizer: Quantizer, relu: bool = False) -> Rounding:
    """What (Q1) does to a result in the unit of `quantizer`, after a ReLU if `relu`."""
    low = quantizer.low - quantizer.zero_point
    # low <= 0, so a ReLU before the clip only raises the lower bound to 0.
    high, stored_zero = quantizer.high - quantizer.zero_point, quantizer.zero_point - quantizer.low
    return Rounding(0 if relu else low, high, pack_constant(stored_zero))


def output(target: View, memory: Memory, relu: bool, saturates: bool = False, copies: bool = False) -> Output:
    """Where and as what a result goes that fills the map of `target`.

    copies  its writer also stores the shifted copies and the padding of the map
    """
    layout = memory.layout(target.map)
    codes = isinstance(target.map, CodesMap)
    return Output(
        memory.map(target),
        int(not codes),
        int(relu),
        int(saturates),
        rounding(target.map.quantizer, relu) if isinstance(target.map, CodesMap) else NOT_ROUNDED,
        _copies(layout) if copies and codes else NO_COPIES,
        padding(layout, range(layout.planes)) if copies and codes else NO_PADDING,
    )


NO_OUTPUT = Output(NO_MAP, 0, 0, 0, NOT_ROUNDED, NO_COPIES, NO_PADDING)


def epilogue(
    op: Convolution,
    source: Quantizer,
    zero: int,
    unit: float,
    inner: Quantizer | None,
    addend: Operand,
    fused: object,
    output: Output,
) -> Epilogue:
    """The epilogue of `op`, whose sums become real values in `unit`.

    source  of the codes that it reads; zero: what the kernel multiplies for the real value 0 of them
    inner   quantizer between the convolution and the sum
    fused   the record of the convolution that the addend is
    """
    has_inner, requantized = requantize(inner, unit)
    if inner is not None:
        unit = inner.scale
    outputs = op.weight.shape[0]
    padded = outputs + -outputs % 4
    initial = np.zeros(padded, np.int32)
    initial[:outputs] = -zero * op.weight.astype(np.int64).sum((1, 2, 3))
    constants = np.zeros((2, padded), np.float32)
    constants[0, :outputs] = arithmetic.convolution_multiplier(op, source, unit)
    constants[1, :outputs] = arithmetic.convolution_bias(op, unit)
    return Epilogue(initial, constants[0], constants[1], has_inner, requantized, addend, fused, output)


def _copies(layout: MapLayout) -> Copies:
    """The shifted copies of a map, for a convolution that stores them beside its output."""
    if not layout.shifts:
        return NO_COPIES
    map = layout.map
    assert isinstance(map, CodesMap)
    grid = map.grid
    columns = np.arange(grid.vectors * VECTOR_PIXELS) % grid.pitch_pixels
    padding = np.int32(map.zero_pixel).view(np.uint32)
    masks: dict[int, NDArray[np.uint32]] = {}
    for _, shift in layout.shifts:
        if shift not in masks:
            # A pixel of column x lands in column x - shift; padding columns hold no pixel.
            keep = (columns < grid.columns) & (columns >= shift) & (columns - shift < grid.columns)
            lanes = np.where(keep, np.uint32(0xFFFFFFFF), np.uint32(0)).reshape(-1, 1, VECTOR_PIXELS)
            masks[shift] = np.concatenate([lanes, ~lanes & padding], 1)
    places = {shift: i * mask.nbytes for i, (shift, mask) in enumerate(masks.items())}
    entries: list[list[tuple[int, int]]] = [[] for _ in range(layout.planes)]
    for plane, shift in layout.shifts:
        distance = layout.plane_offset(plane, shift) - layout.plane_offset(plane)
        entries[plane].append((distance - 4 * shift, places[shift]))
    return Copies(_ranged(entries), np.stack(list(masks.values())), layout.planes)


def padding(layout: MapLayout, planes: Iterable[int] | None = None) -> Padding:
    """The padding of a map, for the step that writes it.

    planes  the kernel writes it plane by plane; None: for a whole group at once
    """
    if not layout.edges:
        return NO_PADDING
    map = layout.map
    parts: list[list[tuple[int, int]]]
    if planes is None:
        places, parts = dict.fromkeys(range(layout.planes), 0), [[]]
    else:
        places = {plane: i for i, plane in enumerate(planes)}
        parts = [[] for _ in places]
    for plane, shift in layout.edges:
        start = 0 if planes is None else layout.plane_offset(plane)
        parts[places[plane]] += [(at - start, size) for at, size in layout.padding(plane, shift)]
    return Padding(_ranged(parts), len(parts), map.zero_pixel)


def _ranged(parts: Iterable[list[tuple[int, int]]]) -> NDArray[np.int64]:
    """int64: the range of the entries of each part (parts + 1,), then all entries (n, 2)."""
    entries = list(parts)
    ranges = np.cumsum([0, *map(len, entries)], dtype=np.int64)
    flat = np.array([entry for part in entries for entry in part], np.int64)
    return np.concatenate([ranges, flat.reshape(-1)])
