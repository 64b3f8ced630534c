"""The vector type and its operations against NumPy, as compiled for the CPU that Numba compiles for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from engine import SPECIAL_FLOATS
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from sparse_icnet import target
from sparse_icnet.network.graph import Convolution
from sparse_icnet.operators.convolution.pack import blocks_of, order_of, pack_weights
from sparse_icnet.operators.epilogue import pack
from sparse_icnet.operators.params import pack_constant
from sparse_icnet.simd.scalars import (
    atomic_add,
    atomic_load,
    fence,
    get_f32,
    get_i32,
    get_i64,
    get_u8,
    put_f32,
    put_i32,
    put_u8,
    yield_processor,
)
from sparse_icnet.simd.tiles import (
    tile_add_codes,
    tile_add_real,
    tile_dot,
    tile_dot_couple,
    tile_pairs,
    tile_requantize,
    tile_scale,
    tile_start,
    tile_store,
    tile_store_codes,
    tile_under,
)
from sparse_icnet.simd.transposes import prefetch, put_rgb_codes, put_rgb_products, scatter_16x16
from sparse_icnet.simd.vectors import (
    bits_to_f32,
    bits_to_i32,
    load_f32,
    load_i32,
    maximum,
    maximum_u8,
    minimum,
    splat_f32,
    splat_i32,
    store,
    store_streaming,
    store_u8,
    to_f32,
    where_greater,
)
from sparse_icnet.target import TARGET, MicroKernel

INT_MIN, INT_MAX = -(2**31), 2**31 - 1


def aligned(shape: int | tuple[int, ...], dtype: type, offset: int = 0) -> NDArray:
    """Zeros that begin `offset` bytes behind a cache line."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + 192, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + count].view(dtype).reshape(shape)


def special_integers() -> NDArray[np.int32]:
    """int32 (n * 16,): bounds, powers of two and their neighbours, random numbers."""
    powers = np.array([1 << i for i in range(31)], np.int64)
    values = np.concatenate([powers - 1, powers, powers + 1, -powers, [INT_MIN, INT_MAX, 0, -1]])
    values = np.concatenate([values, np.random.default_rng(0).integers(INT_MIN, INT_MAX, 240)])
    return np.resize(values.clip(INT_MIN, INT_MAX), 384).astype(np.int32)


def special_floats() -> NDArray[np.float32]:
    """float32 (n * 16,): NaN, infinities, both zeros, denormals, halves, random numbers of every magnitude."""
    info = np.finfo(np.float32)
    rng = np.random.default_rng(1)
    values = [*SPECIAL_FLOATS, -1e-40]
    values += [0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 128.5, 1 + info.eps, 1 - info.epsneg]
    random = rng.normal(0, 1, 200) * 10.0 ** rng.integers(-38, 38, 200)
    return np.resize(np.concatenate([values, random, rng.normal(0, 100, 165)]), 384).astype(np.float32)


@njit
def _integer_operations(x, y, out, count):
    for i in range(0, 64 * count, 64):
        a, b = load_i32(x + i), load_i32(y + i)
        five = splat_i32(np.int32(5))
        store(out + 0 * 64 * count + i, a + b)
        store(out + 1 * 64 * count + i, a - b)
        store(out + 2 * 64 * count + i, a * b)
        store(out + 3 * 64 * count + i, a & b)
        store(out + 4 * 64 * count + i, a | b)
        store(out + 5 * 64 * count + i, a << five)
        store(out + 6 * 64 * count + i, a >> five)
        store(out + 7 * 64 * count + i, maximum_u8(a, b))
        store(out + 8 * 64 * count + i, bits_to_i32(to_f32(a)))


