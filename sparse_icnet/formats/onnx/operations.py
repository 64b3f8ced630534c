"""What each operation of an ONNX file becomes: one function an operation, of entries of `exchange.operations.TABLE`.

Semantics: onnx.ai, opsets 9 to 23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import attributes as a
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS, MAX_RANK, AnyNode, FileNode, Key
from sparse_icnet.formats.exchange.operations import MANY
from sparse_icnet.formats.onnx.tensors import TYPES, Beside, tensor_value

OPENVINO = "org.openvinotoolkit"
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operations
_INTEGER, _NUMBER, _TEXT, _TENSOR, _NUMBERS, _INTEGERS = 2, 1, 3, 4, 6, 7  # AttributeProto.AttributeType


class OnnxNode(FileNode):
    """One node of a file: its attributes by type, and `opset`, the version of its operator set."""

    def __init__(
        self,
        proto: Any,
        name: str,
        where: str,
        opset: int,
        beside: Beside,
        inputs: Sequence[Key | None],
        outputs: Sequence[Key],
        add: Callable[[AnyNode], None],
    ) -> None:
        super().__init__(proto.op_type, name, where, inputs, outputs, (), add)
        self.opset, self.beside = opset, beside
        self.values = {attribute.name: attribute for attribute in proto.attribute}

    def _get(self, key: str, kind: int, what: str) -> Any:
        attribute = self.values[key]
        if attribute.type != kind:
            raise FormatError(f"{self.where}: attribute {key!r} must be {what}")
        return attribute

    def integer(self, key: str, default: int) -> int:
        return int(self._get(key, _INTEGER, "an integer").i) if key in self.values else default

    def check_whole(self, key: str, expected: int) -> None:
        """FormatError unless the attribute has the value `expected`, which is its default."""
        if self.integer(key, expected) != expected:
            raise FormatError(f"{self.where}: expected {key} {expected}, found {self.integer(key, expected)}")

    def check_given(self, given: Collection[str], names: Sequence[str]) -> None:
        """FormatError unless all inputs `names` are there."""
        missing = [name for name in names if name not in given]
        if missing:
            raise FormatError(
                f"{self.where}: expected the inputs {', '.join(names)} of {self.type}, found no {missing[0]}"
            )

    def number(self, key: str, default: float) -> float:
        return float(self._get(key, _NUMBER, "a number").f) if key in self.values else default

    def text(self, key: str, default: str) -> str:
        if key not in self.values:
            return default
        return str(self._get(key, _TEXT, "a string").s.decode("utf-8", "replace"))

    def integers(self, key: str) -> tuple[int, ...] | None:
        if key not in self.values:
            return None
        numbers = tuple(self._get(key, _INTEGERS, "a list of integers").ints)
        if len(numbers) > 2 * MAX_RANK:
            raise FormatError(f"{self.where}: attribute {key!r} must have at most {2 * MAX_RANK} numbers")
        return numbers

    def numbers(self, key: str) -> list[float]:
        return list(self._get(key, _NUMBERS, "a list of numbers").floats[:MAX_ELEMENTS])

    def tensor(self, key: str) -> Any:
        return self._get(key, _TENSOR, "a tensor").t


Reader = Callable[[OnnxNode], None]

READERS: dict[tuple[str, str], Reader] = {}  # (domain, operation) -> what translates it


def reads(*operations: str, domains: Sequence[str] = ("",)) -> Callable[[Reader], Reader]:
    """Marks the function that translates these operations."""

    def enter(function: Reader) -> Reader:
        READERS.update({(domain, operation): function for domain in domains for operation in operations})
        return function

    return enter


@reads("Identity", "Dropout")
def _identity(node: OnnxNode) -> None:
    node.gives("identity", node.named("x", None, None))


@reads("Relu", "Floor", "Ceil")
def _of_one(node: OnnxNode) -> None:
    node.gives(node.type.lower(), node.named("x"))


@reads("Range")
def _range(node: OnnxNode) -> None:
    node.gives("range", node.named("start", "stop", "step"))


@reads("Add", "Sub", "Mul", "Div")
def _arithmetic(node: OnnxNode) -> None:
    names = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide"}
    node.gives(names[node.type], node.named("a", "b"))


@reads("Constant")
def _constant(node: OnnxNode) -> None:
    if "value" in node.values:
        value = tensor_value(node.tensor("value"), node.where, node.beside)
    elif "value_float" in node.values:
        value = np.asarray(node.number("value_float", 0.0), np.float32)
    elif "value_int" in node.values:
        value = np.asarray(node.integer("value_int", 0), np.int64)
    elif "value_ints" in node.values:
        value = np.asarray(node.integers("value_ints"), np.int64)
    elif "value_floats" in node.values:
        value = np.asarray(node.numbers("value_floats"), np.float32)
    else:
        raise FormatError(f"{node.where}: expected a Constant of numbers, found {sorted(node.values)[:4]}")
    node.gives("constant", {}, a.ConstantAttributes(value))


@reads("Cast")
def _cast(node: OnnxNode) -> None:
    number = node.integer("to", 0)
    dtype = np.dtype(TYPES[number][0]) if number in TYPES else None
    node.gives("convert", node.named("x"), a.ConvertAttributes(dtype, str(dtype or number)))


@reads("FakeQuantize", domains=[OPENVINO])
def _fake_quantize(node: OnnxNode) -> None:
    inputs = node.named("x", "input_low", "input_high", "output_low", "output_high")
    node.gives("fakequantize", inputs, a.FakeQuantizeAttributes(node.integer("levels", 0)))


@reads("QuantizeLinear", "DequantizeLinear", domains=("", MICROSOFT))
def _linear(node: OnnxNode) -> None:
    if node.integer("block_size", 0) != 0:
        raise FormatError(f"{node.where}: expected scales per tensor or axis, found blocks")
    output_type = node.integer("output_dtype", 0)
    if output_type not in (0, 1, 2, 3):
        raise FormatError(f"{node.where}: expected 8-bit codes, found output_dtype {output_type}")
    if len(node.inputs) < 3 and output_type == 3:
        raise FormatError(f"{node.where}: expected a zero point for int8 codes, found none")
    inputs = node.named("x", "scale", "zero_point")
    node.gives(node.type.lower(), inputs, a.AxisAttributes(node.integer("axis", 1)))


def window(node: OnnxNode) -> dict[str, Any]:
    """The fields of `WindowAttributes` for a convolution or pooling."""
    pads = node.integers("pads") if "pads" in node.values else (0, 0, 0, 0)
    pads = pads or ()
    if len(pads) % 2:
        raise FormatError(f"{node.where}: expected an even number of pads, found {list(pads)}")
    half = len(pads) // 2
    return {
        "strides": node.integers("strides") or (1, 1),
        "dilations": node.integers("dilations") or (1, 1),
        "pads_begin": pads[:half],
        "pads_end": pads[half:],
        "auto_pad": node.text("auto_pad", "NOTSET").lower(),
    }


@reads("Conv")
def _convolution(node: OnnxNode) -> None:
    attributes = a.ConvolutionAttributes(**window(node), group=node.integer("group", 1))
    node.gives("convolution", node.named("x", "weight", "bias"), attributes)


def pool(node: OnnxNode) -> a.PoolAttributes:
    """Attributes of a pooling."""
    rounding = "ceil_torch" if node.integer("ceil_mode", 0) else "floor"
    return a.PoolAttributes(**window(node), kernel=node.integers("kernel_shape") or (), rounding=rounding)


@reads("MaxPool", "AveragePool")
def _pool(node: OnnxNode) -> None:
    operation = "maxpool" if node.type == "MaxPool" else "avgpool"
    node.gives(operation, node.named("x"), pool(node))


@reads("BatchNormalization")
def _batch_norm(node: OnnxNode) -> None:
    if node.integer("training_mode", 0) != 0:
        raise FormatError(f"{node.where}: expected batch normalization for inference, found training_mode")
    attributes = a.BatchNormAttributes(node.number("epsilon", 1e-5))
    node.gives("batchnorm", node.named("x", "gamma", "beta", "mean", "variance"), attributes)


@reads("Clip")
def _clip(node: OnnxNode) -> None:
    attributes = a.ClipAttributes(node.number("min", -math.inf), node.number("max", math.inf))
    node.gives("clip", node.named("x", "low", "high"), attributes)


@reads("MatMul")
def _matrix_product(node: OnnxNode) -> None:
    node.gives("matmul", node.named("a", "b"))


@reads("GlobalAveragePool")
def _global_average(node: OnnxNode) -> None:
    node.gives("reducemean", node.named("x"), a.ReduceAttributes(True, (2, 3)))


@reads("ReduceMean")
def _reduce_mean(node: OnnxNode) -> None:
    if node.integer("noop_with_empty_axes", 0) != 0:
        raise FormatError(f"{node.where}: noop_with_empty_axes is not supported")
    attributes = a.ReduceAttributes(bool(node.integer("keepdims", 1)), node.integers("axes"))
    node.gives("reducemean", node.named("x", "axes"), attributes)


@reads("Resize", "Upsample")
def _resize(node: OnnxNode) -> None:
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise FormatError(f"{node.where}: expected keep_aspect_ratio_policy 'stretch'")
    mode, axes = node.text("mode", "nearest").lower(), node.integers("axes")
    if node.opset < 11:
        attributes = a.InterpolateAttributes(mode, "asymmetric", "floor", axes)
        node.gives("interpolate", node.named("x", "scales"), attributes)
        return
    attributes = a.InterpolateAttributes(
        mode,
        node.text("coordinate_transformation_mode", "half_pixel").lower(),
        node.text("nearest_mode", "round_prefer_floor").lower(),
        axes,
        antialias=bool(node.integer("antialias", 0)),
    )
    node.gives("interpolate", node.named("x", None, "scales", "sizes"), attributes)


@reads("Softmax")
def _softmax(node: OnnxNode) -> None:
    old = node.opset < 13
    node.gives("softmax", node.named("x"), a.SoftmaxAttributes(node.integer("axis", 1 if old else -1), old))


@reads("ArgMax")
def _argmax(node: OnnxNode) -> None:
    if node.integer("select_last_index", 0) != 0:
        raise FormatError(f"{node.where}: expected ArgMax of the first index, found select_last_index")
    attributes = a.ArgmaxAttributes(node.integer("axis", 0), bool(node.integer("keepdims", 1)))
    node.gives("argmax", node.named("x"), attributes)


@reads("TopK")
def _topk(node: OnnxNode) -> None:
    mode = "max" if node.integer("largest", 1) else "min"
    node.gives("topk", node.named("x", "k"), a.TopKAttributes(node.integer("axis", -1), mode))


@reads("Squeeze", "Unsqueeze")
def _axes(node: OnnxNode) -> None:
    node.gives(node.type.lower(), node.named("x", "axes"), a.AxesAttributes(node.integers("axes")))


@reads("Reshape")
def _reshape(node: OnnxNode) -> None:
    node.gives("reshape", node.named("x", "shape"), a.ReshapeAttributes(node.integer("allowzero", 0) == 0))


@reads("Transpose")
def _transpose(node: OnnxNode) -> None:
    node.gives("transpose", node.named("x"), a.TransposeAttributes(node.integers("perm")))


@reads("Shape")
def _shape(node: OnnxNode) -> None:
    attributes = a.ShapeOfAttributes(node.integer("start", 0), node.integer("end", MAX_RANK))
    node.gives("shapeof", node.named("x"), attributes)


@reads("Slice")
def _slice(node: OnnxNode) -> None:
    if "starts" in node.values:
        raise FormatError(f"{node.where}: expected Slice of opset 10 or later, found starts as an attribute")
    node.gives("slice", node.named("x", "starts", "ends", "axes", "steps"))


@reads("Gather")
def _gather(node: OnnxNode) -> None:
    node.gives("gather", node.named("x", "indices"), a.AxisAttributes(node.integer("axis", 0)))


@reads("Split")
def _split(node: OnnxNode) -> None:
    attributes = a.SplitAttributes(node.integer("axis", 0), node.integers("split"))
    node.gives("split", node.named("x", "sizes"), attributes)


@reads("Pad")
def _pad(node: OnnxNode) -> None:
    mode = node.text("mode", "constant").lower()
    attributes = a.PadAttributes(mode, node.integers("pads"), node.number("value", 0.0))
    node.gives("pad", node.named("x", "pads", "value", "axes"), attributes)


@reads("ConstantOfShape")
def _constant_of_shape(node: OnnxNode) -> None:
    attributes = a.FillAttributes()
    if "value" in node.values:
        value = tensor_value(node.tensor("value"), node.where, node.beside)
        if value.size != 1:
            raise FormatError(f"{node.where}: expected one value, found {value.size}")
        attributes = a.FillAttributes(float(value.ravel()[0]), value.dtype.name)
    node.gives("constantofshape", node.named("x"), attributes)


@reads("Concat")
def _concat(node: OnnxNode) -> None:
    node.gives("concat", node.named(*MANY), a.AxisAttributes(node.integer("axis", 0)))


def unsupported(node: OnnxNode) -> None:
    """An operation without a function here: an error where the result needs it."""
    node.gives("unsupported", node.named(*MANY), a.UnsupportedAttributes(node.type[:80]))
