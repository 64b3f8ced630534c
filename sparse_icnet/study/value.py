"""The arithmetic of one value of a tensor, as figures: what `sparse_icnet.study.arithmetic` finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

At = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Product:
    """One product of (Q3) with a weight that is not zero.

    channel  of the input; tap: (row, column) in the kernel; place: (row, column) in the input, None in the padding
    code     that is read there, zero_based: code - zero point; weight; product: of both; sum: of all up to here
    """

    channel: int
    tap: tuple[int, int]
    place: tuple[int, int] | None
    code: int
    zero_based: int
    weight: int
    product: int
    sum: int


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum (Q3) of one output of a convolution.

    layer, source  the convolution, and the tensor that it reads; at: (C, y, x) of the output
    kernel         (rows, columns) of taps; weights: of this output channel, zeros: of them
    products       of all others, in the order of the channels and taps; total: their sum
    """

    layer: str
    source: str
    at: At
    kernel: tuple[int, int]
    weights: int
    zeros: int
    products: tuple[Product, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Line:
    """One step: `equation` ("Q4"), the operation it belongs to, the formula in numbers, what it gives."""

    equation: str
    of: str
    text: str
    value: float | int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How one value comes about.

    layer    whose output was asked for; tensor: the one that its expression ends in; at: (C, y, x) of both
    lines    the steps in order; sums: the sums of products among them
    kind     of the value: "code", "real" or "class"; unit: real value of a step of a code
    """

    layer: str
    tensor: str
    at: At
    lines: tuple[Line, ...]
    sums: tuple[Sum, ...]
    kind: str
    value: float | int
    unit: float
    real: float

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


def digits(value: Any) -> str:
    """A float32 with as many digits as tell it from its neighbours."""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1 << 24 else str(np.float32(value))


def comma(at: At) -> str:
    """'12,40,55'."""
    return ",".join(map(str, at))


def some(codes: list[int]) -> str:
    """The first 25 of a list."""
    shown = " ".join(map(str, codes[:25]))
    return shown if len(codes) <= 25 else f"{shown} ..."
