"""What each layer of an OpenVINO IR becomes: one function a type, of entries of `exchange.operations.TABLE`.

Names and attributes follow the operation specifications of OpenVINO, opsets 1 to 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import attributes as a
from sparse_icnet.formats.exchange.nodes import AnyNode, FileNode, Key
from sparse_icnet.formats.exchange.operations import MANY
from sparse_icnet.formats.openvino.xml import Attributes, Layer

TYPES = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "i8": np.int8,
    "u8": np.uint8,
    "i16": np.int16,
    "u16": np.uint16,
    "i32": np.int32,
    "u32": np.uint32,
    "i64": np.int64,
    "u64": np.uint64,
    "boolean": np.bool_,
    # of ports, and of IR version 7
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
}


class LayerNode(FileNode):
    """One layer: its attributes, and `opset`, the version of its type."""

    def __init__(
        self, layer: Layer, name: str, opset: int, outputs: Sequence[Key], add: Callable[[AnyNode], None]
    ) -> None:
        declared = tuple(port.dims for port in layer.outputs)
        super().__init__(layer.type, name, layer.where, layer.inputs, outputs, declared, add)
        self.opset, self.layer, self.data = opset, layer, layer.data


Reader = Callable[[LayerNode], None]

READERS: dict[str, Reader] = {}  # type in lower case -> what translates it


def reads(*types: str) -> Callable[[Reader], Reader]:
    """Marks the function that translates layers of these types."""

    def enter(function: Reader) -> Reader:
        READERS.update({kind.lower(): function for kind in types})
        return function

    return enter


def type_name(name: str) -> str:
    """An element type of OpenVINO, or a precision of a port, by its name in NumPy; "" for none."""
    known = TYPES.get(name.lower())
    return name[:40] if known is None else np.dtype(known).name


@reads("Parameter")
def _parameter(node: LayerNode) -> None:
    data, shape = node.data, tuple(node.layer.outputs[0].dims) if node.layer.outputs else ()
    text = data.values.get("shape", "")
    if "?" in text or ".." in text:  # free sizes: which may stay so is for `exchange` to say
        parts = [part.strip() for part in text.split(",")][:9]
        numbers = ",".join("-1" if "?" in part or ".." in part else part for part in parts)
        data = Attributes({"shape": numbers}, data.where)
    sizes = data.integers("shape") if text else shape
    node.gives(
        "parameter", node.named(), a.ParameterAttributes(sizes, type_name(data.text("element_type", "")))
    )


@reads("Result")
def _result(node: LayerNode) -> None:
    node.gives("identity", node.named("x"))


@reads("ReLU", "Floor", "Ceiling")
def _of_one(node: LayerNode) -> None:
    names = {"relu": "relu", "floor": "floor", "ceiling": "ceil"}
    node.gives(names[node.type.lower()], node.named("x"))


@reads("Add", "Subtract", "Multiply", "Divide")
def _arithmetic(node: LayerNode) -> None:
    broadcast = node.data.text("auto_broadcast", "numpy")
    if broadcast.lower() not in ("numpy", "none"):
        raise FormatError(f"{node.where}: auto_broadcast must be numpy, found {broadcast!r}")
    node.gives(node.type.lower(), node.named("a", "b"))


@reads("Convert")
def _convert(node: LayerNode) -> None:
    name = node.data.text("destination_type").lower()
    dtype = np.dtype(TYPES[name]) if name in TYPES and name != "boolean" else None
    node.gives("convert", node.named("x"), a.ConvertAttributes(dtype, name))


@reads("FakeQuantize")
def _fake_quantize(node: LayerNode) -> None:
    inputs = node.named("x", "input_low", "input_high", "output_low", "output_high")
    node.gives("fakequantize", inputs, a.FakeQuantizeAttributes(node.data.whole("levels")))


def window(data: Attributes) -> dict[str, Any]:
    """The fields of `WindowAttributes` for a convolution or pooling."""
    return {
        "strides": data.integers("strides", (1, 1)),
        "dilations": data.integers("dilations", (1, 1)),
        "pads_begin": data.integers("pads_begin", (0, 0)),
        "pads_end": data.integers("pads_end", (0, 0)),
        "auto_pad": data.text("auto_pad", "explicit").lower() or "explicit",
    }


@reads("Convolution")
def _convolution(node: LayerNode) -> None:
    node.gives("convolution", node.named("x", "weight"), a.ConvolutionAttributes(**window(node.data)))


@reads("MaxPool", "AvgPool")
def _pool(node: LayerNode) -> None:
    attributes = a.PoolAttributes(
        **window(node.data),
        kernel=node.data.integers("kernel"),
        rounding=node.data.text("rounding_type", "floor").lower(),
    )
    node.gives(node.type.lower(), node.named("x"), attributes)


@reads("AdaptiveAvgPool")
def _adaptive_pool(node: LayerNode) -> None:
    node.gives("adaptiveavgpool", node.named("x", "size"))


@reads("BatchNormInference")
def _batch_norm(node: LayerNode) -> None:
    first = ("x", "gamma", "beta") if node.opset >= 5 else ("gamma", "beta", "x")
    key = "epsilon" if "epsilon" in node.data.values else "eps"
    attributes = a.BatchNormAttributes(node.data.number(key))
    node.gives("batchnorm", node.named(*first, "mean", "variance"), attributes)


@reads("Clamp")
def _clamp(node: LayerNode) -> None:
    node.gives("clip", node.named("x"), a.ClipAttributes(node.data.number("min"), node.data.number("max")))


@reads("ReduceMean")
def _reduce_mean(node: LayerNode) -> None:
    attributes = a.ReduceAttributes(node.data.boolean("keep_dims", False))
    node.gives("reducemean", node.named("x", "axes"), attributes)


@reads("Interpolate")
def _interpolate(node: LayerNode) -> None:
    data = node.data
    mode = data.text("mode").lower()
    # OpenVINO's own "linear" weighs by triangles as wide as the scale.
    mode = {"linear_onnx": "linear", "linear": "linear of triangles"}.get(mode, mode)
    pads = (*data.integers("pads_begin", ()), *data.integers("pads_end", ()))
    if node.opset < 4:
        coordinate = "align_corners" if data.boolean("align_corners", True) else "asymmetric"
        attributes = a.InterpolateAttributes(mode, coordinate, "simple", data.integers("axes"), pads)
        node.gives("interpolate", node.named("x", "sizes"), attributes)
        return
    calculation = data.text("shape_calculation_mode").lower()
    if calculation not in ("sizes", "scales"):
        raise FormatError(
            f"{node.where}: shape_calculation_mode must be sizes or scales, found {calculation!r}"
        )
    attributes = a.InterpolateAttributes(
        mode,
        data.text("coordinate_transformation_mode", "half_pixel").lower(),
        data.text("nearest_mode", "round_prefer_floor").lower(),
        None,
        pads,
        data.boolean("antialias", False),
    )
    if node.opset >= 11:  # sizes or scales are one input
        names: tuple[str | None, ...] = ("x", calculation, "axes")
    elif calculation == "sizes":
        names = ("x", "sizes", None, "axes")
    else:
        names = ("x", None, "scales", "axes")
    node.gives("interpolate", node.named(*names), attributes)


@reads("SoftMax")
def _softmax(node: LayerNode) -> None:
    node.gives("softmax", node.named("x"), a.SoftmaxAttributes(node.data.integer("axis", 1)))


@reads("TopK")
def _topk(node: LayerNode) -> None:
    indices = type_name(node.data.text("index_element_type", "i32"))
    attributes = a.TopKAttributes(node.data.integer("axis"), node.data.text("mode").lower(), indices)
    node.gives("topk", node.named("x", "k"), attributes)


@reads("Reshape")
def _reshape(node: LayerNode) -> None:
    attributes = a.ReshapeAttributes(node.data.boolean("special_zero", False))
    node.gives("reshape", node.named("x", "shape"), attributes)


@reads("Transpose")
def _transpose(node: LayerNode) -> None:
    node.gives("transpose", node.named("x", "order"), a.TransposeAttributes())


@reads("Squeeze", "Unsqueeze")
def _axes(node: LayerNode) -> None:
    node.gives(node.type.lower(), node.named("x", "axes"), a.AxesAttributes())


@reads("ShapeOf")
def _shape_of(node: LayerNode) -> None:
    node.gives("shapeof", node.named("x"), a.ShapeOfAttributes())


@reads("StridedSlice")
def _strided_slice(node: LayerNode) -> None:
    masks = ("begin_mask", "end_mask", "new_axis_mask", "shrink_axis_mask", "ellipsis_mask")
    attributes = a.StridedSliceAttributes(*(node.data.integers(mask, ()) for mask in masks))
    node.gives("stridedslice", node.named("x", "begin", "end", "strides"), attributes)


@reads("Slice")
def _slice(node: LayerNode) -> None:
    node.gives("slice", node.named("x", "starts", "ends", "steps", "axes"))


@reads("Gather")
def _gather(node: LayerNode) -> None:
    if node.data.integer("batch_dims", 0) != 0:
        raise FormatError(f"{node.where}: batch_dims must be 0, found {node.data.integer('batch_dims')}")
    node.gives("gather", node.named("x", "indices", "axis"), a.AxisAttributes())


@reads("Range")
def _range(node: LayerNode) -> None:
    node.gives("range", node.named("start", "stop", "step"))


@reads("Broadcast")
def _broadcast(node: LayerNode) -> None:
    mode = node.data.text("mode", "numpy").lower()
    if mode not in ("numpy", "bidirectional"):
        raise FormatError(
            f"{node.where}: expected a Broadcast of mode numpy or bidirectional, found {mode!r}"
        )
    node.gives("broadcast", node.named("x", "shape"))


@reads("Split", "VariadicSplit")
def _split(node: LayerNode) -> None:
    node.gives("split", node.named("x", "axis", "sizes"), a.SplitAttributes())


@reads("Pad")
def _pad(node: LayerNode) -> None:
    attributes = a.PadAttributes(node.data.text("pad_mode", "constant").lower())
    node.gives("pad", node.named("x", "pads_begin", "pads_end", "value"), attributes)


@reads("GroupConvolution")
def _group_convolution(node: LayerNode) -> None:
    node.gives("groupconvolution", node.named("x", "weight"), a.ConvolutionAttributes(**window(node.data)))


@reads("Concat")
def _concat(node: LayerNode) -> None:
    node.gives("concat", node.named(*MANY), a.AxisAttributes(node.data.integer("axis")))


def unsupported(node: LayerNode) -> None:
    """A layer without a function here: an error where the result needs it."""
    version = "" if node.opset else f" of {node.layer.version!r}"
    node.gives("unsupported", node.named(*MANY), a.UnsupportedAttributes(node.type + version))
