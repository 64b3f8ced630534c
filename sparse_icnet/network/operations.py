"""The operations of a quantized network, and the equations (Q1) to (Q14) that define their results to the last bit.

Every operation has one output and carries its name.  A tensor is one of

* **quantized**: integer codes of a :class:`Quantizer`, the output of `Quantize`, or of a `Resize` or
  `MaxPool` of a quantized tensor,
* a **class map**: uint8 (1, H, W), the output of `Argmax`, or of a `Resize` of one,
* **real**: float32 values, all others.

Arithmetic
----------
The equations below define the result of every operation to the last bit.  ``f32(.)`` rounds
to float32 (round half to even); products of scales are formed in float64 and rounded once.
A real tensor is always evaluated *in the unit of its consumer*: ``[x]_u`` is the value x / u, where u
is the scale of the quantizer that reads it, or 1 for a network output.

(Q1) quantize       q = clip(rint([x]_s) + z, low, high)          round half to even, s and z of the quantizer
(Q2) dequantize     [q]_u = f32(q - z) * f32(s / u)
(Q3) convolution    a = sum over taps and channels of (q - z) * w         exact int32; padding holds z
(Q4) rescale        [a]_u = f32(f32(a) * f32(s_in * s_w / u)) + f32(b / u)         two roundings, never fused
(Q5) add, ReLU      [x + y]_u = f32([x]_u + [y]_u),   [relu(x)]_u = [x]_u where it is above 0, else 0
(Q6) average pool   [mean(q)]_u = f32(sum of (q - z)) * f32(s / (n * u))         n codes in the window of the bin
(Q7) nearest        resize(x)[i] = x[i * size_in // size_out]
(Q8) softmax        e_c = exp([x_c]_1 - max_c [x_c]_1), p_c = f32(e_c * f32(1 / sum of e_c)), c ascending;
                    exp is the polynomial of `sparse_icnet.network.arithmetic`
(Q9) affine         [a * x + b]_u = f32([x]_1 * f32(a / u)) + f32(b / u)         network input only
(Q10) input         [x]_u = f32(x / f32(u))
(Q11) bilinear      r[j] = f32(near_y * [x]_u[k_y, j]) + f32(far_y * [x]_u[k'_y, j])      for the columns j = k_x and k'_x,
                    [up(x)]_u[y, x] = f32(near_x * r[k_x]) + f32(far_x * r[k'_x])
(Q12) float32 convolution   a = 0, then a = f32(a + f32(w * [x]_1)) for each weight w, in the order of taps (row by row)
                    and, at each tap, of input channels, but those that are 0 in all four output channels 4k .. 4k + 3;
                    [y]_u = f32(a * f32(1 / u)) + f32(b / u)
(Q13) real average pool   the sums of each column of the window, top to bottom, added left to right, each sum rounded;
                    [mean(x)]_u = f32(f32(sum of [x]_u) * f32(1 / n))
(Q14) max pool      the largest code of each window; of real values the largest [x]_u

Padding of (Q12) holds 0, that of (Q14) nothing.  For finite [x]_1 what lies outside the map changes no sum of (Q12), nor
does any weight of 0: its products are 0 or -0, and no a is ever -0, since it begins with 0.

Because a quantizer reads its whole expression in one unit, an engine may fuse convolution, residual,
ReLU and quantizer into one pass and still produce the bits that these equations define.

Bilinear upsampling and smooth class maps, (Q11)
------------------------------------------------
Along an axis of n grid points stretched over N pixels, pixel i lies at

    p = clip(((2i + 1) n - N) / 2N, 0, n - 1)       half-pixel centres, edges clamped; with `align_corners`
    p = i (n - 1) / (N - 1), and 0 for N = 1

in the cell k = min(floor(p), max(n - 2, 0)), between the grid points k and k' = min(k + 1, n - 1).  Its weights are
far = f32(p - k) and near = f32(1 - (p - k)), each the quotient of two integers formed in float64 and rounded once.

At a grid point, class c *beats* class d if [x_c]_1 > [x_d]_1, or if both are equal and c < d; the class of the point (its
Argmax) is the one that beats all others.  In a cell, d is *beaten* if the class of one of its four corners beats d at all
four.  The class of a pixel is, among the classes of largest v_c = [up(x_c)]_1, the lowest that is not beaten in its cell.

For finite [x]_1:

* There is one.  near and far are not negative, and rounded products with them and rounded sums are monotone: if c beats d
  at all corners, then v_c >= v_d.  So a largest v_d that is beaten equals the v_c of a corner's class; which is not beaten,
  for nobody beats it at its corner.
* So beaten classes need no arithmetic: the largest v_c of the others is the largest of all.
* Where the four corners agree on a class, so does every pixel between them: it beats all others at all corners.
* A pixel at a grid point (far = 0, near = 1) has the class of that point: v = [x]_1 there, and the point's class, which is
  not beaten, is the lowest of the largest.  A smooth map of the grid's own size is the Argmax.
* In exact arithmetic this is the argmax of v, the lowest among equals: if c beats d at all corners, then v_c > v_d, or
  c < d and both are equal at every corner whose weight is not 0.  What a rounding makes equal does not count against c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.quantizer import Quantizer

Shape = tuple[int, int, int]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """The network input: a real tensor of `shape` (channels, height, width)."""

    name: str
    shape: Shape
    inputs: tuple[str, ...] = field(default=(), init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Per-channel scale and shift of the network input, equation (Q9): mean and deviation written in the file."""

    name: str
    input: str
    scale: NDArray[np.float32]  # (C,)
    shift: NDArray[np.float32]  # (C,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Quantize:
    """Real (or quantized) tensor -> codes of `quantizer`, equation (Q1)."""

    name: str
    input: str
    quantizer: Quantizer

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """Quantized tensor -> real tensor, equations (Q3) and (Q4).

    weight        int8 (O, I, kh, kw), zero point 0: a zero weight is the integer 0
    weight_scale  float32 (O,), finite and non-zero; negative where a batch norm's gamma was
    bias          float32 (O,)
    stride, dilation  (vertical, horizontal)
    padding       (top, left, bottom, right), holds the zero point of the input
    """

    name: str
    input: str
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def macs_per_pixel(self) -> int:
        return int(self.weight.size)

    def __repr__(self) -> str:
        return _shown(self)


