"""The codes of an image by products are those of its table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparse_icnet.operators.input.pack import factors_of


def line(slope: float, start: float) -> NDArray[np.uint8]:
    """The codes of a quantizer of bytes: a line, rounded and clipped."""
    return np.clip(np.rint(slope * np.arange(256) + start), 0, 255).astype(np.uint8)


def codes_of(factors: NDArray[np.uint16]) -> NDArray[np.int64]:
    """What `put_rgb_products` makes of every byte in each channel, int64 (3, 256)."""
    multiplier, added, taken = factors.reshape(3, 2, 2).astype(np.int64)[:, [0, 1, 0], [0, 0, 1], None]
    moved = np.minimum((256 * np.arange(256) * multiplier >> 16) + added, 65535) - taken
    return np.maximum(moved, 0) >> 8


@given(st.floats(-0.1, 1.5), st.floats(-300, 300), st.integers(0, 255), st.integers(0, 2))
def test_factors_give_every_code_or_there_are_none(slope, start, place, channel):
    codes = np.stack([line(1.0, 0.0), line(0.98, 4.3), line(slope, start)])
    bent = codes.copy()
    bent[channel, place] ^= 1
    for table in (codes, bent):
        factors = factors_of(table)
        if factors is not None:
            np.testing.assert_array_equal(codes_of(factors), table)
            assert factors.dtype == np.uint16
            assert factors.shape == (6, 2)


def test_quantizers_of_images_have_factors():
    assert factors_of(np.stack([line(0.9825, start) for start in (4.4, 3.2, -0.3)])) is not None
    assert factors_of(np.stack([line(1.0, 0.0)] * 3)) is not None


@pytest.mark.parametrize(
    "codes", [np.zeros(256), np.full(256, 255), np.arange(256)[::-1], np.arange(256) ** 2 // 256]
)
def test_what_is_no_line_has_none(codes):
    table = np.stack([np.arange(256), codes, np.arange(256)]).astype(np.uint8)
    assert factors_of(table) is None
