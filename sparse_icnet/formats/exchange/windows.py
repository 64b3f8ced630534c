"""Converters of foreign nodes that look at or move to other pixels: convolution, pooling, nearest resizing.

Each takes the graph under construction, the node and its input values, and returns the output value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import geometry
from sparse_icnet.formats.exchange.fold import Constant, axes_of, integers, slices
from sparse_icnet.formats.exchange.nodes import Node
from sparse_icnet.formats.exchange.tensors import (
    Builder,
    PendingConvolution,
    PendingInput,
    Tensor,
    Value,
    planar,
    required,
)
from sparse_icnet.network.graph import (
    MAX_WINDOW,
    AveragePool,
    Bilinear,
    Convolution,
    MaxPool,
    Resize,
    Size,
    convolution_output_size,
)

MAX_CHANNELS = 1 << 16


def convolution(
    g: Builder, node: Node, x: Value | None, w: Value | None, bias: Value | None = None
) -> Tensor:
    """Convolution of one group with quantized weights (O, I, kh, kw) and an optional bias (O,); pending."""
    tensor = g.planar_activation(node, x)
    weight, scale = _weights(node, required(node, w, "the weights"))
    outputs, inputs, *kernel = weight.shape
    if node.attributes["group"] != 1 or inputs != tensor.shape[0]:
        raise FormatError(
            f"{node.where}: expected weights for {tensor.shape[0]} input channels in one group, found "
            f"{weight.shape} in {node.attributes['group']}"
        )
    shift = np.zeros(outputs)
    if bias is not None:
        shift = required(node, bias, "the bias").values().astype(np.float64).ravel()
        if shift.shape != (outputs,):
            raise FormatError(f"{node.where}: expected a bias of shape ({outputs},), found {shift.shape}")
    stride, dilation, padding = _window(node, tensor, kernel)
    spans = [
        convolution_output_size(size, k, s, d, low + high)
        for size, k, s, d, low, high in zip(
            tensor.shape[1:], kernel, stride, dilation, padding[:2], padding[2:], strict=True
        )
    ]
    if min(spans) < 1:
        raise FormatError(
            f"{node.where}: expected a kernel no larger than the padded map, found {weight.shape}"
        )
    op = Convolution(node.name, g.operand(tensor), weight, scale, shift, stride, dilation, padding)
    shape = (outputs, spans[0], spans[1])
    return Tensor(node.name, shape, planar(shape), PendingConvolution(op))


def _weights(node: Node, weights: Constant) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """int8 (O, I, kh, kw) and float64 (O,)."""
    if weights.scale is None or weights.array.dtype.kind not in "iu":
        raise FormatError(
            f"{node.where}: expected quantized weights (behind FakeQuantize, or int8 with a scale), "
            f"found plain {weights.array.dtype} weights"
        )
    codes = weights.array
    if codes.ndim != 4 or not codes.size or max(codes.shape) > MAX_CHANNELS:
        raise FormatError(f"{node.where}: expected weights of shape (O, I, kh, kw), found {codes.shape}")
    if codes.min() < -128 or codes.max() > 127:
        raise FormatError(
            f"{node.where}: expected weights of 8 signed bits around their zero point, found "
            f"{codes.min()}..{codes.max()}"
        )
    scale = weights.scale
    if scale.size > 1 and (scale.ndim != 4 or scale.shape != (len(codes), 1, 1, 1)):
        raise FormatError(
            f"{node.where}: expected one weight scale or one per output channel, found {scale.shape}"
        )
    if not np.isfinite(scale).all() or not scale.all():
        raise FormatError(f"{node.where}: expected finite weight scales other than 0")
    return codes.astype(np.int8), np.broadcast_to(scale.ravel(), (len(codes),))


def _window(
    node: Node, tensor: Tensor, kernel: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Stride, dilation and padding of a window, checked."""
    pairs = []
    for key, default in (("strides", 1), ("dilations", 1), ("pads_begin", 0), ("pads_end", 0)):
        pair = node.attributes.get(key) or (default, default)
        lowest = 0 if key.startswith("pads") else 1
        if len(pair) != 2 or not all(lowest <= number <= 1 << 12 for number in pair):
            raise FormatError(
                f"{node.where}: expected two numbers of at least {lowest} as {key}, found {list(pair)}"
            )
        pairs.append((pair[0], pair[1]))
    if len(kernel) != 2 or not all(1 <= size <= 1 << 12 for size in kernel):
        raise FormatError(f"{node.where}: expected a kernel of two positive sizes, found {list(kernel)}")
    stride, dilation, begin, end = pairs
    mode = node.attributes.get("auto_pad", "explicit")
    return (
        stride,
        dilation,
        geometry.automatic_padding(mode, tensor.shape[1:], kernel, stride, dilation, begin, end, node.where),
    )


