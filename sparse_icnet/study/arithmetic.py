"""One value of one tensor in real numbers: what is read, every product, every rounding, by the equations of the graph.

The codes that an expression begins with come from the oracle; the expression itself is evaluated here for a single
place, scalar by scalar, with the constants of `sparse_icnet.network.arithmetic`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
    assert_never,
)
from sparse_icnet.network.shapes import pool_windows
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.study.value import Arithmetic, At, Line, Product, Sum, comma, digits, some


@np.errstate(over="ignore", invalid="ignore")  # inf and NaN are values like others
def arithmetic_of(graph: Graph, oracle: Oracle, name: str, at: At) -> Arithmetic:
    """The arithmetic of the value at `at` of the expression that operation `name` belongs to.

    Raises ValueError where the tensor has no such place.
    """
    shape = graph.shape(name)
    if not all(0 <= i < n for i, n in zip(at, shape, strict=True)):
        raise ValueError(
            f"{name}: expected a place within {'x'.join(map(str, shape))} (C,Y,X counted from 0), "
            f"found {','.join(map(str, at))}"
        )
    last = end_of(graph, name)
    trace = _Trace(graph, oracle)
    op = graph[last]
    quantizer = graph.quantizer(last)
    if quantizer is not None:
        code = trace.code(op, at)
        real = np.float32(code - quantizer.zero_point) * np.float32(quantizer.scale)
        end: tuple[str, float | int, float, float] = ("code", code, quantizer.scale, float(real))
    elif isinstance(op, Argmax) or (isinstance(op, Resize) and oracle.value(last).dtype == np.uint8):
        index = trace.class_(op, at)
        end = ("class", index, 1.0, float(index))
    else:
        value = float(trace.real(op, 1.0, at))
        end = ("real", value, 1.0, value)
    return Arithmetic(name, last, at, tuple(trace.lines), tuple(trace.sums), *end)


def end_of(graph: Graph, name: str) -> str:
    """The tensor that the expression around `name` ends in: behind sums and ReLUs the quantizer that reads them."""
    readers = graph.consumers()
    while graph.quantizer(name) is None and name != graph.output and len(readers[name]) == 1:
        (reader,) = readers[name]
        if not isinstance(reader, Add | Relu | Quantize):
            break
        name = reader.name
    return name


@dataclass(slots=True)
class _Trace:
    graph: Graph
    oracle: Oracle
    lines: list[Line] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)

    def say(self, equation: str, op: Op, text: str, value: Any) -> None:
        number = int(value) if isinstance(value, int | np.integer) else float(value)
        self.lines.append(Line(equation, op.name, text, number))

    # --- codes --------------------------------------------------------------------------------------------------

    def code(self, op: Op, at: At) -> int:
        """The code of a quantized tensor, computed from what it reads."""
        channel, y, x = at
        match op:
            case Quantize(input=source, quantizer=q):
                real = self.real(self.graph[source], q.scale, at)
                low, high = q.low - q.zero_point, q.high - q.zero_point
                clipped = (
                    np.float32(low) if np.isnan(real) else np.clip(real, np.float32(low), np.float32(high))
                )
                code = int(np.rint(clipped)) + q.zero_point
                text = f"clip(rint({digits(real)}) + {q.zero_point}, {q.low}, {q.high})"
                self.say("Q1", op, text, code)
            case Resize(input=source):
                place = self.nearest(op, y, x)
                code = self.read(source, (channel, *place))
                self.say("Q7", op, f"the code of {source} at {comma((channel, *place))}", code)
            case MaxPool(input=source):
                found = list(self.window(op, y, x))
                codes = [self.read(source, (channel, *place)) for place in found]
                code = max(codes)
                self.say("Q14", op, f"max of {len(codes)} codes of {source}: {some(codes)}", code)
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
                raise TypeError(f"operation {op.name!r} ({type(op).__name__}) holds no codes")
            case _:
                assert_never(op)
        return code

    def read(self, name: str, at: At) -> int:
        """A code that is there already."""
        return int(self.oracle.codes(name)[at])

    def window(self, op: MaxPool, y: int, x: int) -> Iterator[tuple[int, int]]:
        _, height, width = self.graph.shape(op.input)
        for i in range(op.kernel[0]):
            for j in range(op.kernel[1]):
                row, column = y * op.stride[0] + i - op.padding[0], x * op.stride[1] + j - op.padding[1]
                if 0 <= row < height and 0 <= column < width:
                    yield row, column

    def nearest(self, op: Resize, y: int, x: int) -> tuple[int, int]:
        _, height, width = self.graph.shape(op.input)
        return y * height // op.size[0], x * width // op.size[1]

    def class_(self, op: Op, at: At) -> int:
        """The class of a pixel."""
        _, y, x = at
        if isinstance(op, Resize):
            place = self.nearest(op, y, x)
            index = int(self.oracle.value(op.input)[(0, *place)])
            self.say("Q7", op, f"the class of {op.input} at {comma((0, *place))}", index)
            return index
        (source,) = op.inputs
        values = self.oracle.real(source, 1.0)[:, y, x]
        for channel, value in enumerate(values):
            self.say("", self.graph[source], f"class {channel}", value)
        index = int(self.oracle.value(op.name)[0, y, x])
        smooth = isinstance(self.graph[source], Bilinear)
        self.say("Q11" if smooth else "", op, "the largest, the lowest of equals", index)
        return index

    # --- real values --------------------------------------------------------------------------------------------

    def real(self, op: Op, unit: float, at: At) -> np.float32:
        """[x]_unit of a tensor."""
        channel, y, x = at
        quantizer = self.graph.quantizer(op.name)
        if quantizer is not None:
            return self.dequantized(op, quantizer, unit, at)
        value: np.float32
        match op:
            case Input():
                pixel = self.oracle.real(op.name, 1.0)[at]
                value = self.oracle.real(op.name, unit)[at]
                self.say("Q10", op, f"{digits(pixel)} / {digits(np.float32(unit))}", value)
            case Affine(scale=scale, shift=shift):
                pixel = self.oracle.real(op.input, 1.0)[at]
                multiplier = arithmetic.f32(float(scale[channel]) / unit)
                offset = arithmetic.f32(float(shift[channel]) / unit)
                value = pixel * multiplier + offset
                self.say("Q9", op, f"{digits(pixel)} * {digits(multiplier)} + {digits(offset)}", value)
            case Convolution():
                value = self.convolution(op, unit, at)
            case FloatConvolution():
                value = self.float_convolution(op, unit, at)
            case Add(left=left, right=right):
                a, b = (self.real(self.graph[side], unit, at) for side in (left, right))
                value = a + b
                self.say("Q5", op, f"{digits(a)} + {digits(b)}", value)
            case Relu(input=source):
                a = self.real(self.graph[source], unit, at)
                value = a if a > 0 else np.float32(0)
                self.say("Q5", op, f"max({digits(a)}, 0)", value)
            case MaxPool(input=source):
                found = [self.oracle.real(source, unit)[(channel, *place)] for place in self.window(op, y, x)]
                value = max(found)
                self.say("Q14", op, f"max of {len(found)} values of {source}", value)
            case AveragePool(input=source) if self.graph.quantizer(source) is None:
                value = self.real_mean(op, unit, at)
            case AveragePool():
                value = self.mean(op, unit, at)
            case Resize(input=source):
                value = self.real(self.graph[source], unit, (channel, *self.nearest(op, y, x)))
                self.say("Q7", op, f"of {source} at {comma((channel, *self.nearest(op, y, x)))}", value)
            case Bilinear():
                value = self.bilinear(op, unit, at)
            case Softmax(input=source):
                value = self.softmax(op, source, unit, at)
            case Quantize() | Argmax():
                raise TypeError(f"operation {op.name!r} ({type(op).__name__}) has no real value")
            case _:
                assert_never(op)
        return value

    def dequantized(self, op: Op, quantizer: Quantizer, unit: float, at: At) -> np.float32:
        code = self.read(op.name, at)
        multiplier = arithmetic.dequantize_multiplier(quantizer, unit)
        value = np.float32(code - quantizer.zero_point) * multiplier
        self.say(
            "Q2",
            op,
            f"({code} - {quantizer.zero_point}) * {digits(multiplier)}, its code at {comma(at)}",
            value,
        )
        return value

    def convolution(self, op: Convolution, unit: float, at: At) -> np.float32:
        channel = at[0]
        source = self.graph.quantizer(op.input)
        assert source is not None  # those of real values are FloatConvolutions
        total = self.sum(op, source, at)
        multiplier = arithmetic.convolution_multiplier(op, source, unit)[channel]
        bias = arithmetic.convolution_bias(op, unit)[channel]
        value = np.float32(total) * multiplier + bias
        self.say("Q4", op, f"{digits(np.float32(total))} * {digits(multiplier)} + {digits(bias)}", value)
        return np.float32(value)

    def float_convolution(self, op: FloatConvolution, unit: float, at: At) -> np.float32:
        channel, y, x = at
        _, height, width = self.graph.shape(op.input)
        values, weights = self.oracle.real(op.input, 1.0), op.weight[channel].transpose(1, 2, 0)
        total, count = np.float32(0), np.count_nonzero(weights)
        first = channel - channel % 4
        # A weight of 0 beside another that is not meets inf and NaN.
        read = np.any(op.weight[first : first + 4], axis=0).transpose(1, 2, 0)
        for row, column, i in np.argwhere(read).tolist():
            place_y = y * op.stride[0] + row * op.dilation[0] - op.padding[0]
            place_x = x * op.stride[1] + column * op.dilation[1] - op.padding[1]
            if 0 <= place_y < height and 0 <= place_x < width:
                total = total + weights[row, column, i] * values[i, place_y, place_x]
        text = f"{count} products, {weights.size - count} of {weights.size} weights are zero; values of {op.input}"
        self.say("Q12", op, text, total)
        multiplier, bias = arithmetic.unit_multiplier(unit), arithmetic.convolution_bias(op, unit)[channel]
        value = total * multiplier + bias
        self.say("Q12", op, f"{digits(total)} * {digits(multiplier)} + {digits(bias)}", value)
        return np.float32(value)

    def sum(self, op: Convolution, source: Quantizer, at: At) -> int:
        channel, y, x = at
        _, height, width = self.graph.shape(op.input)
        codes: NDArray[np.int16] = self.oracle.codes(op.input)
        weights = op.weight[channel]
        products: list[Product] = []
        total = 0
        for i, row, column in np.argwhere(weights).tolist():
            place_y = y * op.stride[0] + row * op.dilation[0] - op.padding[0]
            place_x = x * op.stride[1] + column * op.dilation[1] - op.padding[1]
            inside = 0 <= place_y < height and 0 <= place_x < width
            code = int(codes[i, place_y, place_x]) if inside else source.zero_point
            weight = int(weights[i, row, column])
            product = (code - source.zero_point) * weight
            total += product
            place = (place_y, place_x) if inside else None
            products.append(
                Product(i, (row, column), place, code, code - source.zero_point, weight, product, total)
            )
        zeros = weights.size - len(products)
        self.sums.append(
            Sum(op.name, op.input, at, weights.shape[1:], weights.size, zeros, tuple(products), total)
        )
        text = f"{len(products)} products, {zeros} of {weights.size} weights are zero; codes of {op.input}"
        self.say("Q3", op, text, total)
        return total

    def mean(self, op: AveragePool, unit: float, at: At) -> np.float32:
        channel, y, x = at
        quantizer = self.graph.quantizer(op.input)
        assert quantizer is not None
        codes = self.oracle.codes(op.input)
        top, bottom = pool_windows(codes.shape[1], op.bins[0])[y]
        left, right = pool_windows(codes.shape[2], op.bins[1])[x]
        window = codes[channel, top:bottom, left:right].astype(np.int64) - quantizer.zero_point
        multiplier = arithmetic.mean_multiplier(quantizer, window.size, unit)
        value = np.float32(window.sum()) * multiplier
        where = f"rows {top} to {bottom - 1}, columns {left} to {right - 1} of {op.input}"
        self.say("Q6", op, f"{int(window.sum())} * {digits(multiplier)}: {window.size} codes, {where}", value)
        return np.float32(value)

    def real_mean(self, op: AveragePool, unit: float, at: At) -> np.float32:
        channel, y, x = at
        values = self.oracle.real(op.input, unit)[channel]
        top, bottom = pool_windows(values.shape[0], op.bins[0])[y]
        left, right = pool_windows(values.shape[1], op.bins[1])[x]
        total = np.float32(0)
        for column in range(left, right):
            part = values[top, column]
            for row in range(top + 1, bottom):
                part = part + values[row, column]
            total = total + part if column > left else part
        share = arithmetic.real_mean_multiplier((bottom - top) * (right - left))
        where = f"rows {top} to {bottom - 1}, columns {left} to {right - 1} of {op.input}"
        self.say("Q13", op, f"{digits(total)} * {digits(share)}: {where}", total * share)
        return np.float32(total * share)

    def bilinear(self, op: Bilinear, unit: float, at: At) -> np.float32:
        channel, y, x = at
        _, height, width = self.graph.shape(op.input)
        grid = self.oracle.real(op.input, unit)[channel]
        (k,), (near_y,), (far_y,) = arithmetic.interpolation(
            height, op.size[0], np.array([y]), op.align_corners
        )
        (j,), (near_x,), (far_x,) = arithmetic.interpolation(
            width, op.size[1], np.array([x]), op.align_corners
        )
        below, beside = min(k + 1, height - 1), min(j + 1, width - 1)
        left, right = (near_y * grid[k, c] + far_y * grid[below, c] for c in (j, beside))
        value = near_x * left + far_x * right
        for c, r in ((j, left), (beside, right)):
            above, under = digits(grid[k, c]), digits(grid[below, c])
            text = f"{digits(near_y)} * {above} + {digits(far_y)} * {under}, column {c} of {op.input}"
            self.say("Q11", op, text, r)
        self.say("Q11", op, f"{digits(near_x)} * {digits(left)} + {digits(far_x)} * {digits(right)}", value)
        return np.float32(value)

    def softmax(self, op: Softmax, source: str, unit: float, at: At) -> np.float32:
        channel, y, x = at
        scores = self.oracle.real(source, 1.0)[:, y, x]
        exponentials = arithmetic.exp(scores - scores.max())
        total = exponentials[0]
        for i, (score, exponential) in enumerate(zip(scores, exponentials, strict=True)):
            total = total + exponential if i else total
            self.say("Q8", op, f"class {i}: exp({digits(score)} - {digits(scores.max())})", exponential)
        share = exponentials[channel] * (np.float32(1.0) / total)
        self.say("Q8", op, f"{digits(exponentials[channel])} * f32(1 / {digits(total)})", share)
        return np.float32(share / np.float32(unit))
