"""The oracle: a plain NumPy interpreter of a graph, equation by equation.

`Oracle` is the definition that every kernel must equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.bilinear import bilinear
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Relu,
    Resize,
    Size,
    Softmax,
    assert_never,
)
from sparse_icnet.reference.equations import (
    convolve,
    float_sums,
    max_pool,
    nearest,
    pooled_windows,
    real_average_pool,
    softmax,
)
from sparse_icnet.reference.smooth import smooth_class_map


class Oracle:
    """One evaluation of `graph` on `blob`, float32 (C, H, W); every tensor is computed when first asked for.

    codes(name)             int16 (C, H, W) codes of a quantized tensor
    real(name, unit)        float32 (C, H, W), the value [x]_unit of any tensor but a class map
    value(name)             classes, codes or real values in the unit 1
    accumulator(name)       int32 (O, H, W), the sums (Q3) of a convolution
    output()                what the network returns
    logits()                float32 (C, h, w)
    smooth_class_map(size)  its smooth class map

    The argument `codes` may hold quantized tensors that are known already: they are taken as they are.  Raises ValueError
    for a blob of another shape or type.
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
        x = self.real(name, 1.0)
        best, index = x[0].copy(), np.zeros(x.shape[1:], np.uint8)
        for channel in range(1, len(x)):
            larger = x[channel] > best
            best[larger], index[larger] = x[channel][larger], channel
        return index

    def _is_classes(self, name: str) -> bool:
        while isinstance(op := self.graph[name], Resize):
            name = op.input
        return isinstance(op, Argmax)

    def codes(self, name: str) -> NDArray[np.int16]:
        """int16 (C, H, W): codes of a quantized tensor; TypeError for another."""
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
                | FloatConvolution()
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
        """float32 (C, H, W): [x]_unit of a tensor, by (Q2) of a quantized one; TypeError for a class map."""
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
                assert source is not None  # a graph has no Convolution of real values
                multiplier = arithmetic.convolution_multiplier(op, source, unit)[:, None, None]
                bias = arithmetic.convolution_bias(op, unit)[:, None, None]
                return self.accumulator(op.name).astype(np.float32) * multiplier + bias
            case FloatConvolution(input=source):
                sums = float_sums(self.real(source, 1.0), op)
                bias = arithmetic.convolution_bias(op, unit)[:, None, None]
                return sums * arithmetic.unit_multiplier(unit) + bias
            case Add(left=left, right=right):
                return self.real(left, unit) + self.real(right, unit)
            case Relu(input=source):
                x = self.real(source, unit)
                return np.where(x > 0, x, np.float32(0))
            case MaxPool(input=source):
                return max_pool(self.real(source, unit), op)
            case AveragePool(input=source, bins=bins):
                return self._average_pool(source, bins, unit)
            case Resize(input=source, size=size):
                return nearest(self.real(source, unit), size)
            case Bilinear(input=source, size=size, align_corners=align_corners):
                return bilinear(self.real(source, unit), size, align_corners)
            case Softmax(input=source):
                return softmax(self.real(source, 1.0)) / np.float32(unit)
            case Quantize() | Argmax():
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
        if quantizer is None:
            return real_average_pool(self.real(source, unit), bins)
        codes = self.codes(source).astype(np.int64) - quantizer.zero_point
        result = np.empty((codes.shape[0], *bins), np.float32)
        for i, j, window in pooled_windows(codes, bins):
            count = window.shape[1] * window.shape[2]
            sums = window.sum((1, 2)).astype(np.float32)
            result[:, i, j] = sums * arithmetic.mean_multiplier(quantizer, count, unit)
        return result
