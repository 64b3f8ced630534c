"""Converters of nodes that look at or move to other pixels: convolution, resizing, slices.

Each takes the graph under construction, the node and its inputs by name, and returns the output value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import geometry
from sparse_icnet.formats.exchange.attributes import (
    ConvolutionAttributes,
    InterpolateAttributes,
    StridedSliceAttributes,
    WindowAttributes,
)
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.channels import chosen_channels
from sparse_icnet.formats.exchange.constants import Constant, Slices, axes_of, integers, sliced, strided
from sparse_icnet.formats.exchange.nodes import AnyNode, Node
from sparse_icnet.formats.exchange.padding import added
from sparse_icnet.formats.exchange.tensors import (
    PendingConvolution,
    PendingInput,
    Tensor,
    Value,
    planar,
    required,
    weights_of_all,
)
from sparse_icnet.network.graph import Bilinear, Convolution, FloatConvolution, Resize, Size
from sparse_icnet.network.limits import MAX_LENGTH, MAX_WEIGHTS, MAX_WINDOW
from sparse_icnet.network.shapes import convolution_output_size

PICTURES = """\
{where}: expected pictures of the size of the network, found a resize ({mode}) from {0[1]}x{0[2]} to {1[0]}x{1[1]} inside \
the file: save the model without it, as `segment` resizes pictures by itself, with the height and width of its input free, \
or with RESIZE_BILINEAR_PILLOW"""


def convolution(
    g: Builder,
    node: Node[ConvolutionAttributes],
    x: Value,
    weight: Value,
    bias: Value | None = None,
) -> Tensor:
    """Convolution with weights (O, I, kh, kw), quantized or float, and an optional bias (O,); pending."""
    tensor = g.planar_activation(node, x, any_channels=True, padded=True)
    given = required(node, weight, "the weights")
    _check_shape(node, given)
    groups = node.attributes.group
    if groups < 1 or given.shape[1] * groups != tensor.shape[0] or given.shape[0] % groups:
        raise FormatError(
            f"{node.where}: expected weights for {tensor.shape[0]} input channels in {groups} groups, found {given.shape}"
        )
    given = _of_one_group(node, given, groups)
    outputs, _, *kernel = given.shape
    shift = np.zeros(outputs)
    if bias is not None:
        shift = required(node, bias, "the bias").values().astype(np.float64).ravel()
        if shift.shape != (outputs,):
            raise FormatError(f"{node.where}: expected a bias of shape ({outputs},), found {shift.shape}")
    stride, dilation, padding = window_of(node, tensor, kernel)
    spans = [
        convolution_output_size(size, k, s, d, low + high)
        for size, k, s, d, low, high in zip(
            tensor.shape[1:], kernel, stride, dilation, padding[:2], padding[2:], strict=True
        )
    ]
    if min(spans) < 1:
        raise FormatError(
            f"{node.where}: expected a kernel no larger than the padded map, found {given.shape}"
        )
    shape = (outputs, spans[0], spans[1])
    source, ones = g.operand(tensor), np.ones(outputs, np.float32)
    window = (stride, dilation, added(padding, tensor.padding))
    if given.scale is None and given.array.dtype.kind == "f":
        weights = weights_of_all(tensor, _float_weights(node, given))
        pending = PendingConvolution(
            FloatConvolution(node.name, source, weights, ones, *window), np.ones(outputs), shift
        )
        return Tensor(node.name, shape, planar(shape), pending)
    codes, scale = _weights(node, given)
    first, rest = _of_8_bits(codes)
    op = Convolution(node.name, source, weights_of_all(tensor, first), ones, ones, *window)
    others = None if rest is None else weights_of_all(tensor, rest)
    return Tensor(node.name, shape, planar(shape), PendingConvolution(op, scale, shift, others))


def group_convolution(g: Builder, node: Node[ConvolutionAttributes], x: Value, weight: Value) -> Tensor:
    """Convolution in groups as OpenVINO has it, with weights (groups, O / groups, I / groups, kh, kw); pending."""
    constant = required(node, weight, "the weights")
    if constant.array.ndim != 5 or not constant.array.size:
        raise FormatError(f"{node.where}: expected weights of 5 dimensions, found {constant.shape}")
    groups, outputs, *rest = constant.shape
    scale = constant.scale
    if scale is not None and scale.size > 1:
        if scale.shape != (groups, outputs, 1, 1, 1):
            raise FormatError(
                f"{node.where}: expected one weight scale or one per output channel, found {scale.shape}"
            )
        scale = scale.reshape(groups * outputs, 1, 1, 1)
    flat = replace(constant, array=constant.array.reshape(groups * outputs, *rest), scale=scale)
    grouped = replace(node, attributes=replace(node.attributes, group=groups))
    return convolution(g, grouped, x, flat)


def _of_one_group(node: AnyNode, weights: Constant, groups: int) -> Constant:
    """The same convolution over all channels: weights between channels of different groups are 0, and not stored."""
    array = weights.array
    outputs, inputs, *kernel = array.shape
    if groups == 1:
        return weights
    if array.size * groups > MAX_WEIGHTS:
        raise FormatError(
            f"{node.where}: expected at most {MAX_WEIGHTS} weights, found {array.shape} in {groups} groups"
        )
    parts = np.zeros((groups, outputs // groups, groups, inputs, *kernel), array.dtype)
    each = np.arange(groups)
    parts[each, :, each] = array.reshape(groups, outputs // groups, inputs, *kernel)
    return replace(weights, array=parts.reshape(outputs, groups * inputs, *kernel))


def _of_8_bits(codes: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.int8] | None]:
    """Weights of 9 bits, from uint8 around a zero point, as a sum of two of 8 bits; None where one is enough.

    The second has few that are not zero: what exceeds 8 bits.
    """
    if codes.min() >= -128 and codes.max() <= 127:
        return codes.astype(np.int8), None
    first = np.clip(codes, -128, 127)
    return first.astype(np.int8), (codes - first).astype(np.int8)


def _check_shape(node: AnyNode, weights: Constant) -> None:
    shape = weights.shape
    if len(shape) != 4 or not weights.array.size or max(shape) > MAX_LENGTH:
        raise FormatError(f"{node.where}: expected weights of shape (O, I, kh, kw), found {shape}")


def _float_weights(node: AnyNode, weights: Constant) -> NDArray[np.float32]:
    """The weights of a layer that the file leaves in float32 (or another float type)."""
    with np.errstate(over="ignore"):
        values = weights.array.astype(np.float32)
    if not np.isfinite(values).all():
        raise FormatError(f"{node.where}: expected finite weights, found NaN or infinity")
    return values


def _weights(node: AnyNode, weights: Constant) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """int16 (O, I, kh, kw) within -256..254, which two of 8 bits add up to, and their scales, float64 (O,)."""
    if weights.scale is None or weights.array.dtype.kind not in "iu":
        raise FormatError(
            f"{node.where}: expected float weights or quantized ones (behind FakeQuantize, or int8 with a scale), "
            f"found plain {weights.array.dtype} weights"
        )
    codes = weights.array
    if codes.min() < -256 or codes.max() > 254:
        raise FormatError(
            f"{node.where}: expected weights of 8 bits around their zero point, found "
            f"{codes.min()}..{codes.max()}: quantize them to 8 bits, as weight_type=QuantType.QInt8 of ONNX Runtime does"
        )
    scale = weights.scale
    if scale.size > 1 and (scale.ndim != 4 or scale.shape != (len(codes), 1, 1, 1)):
        raise FormatError(
            f"{node.where}: expected one weight scale or one per output channel, found {scale.shape}"
        )
    if not np.isfinite(scale).all() or not scale.all():
        raise FormatError(f"{node.where}: expected finite weight scales other than 0")
    return codes.astype(np.int16), np.broadcast_to(scale.ravel(), (len(codes),))


def window_of(
    node: Node[WindowAttributes], tensor: Tensor, kernel: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Stride, dilation and padding of a window, checked."""
    pairs = []
    given = node.attributes
    for key, numbers, lowest in (
        ("strides", given.strides, 1),
        ("dilations", given.dilations, 1),
        ("pads_begin", given.pads_begin, 0),
        ("pads_end", given.pads_end, 0),
    ):
        pair = numbers or (lowest, lowest)
        if len(pair) != 2 or not all(lowest <= number <= MAX_WINDOW for number in pair):
            raise FormatError(
                f"{node.where}: expected two numbers of at least {lowest} as {key}, found {list(pair)}"
            )
        pairs.append((pair[0], pair[1]))
    if len(kernel) != 2 or not all(1 <= size <= MAX_WINDOW for size in kernel):
        raise FormatError(f"{node.where}: expected a kernel of two positive sizes, found {list(kernel)}")
    stride, dilation, begin, end = pairs
    mode = given.auto_pad
    return (
        stride,
        dilation,
        geometry.automatic_padding(mode, tensor.shape[1:], kernel, stride, dilation, begin, end, node.where),
    )


