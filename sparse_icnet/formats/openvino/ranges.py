"""The float32 output range of a FakeQuantize that gives a quantizer's scale back exactly."""

from __future__ import annotations

import itertools

import numpy as np

from sparse_icnet.network.graph import Quantizer


def activation_range(quantizer: Quantizer) -> tuple[np.float32, np.float32]:
    """float32 (low, high) of the output range of `quantizer`, such that a reader gets its scale back exactly.

    A reader computes scale = f32((high - low) / (levels - 1)) and zero point = rint(-low / scale).  The
    rounded ends scale * (low - z) and scale * (high - z) may give a neighbouring float32, so their neighbours
    are tried too, nearest first.  An end at zero does not move; one scale in 250 then has no other end that
    fits, and this end leaves zero by less than a ten-thousandth of a code, as
    the nearer end of very uneven ranges does.  The zero point does not change.
    """
    low, high = _ends(quantizer)
    for low_steps, high_steps in _NEAREST_STEPS:
        candidate = _stepped(low, low_steps), _stepped(high, high_steps)
        if _gives_scale(quantizer, *candidate):
            return candidate
    span = float(np.float32(quantizer.scale)) * (quantizer.levels - 1)
    if abs(low) < abs(high):  # the end nearer to zero moves: its float32 are denser
        return np.float32(float(high) - span), high
    return low, np.float32(float(low) + span)


def _ends(quantizer: Quantizer) -> tuple[np.float32, np.float32]:
    below, above = quantizer.low - quantizer.zero_point, quantizer.high - quantizer.zero_point
    return np.float32(quantizer.scale * below), np.float32(quantizer.scale * above)


def _gives_scale(quantizer: Quantizer, low: np.float32, high: np.float32) -> bool:
    return bool(np.float32((float(high) - float(low)) / (quantizer.levels - 1)) == quantizer.scale)


_NEAREST_STEPS = sorted(
    itertools.product(range(-2, 3), repeat=2), key=lambda pair: abs(pair[0]) + abs(pair[1])
)


def _stepped(value: np.float32, steps: int) -> np.float32:
    """`value` moved by `steps` float32 neighbours; zero stays zero."""
    if value == 0:
        return value
    return np.float32((np.array(value, np.float32).view(np.int32) + np.int32(steps)).view(np.float32)[()])
