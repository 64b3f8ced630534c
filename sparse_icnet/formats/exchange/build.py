"""Foreign nodes -> Graph: one walk over the nodes, in order, that gives each output a value.

A value is a `Constant`, folded as far as it goes, or a `Tensor`, an activation in the graph under
construction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange import pixels as layers
from sparse_icnet.formats.exchange import quantizers, shapes, windows
from sparse_icnet.formats.exchange.fold import Constant, fold
from sparse_icnet.formats.exchange.nodes import (
    MAX_ELEMENTS,
    ForeignModel,
    Node,
    Source,
    check_inputs,
    in_order,
)
from sparse_icnet.formats.exchange.repair import quantize_before_codes
from sparse_icnet.formats.exchange.tensors import Builder, Tensor, Value, is_ordered, required
from sparse_icnet.network.graph import Graph, GraphError, pruned


def to_graph(model: ForeignModel) -> Graph:
    """The graph of a foreign model; FormatError, with the place in the file, if it is none."""
    try:
        with np.errstate(all="ignore"):  # infinities are refused where they matter
            return _Importer(model).run()
    except GraphError as error:
        raise FormatError(f"{model.label}: {error}") from None


class _Importer:
    def __init__(self, model: ForeignModel) -> None:
        self.model = model
        self.builder = Builder()
        self.values: dict[Source, Value] = {}
        self.elements = 0  # of constants so far

    def run(self) -> Graph:
        for index in in_order(self.model):
            node = self.model.nodes[index]
            check_inputs(node)
            inputs = [None if source is None else self._read(node, source) for source in node.inputs]
            output = 1 if node.kind == "topk" else 0
            value = self._value(node, inputs)
            _check_declared(node, value, output)
            self.values[index, output] = value
        where = self.model.nodes[self.model.result].where
        result = self.values[self.model.result, 0]
        if not isinstance(result, Tensor) or result.codes is not None:
            raise FormatError(f"{where}: expected the result to be real values that depend on the input")
        if not is_ordered(result):
            raise FormatError(f"{where}: expected a result in the order channels, height, width")
        output_name = self.builder.operand(result)
        ops = pruned(self.builder.ops.values(), output_name)
        ops = pruned(quantize_before_codes(ops, self.model, self.builder.unique), output_name)
        return Graph(ops, output_name, self.builder.normalization(), self.builder.size_is_free)

    def _read(self, node: Node, source: Source) -> Value:
        if source not in self.values:
            name = self.model.nodes[source[0]].name
            raise FormatError(f"{node.where}: reads output {source[1]} of {name!r}, which is not supported")
        return self.values[source]

    def _value(self, node: Node, inputs: list[Value | None]) -> Value:
        if node.kind == "constant":
            return self._counted(node, _constant(node))
        constants = [value for value in inputs if isinstance(value, Constant)]
        if constants and len(constants) == len(inputs) - inputs.count(None):
            folded = _folded_quantizer(node, inputs) or fold(node, inputs)
            if folded is not None:
                shared = any(folded.array is constant.array for constant in constants)
                return folded if shared else self._counted(node, folded)
        convert = _CONVERTERS.get(node.kind)
        if convert is None:
            operation = node.attributes.get("type", node.kind)
            raise FormatError(f"{node.where}: operation {operation!r} is not supported here")
        return convert(self.builder, node, *inputs)

    def _counted(self, node: Node, constant: Constant) -> Constant:
        self.elements += constant.array.size
        if self.elements > MAX_ELEMENTS:
            raise FormatError(f"{node.where}: expected at most {MAX_ELEMENTS} elements in all constants")
        return constant


def _constant(node: Node) -> Constant:
    if node.value is None:
        found = node.attributes["type"]
        raise FormatError(
            f"{node.where}: expected a float or integer type of 8 bits or more, found {found!r}"
        )
    half = node.value.dtype == np.float16
    return Constant(node.value.astype(np.float32) if half else node.value, half=half)


def _folded_quantizer(node: Node, inputs: list[Value | None]) -> Constant | None:
    """FakeQuantize, QuantizeLinear or DequantizeLinear of constants."""
    x, *rest = inputs
    match node.kind:
        case "fakequantize":
            return quantizers.quantized_constant(layers.fake_quantize_ranges(node, rest), required(node, x))
        case "quantizelinear":
            function = quantizers.quantize_linear_constant
        case "dequantizelinear":
            function = quantizers.dequantize_linear_constant
        case _:
            return None
    scale, zero_point = (*rest, None)[:2]
    return function(
        required(node, x),
        required(node, scale),
        None if zero_point is None else required(node, zero_point),
        node.attributes["axis"],
        node.where,
    )


def _check_declared(node: Node, value: Value, output: int) -> None:
    declared = node.declared[output] if output < len(node.declared) else None
    found = value.dimensions if isinstance(value, Tensor) else value.shape
    if declared is None:
        return
    if len(declared) != len(found) or any(d not in (f, -1) for d, f in zip(declared, found, strict=True)):
        raise FormatError(f"{node.where}: the file states the output shape {declared}, found {found}")


_CONVERTERS: dict[str, Callable[..., Value]] = {
    "parameter": layers.parameter,
    "result": shapes.identity,
    "identity": shapes.identity,
    "convert": shapes.convert,
    "fakequantize": layers.fake_quantize,
    "quantizelinear": layers.quantize_linear,
    "dequantizelinear": layers.dequantize_linear,
    "add": layers.arithmetic,
    "subtract": layers.arithmetic,
    "multiply": layers.arithmetic,
    "divide": layers.arithmetic,
    "convolution": windows.convolution,
    "batchnorm": layers.batch_norm,
    "relu": layers.relu,
    "clip": layers.clip,
    "maxpool": windows.max_pool,
    "avgpool": windows.average_pool,
    "adaptiveavgpool": windows.adaptive_average_pool,
    "reducemean": windows.reduce_mean,
    "matmul": windows.matrix_product,
    "interpolate": windows.interpolate,
    "softmax": layers.softmax,
    "argmax": layers.argmax,
    "topk": layers.topk,
    "transpose": shapes.transpose,
    "squeeze": shapes.reshape,
    "unsqueeze": shapes.reshape,
    "reshape": shapes.reshape,
    "shapeof": shapes.shape_of,
    "slice": windows.strided_slice,
    "stridedslice": windows.strided_slice,
}
