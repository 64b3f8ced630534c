"""A plan as an earlier process left it: what running needs, in a few large pieces, and nothing of how it was planned.

Content, in the order of bytes
    header length  uint32; header: JSON, zeros up to a multiple of 64
    image          uint8: the constants of the plan and the records of its steps, as they lie in memory
    moved          uint32 (m,), then (n,): numbers of the int64 words of the image that are addresses, m in the image,
                   n in the memory that tensors share.  The image holds them as distances from the beginning of either

`keep` writes it.  What is read here is as trusted as machine code is: it must come from a file that nobody else can have
written (`sparse_icnet.private_files`), for addresses and tables are not proven anew.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators import KERNELS
from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import dtype_named, dtype_of
from sparse_icnet.plan.arena import Arena
from sparse_icnet.plan.steps import End, Start, Step

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Shape, Size
    from sparse_icnet.plan.program import Plan

LENGTH = struct.Struct("<I")
WORD = np.dtype("<i8")
NUMBER = np.dtype("<u4")

# A step: its name, the name of its record, tasks, place of the record in the image; of each record behind that the place,
# the name and how many there are.
Row: TypeAlias = "tuple[str, str, int, int, Sequence[tuple[int, str, int]]]"


class UnknownContentError(ValueError):
    """Content that is no kept plan."""


@dataclass(frozen=True, eq=False)
class Enlargement:
    """`sparse_icnet.plan.steps.Upsampling` of a kept plan."""

    size: Size
    align_corners: bool


@dataclass(frozen=True, eq=False)
class KeptPlan:
    """A plan that runs, as `sparse_icnet.plan.steps.Runnable` says.  Its steps name no storages and no reports.

    planned  makes the whole plan anew
    facts    what was kept with it, for whoever had it kept
    """

    input_shape: Shape
    returned_shape: Shape
    returns_classes: bool
    returns_logits: bool
    logits_shape: Shape
    upsampling: Enlargement | None
    output_shape: Shape
    scratch_bytes: int
    threads: int
    input_steps: Mapping[Start, Sequence[Step]]
    body: Sequence[Step]
    output_steps: Mapping[End, Sequence[Step]]
    arena: Arena
    shared: NDArray[np.uint8]
    facts: Mapping[str, Any]
    planned: Callable[[], Plan]

    keeps_tensors: ClassVar[bool] = False

    @property
    def class_map_size(self) -> Size:
        """(height, width) of what End.CLASSES gives."""
        return self.upsampling.size if self.upsampling else self.logits_shape[1:]

    def whole(self) -> Plan:
        """The plan with all that it says of its graph, its storages and its steps."""
        return self.planned()

    def __repr__(self) -> str:
        return (
            f"KeptPlan({'x'.join(map(str, self.input_shape))} -> {'x'.join(map(str, self.output_shape))}, "
            f"{len(self.body)} steps of the body, {self.threads} thread{'s' * (self.threads > 1)})"
        )


def restored(arena: Arena, content: NDArray[np.uint8], planned: Callable[[], Plan]) -> KeptPlan:
    """The plan in `content`, uint8 in memory of `arena` that is aligned to 64 and becomes the plan's.

    planned  makes the whole plan anew

    Raises UnknownContentError for content that `sparse_icnet.plan.keep` did not write.
    """
    try:
        return _restored(arena, content, planned)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, struct.error) as error:
        raise UnknownContentError(f"no kept plan ({type(error).__name__}: {error})") from error


def _restored(arena: Arena, content: NDArray[np.uint8], planned: Callable[[], Plan]) -> KeptPlan:
    (length,) = LENGTH.unpack_from(content.data)
    header = json.loads(content[LENGTH.size : LENGTH.size + length].tobytes())
    begin = -(-(LENGTH.size + length) // LINE) * LINE
    end = begin + header["image"]
    image, moved = content[begin:end], content[end:].view(NUMBER)
    if (image.size, moved.size) != (header["image"], sum(header["moved"])):
        raise ValueError(f"expected {header['image']} bytes and {header['moved']} words behind the header")
    shared = arena.take(header["shared"])
    words, inside = image.view(WORD), header["moved"][0]
    words[moved[:inside]] += image.ctypes.data
    words[moved[inside:]] += shared.ctypes.data
    kinds = {kind.__name__: kind for kind in KERNELS}

    def steps(rows: Sequence[Row]) -> tuple[Step, ...]:
        return tuple(_step(image, kinds, *row) for row in rows)

    upsampling = header["upsampling"]
    return KeptPlan(
        _shape(header["input_shape"]),
        _shape(header["returned_shape"]),
        header["returns_classes"],
        header["returns_logits"],
        _shape(header["logits_shape"]),
        Enlargement((upsampling[0], upsampling[1]), upsampling[2]) if upsampling else None,
        _shape(header["output_shape"]),
        header["scratch_bytes"],
        header["threads"],
        {Start[name]: steps(rows) for name, rows in header["input_steps"].items()},
        steps(header["body"]),
        {End[name]: steps(rows) for name, rows in header["output_steps"].items()},
        arena,
        shared,
        header["facts"],
        planned,
    )


def _shape(lengths: Sequence[int]) -> Shape:
    channels, height, width = lengths
    return channels, height, width


def _step(
    image: NDArray[np.uint8],
    kinds: Mapping[str, type],
    name: str,
    kind: str,
    tasks: int,
    place: int,
    behind: Sequence[tuple[int, str, int]],
) -> Step:
    def records(place: int, dtype: np.dtype[np.void], count: int) -> NDArray[np.void]:
        return image[place : place + count * dtype.itemsize].view(dtype)

    record = records(place, dtype_of(kinds[kind]), 1)
    others = tuple(records(start, dtype_named(which), count) for start, which, count in behind)
    return Step(name, kinds[kind], record, tasks, (), (), (), others)
