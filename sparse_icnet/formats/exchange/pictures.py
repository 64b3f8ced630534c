"""A resize of pictures that a file begins with: found before the walk over its nodes begins.

PrePostProcessor of OpenVINO and similar tools write one.  It is no part of the network: the graph begins behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.exchange.attributes import (
    ConstantAttributes,
    ConvertAttributes,
    InterpolateAttributes,
    ParameterAttributes,
    TransposeAttributes,
)
from sparse_icnet.formats.exchange.nodes import AnyNode, Key, Model
from sparse_icnet.network.graph import Size

# What may stand before the resize: it acts on each value by itself, or on each channel.
_PASSED = frozenset(
    ("identity", "convert", "transpose", "add", "subtract", "multiply", "divide", "gather", "interpolate")
)


@dataclass(frozen=True, slots=True)
class PictureResize:
    """Size (height, width) behind it, its mode, whether it resizes floats, and the nodes before and at it, by name."""

    size: Size
    mode: str
    floats: bool
    nodes: frozenset[str]


def picture_resize(model: Model) -> PictureResize | None:
    """The resize to a constant size that everything else in the file reads the network input through; None without."""
    parameters = [node for node in model.nodes if isinstance(node.attributes, ParameterAttributes)]
    if len(parameters) != 1:
        return None
    (node,) = parameters
    assert isinstance(node.attributes, ParameterAttributes)
    shape, floats = node.attributes.shape, node.attributes.dtype.startswith("float")
    if len(shape) != 4:
        return None
    axes = "NHWC" if shape[3] == 3 and shape[1] != 3 else "NCHW"
    readers: dict[Key, list[AnyNode]] = {}
    constants: dict[Key, NDArray[np.generic] | None] = {}
    for one in model.nodes:
        if isinstance(one.attributes, ConstantAttributes):
            constants[one.outputs[0]] = one.attributes.value
        for key in one.inputs.values():
            readers.setdefault(key, []).append(one)
    passed = {node.name}
    while True:
        following = readers.get(node.outputs[0], [])
        if len(following) != 1 or following[0].operation not in _PASSED or following[0].name in passed:
            return None
        node = following[0]
        passed.add(node.name)
        match node.attributes:
            case InterpolateAttributes() as attributes:
                size = _target(node, attributes, axes, constants)
                return (
                    None if size is None else PictureResize(size, attributes.mode, floats, frozenset(passed))
                )
            case ConvertAttributes(dtype=dtype):
                floats = dtype is not None and dtype.kind == "f"
            case TransposeAttributes(order=order):
                numbers = order if order is not None else _numbers(node, "order", constants)
                if numbers is None or sorted(numbers) != [0, 1, 2, 3]:
                    return None
                axes = "".join(axes[axis] for axis in numbers)


def _numbers(
    node: AnyNode, name: str, constants: dict[Key, NDArray[np.generic] | None]
) -> tuple[int, ...] | None:
    """A constant list of whole numbers that `node` reads as `name`."""
    value = constants.get(node.inputs[name]) if name in node.inputs else None
    if value is None or value.ndim != 1 or not 1 <= value.size <= 4 or value.dtype.kind not in "iu":
        return None
    return tuple(int(number) for number in value.tolist())


def _target(
    node: AnyNode,
    attributes: InterpolateAttributes,
    axes: str,
    constants: dict[Key, NDArray[np.generic] | None],
) -> Size | None:
    sizes = _numbers(node, "sizes", constants)
    chosen = _numbers(node, "axes", constants) if "axes" in node.inputs else attributes.axes or (0, 1, 2, 3)
    if sizes is None or chosen is None or len(sizes) != len(chosen):
        return None
    found = {axes[axis]: size for axis, size in zip(chosen, sizes, strict=True) if -4 <= axis < 4}
    if "H" not in found or "W" not in found or min(found.values()) < 1 or any(attributes.pads):
        return None
    return found["H"], found["W"]
