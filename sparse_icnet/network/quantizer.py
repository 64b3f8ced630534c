"""The uniform quantizer, equations (Q1) and (Q2) of `sparse_icnet.network.operations`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparse_icnet.network.limits import GraphError

# Codes are int16 in the oracle, code - low is uint8 in the engine.
LOWEST_CODE, HIGHEST_CODE = -(1 << 15), (1 << 15) - 1
# Smaller numbers lose digits, and some processors take them as 0.
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def is_integer(value: object) -> bool:
    """Whether `value` is an integer of Python or NumPy, and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Uniform quantizer, equations (Q1) and (Q2): real = scale * (code - zero_point), low <= code <= high.

    scale       positive float, taken as float32, where it must be a normal number
    zero_point  the code of the real value 0, within low..high so that zero is exact
    low, high   code range, 2 to 256 codes within LOWEST_CODE..HIGHEST_CODE

    Raises GraphError for anything else.
    """

    scale: float
    zero_point: int = 0
    low: int = 0
    high: int = 255

    def __post_init__(self) -> None:
        for name in ("zero_point", "low", "high"):
            value = getattr(self, name)
            if not is_integer(value):
                raise GraphError(f"quantizer {name} must be an integer, found {value!r}")
            object.__setattr__(self, name, int(value))
        try:
            with np.errstate(over="ignore", under="ignore"):
                object.__setattr__(self, "scale", float(np.float32(self.scale)))
        except (TypeError, ValueError, OverflowError):
            raise GraphError(
                f"quantizer scale must be a number, found a {type(self.scale).__name__}"
            ) from None
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise GraphError(f"quantizer scale must be finite and positive, found {self.scale}")
        if self.scale < SMALLEST_NORMAL:
            raise GraphError(
                f"quantizer scale must be at least {SMALLEST_NORMAL:.6g}, found {self.scale:.6g}"
            )
        if self.low < -(1 << 63) or self.high >= 1 << 63:  # too long to print
            raise GraphError("quantizer codes must be 64-bit integers, found larger ones")
        if not 1 <= self.high - self.low <= 255:
            raise GraphError(f"quantizer must have 2..256 codes, found {self.low}..{self.high}")
        if self.low < LOWEST_CODE or self.high > HIGHEST_CODE:
            raise GraphError(
                f"quantizer codes must lie in {LOWEST_CODE}..{HIGHEST_CODE}, found {self.low}..{self.high}"
            )
        if not self.low <= self.zero_point <= self.high:
            raise GraphError(
                f"quantizer zero point must lie in {self.low}..{self.high} so that zero is exact, found {self.zero_point}"
            )

    @property
    def levels(self) -> int:
        """Number of codes."""
        return self.high - self.low + 1
