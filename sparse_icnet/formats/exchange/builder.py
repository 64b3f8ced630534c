"""The graph under construction: the operations made of the tensors of an exchange file."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.constants import Constant
from sparse_icnet.formats.exchange.nodes import AnyNode, Key, UniqueNames
from sparse_icnet.formats.exchange.pictures import PictureResize
from sparse_icnet.formats.exchange.tensors import (
    PendingConvolution,
    PendingInput,
    Tensor,
    Value,
    planar,
    weights_of_all,
)
from sparse_icnet.network.faces import InputFace
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    Bilinear,
    Convolution,
    FloatConvolution,
    Input,
    Normalization,
    Op,
    Quantizer,
    Resize,
    Shape,
    Softmax,
)
from sparse_icnet.network.limits import MAX_WEIGHTS


class Builder:
    """Operations so far, and how tensors become operations.

    ops           name -> operation, as emitted
    unique        hands out operation names
    input         the network input, once met
    integers      outputs that the file converts to integers of 8 bits: codes, not values
    size_is_free  whether the file leaves its height or width open
    face          types and axes of the network input
    resize        the resize of pictures that the file begins with; None without one
    notes         what was left out, assumed, or read as something else, in sentences
    means         average pools along one axis, made of a product with a matrix -> that axis, 0 rows, 1 columns
    """

    def __init__(self) -> None:
        self.ops: dict[str, Op] = {}
        self.unique = UniqueNames()
        self.input: Input | None = None
        self.integers: frozenset[Key] = frozenset()
        self.size_is_free = False
        self.face = InputFace()
        self.resize: PictureResize | None = None
        self.notes: list[str] = []
        self.means: dict[str, int] = {}
        self._emitted: dict[object, str] = {}  # pending value -> its operation
        self._affines: list[Affine] = []

    def holds_classes(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a class map: an argmax, or a nearest resize of one."""
        op = self.ops.get(tensor.name)
        while isinstance(op, Resize):
            op = self.ops.get(op.input)
        return isinstance(op, Argmax)

    def activation(
        self,
        node: AnyNode,
        value: Value | None,
        codes_allowed: bool = False,
        classes_allowed: bool = False,
        any_channels: bool = False,
        padded: bool = False,
    ) -> Tensor:
        """`value`, if it is an activation that the operation of `node` can take, else FormatError.

        codes_allowed    codes between QuantizeLinear and DequantizeLinear
        classes_allowed  a class map
        any_channels     channels in another order, or some of them
        padded           zeros around it that are not padding of an operation yet
        """
        if not isinstance(value, Tensor):
            raise FormatError(f"{node.where}: expected an activation as input, found a constant or nothing")
        if value.codes is not None and not codes_allowed:
            raise FormatError(
                f"{node.where}: expected DequantizeLinear between QuantizeLinear and this operation"
            )
        if not classes_allowed and self.holds_classes(value):
            raise FormatError(
                f"{node.where}: expected nothing but nearest resizes and the result after ArgMax"
            )
        if value.channels is not None and not any_channels:
            raise FormatError(
                f"{node.where}: expected a convolution behind channels in another order, with quantizers, scales and "
                f"resizes between, found {node.operation}"
            )
        if any(value.padding) and not padded:
            raise FormatError(
                f"{node.where}: expected a convolution behind padding, with quantizers between, found {node.operation}"
            )
        return value

    def planar_activation(
        self,
        node: AnyNode,
        value: Value | None,
        codes_allowed: bool = False,
        classes_allowed: bool = False,
        any_channels: bool = False,
        padded: bool = False,
    ) -> Tensor:
        """`activation`, if it is (1, channels, height, width) in the file, else FormatError."""
        tensor = self.activation(node, value, codes_allowed, classes_allowed, any_channels, padded)
        if not tensor.is_planar:
            raise FormatError(
                f"{node.where}: expected an input of shape (1, channels, height, width), found "
                f"{tensor.dimensions}, axes {tensor.axes}"
            )
        return tensor

    def emit(self, op: Op) -> str:
        """Append `op`, renamed if its name is taken; its name."""
        name = self.unique(op.name)
        self.ops[name] = op if name == op.name else replace(op, name=name)
        return name

    def tensor(self, op: Op, shape: Shape, axes: str | None = None, codes: Quantizer | None = None) -> Tensor:
        """The result of `op`, which is emitted; (1, channels, height, width) in the file for no `axes`."""
        return Tensor(self.emit(op), shape, planar(shape) if axes is None else axes, codes=codes)

    def operand(self, tensor: Tensor) -> str:
        """The operation that holds `tensor`, emitted now if it was pending."""
        if isinstance(tensor.pending, PendingConvolution):
            return self._emit_convolution(tensor.pending)
        if isinstance(tensor.pending, PendingInput):
            return self._emit_input(tensor.pending)
        return tensor.name

    def _emit_convolution(self, pending: PendingConvolution) -> str:
        op = pending.op
        key = (op.name, pending.scale.tobytes(), pending.bias.tobytes())
        if key not in self._emitted:
            # A channel scaled by 0 (batch norm with gamma 0) is a channel of zero weights.
            dead = pending.scale.astype(np.float32) == 0
            alive = np.where(dead, np.int8(0), np.int8(1))[:, None, None, None]
            with np.errstate(over="ignore"):  # infinity is refused by Graph
                if isinstance(op, FloatConvolution):
                    weight = (op.weight * pending.scale[:, None, None, None]).astype(np.float32)
                    bias = pending.bias.astype(np.float32)
                    self._emitted[key] = self.emit(replace(op, weight=weight, bias=bias))
                    return self._emitted[key]
                scale = np.where(dead, 1, pending.scale).astype(np.float32)
                bias = pending.bias.astype(np.float32)
            name = self.emit(replace(op, weight=op.weight * alive, weight_scale=scale, bias=bias))
            if pending.rest is not None:
                self.note("weights of 9 bits around a zero point are sums of two convolutions")
                none = np.zeros_like(bias)
                rest = replace(op, name=f"{op.name}/rest", weight=pending.rest * alive)
                other = self.emit(replace(rest, weight_scale=scale, bias=none))
                name = self.emit(Add(f"{op.name}/sum", name, other))
            self._emitted[key] = name
        return self._emitted[key]

    def _emit_input(self, pending: PendingInput) -> str:
        assert self.input is not None
        name = self.input.name
        if (pending.scale != 1).any() or pending.shift.any():
            key = (pending.scale.tobytes(), pending.shift.tobytes())
            if key not in self._emitted:
                with np.errstate(over="ignore"):
                    scale, shift = pending.scale.astype(np.float32), pending.shift.astype(np.float32)
                affine = Affine(pending.affine, name, scale, shift)
                self._affines.append(affine)
                self._emitted[key] = self.emit(affine)
            name = self._emitted[key]
        for resize, size in pending.resizes:
            step = (name, resize, size)
            if step not in self._emitted:
                self._emitted[step] = self.emit(Resize(resize, name, size))
            name = self._emitted[step]
        return name

    def per_channel(self, node: AnyNode, constant: Constant, tensor: Tensor) -> NDArray[np.float64]:
        """(C,) float64: a constant that broadcasts over `tensor`, the same for every pixel."""
        values = constant.values().astype(np.float64)
        channel = tensor.axes.find("C")
        aligned = (1,) * (len(tensor.axes) - values.ndim) + values.shape
        fits = len(aligned) == len(tensor.axes) and all(
            size == 1 or (axis == channel and size == tensor.shape[0]) for axis, size in enumerate(aligned)
        )
        if not fits:
            raise FormatError(
                f"{node.where}: expected a constant per channel or a single one for an input of shape "
                f"{tensor.dimensions}, found shape {values.shape}"
            )
        if not np.isfinite(values).all():
            raise FormatError(f"{node.where}: expected finite constants, found NaN or infinity")
        return np.broadcast_to(values.ravel(), (tensor.shape[0],))

    def scaled(
        self,
        node: AnyNode,
        tensor: Tensor,
        scale: NDArray[np.float64] | float,
        shift: NDArray[np.float64] | float,
        name: str | None = None,
    ) -> Tensor:
        """tensor * scale + shift per channel, taken over by the convolution or network input before it.

        Of other values, as of a quantized convolution before a batch norm, it is a convolution of its own: by (Q3) and
        (Q4) the 1x1 weights of the unit matrix with the weight scales `scale` give scale * x + shift in each channel.
        Where there are no codes, `repair` makes it one of float32.

        name  for the Affine of the network input, that of the node if None
        """
        scale, shift = (np.broadcast_to(np.float64(part), tensor.shape[:1]) for part in (scale, shift))
        if (scale == 1).all() and not shift.any():
            return tensor
        if any(tensor.padding) and shift.any():
            raise FormatError(f"{node.where}: expected zeros to stay zeros behind padding, found a shift")
        match tensor.pending:
            case PendingConvolution(op, old, bias, rest):
                changed = PendingConvolution(op, old * scale, bias * scale + shift, rest)
                return replace(tensor, pending=changed)
            case PendingInput() as pending:
                factor, offset = pending.scale.copy(), pending.shift.copy()
                own = slice(None) if tensor.channels is None else list(tensor.channels.order)
                factor[own], offset[own] = factor[own] * scale, offset[own] * scale + shift
                pending = replace(pending, scale=factor, shift=offset, affine=name or node.name)
                return replace(tensor, pending=pending)
        if tensor.shape[0] ** 2 > MAX_WEIGHTS:
            raise FormatError(
                f"{node.where}: expected a scale of at most {math.isqrt(MAX_WEIGHTS)} channels, found {tensor.shape[0]}"
            )
        if self._is_probabilities(tensor):
            raise FormatError(
                f"{node.where}: expected constants to scale or shift what convolutions read, found {tensor.name!r}, behind "
                "a softmax"
            )
        self.note("a scale and shift of an activation, such as a batch norm, is a convolution of 1x1")
        ones, unit = np.ones(tensor.shape[0], np.float32), np.eye(tensor.shape[0], dtype=np.int8)
        weight = weights_of_all(tensor, unit[:, :, None, None])
        op = Convolution(node.name, tensor.name, weight, ones, ones)
        return replace(tensor, name=node.name, pending=PendingConvolution(op, scale, shift), channels=None)

    def _is_probabilities(self, tensor: Tensor) -> bool:
        op = self.ops.get(tensor.name)
        while isinstance(op, Resize | Bilinear):
            op = self.ops[op.input]
        return isinstance(op, Softmax)

    def note(self, text: str) -> None:
        """Say what was left out, folded or assumed, once."""
        if text not in self.notes:
            self.notes.append(text)

    def normalization(self) -> Normalization:
        """How an image becomes the input: as the model card says, unless the file normalizes by itself.

        y = (x - mean) / std in the file: mean and std of the size of pixel values (0..255) expect the raw
        image, small ones expect image / 255.  Integers are pixel values.
        """
        if self.face.takes_bytes and self.input is not None:
            self.note("pictures are given as pixel values of 0..255, which the file declares")
            count = self.input.shape[0]
            return Normalization(1.0, (0.0,) * count, (1.0,) * count)
        if not self._affines or not self._affines[0].scale.all():
            self.note(
                "pictures are assumed to be normalized as the model card says, as the file does not do it"
            )
            return Normalization()
        scale, shift = self._affines[0].scale, self._affines[0].shift
        unit = bool((np.abs(shift / scale) < 1.5).all() and (np.abs(scale) > 1 / 16).all())
        count, highest = len(scale), 1 if unit else 255
        self.note(f"pictures are assumed to be given as 0..{highest}, by the mean and deviation in the file")
        return Normalization(255.0 if unit else 1.0, (0.0,) * count, (1.0,) * count)
