"""What a file says about its own input and output: types of numbers, order of axes, size and channels of pictures.

A `Graph` takes float32 (3, H, W) with channels red, green, blue, and gives float32 (C, h, w) or a class map, uint8
(1, h, w).  Files have other conventions, such as bytes in rows of pixels and class numbers of 64 bits.  These change no
operation, so they stand beside the graph; `Model.__call__` takes and gives what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sparse_icnet.network.limits import MAX_SIDE

INPUT_TYPES = ("float32", "float16", "float64", "uint8", "uint16", "int16", "int32", "int64")
REAL_TYPES = ("float32", "float16", "float64")
CLASS_TYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *REAL_TYPES,
)
PLANAR = "NCHW"
MAX_AXES = 8


@dataclass(frozen=True, slots=True)
class InputFace:
    """The input of a file.

    dtype    of its numbers
    axes     what each axis is: N (one picture after the other), C, H, W, or 1 for another axis of size 1
    bgr      whether its channels are blue, green, red
    picture  (height, width) of the pictures that it takes, which it brings to the size of the network by the bilinear
             resize of Pillow; None: that of the network
    whole    whether it rounds resized pixels to whole numbers, as Pillow does with bytes

    Raises ValueError for another type, impossible axes, a size out of bounds.
    """

    dtype: str = "float32"
    axes: str = PLANAR
    bgr: bool = False
    picture: tuple[int, int] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        _check(self.dtype, INPUT_TYPES, self.axes)
        if self.picture is not None and not (
            len(self.picture) == 2 and all(type(n) is int and 1 <= n <= MAX_SIDE for n in self.picture)
        ):
            raise ValueError(f"picture: expected (height, width) within 1..{MAX_SIDE}, found {self.picture}")

    @property
    def takes_bytes(self) -> bool:
        """Whether its numbers are integers: pixel values of 0..255, not normalized."""
        return self.dtype not in REAL_TYPES


@dataclass(frozen=True, slots=True)
class OutputFace:
    """The output of a file.

    dtype  of its numbers; "": that of the graph, float32 or uint8
    axes   as those of the input

    Raises ValueError for another type and impossible axes.
    """

    dtype: str = ""
    axes: str = PLANAR

    def __post_init__(self) -> None:
        _check(self.dtype or "float32", CLASS_TYPES, self.axes)


@dataclass(frozen=True, slots=True)
class Faces:
    """Input and output of a file; by default those of the graph itself."""

    input: InputFace = field(default_factory=InputFace)
    output: OutputFace = field(default_factory=OutputFace)

    def check(self, taken: tuple[int, int, int], given: tuple[int, int, int], classes: bool) -> None:
        """ValueError unless they fit an input of shape `taken` and an output of shape `given`, of `classes` or real."""
        for what, axes, shape in (("input", self.input.axes, taken), ("output", self.output.axes, given)):
            for axis, length in zip("CHW", shape, strict=True):
                if axis not in axes and length != 1:
                    raise ValueError(
                        f"{what}: expected an axis {axis}, of size {length}, among the axes {axes!r}"
                    )
        if self.output.dtype and not classes and self.output.dtype not in REAL_TYPES:
            raise ValueError(
                f"output: expected a type of {', '.join(REAL_TYPES)} for real values, found {self.output.dtype}"
            )
        if self.input.bgr and taken[0] != 3:
            raise ValueError(f"input: expected 3 channels to be blue, green, red, found {taken[0]}")


def _check(dtype: str, types: tuple[str, ...], axes: str) -> None:
    if dtype not in types:
        raise ValueError(f"dtype: expected one of {', '.join(types)}, found {dtype!r:.40}")
    if (
        not isinstance(axes, str)
        or len(axes) > MAX_AXES
        or not set(axes) <= set("NCHW1")
        or any(axes.count(axis) > 1 for axis in "NCHW")
        or "N" in axes[1:]
    ):
        raise ValueError(f"axes: expected N first, then C, H, W at most once each, and 1, found {axes!r:.40}")


def arranged(values: NDArray[Any], axes: str) -> NDArray[Any]:
    """(C, H, W) in the order of `axes`, without N; a view where that is possible."""
    ordered = [axis for axis in axes if axis in "CHW"]
    planes = values.squeeze(tuple(i for i, axis in enumerate("CHW") if axis not in axes))
    kept = [axis for axis in "CHW" if axis in axes]
    moved = planes.transpose([kept.index(axis) for axis in ordered])
    lengths = iter(moved.shape)
    return moved.reshape([1 if axis == "1" else next(lengths) for axis in axes if axis != "N"])


def planar(values: NDArray[Any], axes: str) -> NDArray[Any]:
    """The inverse of `arranged`: (C, H, W)."""
    names = axes.replace("N", "")
    moved = values.squeeze(tuple(i for i, axis in enumerate(names) if axis == "1"))
    ordered = [axis for axis in names if axis != "1"]
    kept = [axis for axis in "CHW" if axis in ordered]
    planes = moved.transpose([ordered.index(axis) for axis in kept])
    lengths = iter(planes.shape)
    return planes.reshape([next(lengths) if axis in ordered else 1 for axis in "CHW"])


def arranged_shape(shape: tuple[int, int, int], axes: str) -> tuple[int, ...]:
    """Shape of `arranged`."""
    lengths = dict(zip("CHW", shape, strict=True))
    return tuple(lengths.get(axis, 1) for axis in axes if axis != "N")
