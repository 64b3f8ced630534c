"""Converters of pooling.

Each takes the graph under construction, the node and its inputs by name, and returns the output value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import geometry
from sparse_icnet.formats.exchange.attributes import PoolAttributes, ReduceAttributes
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.constants import axes_of, integers
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.padding import added, pooled_padding
from sparse_icnet.formats.exchange.tensors import Tensor, Value, required
from sparse_icnet.formats.exchange.windows import window_of
from sparse_icnet.network.graph import AveragePool, MaxPool
from sparse_icnet.network.limits import MAX_WINDOW
from sparse_icnet.network.shapes import convolution_output_size


def max_pool(g: Builder, node: Node[PoolAttributes], x: Value) -> Tensor:
    """Max pooling; rounding the size up becomes padding below and right."""
    tensor = g.planar_activation(node, x, codes_allowed=True, padded=True)
    stride, dilation, padding = window_of(node, tensor, node.attributes.kernel)
    kernel = (node.attributes.kernel[0], node.attributes.kernel[1])
    if dilation != (1, 1):
        raise FormatError(f"{node.where}: expected a max pool without dilation, found {dilation}")
    rounding = node.attributes.rounding
    if rounding not in ("floor", "ceil", "ceil_torch"):
        raise FormatError(f"{node.where}: rounding must be floor or ceil, found {rounding!r}")
    if rounding != "floor":
        padding = geometry.ceiled_padding(padding, tensor.shape[1:], kernel, stride, rounding == "ceil_torch")
    rows, columns = (
        convolution_output_size(tensor.shape[1 + i], kernel[i], stride[i], 1, padding[i] + padding[i + 2])
        for i in (0, 1)
    )
    padding = added(padding, pooled_padding(g, node, tensor))
    op = MaxPool(node.name, g.operand(tensor), kernel, stride, padding)
    return g.tensor(op, (tensor.shape[0], rows, columns), codes=tensor.codes)


def average_pool(g: Builder, node: Node[PoolAttributes], x: Value) -> Tensor:
    """Average pooling whose windows tile the map."""
    tensor = g.planar_activation(node, x)
    stride, dilation, padding = window_of(node, tensor, node.attributes.kernel)
    kernel = (node.attributes.kernel[0], node.attributes.kernel[1])
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


def adaptive_average_pool(g: Builder, node: AnyNode, x: Value, size: Value) -> Tensor:
    """Adaptive average pooling to a constant (rows, columns)."""
    rows, columns = integers(required(node, size, "the output size"), node.where, "output size", 2)
    return _pooled(g, node, g.planar_activation(node, x), (rows, columns))


def reduce_mean(g: Builder, node: Node[ReduceAttributes], x: Value, axes: Value | None = None) -> Tensor:
    """Mean over height and width."""
    tensor = g.activation(node, x)
    given = None if axes is None else required(node, axes, "the axes")
    reduced = axes_of(node, given, node.attributes.axes, len(tensor.axes))
    if reduced is None:
        reduced = list(range(len(tensor.axes)))
    found = sorted(tensor.axes[axis] for axis in reduced if tensor.axes[axis] != "1")
    if found != [label for label, size in zip("HW", tensor.shape[1:], strict=True) if size > 1]:
        raise FormatError(f"{node.where}: expected a mean over height and width, found axes {reduced}")
    pooled = _pooled(g, node, tensor, (1, 1))
    kept = [
        ("C" if label == "C" else "1")
        for axis, label in enumerate(tensor.axes)
        if node.attributes.keep_dims or axis not in reduced
    ]
    return replace(pooled, axes="".join(kept))


def matrix_product(g: Builder, node: AnyNode, a: Value, b: Value) -> Tensor:
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


def _pooled(g: Builder, node: AnyNode, tensor: Tensor, bins: tuple[int, int]) -> Tensor:
    """The means of `pool_windows`, for any number of `bins` (rows, columns) that Graph takes."""
    return g.tensor(AveragePool(node.name, g.operand(tensor), bins), (tensor.shape[0], *bins))
