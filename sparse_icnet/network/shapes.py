"""The shape of each operation's output, and the checks that an operation may stand where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from sparse_icnet.network.limits import (
    MAX_CHANNELS,
    MAX_ELEMENTS,
    MAX_LENGTH,
    MAX_TAPS,
    MAX_WEIGHTS,
    MAX_WINDOW,
    GraphError,
)
from sparse_icnet.network.operations import (
    Add,
    Affine,
    AnyConvolution,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Input,
    MaxPool,
    Op,
    Quantize,
    Relu,
    Resize,
    Shape,
    Size,
    Softmax,
    assert_never,
)
from sparse_icnet.network.quantizer import Quantizer, is_integer

_WINDOW = (("stride", 2, 1, MAX_WINDOW), ("dilation", 2, 1, MAX_WINDOW), ("padding", 4, 0, MAX_WINDOW))
# Of each kind of operation the fields that hold integers: how many of them, the lowest and the highest.
_INTEGERS: Mapping[type, tuple[tuple[str, int, int, int], ...]] = {
    Input: (("shape", 3, 1, MAX_LENGTH),),
    Convolution: _WINDOW,
    FloatConvolution: _WINDOW,
    MaxPool: (("kernel", 2, 1, MAX_LENGTH), ("stride", 2, 1, MAX_WINDOW), ("padding", 4, 0, MAX_WINDOW)),
    AveragePool: (("bins", 2, 1, MAX_WINDOW),),
    Resize: (("size", 2, 1, MAX_LENGTH),),
    Bilinear: (("size", 2, 1, MAX_LENGTH),),
}


def pool_windows(length: int, bins: int) -> tuple[tuple[int, int], ...]:
    """(start, end) of each bin along one axis: floor(i * length / bins) to ceil((i + 1) * length / bins).

    The rule of adaptive average pooling in PyTorch and OpenVINO: equal windows that tile the map where bins divides
    length, else overlapping ones.
    """
    return tuple((i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins))


def convolution_output_size(length: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    """Output length of one axis; `padding` is the sum of both ends."""
    return (length + padding - dilation * (kernel - 1) - 1) // stride + 1


def checked_shape(
    op: Op, ops: Mapping[str, Op], shapes: Mapping[str, Shape], held: Mapping[str, Quantizer | None]
) -> Shape:
    """(channels, height, width) of `op`'s output, after checking that `op` may stand where it stands.

    ops     the operations before `op` by name; shapes: of their outputs; held: the quantizers of their codes

    Raises GraphError, which says what was expected of which operation and what came.
    """
    shape = _shape(op, ops, shapes, held)
    if shape[0] > MAX_CHANNELS or max(shape) > MAX_LENGTH or math.prod(shape) > MAX_ELEMENTS:
        raise GraphError(
            f"operation {op.name!r} ({type(op).__name__}): expected at most {MAX_CHANNELS} channels, {MAX_LENGTH} "
            f"rows and columns, and {MAX_ELEMENTS} elements, found {'x'.join(map(str, shape))}"
        )
    return shape


def _shape(
    op: Op, ops: Mapping[str, Op], shapes: Mapping[str, Shape], held: Mapping[str, Quantizer | None]
) -> Shape:

    def fail(expected: str, found: object) -> GraphError:
        return GraphError(f"operation {op.name!r} ({type(op).__name__}): expected {expected}, found {found}")

    for name, count, low, high in _INTEGERS.get(type(op), ()):
        numbers = getattr(op, name)
        if len(numbers) != count or not all(is_integer(n) and low <= n <= high for n in numbers):
            raise fail(f"{name} of {count} integers within {low}..{high}", numbers)
    if isinstance(op, Input):
        return op.shape
    shape = channels, height, width = shapes[op.inputs[0]]
    quantizer = held[op.inputs[0]]
    match op:
        case Affine():
            if not isinstance(ops[op.input], Input):
                raise fail("the network input as its input", op.input)
            if op.scale.shape != (channels,) or op.shift.shape != (channels,):
                raise fail(
                    f"scale and shift of shape ({channels},)", f"{op.scale.shape} and {op.shift.shape}"
                )
            if not (np.isfinite(op.scale).all() and np.isfinite(op.shift).all()):
                raise fail("finite scale and shift", "NaN or infinity")
        case Convolution():
            return _convolution_shape(op, shape, quantizer, fail)
        case FloatConvolution():
            _check_weights(op, np.float32, channels, fail)
            if not np.isfinite(op.weight).all():
                raise fail("finite weights", "NaN or infinity")
            return _convolved_shape(op, shape, fail)
        case Add():
            if shapes[op.left] != shapes[op.right]:
                raise fail("two inputs of one shape", f"{shapes[op.left]} and {shapes[op.right]}")
        case MaxPool():
            _check_window(op.kernel, (1, 1), fail)
            if (
                max(op.padding[0], op.padding[2]) >= op.kernel[0]
                or max(op.padding[1], op.padding[3]) >= op.kernel[1]
            ):
                raise fail("padding smaller than the kernel", op.padding)
            rows = convolution_output_size(
                height, op.kernel[0], op.stride[0], 1, op.padding[0] + op.padding[2]
            )
            columns = convolution_output_size(
                width, op.kernel[1], op.stride[1], 1, op.padding[1] + op.padding[3]
            )
            if rows < 1 or columns < 1:
                raise fail("a window no larger than the padded map", f"{op.kernel} on {height}x{width}")
            return channels, rows, columns
        case AveragePool():
            if math.prod(op.bins) > MAX_TAPS:
                raise fail(f"at most {MAX_TAPS} bins", op.bins)
            return channels, *op.bins
        case Resize() | Bilinear():
            return channels, *op.size
        case Argmax():
            if channels > 256:
                raise fail("at most 256 channels", channels)
            return 1, height, width
        case Quantize() | Relu() | Softmax():
            pass
        case _:
            assert_never(op)
    return shape


def _check_window(kernel: Size, dilation: Size, fail: Callable[[str, object], GraphError]) -> None:
    """Raise what `fail` makes if a product of what describes a window is beyond its bound."""
    if math.prod(kernel) > MAX_TAPS:
        raise fail(f"a kernel of at most {MAX_TAPS} positions", "x".join(map(str, kernel)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if max(reach) > MAX_LENGTH:
        raise fail(f"a dilated kernel of at most {MAX_LENGTH} rows and columns", tuple(reach))


def _convolution_shape(
    op: Convolution, shape: Shape, quantizer: Quantizer | None, fail: Callable[[str, object], GraphError]
) -> Shape:
    if quantizer is None:
        raise fail("a quantized input", f"the real tensor {op.input!r}")
    _check_weights(op, np.int8, shape[0], fail)
    if op.weight_scale.dtype != np.float32 or op.weight_scale.shape != op.weight.shape[:1]:
        found = f"{op.weight_scale.dtype} {op.weight_scale.shape}"
        raise fail(f"weight_scale float32 of shape ({len(op.weight)},)", found)
    if not np.isfinite(op.weight_scale).all():
        raise fail("finite weight_scale", "NaN or infinity")
    if not op.weight_scale.all():
        raise fail("non-zero weight scales", "0")
    # |code - zero_point| <= 255 for any quantizer, so this bounds every partial sum in any order.
    # Few weights cannot reach the bound whatever they are, and need not be read.
    if op.weight[0].size * 128 * 255 >= 1 << 31:
        largest = int(np.abs(op.weight.astype(np.int64)).reshape(len(op.weight), -1).sum(1).max())
        if largest * 255 >= 1 << 31:
            raise fail("accumulators below 2**31 (255 * sum of |w|)", largest * 255)
    return _convolved_shape(op, shape, fail)


def _check_weights(
    op: AnyConvolution, kind: type, channels: int, fail: Callable[[str, object], GraphError]
) -> None:
    """Raise what `fail` makes unless weights of `kind`, as many as a convolution may have, and a bias are there."""
    if (
        op.weight.dtype != kind
        or op.weight.ndim != 4
        or op.weight.shape[1] != channels
        or not op.weight.size
        or max(op.weight.shape) > MAX_LENGTH
    ):
        expected = f"{np.dtype(kind)} weights of shape (O, {channels}, kh, kw)"
        raise fail(expected, f"{op.weight.dtype} {op.weight.shape}")
    if op.weight.size > MAX_WEIGHTS:
        raise fail(f"at most {MAX_WEIGHTS} weights", f"{op.weight.size} {op.weight.shape}")
    if op.bias.dtype != np.float32 or op.bias.shape != op.weight.shape[:1]:
        raise fail(f"bias float32 of shape ({len(op.weight)},)", f"{op.bias.dtype} {op.bias.shape}")
    if not np.isfinite(op.bias).all():
        raise fail("finite bias", "NaN or infinity")


def _convolved_shape(op: AnyConvolution, shape: Shape, fail: Callable[[str, object], GraphError]) -> Shape:
    _, height, width = shape
    outputs, _, kernel_height, kernel_width = op.weight.shape
    _check_window((kernel_height, kernel_width), op.dilation, fail)
    rows = convolution_output_size(
        height, kernel_height, op.stride[0], op.dilation[0], op.padding[0] + op.padding[2]
    )
    columns = convolution_output_size(
        width, kernel_width, op.stride[1], op.dilation[1], op.padding[1] + op.padding[3]
    )
    if rows < 1 or columns < 1:
        raise fail("a kernel no larger than the padded map", f"{op.weight.shape} on {height}x{width}")
    return outputs, rows, columns
