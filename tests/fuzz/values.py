"""Values that break readers: bounds of integer types, powers of two and their neighbours, floats at the ends of float32."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

# The files of one model: suffix -> content.
Files = dict[str, bytes]

_POWERS = (8, 12, 14, 16, 31, 32, 53, 63, 64)
INTEGERS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 17, 24, 32, 48, 64, 96, 100, 127, 1000),
    *(sign * ((1 << power) + near) for power in _POWERS for near in (-1, 0, 1) for sign in (1, -1)),
    *(-1, -2, -3, 10**30, -(10**30)),
)
FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 255.0, 1e-3, 1e3),
    *(1e-45, 1e-40, 1.2e-38, 1e-37, 1e-30, 1e-10, 1e10, 1e30, 3e38, 3.5e38, 1e39, 1e300),
    *(-1e-45, -1e-30, -1e30, -3e38),
    *(math.nan, math.inf, -math.inf),
)
TEXTS = (
    "",
    "x",
    " ",
    "0",
    "-1",
    "nan",
    "1e999",
    "\u00fc",
    "a/b",
    "../x",
    "\n",
    "x" * 2000,
    "\u0663",
    "3_2",
    "0x10",
    "1.5",
)


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of `items`, none of which NumPy turns into its own type."""
    return items[int(rng.integers(len(items)))]


def integer(rng: np.random.Generator, old: int) -> int:
    """A number near `old` two times in three, else one of INTEGERS."""
    if rng.random() < 2 / 3:
        near = (old + 1, old - 1, old * 2, old // 2, old + 2, -old, old + 16, old * 3, 1, 2)
        return pick(rng, near)
    return pick(rng, INTEGERS)


def number(rng: np.random.Generator, old: float) -> float:
    """A number near `old` half the time, else one of FLOATS."""
    if rng.random() < 1 / 2 and math.isfinite(old):
        return pick(rng, (old * 2, old / 2, -old, old * 1.001, old + 1, old * 1e4, old * 1e-4, old * 1e20))
    return pick(rng, FLOATS)


def flipped(rng: np.random.Generator, data: bytes) -> bytes:
    """Some bytes changed, inserted, dropped or repeated, or the end cut off."""
    if not data:
        return bytes(rng.integers(0, 256, 8, dtype=np.uint8))
    changed = bytearray(data)
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 9))
    match int(rng.integers(6)):
        case 0:
            return data[:at]
        case 1:
            del changed[at : at + size]
        case 2:
            changed[at:at] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        case 3:
            changed[at : at + size] = pick(rng, (b"\0", b"\xff", b"\x7f", b"\x80")) * size
        case 4:
            changed[at:at] = data[at : at + 64]
        case _:
            for place in rng.integers(len(data), size=size).tolist():
                changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def array_values(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """`array` with some elements, or all, set to extremes of its type or scaled."""
    result = np.array(array)
    if not result.size:
        return result
    flat = result.reshape(-1)
    count = pick(rng, (1, 1, 2, flat.size))
    places = rng.integers(flat.size, size=count) if count < flat.size else slice(None)
    with np.errstate(all="ignore"):
        if result.dtype.kind == "f":
            flat[places] = np.float64(number(rng, float(flat[0]))).astype(result.dtype)
        elif result.dtype.kind in "iu":
            bounds = np.iinfo(result.dtype)
            extremes = (
                bounds.min,
                bounds.max,
                0,
                1,
                int(np.clip(integer(rng, int(flat[0])), bounds.min, bounds.max)),
            )
            flat[places] = pick(rng, extremes)
    return result


def changed(
    rng: np.random.Generator, changes: Sequence[tuple[int, Callable[..., None]]], model: object
) -> None:
    """Apply one to four of `changes`, (weight, function of the model and rng), in place.

    A change that no longer suits what those before it left is dropped; the first one always suits.
    """
    weighted = [change for weight, change in changes for _ in range(weight)]
    for number in range(pick(rng, (1, 1, 1, 2, 2, 3, 4))):
        with contextlib.suppress(*([Exception] if number else [])):
            pick(rng, weighted)(model, rng)
