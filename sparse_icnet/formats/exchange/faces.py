"""A file's own axes as transpositions and shapes, for the writers."""

from __future__ import annotations

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.faces import PLANAR, InputFace, OutputFace, arranged_shape


def input_order(face: InputFace) -> tuple[int, ...]:
    """Transposition of the file's input to (1, C, H, W)."""
    if sorted(face.axes) != sorted(PLANAR):
        raise FormatError(f"input axes {face.axes!r}: expected N, C, H and W in some order to write them")
    return tuple(face.axes.index(axis) for axis in PLANAR)


def output_order(face: OutputFace, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(transposition of (1, C, h, w), shape that is then given): the file's output."""
    named = [PLANAR.index(axis) for axis in face.axes if axis in "CHW"]
    order = (0, *named, *(axis for axis in (1, 2, 3) if axis not in named))
    batch = (1,) if "N" in face.axes else ()
    return order, (*batch, *arranged_shape(shape, face.axes))