def max_pool(g: Builder, node: Node, x: Value | None) -> Tensor:
    """Max pooling; rounding the size up becomes padding below and right."""
    tensor = g.planar_activation(node, x, codes_allowed=True)
    kernel = tuple(node.attributes["kernel"])
    stride, dilation, padding = _window(node, tensor, kernel)
    if dilation != (1, 1):
        raise FormatError(f"{node.where}: expected a max pool without dilation, found {dilation}")
    rounding = node.attributes.get("rounding", "floor")
    if rounding not in ("floor", "ceil", "ceil_torch"):
        raise FormatError(f"{node.where}: rounding must be floor or ceil, found {rounding!r}")
    if rounding != "floor":
        padding = geometry.ceiled_padding(padding, tensor.shape[1:], kernel, stride, rounding == "ceil_torch")
    rows, columns = (
        convolution_output_size(tensor.shape[1 + i], kernel[i], stride[i], 1, padding[i] + padding[i + 2])
        for i in (0, 1)
    )
    op = MaxPool(node.name, g.operand(tensor), kernel, stride, padding)
    return g.tensor(op, (tensor.shape[0], rows, columns), codes=tensor.codes)


def average_pool(g: Builder, node: Node, x: Value | None) -> Tensor:
    """Average pooling whose windows tile the map."""
    tensor = g.planar_activation(node, x)
    kernel = tuple(node.attributes["kernel"])
    stride, dilation, padding = _window(node, tensor, kernel)
    height, width = tensor.shape[1:]
    bins = (height // kernel[0], width // kernel[1])
    tiled = all(k == s or b == 1 for k, s, b in zip(kernel, stride, bins, strict=True))
    if (
        not tiled
        or any(padding)
        or dilation != (1, 1)
        or (bins[0] * kernel[0], bins[1] * kernel[1]) != (height, width)
    ):
        raise FormatError(
            f"{node.where}: expected an average pool whose windows tile the map of {height}x{width}, found "
            f"kernel {kernel}, stride {stride}, padding {padding}"
        )
    return _pooled(g, node, tensor, bins)


def adaptive_average_pool(g: Builder, node: Node, x: Value | None, size: Value | None) -> Tensor:
    """Adaptive average pooling to a constant (rows, columns)."""
    rows, columns = integers(required(node, size, "the output size"), node.where, "output size", 2)
    return _pooled(g, node, g.planar_activation(node, x), (rows, columns))


def reduce_mean(g: Builder, node: Node, x: Value | None, axes: Value | None = None) -> Tensor:
    """Mean over height and width."""
    tensor = g.activation(node, x)
    given = None if axes is None else required(node, axes, "the axes")
    reduced = axes_of(node, given, len(tensor.axes))
    if reduced is None:
        reduced = list(range(len(tensor.axes)))
    found = sorted(tensor.axes[axis] for axis in reduced if tensor.axes[axis] != "1")
    if found != [label for label, size in zip("HW", tensor.shape[1:], strict=True) if size > 1]:
        raise FormatError(f"{node.where}: expected a mean over height and width, found axes {reduced}")
    pooled = _pooled(g, node, tensor, (1, 1))
    kept = [
        ("C" if label == "C" else "1")
        for axis, label in enumerate(tensor.axes)
        if node.attributes["keep_dims"] or axis not in reduced
    ]
    return replace(pooled, axes="".join(kept))


def matrix_product(g: Builder, node: Node, a: Value | None, b: Value | None) -> Tensor:
    """Adaptive average pooling written as products with the matrices of its means.

    One product averages the columns of a map, map @ (width, bins), the other its rows, (bins, height) @ map.  The mean of
    a window is the mean over its rows of the means over its columns, so two such products are one pool.
    """
    axis = 1 if isinstance(a, Tensor) else 0
    tensor = g.planar_activation(node, a if axis else b)
    matrix = required(node, b if axis else a, "the matrix of an average pool").values()
    length = tensor.shape[1 + axis]
    matrix = matrix.T if axis else matrix
    if matrix.ndim != 2 or matrix.shape[1] != length or not 1 <= len(matrix) <= MAX_WINDOW:
        raise FormatError(
            f"{node.where}: expected a product with a matrix of means over {length} {('rows', 'columns')[axis]}, found "
            f"shape {matrix.shape}"
        )
    if not np.allclose(matrix, geometry.mean_matrix(length, len(matrix)), rtol=1e-5, atol=1e-7):
        raise FormatError(
            f"{node.where}: expected the means of an adaptive average pool, found another matrix"
        )
    bins = (tensor.shape[1], len(matrix)) if axis else (len(matrix), tensor.shape[2])
    source = g.operand(tensor)
    before = g.ops[source]
    along_both = isinstance(before, AveragePool) and g.means.get(source) == 1 - axis
    if isinstance(before, AveragePool) and along_both:
        source = before.input
    pooled = g.tensor(AveragePool(node.name, source, bins), (tensor.shape[0], *bins))
    if not along_both:
        g.means[pooled.name] = axis
    return pooled


def _pooled(g: Builder, node: Node, tensor: Tensor, bins: tuple[int, int]) -> Tensor:
    """Whether the map divides into `bins` is for Graph to check."""
    return g.tensor(AveragePool(node.name, g.operand(tensor), bins), (tensor.shape[0], *bins))


def interpolate(
    g: Builder,
    node: Node,
    x: Value | None,
    sizes: Value | None,
    scales: Value | None,
    axes: Value | None = None,
) -> Tensor:
    """Nearest or bilinear resize of height and width to constant sizes or by constant scales."""
    tensor = g.planar_activation(node, x, codes_allowed=True, classes_allowed=True)
    if any(node.attributes.get("pads", ())):
        raise FormatError(f"{node.where}: expected a resize without padding, found {node.attributes['pads']}")
    given = None if axes is None else required(node, axes, "the axes")
    chosen = axes_of(node, given, 4)
    if chosen is None:
        chosen = [0, 1, 2, 3]
    target = list(tensor.dimensions)
    if sizes is not None:
        numbers = integers(required(node, sizes, "the sizes"), node.where, "sizes", len(chosen))
        for axis, number in zip(chosen, numbers, strict=True):
            target[axis] = number
    else:
        factors = required(node, scales, "the sizes or scales").values().astype(np.float64).ravel()
        if len(factors) != len(chosen):
            raise FormatError(f"{node.where}: expected {len(chosen)} scales, found {len(factors)}")
        for axis, factor in zip(chosen, factors.tolist(), strict=True):
            target[axis] = geometry.scaled_size(target[axis], factor, node.where)
    if target[:2] != [1, tensor.shape[0]] or not all(1 <= size <= geometry.MAX_LENGTH for size in target[2:]):
        raise FormatError(
            f"{node.where}: expected to resize height and width of {tensor.dimensions}, found {tuple(target)}"
        )
    size = (target[2], target[3])
    mode = node.attributes["mode"]
    if mode != "nearest" and tensor.shape[1:] != (1, 1) and tensor.shape[1:] != size:
        integer = tensor.codes is not None or g.holds_classes(tensor)
        if mode != "linear" or integer:
            expected = "'nearest'" if integer else "'nearest' or bilinear at the places of pixels"
            raise FormatError(f"{node.where}: expected mode {expected}, found {mode!r}")
        if node.attributes.get("antialias"):
            raise FormatError(f"{node.where}: expected a bilinear resize without antialias")
        corners = geometry.aligns_corners(tensor.shape[1:], size, node.attributes["coordinate"], node.where)
        return g.tensor(Bilinear(node.name, g.operand(tensor), size, corners), (tensor.shape[0], *size))
    if mode == "nearest":
        for old, new in zip(tensor.shape[1:], size, strict=True):
            geometry.check_nearest(
                old, new, node.attributes["coordinate"], node.attributes["nearest"], node.where
            )
    return resized(g, node, tensor, size)


def resized(g: Builder, node: Node, tensor: Tensor, size: Size) -> Tensor:
    """Nearest neighbour to `size`; it commutes with normalization, so the input stays pending."""
    shape = (tensor.shape[0], *size)
    if isinstance(tensor.pending, PendingInput):
        pending = replace(tensor.pending, resizes=(*tensor.pending.resizes, (node.name, size)))
        return Tensor(tensor.name, shape, planar(shape), pending)
    return g.tensor(Resize(node.name, g.operand(tensor), size), shape, codes=tensor.codes)


def strided_slice(g: Builder, node: Node, x: Value | None, *rest: Value | None) -> Tensor:
    """A strided slice of rows and columns is a nearest downsampling."""
    tensor = g.planar_activation(node, x, codes_allowed=True, classes_allowed=True)
    constants = [None if value is None else required(node, value) for value in rest]
    parts, drop, insert = slices(node, tensor.dimensions, constants)
    counts, steps = [], []
    for part, size in zip(parts, tensor.dimensions, strict=True):
        start, stop, step = part.indices(size)
        counts.append(len(range(start, stop, step)))
        steps.append(step)
        if start != 0 or step < 1 or not counts[-1]:
            raise FormatError(f"{node.where}: expected a slice from 0 with a positive step, found {part}")
    whole = all(
        count * step == size for count, step, size in zip(counts, steps, tensor.dimensions, strict=True)
    )
    if drop or insert or not whole or steps[1] != 1:
        raise FormatError(
            f"{node.where}: expected a slice that keeps every k-th row and column of {tensor.dimensions}, "
            f"found {parts}"
        )
    size = (counts[2], counts[3])
    return tensor if size == tensor.shape[1:] else resized(g, node, tensor, size)
