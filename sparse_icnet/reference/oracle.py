"""The oracle: a plain NumPy interpreter of a graph, equation by equation.

`Oracle` is the definition that every kernel must equal bit for bit.  `evaluate_float` is an independent
second reading of the same graph, as FakeQuantize in float64 (or float32): it checks the oracle, and the distance
between its two precisions is the noise floor of any comparison with another runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
    assert_never,
)
from sparse_icnet.network.shapes import pool_windows
from sparse_icnet.reference.smooth import bilinear, smooth_class_map


class Oracle:
    """One evaluation of `graph` on `blob`, float32 (C, H, W); every tensor is computed when first asked for.

    codes(name)       int16 (C, H, W) codes of a quantized tensor
    real(name, unit)  float32 (C, H, W), the value [x]_unit of any tensor
    output()          what the network returns
    smooth_class_map(size)  its smooth class map

    codes may hold quantized tensors that are known already: they are taken as they are
    """

    def __init__(
        self,
        graph: Graph,
        blob: NDArray[np.float32],
        codes: Mapping[str, NDArray[np.int16]] | None = None,
    ) -> None:
        expected = graph.input.shape
        if blob.dtype != np.float32 or blob.shape != expected:
            raise ValueError(f"input must be float32 of shape {expected}, found {blob.dtype} {blob.shape}")
        self.graph = graph
        self._blob = blob
        self._codes: dict[str, NDArray[np.int16]] = dict(codes or {})
        self._accumulators: dict[str, NDArray[np.int32]] = {}
        self._readers = graph.consumers()
        self._shared: dict[
            tuple[str, float], NDArray[np.float32]
        ] = {}  # real values that are read more than once

    def output(self) -> NDArray[Any]:
        """What the network returns: a class map, or real values (of the codes, where a quantizer ends the network)."""
        if self.graph.quantizer(self.graph.output) is not None:
            return self.real(self.graph.output, 1.0)
        return self.value(self.graph.output)

    def logits(self) -> NDArray[np.float32]:
        """float32 (C, h, w): what the last softmax or argmax reads, before a bilinear upsampling."""
        return self.real(self._end()[0], 1.0)

    def smooth_class_map(self, size: Size) -> NDArray[np.uint8]:
        """The smooth class map of (Q11), uint8 of `size`: of the logits, stretched as the graph's own upsampling does."""
        name, align_corners = self._end()
        return smooth_class_map(self.real(name, 1.0), size, align_corners)

    def _end(self) -> tuple[str, bool]:
        """(name of the logits, whether their upsampling aligns corners)."""
        op = self.graph[self.graph.output]
        while isinstance(op, Resize | Softmax | Argmax):
            op = self.graph[op.input]
        return (op.input, op.align_corners) if isinstance(op, Bilinear) else (op.name, False)

    def value(self, name: str) -> NDArray[Any]:
        """The output of `name` as the network would return it: classes, codes or real values."""
        match self.graph[name]:
            case Argmax(input=source):
                return self._classes(source)[None]
            case Resize(input=source, size=size) if self._is_classes(source):
                return nearest(self.value(source), size)
        return self.real(name, 1.0) if self.graph.quantizer(name) is None else self.codes(name)

    def _classes(self, name: str) -> NDArray[np.uint8]:
        """The argmax of tensor `name`, uint8 (H, W)."""
        match self.graph[name]:
            case Bilinear(input=source, size=size, align_corners=align_corners):
                return smooth_class_map(self.real(source, 1.0), size, align_corners)
            case Resize(input=source, size=size):
                map: NDArray[np.uint8] = nearest(self._classes(source)[None], size)[0]
                return map
        best: NDArray[np.uint8] = self.real(name, 1.0).argmax(0).astype(np.uint8)
        return best

    def _is_classes(self, name: str) -> bool:
        while isinstance(op := self.graph[name], Resize):
            name = op.input
        return isinstance(op, Argmax)

    def codes(self, name: str) -> NDArray[np.int16]:
        if name not in self._codes:
            for op in self._unknown(name):
                self._codes[op.name] = self._compute_codes(op)
        return self._codes[name]

    def _unknown(self, name: str) -> list[Op]:
        """The quantized tensors that `name` is computed from, then itself: a graph may be deeper than Python recurses."""
        needed: set[str] = set()
        waiting = [name]
        while waiting:
            source = waiting.pop()
            if source not in needed and source not in self._codes:
                needed.add(source)
                waiting += self.graph[source].inputs
        held = self.graph.quantizer
        return [
            op for op in self.graph if op.name == name or (op.name in needed and held(op.name) is not None)
        ]

    def _compute_codes(self, op: Op) -> NDArray[np.int16]:
        match op:
            case Quantize(input=source, quantizer=q):
                x = self.real(source, q.scale)
                x = np.where(np.isnan(x), np.float32(q.low - q.zero_point), x)
                # Clipping first keeps huge values out of the integer conversion and changes nothing else:
                # the bounds are integers and rint is monotone.
                clipped = np.clip(x, np.float32(q.low - q.zero_point), np.float32(q.high - q.zero_point))
                return (np.rint(clipped).astype(np.int32) + q.zero_point).astype(np.int16)
            case Resize(input=source, size=size):
                return nearest(self.codes(source), size)
            case MaxPool(input=source):
                return max_pool(self.codes(source), op)
            case (
                Input()
                | Affine()
                | Convolution()
                | Add()
                | Relu()
                | AveragePool()
                | Bilinear()
                | Softmax()
                | Argmax()
            ):
                raise TypeError(f"operation {op.name!r} ({type(op).__name__}) has no codes")
            case _:
                assert_never(op)

    def real(self, name: str, unit: float) -> NDArray[np.float32]:
        op = self.graph[name]
        quantizer = self.graph.quantizer(name)
        if quantizer is not None:
            zero_based = (self.codes(name) - np.int16(quantizer.zero_point)).astype(np.float32)
            return zero_based * arithmetic.dequantize_multiplier(quantizer, unit)
        key = name, unit
        if key not in self._shared:
            value = self._compute_real(op, unit)
            if len(self._readers[name]) < 2:
                return value
            self._shared[key] = value
        return self._shared[key]

    def _compute_real(self, op: Op, unit: float) -> NDArray[np.float32]:
        match op:
            case Input():
                return self._blob / np.float32(unit)
            case Affine(scale=scale, shift=shift):
                multiplier = arithmetic.f32(scale.astype(np.float64) / unit)[:, None, None]
                offset = arithmetic.f32(shift.astype(np.float64) / unit)[:, None, None]
                return self._blob * multiplier + offset
            case Convolution():
                source = self.graph.quantizer(op.input)
                assert source is not None  # a graph has no convolution of real values
                multiplier = arithmetic.convolution_multiplier(op, source, unit)[:, None, None]
                bias = arithmetic.convolution_bias(op, unit)[:, None, None]
                return self.accumulator(op.name).astype(np.float32) * multiplier + bias
            case Add(left=left, right=right):
                return self.real(left, unit) + self.real(right, unit)
            case Relu(input=source):
                return np.maximum(self.real(source, unit), np.float32(0))
            case AveragePool(input=source, bins=bins):
                return self._average_pool(source, bins, unit)
            case Resize(input=source, size=size):
                return nearest(self.real(source, unit), size)
            case Bilinear(input=source, size=size, align_corners=align_corners):
                return bilinear(self.real(source, unit), size, align_corners)
            case Softmax(input=source):
                return softmax(self.real(source, 1.0)) / np.float32(unit)
            case Quantize() | MaxPool() | Argmax():
                raise TypeError(f"operation {op.name!r} ({type(op).__name__}) has no real value")
            case _:
                assert_never(op)

    def accumulator(self, name: str) -> NDArray[np.int32]:
        """int32 (O, H, W): the exact sums (Q3) of convolution `name`."""
        if name not in self._accumulators:
            op = self.graph[name]
            assert isinstance(op, Convolution)
            quantizer = self.graph.quantizer(op.input)
            assert quantizer is not None
            self._accumulators[name] = convolve(self.codes(op.input), op, quantizer)
        return self._accumulators[name]

    def _average_pool(self, source: str, bins: tuple[int, int], unit: float) -> NDArray[np.float32]:
        quantizer = self.graph.quantizer(source)
        assert quantizer is not None
        codes = self.codes(source).astype(np.int64) - quantizer.zero_point
        result = np.empty((codes.shape[0], *bins), np.float32)
        for i, j, window in pooled_windows(codes, bins):
            count = window.shape[1] * window.shape[2]
            sums = window.sum((1, 2)).astype(np.float32)
            result[:, i, j] = sums * arithmetic.mean_multiplier(quantizer, count, unit)
        return result