def _is_empty(value: Value | None) -> bool:
    """Whether an input is absent in ONNX's other way: an empty constant."""
    return isinstance(value, Constant) and not value.array.size


def interpolate(
    g: Builder,
    node: Node[InterpolateAttributes],
    x: Value,
    sizes: Value | None = None,
    scales: Value | None = None,
    axes: Value | None = None,
) -> Tensor:
    """Nearest or bilinear resize of height and width to constant sizes or by constant scales."""
    if isinstance(x, Tensor) and g.resize is not None and node.name in g.resize.nodes:
        if x.shape[1:] == g.resize.size:  # the graph begins behind it
            return x
        if node.attributes.mode != "nearest":
            raise FormatError(
                PICTURES.format(x.shape, g.resize.size, where=node.where, mode=node.attributes.mode)
            )
    tensor = g.planar_activation(node, x, codes_allowed=True, classes_allowed=True, any_channels=True)
    if any(node.attributes.pads):
        raise FormatError(f"{node.where}: expected a resize without padding, found {node.attributes.pads}")
    given = None if axes is None else required(node, axes, "the axes")
    chosen = axes_of(node, given, node.attributes.axes, 4)
    if chosen is None:
        chosen = [0, 1, 2, 3]
    size = _target_size(node, tensor, chosen, sizes, scales)
    mode = node.attributes.mode
    if mode != "nearest" and tensor.shape[1:] != (1, 1) and tensor.shape[1:] != size:
        integer = tensor.codes is not None or g.holds_classes(tensor)
        if mode != "linear" or integer:
            expected = "'nearest'" if integer else "'nearest' or bilinear at the places of pixels"
            instead = (
                "" if integer else ": train and export with mode 'nearest', or the last resize 'bilinear'"
            )
            raise FormatError(f"{node.where}: expected mode {expected}, found {mode!r}{instead}")
        if node.attributes.antialias:
            raise FormatError(f"{node.where}: expected a bilinear resize without antialias")
        corners = geometry.aligns_corners(tensor.shape[1:], size, node.attributes.coordinate, node.where)
        shape = (tensor.shape[0], *size)
        op = Bilinear(node.name, g.operand(tensor), size, corners)
        return replace(tensor, name=g.emit(op), shape=shape, axes=planar(shape), pending=None)
    if mode == "nearest":
        for old, new in zip(tensor.shape[1:], size, strict=True):
            geometry.check_nearest(old, new, node.attributes.coordinate, node.attributes.nearest, node.where)
    return resized(g, node, tensor, size)


