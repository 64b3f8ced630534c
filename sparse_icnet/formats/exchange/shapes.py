"""Converters of nodes that compute nothing: shapes, casts, axes of size 1.

Each takes the graph under construction, the node and its inputs by name, and returns the output value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.attributes import (
    AxesAttributes,
    ConvertAttributes,
    ReshapeAttributes,
    ShapeOfAttributes,
    TransposeAttributes,
)
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.constants import (
    Constant,
    integers,
    order_of,
    reshaped,
    squeezed,
    unsqueezed,
)
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.quantizers import CODE_RANGES
from sparse_icnet.formats.exchange.tensors import Tensor, Value, required


def shape_of(g: Builder, node: Node[ShapeOfAttributes], x: Value) -> Constant:
    """int64 (rank,): the shape of a value, all sizes being known."""
    shape = x.dimensions if isinstance(x, Tensor) else required(node, x).shape
    return Constant(np.asarray(shape[node.attributes.start : node.attributes.end], np.int64))


def identity(g: Builder, node: AnyNode, x: Value) -> Value:
    """The input itself."""
    return x


def convert(g: Builder, node: Node[ConvertAttributes], x: Value) -> Tensor:
    """A cast of real values or codes to a float type, of codes to 8 bits, of classes to any: nothing changes."""
    if not isinstance(x, Tensor):
        raise FormatError(f"{node.where}: expected real values to convert")
    dtype = node.attributes.dtype
    if x.codes is not None and not x.centred and dtype in CODE_RANGES:
        low, high = CODE_RANGES[dtype]
        if x.codes.low < low or x.codes.high > high:
            raise FormatError(
                f"{node.where}: expected codes within {low}..{high}, found {x.codes.low}..{x.codes.high}"
            )
        return x
    if dtype is None or (dtype.kind != "f" and not g.holds_classes(x)):
        raise FormatError(
            f"{node.where}: expected a conversion to a float type, found {node.attributes.type!r}: "
            "return real values as they are, or their argmax"
        )
    return replace(x, dtype=dtype.name)


def transpose(g: Builder, node: Node[TransposeAttributes], x: Value, order: Value | None = None) -> Tensor:
    """The same activation with its axes in another order."""
    tensor = _any_tensor(node, x)
    axes = order_of(node, len(tensor.axes), None if order is None else required(node, order, "the order"))
    return replace(tensor, axes="".join(tensor.axes[axis] for axis in axes))


def reshape(g: Builder, node: Node[ReshapeAttributes], x: Value, shape: Value) -> Tensor:
    """A reshape that only adds or removes axes of size 1."""
    tensor = _any_tensor(node, x)
    wanted = integers(required(node, shape, "the shape"), node.where, "shape")
    return _with_axes(node, tensor, reshaped(node, tensor.dimensions, wanted))


def squeeze(g: Builder, node: Node[AxesAttributes], x: Value, axes: Value | None = None) -> Tensor:
    """Without axes of size 1."""
    tensor = _any_tensor(node, x)
    given = None if axes is None else required(node, axes, "the axes")
    return _with_axes(node, tensor, squeezed(node, tensor.dimensions, given))


def unsqueeze(g: Builder, node: Node[AxesAttributes], x: Value, axes: Value | None = None) -> Tensor:
    """With further axes of size 1."""
    tensor = _any_tensor(node, x)
    given = None if axes is None else required(node, axes, "the axes")
    return _with_axes(node, tensor, unsqueezed(node, tensor.dimensions, given))


def _with_axes(node: AnyNode, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`tensor` as `shape`, which has the same sizes other than 1 in the same order."""
    if [size for size in shape if size != 1] != [size for size in tensor.dimensions if size != 1]:
        raise FormatError(
            f"{node.where}: expected a {node.operation} that only adds or removes sizes of 1, found "
            f"{tensor.dimensions} -> {shape}"
        )
    labels = iter(tensor.axes.replace("1", ""))
    return replace(tensor, axes="".join("1" if size == 1 else next(labels) for size in shape))


def _any_tensor(node: AnyNode, x: Value) -> Tensor:
    if not isinstance(x, Tensor):
        raise FormatError(f"{node.where}: expected an activation as input, found a constant or nothing")
    return x