def pooled_windows(x: NDArray[Any], bins: tuple[int, int]) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """(row, column, window (C, h, w)) of every bin of an average pool over (C, H, W)."""
    for i, (top, bottom) in enumerate(pool_windows(x.shape[1], bins[0])):
        for j, (left, right) in enumerate(pool_windows(x.shape[2], bins[1])):
            yield i, j, x[:, top:bottom, left:right]


def convolve(codes: NDArray[np.int16], op: Convolution, quantizer: Quantizer) -> NDArray[np.int32]:
    """(Q3): codes (I, H, W) -> exact int32 sums (O, H', W').

    Sums run as float64 matrix products, exact because every partial sum is an integer below 2**31.
    """
    top, left, bottom, right = op.padding
    zero_based = codes.astype(np.float64) - quantizer.zero_point
    padded = np.pad(zero_based, ((0, 0), (top, bottom), (left, right)))
    outputs, inputs, kernel_height, kernel_width = op.weight.shape
    span_y, span_x = op.dilation[0] * (kernel_height - 1), op.dilation[1] * (kernel_width - 1)
    rows = (padded.shape[1] - span_y - 1) // op.stride[0] + 1
    columns = (padded.shape[2] - span_x - 1) // op.stride[1] + 1
    total = np.zeros((outputs, rows * columns))
    for y in range(kernel_height):
        for x in range(kernel_width):
            top_y, left_x = y * op.dilation[0], x * op.dilation[1]
            window = padded[
                :,
                top_y : top_y + op.stride[0] * (rows - 1) + 1 : op.stride[0],
                left_x : left_x + op.stride[1] * (columns - 1) + 1 : op.stride[1],
            ]
            total += op.weight[:, :, y, x].astype(np.float64) @ window.reshape(inputs, -1)
    return total.astype(np.int32).reshape(outputs, rows, columns)