@pytest.mark.parametrize("offset", [0, 4, 1])
def test_integer_operations(offset):
    x = special_integers()
    y = np.random.default_rng(2).permutation(x)
    memory = aligned(x.size + 1, np.int32, offset).view(np.uint8)
    source = memory[: x.nbytes].view(np.int32)
    source[:] = x
    out = aligned((9, x.size), np.int32, offset)
    _integer_operations(source.ctypes.data, y.ctypes.data, out.ctypes.data, x.size // 16)
    with np.errstate(over="ignore"):
        expected = [x + y, x - y, x * y, x & y, x | y, x << np.int32(5)]
    expected.append((x.view(np.uint32) >> np.uint32(5)).view(np.int32))
    expected.append(np.maximum(x.view(np.uint8), y.view(np.uint8)).view(np.int32))
    expected.append(x.astype(np.float32).view(np.int32))
    for row, wanted in zip(out, expected, strict=True):
        np.testing.assert_array_equal(row, wanted)


@njit
def _choices(x, y, numbers, out, narrow, count):
    for i in range(count):
        chosen = where_greater(
            load_f32(x + 64 * i), load_f32(y + 64 * i), load_i32(numbers + 64 * i), splat_i32(np.int32(-1))
        )
        store(out + 64 * i, chosen)
        store_u8(narrow + 16 * i, chosen)


def test_choices_and_their_low_bytes():
    x = special_floats()
    y = np.random.default_rng(3).permutation(x)
    numbers = np.arange(x.size, dtype=np.int32)
    out, narrow = np.zeros(x.size, np.int32), np.zeros(x.size + 16, np.uint8)
    addresses = (array.ctypes.data for array in (x, y, numbers, out, narrow))
    _choices(*addresses, x.size // 16)
    expected = np.where(x > y, numbers, -1)
    assert 0 < (expected == -1).mean() < 1
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(narrow, [*expected.astype(np.uint8), *[0] * 16])


@njit
def _real_operations(x, y, z, out, count):
    for i in range(0, 64 * count, 64):
        a, b, c = load_f32(x + i), load_f32(y + i), load_f32(z + i)
        store(out + 0 * 64 * count + i, a + b)
        store(out + 1 * 64 * count + i, a - b)
        store(out + 2 * 64 * count + i, a * b)
        store(out + 3 * 64 * count + i, a / b)
        store(out + 4 * 64 * count + i, maximum(a, b))
        store(out + 5 * 64 * count + i, minimum(a, b))
        store(out + 6 * 64 * count + i, a * b + c)
        store(out + 7 * 64 * count + i, bits_to_f32(bits_to_i32(a) & bits_to_i32(b)))
        store(
            out + 8 * 64 * count + i, (a + splat_f32(np.float32(12582912))) - splat_f32(np.float32(12582912))
        )


def test_real_operations_round_each_time_and_treat_nan_alike():
    x = special_floats()
    y, z = (np.random.default_rng(seed).permutation(x) for seed in (3, 4))
    out = aligned((9, x.size), np.float32)
    _real_operations(x.ctypes.data, y.ctypes.data, z.ctypes.data, out.ctypes.data, x.size // 16)
    magic = np.float32(12582912)
    with np.errstate(all="ignore"):
        expected = [x + y, x - y, x * y, x / y, np.where(x > y, x, y), np.where(x < y, x, y), x * y + z]
        expected.append((x.view(np.int32) & y.view(np.int32)).view(np.float32))
        expected.append((x + magic) - magic)
        fused = (x.astype(np.float64) * y + z).astype(np.float32)
    assert (fused != expected[6])[np.isfinite(fused)].any(), "these values do not tell a fused operation"
    for i, (row, wanted) in enumerate(zip(out, expected, strict=True)):
        if i in (4, 5, 7):
            np.testing.assert_array_equal(row.view(np.int32), wanted.view(np.int32))  # copies: NaN bits stay
        else:
            np.testing.assert_array_equal(row, wanted)
            np.testing.assert_array_equal(np.signbit(row[row == 0]), np.signbit(wanted[row == 0]))


@njit
def _scalars(source, out):
    put_u8(out, get_u8(source + 1))
    put_i32(out + 1, get_i32(source + 3))
    put_f32(out + 5, get_f32(source + 7))
    return get_i64(source + 5)


def test_scalars_at_any_address():
    source = np.random.default_rng(5).integers(0, 256, 32, dtype=np.uint8)
    out = np.zeros(16, np.uint8)
    whole = _scalars(source.ctypes.data, out.ctypes.data)
    expected = np.concatenate([source[1:2], source[3:7], source[7:11]])
    np.testing.assert_array_equal(out[:9], expected)
    assert not out[9:].any()
    assert whole == int(source[5:13].copy().view(np.int64)[0])


@njit
def _stream(source, out, count):
    for i in range(0, 64 * count, 64):
        store_streaming(out + i, load_i32(source + i))
    fence()


def test_streaming_stores():
    source, out = special_integers(), aligned(384, np.int32)
    _stream(source.ctypes.data, out.ctypes.data, source.size // 16)
    np.testing.assert_array_equal(out, source)


@njit
def _scatter(source, stride, target, planes):
    prefetch(source)
    prefetch(0)  # of no page at all: nothing happens
    scatter_16x16(source, stride, target, planes)


@pytest.mark.parametrize("stride", [64, 128, 68, 1920])
def test_scatter_transposes_into_planes(stride):
    rng = np.random.default_rng(8)
    source = rng.integers(0, 256, 15 * stride + 64, dtype=np.uint8)
    planes = rng.permutation(16) * 100 + 3  # at any address, in any order
    out = np.zeros(1700, np.uint8)
    _scatter(source.ctypes.data, stride, out.ctypes.data, planes.ctypes.data)
    words = np.stack([source[i * stride : i * stride + 64].view(np.int32) for i in range(16)])
    expected = np.zeros_like(out)
    for j, offset in enumerate(planes):
        expected[offset : offset + 64] = words[:, j].copy().view(np.uint8)
    np.testing.assert_array_equal(out, expected)


@njit
def _rgb_codes(source, table, out):
    put_rgb_codes(source, table, out)


@pytest.mark.skipif(not target.HAS_BYTE_TABLES, reason="this CPU has no table look-up of bytes")
def test_codes_of_pixels_through_tables():
    rng = np.random.default_rng(9)
    table = rng.integers(0, 256, (3, 256), dtype=np.uint8)
    image = np.concatenate([np.arange(768) % 256, rng.integers(0, 256, 768)]).astype(np.uint8)
    image = image.reshape(-1, 64, 3)
    for pixels in (*image, *image[:, ::-1, ::-1].copy()):
        out = aligned((66, 4), np.uint8)
        _rgb_codes(pixels.ctypes.data, table.ctypes.data, out[1:].ctypes.data)
        np.testing.assert_array_equal(out[1:65, :3], table[np.arange(3), pixels])
        assert not out[1:, 3].any()
        assert not out[[0, 65]].any()


@njit
def _rgb_products(source, factors, out):
    put_rgb_products(source, factors, out)


def test_codes_of_pixels_by_products():
    rng = np.random.default_rng(10)
    for limit in (300, 65536):
        factors = rng.integers(0, limit, (3, 2, 2)).astype(np.uint16)
        factors[:, 1, 1] = 0  # of the byte that holds no channel
        pixels = rng.integers(0, 256, (64, 3), dtype=np.uint8)
        pixels[:2] = (0, 255, 0), (255, 0, 255)
        out = aligned((66, 4), np.uint8)
        _rgb_products(pixels.ctypes.data, factors.ctypes.data, out[1:].ctypes.data)
        multiplier, added, taken = factors.astype(np.int64)[:, [0, 1, 0], [0, 0, 1]]
        moved = np.minimum((256 * pixels.astype(np.int64) * multiplier >> 16) + added, 65535) - taken
        np.testing.assert_array_equal(out[1:65, :3], np.maximum(moved, 0) >> 8)
        assert not out[1:, 3].any()
        assert not out[[0, 65]].any()


@njit(nogil=True)
def _count_up(counter, log, times):
    for _ in range(times):
        before = atomic_add(counter, 1)
        put_u8(log + before, np.uint8(get_u8(log + before) + np.uint8(1)))
        if before % 64 == 0:
            yield_processor()
    return atomic_load(counter)


def test_atomic_addition_loses_nothing():
    threads, times = 4, 50_000
    counter, log = np.zeros(1, np.int64), np.zeros(threads * times, np.uint8)
    arguments = (counter.ctypes.data, log.ctypes.data, times)
    _count_up(counter.ctypes.data, log.ctypes.data, 0)
    workers = [threading.Thread(target=_count_up, args=arguments) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter[0] == threads * times
    assert (log == 1).all()


# --- tiles -----------------------------------------------------------------------------------------------


def _kernel_of_tiles(kernel: MicroKernel):
    rows, vectors = kernel.rows, kernel.vectors
    entry_bytes = 4 * rows * TARGET.lanes_per_row

    if TARGET.couples:

        @njit
        def couple(tile, x, y, weights):
            return tile_dot_couple(tile, x, y, weights)

    else:

        @njit
        def couple(tile, x, y, weights):
            return tile

    @njit
    def dot(activations, blocks, couples, singles, weights, initial, ones, zeros, out):
        tile = tile_start(rows, vectors, initial)
        for j in range(couples + singles):
            x = activations + 64 * vectors * get_i32(blocks + 8 * j)
            y = activations + 64 * vectors * get_i32(blocks + 8 * j + 4)
            if j < couples:
                tile = couple(tile, x, y, weights + entry_bytes * j)
            else:
                tile = tile_dot(tile, x, weights + entry_bytes * j)
        tile_store(out, 64 * vectors, tile_scale(tile, ones, zeros))

    @njit
    def epilogue(start, multipliers, biases, codes, reals, low, high, scale, out):
        x = tile_scale(tile_start(rows, vectors, start), multipliers, biases)
        x = tile_add_real(x, reals, 64 * vectors)
        x = tile_requantize(x, low, high, scale)
        x = tile_add_codes(x, codes, 0 if rows == 4 else 2, np.int32(3), scale)
        tile_store(out, 64 * vectors, x)

    if rows == 4:

        @njit
        def direct(zeros, reals, scratch, out):
            x = tile_add_real(tile_scale(tile_start(4, vectors, zeros), zeros, zeros), reals, 64 * vectors)
            tile_store_codes(out, tile_pairs(x))

    else:

        @njit
        def direct(zeros, reals, scratch, out):
            x = tile_add_real(tile_scale(tile_start(2, vectors, zeros), zeros, zeros), reals, 64 * vectors)
            tile_store(scratch, 0, tile_pairs(x))
            reals += 128 * vectors
            x = tile_add_real(tile_scale(tile_start(2, vectors, zeros), zeros, zeros), reals, 64 * vectors)
            tile_store_codes(out, tile_under(scratch, tile_pairs(x)))

    return dot, epilogue, direct


TILES = {kernel: _kernel_of_tiles(kernel) for kernel in TARGET.kernels}
each_kernel = pytest.mark.parametrize("kernel", TARGET.kernels, ids=lambda kernel: kernel.name)


@each_kernel
@pytest.mark.parametrize("codes", ["random", 0, 255, "ends"])
@pytest.mark.parametrize("weights", ["random", "small", -128, -127, 127, "ends", -32, 32])
def test_dot_products_are_exact(kernel, codes, weights):
    """(Q3) over 64 blocks of every mixture of extremes, weights packed as the planner packs them.

    Couples of blocks of weights 32 and -32 reach the ends of int16.
    """
    rng = np.random.default_rng(6)
    blocks, pixels = 64, 16 * kernel.vectors

    def draw(kind: str | int, low: int, high: int, shape: tuple[int, ...]) -> NDArray:
        if kind in ("random", "small"):
            low, high = (low, high) if kind == "random" else (-20, 20)
            return rng.integers(low, high + 1, shape)
        return rng.choice([low, high], shape) if kind == "ends" else np.full(shape, kind)

    u8 = draw(codes, 0, 255, (4 * blocks, pixels)).astype(np.uint8)
    s8 = draw(weights, -128, 127, (kernel.rows, 4 * blocks)).astype(np.int8)
    one = np.ones(kernel.rows, np.float32)
    op = Convolution("convolution", "codes", s8[:, :, None, None], one, one)
    packed, stored = blocks_of(op, kernel.rows), order_of(op, kernel.rows)
    couples, entries = (int(i) for i in stored.indptr[1:3])
    words = pack_weights(packed, stored)
    activations = u8.reshape(blocks, 4, pixels).transpose(0, 2, 1)
    activations = np.ascontiguousarray(activations[packed.indices[: packed.indptr[1]]])
    initial = rng.integers(-1000, 1000, kernel.rows).astype(np.int32)
    ones, zeros = np.ones(kernel.rows, np.float32), np.zeros(kernel.rows, np.float32)
    out = aligned((kernel.rows, pixels), np.float32)
    dot, _, _ = TILES[kernel]
    arrays = (words, initial, ones, zeros, out)
    counts = couples, entries - couples
    dot(activations.ctypes.data, stored.blocks.ctypes.data, *counts, *(a.ctypes.data for a in arrays))
    if TARGET.couples and weights in ("small", -32, 32):
        assert couples == blocks // 2, "these weights must come in couples"
    expected = s8.astype(np.int64) @ (u8.astype(np.int64) - TARGET.code_shift) + initial[:, None]
    assert np.abs(expected).max() < 2**24, "beyond float32 integers this comparison proves nothing"
    np.testing.assert_array_equal(out, expected)


@each_kernel
def test_epilogue_of_a_tile(kernel):
    """(Q4), (Q5) and the inner quantizer (Q1), (Q2), ties and clipped values on purpose."""
    rng = np.random.default_rng(7)
    rows, pixels = kernel.rows, 16 * kernel.vectors
    start = rng.integers(-(2**30), 2**30, rows).astype(np.int32)
    multipliers = (rng.normal(0, 100, rows) / 2**30).astype(np.float32)
    biases = np.float32([0.5, -3, 0.1, 7][:rows])
    codes = rng.integers(0, 256, (pixels, 4), dtype=np.uint8)
    reals = rng.choice(np.float32([0, 0.5, -0.5, 1e9, -1e9, 40.25, np.nan]), (rows, pixels))
    low, high, scale, zero = (np.float32(v) for v in (-100, 155, 0.5, 3))
    out = aligned((rows, pixels), np.float32)
    _, epilogue, _ = TILES[kernel]
    arrays = (start, multipliers, biases, codes, reals)
    epilogue(*(a.ctypes.data for a in arrays), low, high, scale, out.ctypes.data)
    x = start.astype(np.float32)[:, None] * multipliers[:, None] + biases[:, None]
    x = x + reals
    x = np.rint(np.clip(np.where(np.isnan(x), low, x), low, high)) * scale
    mine = codes[:, 4 - rows :].T.astype(np.float32)
    x = x + (mine - zero) * scale
    np.testing.assert_array_equal(out, x)


BELOW_LIMIT = float(np.nextafter(np.float32(2**31), np.float32(0)))
# Around every bound at which something rounds or saturates: halves, 8, 9, 15, 16 and 31 bits.
around = st.builds(
    lambda whole, part: float(np.clip(np.float32(whole + part), -(2**31), BELOW_LIMIT)),
    st.sampled_from([0, 255, 256, 510, 2**15, 2**16, 2**22, 2**23, 2**24, 2**31]).flatmap(
        lambda x: st.integers(-3, 3).map(lambda near: x + near)
    ),
    st.sampled_from([0, 0.5, -0.5, 0.25, 2**-16, -(2**-16)]),
)
convertible = st.one_of(around, around.map(lambda x: -x), st.floats(-(2**31), BELOW_LIMIT, width=32))


@each_kernel
@settings(deadline=None, max_examples=50)
@given(values=st.lists(convertible, min_size=16, max_size=16), seed=st.integers(0, 1000))
def test_direct_codes_round_half_to_even_and_saturate(kernel, values, seed):
    """rint, then the clip to 0..255, of any value that fits an int32; each of the four rows in its own byte."""
    pixels = 16 * kernel.vectors
    reals, out = aligned((4, pixels), np.float32), aligned((pixels, 4), np.uint8)
    reals[:] = np.random.default_rng(seed).choice(np.float32(values), reals.shape)
    zeros, scratch = aligned(4, np.float32), aligned(pixels, np.int32)
    _, _, direct = TILES[kernel]
    direct(zeros.ctypes.data, reals.ctypes.data, scratch.ctypes.data, out.ctypes.data)
    np.testing.assert_array_equal(out.T, np.clip(np.rint(reals), 0, 255).astype(np.uint8))


@njit
def _pack_vectors(reals, low, high, constant, out, count):
    for p in range(0, 64 * count, 64):
        a, b = load_f32(reals + p), load_f32(reals + 64 * count + p)
        c, d = load_f32(reals + 128 * count + p), load_f32(reals + 192 * count + p)
        store(out + p, pack(a, b, c, d, splat_f32(low), splat_f32(high), splat_i32(constant)))


@settings(deadline=None, max_examples=100)
@given(
    values=st.lists(st.one_of(convertible, st.floats(width=32)), min_size=16, max_size=16),
    levels=st.integers(2, 256),
    place=st.floats(0, 1),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pack_takes_any_quantizer_and_any_value(values, levels, place, relu, seed):
    """(Q1) with narrow ranges and any zero point, for all values there are; NaN is the lowest code."""
    zero = round(place * (levels - 1))
    low, high = np.float32(0 if relu else -zero), np.float32(levels - 1 - zero)
    ties = np.arange(-zero - 1, levels - zero) + 0.5
    reals, out = aligned((4, 64), np.float32), aligned((64, 4), np.uint8)
    reals[:] = np.random.default_rng(seed).choice(np.float32([*values, *ties]), reals.shape)
    constant = np.int32(pack_constant(zero))
    _pack_vectors(reals.ctypes.data, low, high, constant, out.ctypes.data, 4)
    wanted = np.rint(np.clip(np.where(np.isnan(reals), low, reals), low, high)) + zero
    np.testing.assert_array_equal(out.T, wanted.astype(np.uint8))
