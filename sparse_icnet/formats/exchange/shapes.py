"""Converters of foreign nodes that compute nothing: shapes, casts, axes of size 1.

Each takes the graph under construction, the node and its input values, and returns the output value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.fold import (
    Constant,
    integers,
    order_of,
    reshaped,
    squeezed,
    unsqueezed,
)
from sparse_icnet.formats.exchange.nodes import Node
from sparse_icnet.formats.exchange.tensors import Builder, Tensor, Value, required


def shape_of(g: Builder, node: Node, x: Value | None) -> Constant:
    """int64 (rank,): the shape of a value, all sizes being known."""
    shape = x.dimensions if isinstance(x, Tensor) else required(node, x).shape
    return Constant(np.asarray(shape[node.attributes.get("start", 0) : node.attributes.get("end")], np.int64))


def identity(g: Builder, node: Node, x: Value | None) -> Value:
    """The input itself."""
    if x is None:
        raise FormatError(f"{node.where}: expected an input, found none")
    return x


def convert(g: Builder, node: Node, x: Value | None) -> Tensor:
    """A cast of real values to a float type, or of classes to any: nothing changes."""
    if not isinstance(x, Tensor) or x.codes is not None:
        raise FormatError(f"{node.where}: expected real values to convert")
    dtype = node.attributes["dtype"]
    if (dtype is None or dtype.kind != "f") and not g.holds_classes(x):
        raise FormatError(
            f"{node.where}: expected a conversion to a float type, found {node.attributes['type']!r}"
        )
    return x


def transpose(g: Builder, node: Node, x: Value | None, order: Value | None = None) -> Tensor:
    """The same activation with its axes in another order."""
    tensor = _any_tensor(node, x)
    axes = order_of(node, len(tensor.axes), None if order is None else required(node, order, "the order"))
    return replace(tensor, axes="".join(tensor.axes[axis] for axis in axes))


def reshape(g: Builder, node: Node, x: Value | None, shape: Value | None = None) -> Tensor:
    """Reshape, Squeeze and Unsqueeze that only add or remove axes of size 1."""
    tensor = _any_tensor(node, x)
    constant = None if shape is None else required(node, shape, "the shape or axes")
    match node.kind:
        case "squeeze":
            new = squeezed(node, tensor.dimensions, constant)
        case "unsqueeze":
            new = unsqueezed(node, tensor.dimensions, constant)
        case _:
            wanted = integers(required(node, shape, "the shape"), node.where, "shape")
            new = reshaped(node, tensor.dimensions, wanted)
    labels = iter(tensor.axes.replace("1", ""))
    if [size for size in new if size != 1] != [size for size in tensor.dimensions if size != 1]:
        raise FormatError(
            f"{node.where}: expected a {node.kind} that only adds or removes sizes of 1, found "
            f"{tensor.dimensions} -> {tuple(new)}"
        )
    return replace(tensor, axes="".join("1" if size == 1 else next(labels) for size in new))


def _any_tensor(node: Node, x: Value | None) -> Tensor:
    if not isinstance(x, Tensor):
        raise FormatError(f"{node.where}: expected an activation as input, found a constant or nothing")
    return x
