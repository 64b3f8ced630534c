"""zlib streams of our own, read back by zlib."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparse_icnet import deflate
from sparse_icnet.deflate import BLOCK, Packer
from sparse_icnet.deflate_symbols import GROUP, LONGEST, MOST_BITS


def packed(data: bytes, parts: int = 1) -> bytes:
    packer, size = Packer(), max(1, -(-len(data) // parts))
    stream = b"".join(packer.compress(data[i : i + size]) for i in range(0, len(data), size)) + packer.flush()
    reader = zlib.decompressobj()
    assert reader.decompress(stream) == data
    assert reader.eof
    assert not reader.unused_data
    return stream


@example(b"", 1)
@example(b"\0", 1)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(1, 600)), max_size=20).map(
        lambda runs: b"".join(bytes([value]) * count for value, count in runs)
    )
    | st.binary(max_size=200),
    st.integers(1, 4),
)
def test_any_bytes(data, parts):
    packed(data, parts)


@pytest.mark.parametrize("size", [*range(12), *(LONGEST + i for i in range(-GROUP, 2 * GROUP)), 70_000])
def test_repeats(size):
    assert len(packed(bytes(size))) < 90 + size // 50
    packed(b"\1\2\3" + bytes([3]) * size + b"\4")


def test_several_blocks(monkeypatch):
    monkeypatch.setattr(deflate, "BLOCK", 1000)
    rng = np.random.default_rng(0)
    packed(rng.integers(0, 256, 10_000, dtype=np.uint8).tobytes(), 7)
    packed(rng.geometric(0.3, 10_000).astype(np.uint8).tobytes(), 30)


def test_codes_that_would_be_too_long():
    """Counts as Fibonacci's numbers: each symbol has a code of one bit more than the next more frequent one."""
    counts = [1, 1]
    while len(counts) < 27:
        counts.append(counts[-1] + counts[-2])
    values = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)
    np.random.default_rng(0).shuffle(values)
    assert values.size < BLOCK
    lengths = deflate._code_lengths(counts, MOST_BITS)
    assert max(lengths) <= MOST_BITS
    assert sum(2.0**-length for length in lengths) == 1
    assert len(packed(values.tobytes())) < values.size / 2


@given(st.lists(st.integers(0, 1 << 40), min_size=2, max_size=286), st.integers(9, 15))
def test_code_lengths(counts, most):
    """A complete code, and nearly as short as the entropy allows."""
    counts[:2] = [count + 1 for count in counts[:2]]
    lengths = deflate._code_lengths(counts, most)
    assert [length > 0 for length in lengths] == [count > 0 for count in counts]
    assert max(lengths) <= most
    assert sum(2.0**-length for length in lengths if length) == 1
    used = np.array([count for count in counts if count], float)
    entropy = -(used / used.sum() * np.log2(used / used.sum())).sum()
    mean = sum(length * count for length, count in zip(lengths, counts, strict=True)) / used.sum()
    assert mean <= entropy + 1.2


def test_nearly_as_small_as_zlib_makes_it():
    """Residuals as those of a photograph, parts of them flat."""
    rng = np.random.default_rng(0)
    values = np.rint(rng.laplace(0, 6, 300_000)).astype(np.int64).astype(np.uint8)
    values[100_000:150_000] = 0
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    assert len(packed(values.tobytes())) < 1.03 * len(packer.compress(values.tobytes()) + packer.flush())