def nearest(x: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(Q7): (C, H, W) -> (C, *size)."""
    rows = np.arange(size[0]) * x.shape[1] // size[0]
    columns = np.arange(size[1]) * x.shape[2] // size[1]
    return x[:, rows[:, None], columns[None, :]]


def max_pool(x: NDArray[Any], op: MaxPool) -> NDArray[Any]:
    """Largest value of each window; padding holds the lowest value of the dtype, which never wins."""
    top, left, bottom, right = op.padding
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=lowest)
    windows = np.lib.stride_tricks.sliding_window_view(padded, op.kernel, (1, 2))
    largest: NDArray[Any] = windows[:, :: op.stride[0], :: op.stride[1]].max((3, 4))
    return largest


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q8): (C, H, W) float32 -> probabilities over axis 0, summed in ascending channel order."""
    exponentials = arithmetic.exp(x - x.max(0))
    total = exponentials[0].copy()
    for row in exponentials[1:]:
        total = total + row
    shares: NDArray[np.float32] = exponentials * (np.float32(1.0) / total)
    return shares


def evaluate_float(
    graph: Graph,
    blob: NDArray[Any],
    dtype: type[np.floating] = np.float64,
    keep: Collection[str] | None = None,
) -> dict[str, NDArray[np.floating]]:
    """Tensors of `graph` as real values, quantizers as FakeQuantize, in `dtype`: name -> (C, H, W).

    keep  names to return, None for all; the others are dropped after their last reader, which saves gigabytes
    """
    values: dict[str, NDArray[Any]] = {}
    last_reader = {source: op.name for op in graph.ops for source in op.inputs}
    for op in graph.ops:
        values[op.name] = _float_value(op, values, blob, dtype)
        if keep is not None:
            for source in {*op.inputs, op.name}.difference(keep):
                if last_reader.get(source, op.name) == op.name:
                    del values[source]
    return values


def _float_value(
    op: Op, values: dict[str, NDArray[Any]], blob: NDArray[Any], dtype: type[np.floating]
) -> NDArray[Any]:
    match op:
        case Input():
            return blob.astype(dtype)
        case Affine(input=source, scale=scale, shift=shift):
            return values[source] * scale.astype(dtype)[:, None, None] + shift.astype(dtype)[:, None, None]
        case Quantize(input=source, quantizer=q):
            unit: Any = dtype(q.scale)
            code = np.clip(np.rint(values[source] / unit) + q.zero_point, q.low, q.high)
            real: NDArray[Any] = (code - dtype(q.zero_point)) * unit
            return real
        case Convolution(input=source):
            return _float_convolution(values[source], op, dtype)
        case Add(left=left, right=right):
            total: NDArray[Any] = values[left] + values[right]
            return total
        case Relu(input=source):
            positive: NDArray[Any] = np.maximum(values[source], dtype(0))
            return positive
        case MaxPool(input=source):
            return max_pool(values[source], op)
        case AveragePool(input=source, bins=bins):
            result = np.empty((values[source].shape[0], *bins), dtype)
            for i, j, window in pooled_windows(values[source], bins):
                result[:, i, j] = window.mean((1, 2))
            return result
        case Resize(input=source, size=size):
            return nearest(values[source], size)
        case Bilinear(input=source, size=size, align_corners=align_corners):
            return bilinear(values[source], size, align_corners)
        case Softmax(input=source):
            e = np.exp(values[source] - values[source].max(0))
            shares: NDArray[Any] = e / e.sum(0)
            return shares
        case Argmax(input=source):
            best: NDArray[Any] = values[source].argmax(0).astype(np.uint8)[None]
            return best
        case _:
            assert_never(op)


def _float_convolution(x: NDArray[Any], op: Convolution, dtype: type[np.floating]) -> NDArray[Any]:
    """Convolution of real values (I, H, W) in `dtype`: a matrix product for each tap, the bias last."""
    weight = op.weight.astype(dtype) * op.weight_scale.astype(dtype)[:, None, None, None]
    top, left, bottom, right = op.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    outputs, inputs, kernel_height, kernel_width = weight.shape
    rows = (padded.shape[1] - op.dilation[0] * (kernel_height - 1) - 1) // op.stride[0] + 1
    columns = (padded.shape[2] - op.dilation[1] * (kernel_width - 1) - 1) // op.stride[1] + 1
    total = np.zeros((outputs, rows * columns), dtype)
    for y in range(kernel_height):
        for x_tap in range(kernel_width):
            first, left_x = y * op.dilation[0], x_tap * op.dilation[1]
            window = padded[
                :,
                first : first + op.stride[0] * (rows - 1) + 1 : op.stride[0],
                left_x : left_x + op.stride[1] * (columns - 1) + 1 : op.stride[1],
            ]
            total += weight[:, :, y, x_tap] @ window.reshape(inputs, -1)
    return total.reshape(outputs, rows, columns) + op.bias.astype(dtype)[:, None, None]
