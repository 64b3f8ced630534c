"""The table of operations that files may hold: one entry each, known nowhere else.

An entry gives the operation's name, the names of its inputs, its dataclass of attributes, and two functions:

    convert(builder, node, **inputs) -> value         at least one input depends on the network input
    fold(node, **inputs) -> Constant                  all inputs are constants

Both take the inputs that the node has, by the names of the entry.  `convert` gives one value, or a tuple with one for
each output (None for an output that nothing may read).  A new operation of a format on existing graph operations is one
entry here and one function in the reader's own table (`onnx.operations`, `openvino.operations`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import attributes as a
from sparse_icnet.formats.exchange import channels, fold, padding, pixels, pools, shapes, windows
from sparse_icnet.formats.exchange.advice import advice
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.constants import Constant
from sparse_icnet.formats.exchange.nodes import MAX_INPUTS, AnyNode, Node
from sparse_icnet.formats.exchange.tensors import Value

Converter = Callable[..., Value | tuple[Value | None, ...]]
Folder = Callable[..., Constant]

MANY = tuple(
    f"x{number}" for number in range(MAX_INPUTS)
)  # inputs of operations that take any number of them


@dataclass(frozen=True, slots=True)
class Operation:
    """An entry of the table.

    required, optional  names of the inputs
    attributes          class of the node's attributes
    convert, fold       see above; None where the operation takes constants alone, or is not folded
    """

    name: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    attributes: type[a.Attributes] = a.Attributes
    convert: Converter | None = None
    fold: Folder | None = None

    def check(self, node: AnyNode) -> None:
        """FormatError unless `node` has the inputs that it needs; TypeError for a reader that gave others."""
        if any(name not in node.inputs for name in self.required):
            least, most = len(self.required), len(self.required) + len(self.optional)
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise FormatError(f"{node.where}: expected {expected} inputs, found {len(node.inputs)}")
        if self.optional == MANY[1:] and set(node.inputs) != set(MANY[: len(node.inputs)]):
            raise FormatError(f"{node.where}: expected inputs without a gap, found one that is absent")
        unknown = node.inputs.keys() - {*self.required, *self.optional}
        if unknown or type(node.attributes) is not self.attributes:
            raise TypeError(
                f"{node.where}: {self.name!r} takes {self.attributes.__name__} and the inputs "
                f"{[*self.required, *self.optional]}, found {type(node.attributes).__name__} and {[*node.inputs]}"
            )


def _constant(g: Builder, node: Node[a.ConstantAttributes]) -> Constant:
    value = node.attributes.value
    if value is None:
        raise FormatError(
            f"{node.where}: expected a float or integer type of 8 bits or more, found {node.attributes.type!r}"
        )
    half = value.dtype == "float16"
    return Constant(value.astype("float32") if half else value, half=half)


def _unsupported(g: Builder, node: Node[a.UnsupportedAttributes], **inputs: Value) -> Value:
    found = node.attributes.type
    raise FormatError(f"{node.where}: operation {found!r} is not supported here{advice(found)}")


_RANGES = ("input_low", "input_high", "output_low", "output_high")
_STATISTICS = ("gamma", "beta", "mean", "variance")
_AB = ("a", "b")

TABLE: dict[str, Operation] = {
    entry.name: entry
    for entry in (
        Operation("parameter", (), (), a.ParameterAttributes, pixels.parameter),
        Operation("constant", (), (), a.ConstantAttributes, _constant),
        Operation("unsupported", (), MANY, a.UnsupportedAttributes, _unsupported),
        # quantizers
        Operation(
            "fakequantize",
            ("x", *_RANGES),
            (),
            a.FakeQuantizeAttributes,
            pixels.fake_quantize,
            fold.fake_quantize,
        ),
        Operation(
            "quantizelinear",
            ("x", "scale"),
            ("zero_point",),
            a.AxisAttributes,
            pixels.quantize_linear,
            fold.quantize_linear,
        ),
        Operation(
            "dequantizelinear",
            ("x", "scale"),
            ("zero_point",),
            a.AxisAttributes,
            pixels.dequantize_linear,
            fold.dequantize_linear,
        ),
        # pixel by pixel
        Operation("add", _AB, (), a.Attributes, pixels.arithmetic, fold.arithmetic),
        Operation("subtract", _AB, (), a.Attributes, pixels.arithmetic, fold.arithmetic),
        Operation("multiply", _AB, (), a.Attributes, pixels.arithmetic, fold.arithmetic),
        Operation("divide", _AB, (), a.Attributes, pixels.arithmetic, fold.arithmetic),
        Operation("batchnorm", ("x", *_STATISTICS), (), a.BatchNormAttributes, pixels.batch_norm),
        Operation("relu", ("x",), (), a.Attributes, pixels.relu),
        Operation("clip", ("x",), ("low", "high"), a.ClipAttributes, pixels.clip),
        Operation("softmax", ("x",), (), a.SoftmaxAttributes, pixels.softmax),
        Operation("argmax", ("x",), (), a.ArgmaxAttributes, pixels.argmax),
        Operation("topk", ("x", "k"), (), a.TopKAttributes, pixels.topk),
        # windows and other sizes
        Operation("convolution", ("x", "weight"), ("bias",), a.ConvolutionAttributes, windows.convolution),
        Operation(
            "groupconvolution", ("x", "weight"), (), a.ConvolutionAttributes, windows.group_convolution
        ),
        Operation("maxpool", ("x",), (), a.PoolAttributes, pools.max_pool),
        Operation("avgpool", ("x",), (), a.PoolAttributes, pools.average_pool),
        Operation("adaptiveavgpool", ("x", "size"), (), a.Attributes, pools.adaptive_average_pool),
        Operation("matmul", _AB, (), a.Attributes, pools.matrix_product),
        Operation("reducemean", ("x",), ("axes",), a.ReduceAttributes, pools.reduce_mean),
        Operation(
            "interpolate", ("x",), ("sizes", "scales", "axes"), a.InterpolateAttributes, windows.interpolate
        ),
        Operation(
            "slice", ("x", "starts", "ends"), ("axes", "steps"), a.Attributes, windows.slice_, fold.slice_
        ),
        Operation(
            "stridedslice",
            ("x", "begin", "end"),
            ("strides",),
            a.StridedSliceAttributes,
            windows.strided_slice,
            fold.strided_slice,
        ),
        # types, shapes, axes
        Operation("identity", ("x",), (), a.Attributes, shapes.identity, fold.identity),
        Operation("convert", ("x",), (), a.ConvertAttributes, shapes.convert, fold.convert),
        Operation("transpose", ("x",), ("order",), a.TransposeAttributes, shapes.transpose, fold.transpose),
        Operation("squeeze", ("x",), ("axes",), a.AxesAttributes, shapes.squeeze, fold.squeeze),
        Operation("unsqueeze", ("x",), ("axes",), a.AxesAttributes, shapes.unsqueeze, fold.unsqueeze),
        Operation("reshape", ("x", "shape"), (), a.ReshapeAttributes, shapes.reshape, fold.reshape),
        Operation("shapeof", ("x",), (), a.ShapeOfAttributes, shapes.shape_of),
        Operation("gather", ("x", "indices"), ("axis",), a.AxisAttributes, channels.gather, fold.gather),
        Operation(
            "pad", ("x",), ("pads", "pads_begin", "pads_end", "value", "axes"), a.PadAttributes, padding.pad
        ),
        Operation("constantofshape", ("x",), (), a.FillAttributes, None, fold.constant_of_shape),
        Operation("broadcast", ("x", "shape"), (), a.Attributes, None, fold.broadcast),
        Operation("range", ("start", "stop", "step"), (), a.Attributes, None, fold.range_),
        Operation("concat", MANY[:1], MANY[1:], a.AxisAttributes, channels.concat, fold.concat),
        Operation("split", ("x",), ("sizes", "axis"), a.SplitAttributes, channels.split),
        Operation("floor", ("x",), (), a.Attributes, None, fold.floor),
        Operation("ceil", ("x",), (), a.Attributes, None, fold.ceil),
    )
}
