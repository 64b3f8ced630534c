"""Attributes of the operations of `operations.TABLE`, one dataclass for each set of them.

Texts are in lower case.  Axes may be negative, as in the files; None stands for "not given".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attributes:
    """None; the base of all others."""


@dataclass(frozen=True, slots=True)
class ParameterAttributes(Attributes):
    """shape (n, c, h, w) or (n, h, w, c), -1 where the file leaves a size free; dtype: its name in NumPy, or another."""

    shape: Numbers
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class ConstantAttributes(Attributes):
    """value, None if its type is not supported, and the name of that type."""

    value: NDArray[Any] | None
    type: str = ""


@dataclass(frozen=True, slots=True)
class UnsupportedAttributes(Attributes):
    """The name of an operation that no reader knows."""

    type: str


@dataclass(frozen=True, slots=True)
class ConvertAttributes(Attributes):
    """The type to convert to, None if it is not supported, and its name in the file."""

    dtype: np.dtype[Any] | None
    type: str


@dataclass(frozen=True, slots=True)
class FakeQuantizeAttributes(Attributes):
    levels: int


@dataclass(frozen=True, slots=True)
class AxisAttributes(Attributes):
    """Of QuantizeLinear, DequantizeLinear, Concat; of Gather, whose input `axis` has precedence."""

    axis: int = 0


@dataclass(frozen=True, slots=True)
class SplitAttributes(Attributes):
    """Of Split: the inputs `axis` and `sizes` have precedence; no sizes: equal ones."""

    axis: int = 0
    sizes: Numbers | None = None


@dataclass(frozen=True, slots=True)
class AxesAttributes(Attributes):
    """Of Squeeze and Unsqueeze, whose input `axes` has precedence."""

    axes: Numbers | None = None


@dataclass(frozen=True, slots=True)
class WindowAttributes(Attributes):
    """Window of a convolution or pooling; pads_begin is (top, left), pads_end (bottom, right).

    auto_pad  explicit or notset, same_upper, same_lower, valid
    """

    strides: Numbers = (1, 1)
    dilations: Numbers = (1, 1)
    pads_begin: Numbers = (0, 0)
    pads_end: Numbers = (0, 0)
    auto_pad: str = "explicit"


@dataclass(frozen=True, slots=True)
class ConvolutionAttributes(WindowAttributes):
    group: int = 1


@dataclass(frozen=True, slots=True)
class PoolAttributes(WindowAttributes):
    """rounding of the output size: floor, ceil, or ceil_torch (no window starts in the padding behind the map)."""

    kernel: Numbers = ()
    rounding: str = "floor"


@dataclass(frozen=True, slots=True)
class PadAttributes(Attributes):
    """mode constant or another; pads at the begin of all axes, then at their end, and the value there: without inputs."""

    mode: str = "constant"
    pads: Numbers | None = None
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class FillAttributes(Attributes):
    """The value that ConstantOfShape repeats, and its type by NumPy's name."""

    value: float = 0.0
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class BatchNormAttributes(Attributes):
    epsilon: float


@dataclass(frozen=True, slots=True)
class ClipAttributes(Attributes):
    """Bounds, in place of the inputs of the same names."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class ReduceAttributes(Attributes):
    """axes in place of the input; None: all."""

    keep_dims: bool
    axes: Numbers | None = None


@dataclass(frozen=True, slots=True)
class InterpolateAttributes(Attributes):
    """mode nearest or linear; coordinate and nearest are the modes of ONNX's Resize."""

    mode: str
    coordinate: str
    nearest: str
    axes: Numbers | None = None
    pads: Numbers = ()
    antialias: bool = False


@dataclass(frozen=True, slots=True)
class SoftmaxAttributes(Attributes):
    """flattens: over all axes from `axis` on (ONNX before opset 13)."""

    axis: int
    flattens: bool = False


@dataclass(frozen=True, slots=True)
class ArgmaxAttributes(Attributes):
    axis: int
    keep_dims: bool = True


@dataclass(frozen=True, slots=True)
class TopKAttributes(Attributes):
    """mode max or min; indices: the name of their type."""

    axis: int
    mode: str
    indices: str = "int64"


@dataclass(frozen=True, slots=True)
class TransposeAttributes(Attributes):
    """order in place of the input."""

    order: Numbers | None = None


@dataclass(frozen=True, slots=True)
class ReshapeAttributes(Attributes):
    """zero_copies: a size 0 copies the old one."""

    zero_copies: bool = True


@dataclass(frozen=True, slots=True)
class ShapeOfAttributes(Attributes):
    """The part start:end of the shape; end None: all of the rest."""

    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class StridedSliceAttributes(Attributes):
    """One number per axis of `begin`; a 1 in begin_mask or end_mask ignores the number there."""

    begin_mask: Numbers = ()
    end_mask: Numbers = ()
    new_axis_mask: Numbers = ()
    shrink_axis_mask: Numbers = ()
    ellipsis_mask: Numbers = ()
