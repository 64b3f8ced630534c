"""ONNX Runtime's QOperator format: operations on codes become dequantize, operation, quantize of the table.

The names of scales and zero points are those of ONNX Runtime's contributed operators (domain com.microsoft) and of
QLinearConv in ONNX.
"""

from __future__ import annotations

from sparse_icnet.formats.exchange import attributes as a
from sparse_icnet.formats.exchange.nodes import Key
from sparse_icnet.formats.onnx.operations import MICROSOFT, OnnxNode, pool, reads, window

PER_TENSOR = a.AxisAttributes(0)


def _real(node: OnnxNode, given: dict[str, Key], name: str, axis: int = 0) -> Key:
    """The real values of the input `name`, by its scale and zero point."""
    parts = {"x": given[name], "scale": given[f"{name}_scale"]}
    if f"{name}_zero" in given:
        parts["zero_point"] = given[f"{name}_zero"]
    return node.inner("dequantizelinear", parts, a.AxisAttributes(axis))


def _gives_codes(node: OnnxNode, given: dict[str, Key], value: Key) -> None:
    """The output is `value` as codes of the scale and zero point `y`."""
    parts = {"x": value, "scale": given["y_scale"]}
    if "y_zero" in given:
        parts["zero_point"] = given["y_zero"]
    node.gives("quantizelinear", parts, PER_TENSOR)


def _given(node: OnnxNode, *names: str | None) -> dict[str, Key]:
    given = node.named(*names)
    node.check_given(
        given, [name for name in names if name is not None and not name.endswith(("_zero", "bias"))]
    )
    return given


@reads("QLinearConv", domains=("", MICROSOFT))
def _convolution(node: OnnxNode) -> None:
    names = ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias")
    given = _given(node, *names)
    inputs = {"x": _real(node, given, "x"), "weight": _real(node, given, "w")}
    if "bias" in given:  # int32, of the scale of the products
        scale = node.inner("multiply", {"a": given["x_scale"], "b": given["w_scale"]})
        inputs["bias"] = node.inner("dequantizelinear", {"x": given["bias"], "scale": scale}, PER_TENSOR)
    attributes = a.ConvolutionAttributes(**window(node), group=node.integer("group", 1))
    _gives_codes(node, given, node.inner("convolution", inputs, attributes))


@reads("QLinearAdd", domains=[MICROSOFT])
def _add(node: OnnxNode) -> None:
    given = _given(node, "a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero")
    _gives_codes(node, given, node.inner("add", {name: _real(node, given, name) for name in ("a", "b")}))


@reads("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSoftmax", domains=[MICROSOFT])
def _of_one(node: OnnxNode) -> None:
    given = _given(node, "x", "x_scale", "x_zero", "y_scale", "y_zero")
    node.check_whole("channels_last", 0)
    attributes: a.Attributes
    match node.type:
        case "QLinearGlobalAveragePool":
            operation, attributes = "reducemean", a.ReduceAttributes(True, (2, 3))
        case "QLinearAveragePool":
            operation, attributes = "avgpool", pool(node)
        case _:
            old = node.integer("opset", 13) < 13
            operation, attributes = "softmax", a.SoftmaxAttributes(node.integer("axis", -1), old)
    _gives_codes(node, given, node.inner(operation, {"x": _real(node, given, "x")}, attributes))
