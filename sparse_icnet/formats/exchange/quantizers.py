"""FakeQuantize, QuantizeLinear and DequantizeLinear of exchange files -> integer codes, scales and zero points.

With L levels, input range il..ih and output range ol..oh, FakeQuantize of OpenVINO (opset 1) is
    rint((x - il) / (ih - il) * (L - 1)) / (L - 1) * (oh - ol) + ol,   clipped to the range,
so the code comes from the input range, scale = (oh - ol) / (L - 1) and zero point = -ol / scale from the
output range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.constants import Constant
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS
from sparse_icnet.network.graph import GraphError, Quantizer

# The real value 0 must be a code.  Exporters nudge ranges so that it is, up to their float32 arithmetic
# (5e-6 seen).  Half precision moves the zero point of 8 bits by up to 128 * 2**-11 for each end of the range.
ZERO_TOLERANCE = 1e-3
HALF_ZERO_TOLERANCE = 0.125
LARGEST_RANGE = 1e30  # so that float32 differences stay finite
RANGE_TOLERANCE = 1e-6  # of the range: input and output range count as equal
CODE_RANGES = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


@dataclass(frozen=True, slots=True, eq=False)
class FakeQuantize:
    """Ranges of one FakeQuantize as float64 arrays that broadcast to its input; checked."""

    levels: int
    input_low: NDArray[np.float64]
    input_high: NDArray[np.float64]
    output_low: NDArray[np.float64]
    output_high: NDArray[np.float64]
    half: bool
    where: str

    @property
    def scale(self) -> NDArray[np.float64]:
        """Step of the output, negative where the output range is reversed, 0 where it is the point 0."""
        return (self.output_high - self.output_low) / (self.levels - 1)

    def zero_point(self) -> NDArray[np.int64]:
        """Code whose output is 0; FormatError if 0 lies between codes or outside the range."""
        scale = self.scale
        point = scale == 0
        exact = np.where(point, 0.0, -self.output_low / np.where(point, 1.0, scale))
        code = np.rint(exact)
        tolerance = HALF_ZERO_TOLERANCE if self.half else ZERO_TOLERANCE
        wrong = (np.abs(exact - code) > tolerance) | (code < 0) | (code > self.levels - 1)
        if wrong.any():
            raise FormatError(
                f"{self.where}: expected FakeQuantize to represent 0 exactly (zero point a whole number "
                f"in 0..{self.levels - 1}), found zero point {exact[wrong].flat[0]:.6g}"
            )
        return code.astype(np.int64)


def fake_quantize(levels: int, ranges: list[Constant], where: str) -> FakeQuantize:
    """A checked FakeQuantize from its levels and constant il, ih, ol, oh."""
    if not 2 <= levels <= 256:
        raise FormatError(f"{where}: FakeQuantize levels must be 2..256, found {levels}")
    broadcast(where, *ranges)
    with np.errstate(over="ignore"):
        arrays = [constant.values().astype(np.float32).astype(np.float64) for constant in ranges]
    if not all((np.abs(array) < LARGEST_RANGE).all() for array in arrays):
        raise FormatError(f"{where}: FakeQuantize ranges must be finite, found NaN or infinity")
    low, high, output_low, output_high = arrays
    if not (low < high).all():
        raise FormatError(
            f"{where}: FakeQuantize input_low must be below input_high, found {_pair(low, high)}"
        )
    if ((output_low == output_high) & (output_low != 0)).any():
        raise FormatError(f"{where}: FakeQuantize output range must not be a point other than 0")
    return FakeQuantize(levels, low, high, output_low, output_high, any(c.half for c in ranges), where)


def quantized_constant(fq: FakeQuantize, x: Constant) -> Constant:
    """FakeQuantize of a constant (weights): integer codes minus zero point, and their scale.

    The codes are those of float32 arithmetic in the order of the formula, as OpenVINO computes them.
    """
    w = x.values().astype(np.float32)
    if not np.isfinite(w).all():
        raise FormatError(f"{fq.where}: expected finite weights, found NaN or infinity")
    if broadcast(fq.where, x, fq.input_low, fq.input_high, fq.output_low, fq.output_high) != w.shape:
        raise FormatError(f"{fq.where}: expected ranges that broadcast to {w.shape}, found larger ones")
    low, high = fq.input_low.astype(np.float32), fq.input_high.astype(np.float32)
    with np.errstate(over="ignore"):
        position = (w - low) / (high - low) * np.float32(fq.levels - 1)
    codes = np.clip(np.rint(position), 0, fq.levels - 1).astype(np.int16)
    codes -= fq.zero_point().astype(np.int16)
    if codes[w == 0].any():
        raise FormatError(
            f"{fq.where}: expected zero weights to stay zero, but the input and output ranges of "
            "FakeQuantize disagree on 0"
        )
    scale = fq.scale
    codes *= (scale != 0).astype(np.int16)  # an output range of the point 0: the channel is 0
    return Constant(codes, np.where(scale == 0, 1.0, scale))


def same_range(fq: FakeQuantize) -> bool:
    """Whether input and output range are equal within float rounding."""
    tolerance = RANGE_TOLERANCE * (fq.input_high - fq.input_low)
    low, high = np.abs(fq.input_low - fq.output_low), np.abs(fq.input_high - fq.output_high)
    return bool((low <= tolerance).all() and (high <= tolerance).all())


def activation_quantizer(fq: FakeQuantize) -> Quantizer:
    """The per-tensor quantizer of the output range, codes 0..levels-1."""
    low, high = np.unique(fq.output_low), np.unique(fq.output_high)
    if low.size != 1 or high.size != 1:
        raise FormatError(
            f"{fq.where}: expected one output range for all channels of an activation, found "
            f"{max(low.size, high.size)}"
        )
    if not low[0] < high[0]:
        raise FormatError(
            f"{fq.where}: output_low must be below output_high for an activation, found {_pair(low, high)}"
        )
    zero_point = int(fq.zero_point().flat[0])
    return quantizer(float(fq.scale.flat[0]), zero_point, 0, fq.levels - 1, fq.where)


def code_quantizer(fq: FakeQuantize) -> Quantizer:
    """The per-tensor quantizer of a FakeQuantize whose output range is that of the codes themselves."""
    ends = [np.unique(end) for end in (fq.input_low, fq.input_high, fq.output_low, fq.output_high)]
    if any(end.size != 1 for end in ends):
        raise FormatError(f"{fq.where}: expected one range for all channels of an activation")
    low, high, first, last = (float(end[0]) for end in ends)
    if first != round(first) or last - first != fq.levels - 1:
        raise FormatError(
            f"{fq.where}: expected whole numbers in an output range that becomes codes, found {first:.6g}..{last:.6g}"
        )
    scale = (high - low) / (fq.levels - 1)
    exact = first - low / scale
    if abs(exact - round(exact)) > (HALF_ZERO_TOLERANCE if fq.half else ZERO_TOLERANCE):
        raise FormatError(f"{fq.where}: expected a whole number as zero point, found {exact:.6g}")
    return quantizer(scale, round(exact), int(first), int(last), fq.where)


def linear_quantizer(scale: Constant, zero_point: Constant | None, where: str) -> Quantizer:
    """The per-tensor quantizer of QuantizeLinear and DequantizeLinear."""
    scales = np.unique(scale.values().astype(np.float64))
    dtype = np.dtype(np.uint8) if zero_point is None else zero_point.array.dtype
    if dtype not in CODE_RANGES:
        raise FormatError(
            f"{where}: expected 8-bit codes, found a zero point of type {dtype}: quantize activations to 8 bits, "
            "activation_type=QuantType.QUInt8 of ONNX Runtime's quantizer"
        )
    zeros = np.unique(zero_point.array) if zero_point is not None else np.zeros(1)
    if scales.size != 1 or zeros.size != 1:
        raise FormatError(
            f"{where}: expected one scale and zero point for an activation, found one per channel"
        )
    return quantizer(float(scales[0]), int(zeros[0]), *CODE_RANGES[dtype], where)


def quantizer(scale: float, zero_point: int, low: int, high: int, where: str) -> Quantizer:
    """A Quantizer, its errors located."""
    try:
        return Quantizer(scale, zero_point, low, high)
    except GraphError as error:
        raise FormatError(f"{where}: {error}") from None


def quantize_linear_constant(
    x: Constant, scale: Constant, zero_point: Constant | None, axis: int, where: str
) -> Constant:
    """QuantizeLinear of a constant: its codes, in the type of the zero point."""
    dtype = np.dtype(np.uint8) if zero_point is None else zero_point.array.dtype
    if dtype not in CODE_RANGES:
        raise FormatError(f"{where}: expected 8-bit codes, found a zero point of type {dtype}")
    w, steps, zeros = _along_axis(x, scale, zero_point, axis, where)
    if not np.isfinite(w).all():
        raise FormatError(f"{where}: expected finite weights, found NaN or infinity")
    codes = np.rint(w.astype(np.float32) / steps.astype(np.float32)) + zeros
    return Constant(np.clip(codes, *CODE_RANGES[dtype]).astype(dtype))


def dequantize_linear_constant(
    x: Constant, scale: Constant, zero_point: Constant | None, axis: int, where: str
) -> Constant:
    """DequantizeLinear of a constant: codes minus zero point, and their scale."""
    if x.scale is not None or x.array.dtype.kind not in "iu" or x.array.dtype.itemsize > 4:
        raise FormatError(f"{where}: expected integer codes of at most 32 bits, found {x.array.dtype}")
    if zero_point is not None and zero_point.array.dtype != x.array.dtype:
        raise FormatError(
            f"{where}: expected a zero point of type {x.array.dtype}, found {zero_point.array.dtype}"
        )
    codes, steps, zeros = _along_axis(x, scale, zero_point, axis, where)
    wide = np.int16 if codes.dtype.itemsize == 1 else np.int64
    return Constant(codes.astype(wide) - zeros.astype(wide), steps)


def _along_axis(
    x: Constant, scale: Constant, zero_point: Constant | None, axis: int, where: str
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64]]:
    """x, scale (finite, not 0) and zero point, the last two shaped to broadcast along `axis` of x."""
    array = x.values()
    steps = scale.values().astype(np.float64)
    zeros = zero_point.values().astype(np.int64) if zero_point is not None else np.zeros((), np.int64)
    if not np.isfinite(steps).all() or not steps.all():
        raise FormatError(
            f"{where}: expected finite scales other than 0, found "
            f"{float(steps.min()) if steps.size else 'none'}"
        )
    result: list[NDArray[Any]] = []
    for part, what in ((steps, "scale"), (zeros, "zero point")):
        if part.size == 1:
            result.append(part.reshape(()))
            continue
        if not -array.ndim <= axis < array.ndim or part.shape != (array.shape[axis],):
            raise FormatError(
                f"{where}: expected a {what} for each index of axis {axis} of {array.shape}, found "
                f"{part.shape}"
            )
        shape = [1] * array.ndim
        shape[axis] = -1
        result.append(part.reshape(shape))
    return array, result[0], result[1]


def broadcast(where: str, *parts: Constant | NDArray[Any]) -> tuple[int, ...]:
    """The shape that `parts` broadcast to, of bounded size."""
    try:
        shape = np.broadcast_shapes(*(part.shape for part in parts))
    except ValueError:
        raise FormatError(
            f"{where}: expected shapes that broadcast together, found {[part.shape for part in parts]}"
        ) from None
    if math.prod(shape) > MAX_ELEMENTS or not math.prod(shape):
        raise FormatError(f"{where}: expected 1..{MAX_ELEMENTS} elements, found shape {shape}")
    return shape


def _pair(low: NDArray[Any], high: NDArray[Any]) -> str:
    return f"{float(np.max(low)):.6g} and {float(np.min(high)):.6g}"
