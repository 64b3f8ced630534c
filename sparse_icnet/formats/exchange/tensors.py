"""Tensors of an exchange file: activations of the graph under construction, some of them pending.

Two kinds of tensor stay pending until something reads them as activations, because per-channel scales and
shifts that follow belong to them:
* a convolution takes its bias and batch norm (a negative gamma gives a negative weight scale),
* the network input takes its normalization, also behind a nearest resize, which commutes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.constants import Constant
from sparse_icnet.formats.exchange.nodes import AnyNode
from sparse_icnet.network.graph import (
    AnyConvolution,
    Quantizer,
    Shape,
    Size,
)


@dataclass(frozen=True, slots=True, eq=False)
class PendingConvolution:
    """A convolution whose weight scale and bias, float64 (O,), may still change; those in `op` do not count.

    rest  what the weights are above those of `op`, where they need more than 8 bits; the convolution is the sum of both
    """

    op: AnyConvolution
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    rest: NDArray[np.int8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PendingInput:
    """The network input, scaled and shifted per channel (float64), then resized."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    affine: str  # name for the Affine
    resizes: tuple[tuple[str, Size], ...] = ()


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels of an operation in another order, or some of them: `order`, numbers below `total`."""

    order: tuple[int, ...]
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An activation.

    name     the operation of the graph that holds it; of a pending one, the name it shall have
    shape    (channels, height, width)
    axes     what each dimension of the file's tensor is: C, H or W, and 1 wherever the size is 1
    codes    its quantizer, between QuantizeLinear and DequantizeLinear
    dtype    its type in the file, where that is not float32: of the network input, a class map, what is cast
    padding  (top, left, bottom, right): zeros around what the operation holds, which belong to the shape
    centred  whether the zero point is subtracted from the codes already (OpenVINO dequantizes in two steps)
    channels which of the operation's channels these are, None for all in order; a convolution takes them over
    """

    name: str
    shape: Shape
    axes: str
    pending: PendingConvolution | PendingInput | None = None
    codes: Quantizer | None = None
    channels: Channels | None = None
    centred: bool = False
    dtype: str = ""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        sizes = dict(zip("CHW", self.shape, strict=True))
        return tuple(sizes.get(axis, 1) for axis in self.axes)

    @property
    def is_planar(self) -> bool:
        """Whether the file's tensor is (1, channels, height, width)."""
        return self.axes == planar(self.shape)


Value = Constant | Tensor


def planar(shape: Shape) -> str:
    """The axes of a (1, channels, height, width) tensor."""
    return "1" + "".join(axis if size != 1 else "1" for axis, size in zip("CHW", shape, strict=True))


def weights_of_all(tensor: Tensor, weight: NDArray[Any]) -> NDArray[Any]:
    """`weight` (O, I, kh, kw) for the channels of `tensor` as weights for those of its operation."""
    if tensor.channels is None:
        return weight
    result = np.zeros((len(weight), tensor.channels.total, *weight.shape[2:]), weight.dtype)
    result[:, list(tensor.channels.order)] = weight
    return result


def required(node: AnyNode, value: Value | None, what: str = "an input") -> Constant:
    """`value` as a constant; FormatError if it is none."""
    if not isinstance(value, Constant):
        raise FormatError(f"{node.where}: expected {what} to be a constant, found an activation or nothing")
    return value
