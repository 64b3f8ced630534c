"""(Q4), (Q5), (Q2) and (Q1) in the compiled code, against NumPy, for chosen sums and constants.

A convolution of two input channels with weights 1 and 127 makes every sum of 0..32640, one to a pixel.  In the plan of such
a network the tables of the epilogue are then overwritten: each output channel gets its own first sum, multiplier and bias.
So a run of it is up to 32,641 consecutive sums of each of CHANNELS channels through the machine code that users run.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from engine import WINOGRAD, Net, forced
from numpy.typing import NDArray

from sparse_icnet.network.graph import Convolution, Graph, Quantizer, Size
from sparse_icnet.plan import plan_for
from sparse_icnet.plan.program import Plan
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.target import TARGET

CHANNELS = 32
SUMS = 127 * 255 + 255 + 1  # consecutive ones that two codes with the weights 1 and 127 make, at most
WIDE, MIDDLE, NARROW = (
    (128, 256),
    (64, 160),
    (16, 32),
)  # sizes of the map, by how many consecutive sums are wanted
LOW, HIGH = -(1 << 31), (1 << 31) - 1
INFO = np.finfo(np.float32)
_TINY = (
    INFO.smallest_subnormal,
    3 * INFO.smallest_subnormal,
    INFO.tiny / 2,
    INFO.tiny,
    np.nextafter(INFO.tiny, 1),
)
_USUAL = (1e-20, 2.0**-31, 2.0**-24, 2.0**-23, 1 - INFO.epsneg, 1.0, 1 + INFO.eps, 3.0, 2.0**24, 1e20)
EDGES = tuple(map(float, (*_TINY, *_USUAL, INFO.max / 2, INFO.max)))


class Epilogue:
    """The network, and its plan whose tables are written over.

    kernel     that computes the convolution
    quantizer  of the result; saturates: whether it is made so that saturating instructions clip
    size       of the map
    count      consecutive sums of each channel
    """

    def __init__(self, kernel: Any, quantizer: Quantizer, saturates: bool, size: Size = WIDE) -> None:
        self.kernel = getattr(kernel, "name", kernel)
        net = Net(size, Quantizer(1.0))
        window = 3 if kernel == WINOGRAD else 1
        weight = np.zeros((CHANNELS, 3, window, window), np.int8)
        weight[:, :2, window // 2, window // 2] = 1, 127
        name = net.convolution(net.image, CHANNELS, window, weight=weight)
        op = net.ops.pop()
        assert isinstance(op, Convolution)
        # What is planned decides whether saturating instructions clip: their proof needs |x| <= 2**30.
        scale = np.full(CHANNELS, 1.0 if saturates else 2.0**20, np.float32)
        zeros = np.zeros(CHANNELS, np.float32)
        net.ops.append(Convolution(name, op.input, weight, scale, zeros, op.stride, op.dilation, op.padding))
        self.codes = net.codes(name, quantizer)
        self.quantizer = quantizer
        plan = plan_for(net.classify(self.codes), 1, keep_tensors=True, policy=forced(kernel))
        self.session = Session(plan)
        step = next(step for step in self.session.plan.body if step.name == name)
        epilogue = step.record[0]["epilogue"]
        self.saturates = bool(epilogue["output"]["saturates"])
        whole = (quantizer.zero_point, quantizer.levels) == (quantizer.low, 256)
        assert self.saturates == (saturates and whole)
        self.first = _table(self.session.plan, int(epilogue["initial"])).view(np.int32)[:CHANNELS]
        # Where the sums of codes with zero point 0 begin: not at 0 where the CPU multiplies codes less 128.
        self.begin = self.first.astype(np.int64)
        self.multiplier, self.bias = (
            _table(self.session.plan, int(epilogue[part])).view(np.float32)[:CHANNELS]
            for part in ("multiplier", "bias")
        )
        pixels = size[0] * size[1]
        self.count = min(pixels, SUMS)
        index = np.minimum(np.arange(pixels), self.count - 1)
        high = np.minimum(index // 127, 255)
        self.blob = np.zeros((3, *size), np.float32)
        self.blob[:2] = np.stack([index - 127 * high, high]).reshape(2, *size)
        self.index = index

    def differences(
        self, first: NDArray[np.int64], multiplier: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> tuple[int, str]:
        """How many codes differ for sums first[c] + 0..count - 1 of each channel c, and one of them in words."""
        self.first[:] = (first + self.begin).astype(np.int32)  # which wraps, as the sums do
        self.multiplier[:], self.bias[:] = multiplier, bias
        self.session.class_map(self.blob)
        found = self.session.tensor(self.codes).reshape(CHANNELS, -1)
        sums = first[:, None] + self.index
        with np.errstate(all="ignore"):
            x = sums.astype(np.float32) * multiplier[:, None] + bias[:, None]
            q = self.quantizer
            wanted = np.clip(np.rint(x), q.low - q.zero_point, q.high - q.zero_point) + q.zero_point
        wrong = found != wanted
        if not wrong.any():
            return 0, ""
        c, i = (int(axis[0]) for axis in np.nonzero(wrong))
        return int(wrong.sum()), (
            f"sum {sums[c, i]} * {multiplier[c]!r} + {bias[c]!r}, {q}: expected {int(wanted[c, i])}, found {found[c, i]}"
        )


def _table(plan: Plan, address: int) -> NDArray[np.uint8]:
    return next(p.memory for p in plan.placement.arena.pieces if p.constant and p.address == address)


def _kernels() -> list[Any]:
    return [*TARGET.kernels, WINOGRAD]


def _compare(
    epilogue: Epilogue,
    rows: list[tuple[int, float, float]],
    what: str,
    counts: Counter[str],
    faults: list[str],
) -> None:
    """(first sum, multiplier, bias) of each channel, CHANNELS at a time; the last ones again to fill up."""
    if (
        epilogue.saturates
    ):  # saturating instructions are used where |x| <= 2**30 is proven, so for such constants
        rows = [row for row in rows if (abs(row[0]) + SUMS) * abs(row[1]) + abs(row[2]) <= 2.0**30]
    for start in range(0, len(rows), CHANNELS):
        part = (rows[start : start + CHANNELS] * CHANNELS)[:CHANNELS]
        first, multiplier, bias = (np.array(column) for column in zip(*part, strict=True))
        first = np.clip(first, LOW, HIGH - epilogue.count + 1)
        count, message = epilogue.differences(first, multiplier.astype(np.float32), bias.astype(np.float32))
        counts[what] += CHANNELS * epilogue.count
        if count:
            faults.append(
                f"{epilogue.kernel}, {what}, saturates {epilogue.saturates}: {count} differ, {message}"
            )


def all_sums(quick: bool) -> list[tuple[int, float, float]]:
    """All sums of results in -300..300 for multipliers of powers of two down to 2**-10: every tie, also those that a bias
    makes or unmakes."""
    rows: list[tuple[int, float, float]] = []
    for power, sign in itertools.product((0, 1, 3) if quick else range(11), (1, -1)):
        biases = (0.0, 0.5, -0.25, 2.0**-25)[: 2 if quick else 4]
        firsts = range(-300 << power, 300 << power, SUMS)
        rows += [(first, sign * 2.0**-power, bias) for first in firsts for bias in biases]
    return rows


def ties(quick: bool, count: int) -> list[tuple[int, float, float]]:
    """`count` sums around each tie of results in -2..258 for multipliers of powers of two down to 2**-24."""
    rows: list[tuple[int, float, float]] = []
    for power, sign in itertools.product((12,) if quick else range(11, 25), (1, -1)):
        low, high = (-2, 258) if sign > 0 else (-258, 2)
        low, high = max(low, LOW >> power), min(high, HIGH >> power)
        firsts = range(*((end << power) + (1 << power - 1) - count // 2 for end in (low, high)), 1 << power)
        rows += [(first, sign * 2.0**-power, 0.0) for first in firsts]
    return rows


def edges(quick: bool, count: int) -> list[tuple[int, float, float]]:
    """Multipliers and biases at the edges of float32, sums at those of int32 and where float32 begins to round them."""
    half = count // 2
    firsts = (LOW, -(1 << 24) - half, -half, (1 << 24) - half, (1 << 30) - half, HIGH - count + 1)
    biases = (0.0, 255.5, -INFO.tiny, INFO.smallest_subnormal, -INFO.max)
    multipliers = EDGES[::4] if quick else (*EDGES, *(-edge for edge in EDGES))
    return list(
        itertools.product(firsts[::2] if quick else firsts, multipliers, biases[:2] if quick else biases)
    )


def random(count: int) -> list[tuple[int, float, float]]:
    """Multipliers as networks have them: codes of a few hundred for sums of some ten thousand."""
    rng = np.random.default_rng(7)
    rows = zip(rng.integers(-60000, 60000, count), rng.normal(0, 1, count) * 2.0 ** rng.integers(-16, -2, count),
               rng.normal(0, 100, count), strict=True)  # fmt: skip
    return [(int(first), float(multiplier), float(bias)) for first, multiplier, bias in rows]


def run(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    """All of it; `counts` of values compared, `faults` in words."""
    for kernel, saturates in itertools.product(_kernels(), (True, False)):
        wide = Epilogue(kernel, Quantizer(1.0), saturates)
        narrow = Epilogue(kernel, Quantizer(1.0), saturates, NARROW)
        _compare(wide, all_sums(quick), "all sums", counts, faults)
        _compare(wide, random(64 if quick else 640), "random constants", counts, faults)
        _compare(narrow, ties(quick, narrow.count), "ties", counts, faults)
        _compare(narrow, edges(quick, narrow.count), "edges of float32", counts, faults)
    _zero_points(quick, counts, faults)
    _pairs_of_codes(quick, counts, faults)
    _inputs(quick, counts, faults)


def _quantizers(quick: bool) -> Iterator[Quantizer]:
    """Every zero point of unsigned and of signed bytes; ranges of fewer codes."""
    step = 51 if quick else 1
    for zero in range(0, 256, step):
        yield Quantizer(1.0, zero)
        yield Quantizer(1.0, zero - 128, -128, 127)
    for levels in (2, 3, 16, 127, 255):
        yield Quantizer(1.0, levels // 2, 0, levels - 1)
        yield Quantizer(1.0, -1, -levels, -1)


def _zero_points(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    """Ties of halves, quarters and eighths around the whole range of codes."""
    count = MIDDLE[0] * MIDDLE[1]
    rows = [
        (first, sign * 2.0**-power, bias)
        for power, sign in itertools.product((1, 2, 3), (1, -1))
        for first in (-(600 << power), -count // 2)
        for bias in (0.0, 0.5, 128.0)
    ]
    for number, quantizer in enumerate(_quantizers(quick)):
        epilogue = Epilogue(_kernels()[number % len(_kernels())], quantizer, True, MIDDLE)
        _compare(epilogue, rows, "zero points", counts, faults)


def _pairs_of_codes(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    """All 65,536 pairs of codes: their sum, and one of them requantized and added to the other, against the oracle."""
    rng = np.random.default_rng(11)
    blob = np.empty((3, 256, 256), np.float32)
    blob[0], blob[1] = np.arange(256)[:, None], np.arange(256)
    blob[2] = rng.integers(0, 256, (256, 256))
    scales = [(1.0, 2.0), (0.5, 1.0), (1.0, 1.0), *(map(tuple, rng.uniform(0.2, 3, (3 if quick else 40, 2))))]
    for number, (left, unit) in enumerate(scales):
        zero, other = (int(z) for z in rng.integers(0, 256, 2))
        net = Net((256, 256), Quantizer(1.0), seed=number)
        rows, columns = (np.zeros((4, 3, 1, 1), np.int8) for _ in range(2))
        rows[:, 0], columns[:, 1] = 1, 1
        one, none = np.ones(4, np.float32), np.zeros(4, np.float32)
        maps = []
        for weight, shift in ((rows, zero), (columns, other)):
            name = net.convolution(net.image, 4, weight=weight)
            op = net.ops.pop()
            net.ops.append(
                Convolution(
                    name, op.inputs[0], weight, one * np.float32(left), none - np.float32(left * shift)
                )
            )
            maps.append(net.codes(name, Quantizer(left, shift)))
        total = net.codes(net.sum(*maps), Quantizer(unit, int(rng.integers(0, 256))))
        name = net.convolution(maps[0], 4, weight=np.eye(4, dtype=np.int8)[:, :, None, None])
        mixed = net.codes(net.sum(net.codes(name, Quantizer(unit / 3, 77)), maps[1]), Quantizer(unit, 100))
        graph: Graph = net.classify(total, mixed)
        policy = forced(_kernels()[number % len(TARGET.kernels)])
        session = Session(plan_for(graph, 1, keep_tensors=True, policy=policy))
        session.class_map(blob)
        oracle = Oracle(session.graph, blob)
        for tensor in session.tensors():
            found, wanted = session.tensor(tensor), oracle.codes(tensor)
            counts["pairs of codes"] += found.size
            if not np.array_equal(found, wanted):
                faults.append(
                    f"scales {left}, {unit}: {tensor}: {np.count_nonzero(found != wanted)} codes differ"
                )


def _inputs(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    """float32 inputs of every upper half of their bits with some lower ones, every pixel, several kinds of quantizers."""
    halves = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    lower = (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
    bits = np.concatenate([halves | np.uint32(low) for low in (lower[:1] if quick else lower)])
    size = (256, 256)
    values = np.zeros(-(-bits.size // (3 << 16)) * (3 << 16), np.float32)
    values[: bits.size] = bits.view(np.float32)
    pixels = np.arange(3 << 16).reshape(*size, 3).astype(np.uint8)
    quantizers = [
        Quantizer(1.0),
        Quantizer(0.02, 114),
        Quantizer(0.5, 3, -128, 127),
        Quantizer(2.0**-10, 0, 0, 15),
    ]
    for quantizer in quantizers:
        net = Net(size, quantizer)
        session = Session(plan_for(net.classify(net.image), 1, keep_tensors=True))
        for blob in values.reshape(-1, 3, *size):
            session.class_map(blob)
            with np.errstate(all="ignore"):
                wanted = Oracle(session.graph, blob).codes(net.image)
            counts["float32 inputs"] += blob.size
            if not np.array_equal(session.tensor(net.image), wanted):
                faults.append(
                    f"input {quantizer}: {np.count_nonzero(session.tensor(net.image) != wanted)} differ"
                )
        session.class_map_of_image(pixels)
        blob = np.stack([session.graph.normalization.table()[c][pixels[..., c]] for c in range(3)])
        counts["pixels"] += pixels.size
        if not np.array_equal(session.tensor(net.image), Oracle(session.graph, blob).codes(net.image)):
            faults.append(f"image {quantizer}: codes of pixels differ")