@dataclass(frozen=True, slots=True, eq=False)
class FloatConvolution:
    """Any tensor -> real tensor, equation (Q12): a layer that the file leaves in float32.

    weight  float32 (O, I, kh, kw), finite
    bias    float32 (O,)
    stride, dilation  (vertical, horizontal)
    padding           (top, left, bottom, right), holds 0
    """

    name: str
    input: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def macs_per_pixel(self) -> int:
        return int(self.weight.size)

    def __repr__(self) -> str:
        return _shown(self)


AnyConvolution = Convolution | FloatConvolution


def _shown(op: AnyConvolution) -> str:
    geometry = f"stride={op.stride}, dilation={op.dilation}, padding={op.padding}"
    zeros = 100 - 100 * int(np.count_nonzero(op.weight)) / max(op.weight.size, 1)
    return (
        f"{type(op).__name__}({op.name!r}, {op.input!r}, weight {'x'.join(map(str, op.weight.shape))}, "
        f"{zeros:.1f} % zeros, {geometry})"
    )


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two tensors of one shape, equation (Q5)."""

    name: str
    left: str
    right: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0), equation (Q5)."""

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Largest code of each window of a quantized tensor, largest value of a real one, (Q14); padding never wins.

    kernel, stride (vertical, horizontal); padding (top, left, bottom, right).
    """

    name: str
    input: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class AveragePool:
    """Mean over a grid of `bins` (rows, columns) windows, (Q6) of codes, (Q13) of real values.

    The windows are those of `pool_windows`.  Covers adaptive average pooling, average pooling with stride = kernel, and the
    mean over the whole map (bins 1 x 1).
    """

    name: str
    input: str
    bins: tuple[int, int]

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Resize:
    """Nearest neighbour to `size` (height, width), equation (Q7)."""

    name: str
    input: str
    size: Size

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Bilinear:
    """Real tensor: bilinear interpolation to `size` (height, width), equation (Q11).

    An Argmax that reads it, or nearest resizes of it, gives its smooth class map.
    """

    name: str
    input: str
    size: Size
    align_corners: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Softmax:
    """Probabilities over the channels of a real tensor, equation (Q8)."""

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Argmax:
    """uint8 (1, H, W): index of the largest [x]_1 over the channels, the lowest index among equals.

    Of a `Bilinear`, or of nearest resizes of one: the smooth class map of (Q11), which of equals may choose another.
    """

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


Op = (
    Input
    | Affine
    | Quantize
    | Convolution
    | FloatConvolution
    | Add
    | Relu
    | MaxPool
    | AveragePool
    | Resize
    | Bilinear
    | Softmax
    | Argmax
)


def assert_never(op: NoReturn) -> NoReturn:
    """The end of a match over operations: to the type checker an error unless every kind of operation has its case."""
    raise TypeError(f"unknown operation {op!r}")