def _target_size(
    node: AnyNode, tensor: Tensor, chosen: list[int], sizes: Value | None, scales: Value | None
) -> Size:
    """(height, width) that `sizes` or `scales` of the axes `chosen` ask for."""
    target = list(tensor.dimensions)
    sizes, scales = (None if _is_empty(value) else value for value in (sizes, scales))
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
    if target[:2] != [1, tensor.shape[0]] or not all(1 <= size <= MAX_LENGTH for size in target[2:]):
        raise FormatError(
            f"{node.where}: expected to resize height and width of {tensor.dimensions}, found {tuple(target)}"
        )
    return (target[2], target[3])


def resized(g: Builder, node: AnyNode, tensor: Tensor, size: Size) -> Tensor:
    """Nearest neighbour to `size`; it commutes with normalization, so the input stays pending."""
    shape = (tensor.shape[0], *size)
    if isinstance(tensor.pending, PendingInput):
        pending = replace(tensor.pending, resizes=(*tensor.pending.resizes, (node.name, size)))
        return replace(tensor, shape=shape, axes=planar(shape), pending=pending)
    name = g.emit(Resize(node.name, g.operand(tensor), size))
    return replace(tensor, name=name, shape=shape, axes=planar(shape), pending=None)


def slice_(
    g: Builder,
    node: AnyNode,
    x: Value,
    starts: Value,
    ends: Value,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Tensor:
    """ONNX's Slice: of channels, or of rows and columns, a nearest downsampling."""
    tensor = g.activation(node, x, codes_allowed=True, classes_allowed=True, any_channels=True)
    first, last = required(node, starts), required(node, ends)
    chosen, stride = (None if value is None else required(node, value) for value in (axes, steps))
    return _downsampled(g, node, tensor, sliced(node, tensor.dimensions, first, last, chosen, stride))


def strided_slice(
    g: Builder,
    node: Node[StridedSliceAttributes],
    x: Value,
    begin: Value,
    end: Value,
    strides: Value | None = None,
) -> Tensor:
    """OpenVINO's StridedSlice: of channels, or of rows and columns, a nearest downsampling."""
    tensor = g.activation(node, x, codes_allowed=True, classes_allowed=True, any_channels=True)
    first, last = required(node, begin), required(node, end)
    step = None if strides is None else required(node, strides)
    return _downsampled(g, node, tensor, strided(node, tensor.dimensions, first, last, step))


def _downsampled(g: Builder, node: AnyNode, tensor: Tensor, slices: Slices) -> Tensor:
    parts, drop, insert = slices
    channel = tensor.axes.find("C")
    others = [part.indices(size) == (0, size, 1) for part, size in zip(parts, tensor.dimensions, strict=True)]
    if channel >= 0 and not others.pop(channel) and all(others) and not drop and not insert:
        return chosen_channels(g, node, tensor, range(tensor.shape[0])[parts[channel]])
    if not tensor.is_planar:
        raise FormatError(
            f"{node.where}: expected a slice of (1, channels, height, width), found {tensor.axes}"
        )
    counts, steps = [], []
    for part, length in zip(parts, tensor.dimensions, strict=True):
        start, stop, step = part.indices(length)
        counts.append(len(range(start, stop, step)))
        steps.append(step)
        if start != 0 or step < 1 or not counts[-1]:
            raise FormatError(f"{node.where}: expected a slice from 0 with a positive step, found {part}")
    whole = all(
        count * step == length for count, step, length in zip(counts, steps, tensor.dimensions, strict=True)
    )
    if drop or insert or not whole or steps[1] != 1:
        raise FormatError(
            f"{node.where}: expected a slice that keeps every k-th row and column of {tensor.dimensions}, "
            f"found {parts}"
        )
    size = (counts[2], counts[3])
    return tensor if size == tensor.shape[1:] else resized(g, node, tensor, size)
