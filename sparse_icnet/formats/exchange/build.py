"""Nodes of a file -> Graph: one walk over the nodes, in order, that gives each output a value.

A value is a `Constant`, folded as far as it goes, or a `Tensor`, an activation in the graph under construction.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sparse_icnet.formats.errors import FormatError, brief
from sparse_icnet.formats.exchange.attributes import ConstantAttributes, ConvertAttributes
from sparse_icnet.formats.exchange.builder import Builder
from sparse_icnet.formats.exchange.constants import Constant
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS, AnyNode, Key, Model, Result, in_order
from sparse_icnet.formats.exchange.operations import TABLE, Operation
from sparse_icnet.formats.exchange.pictures import picture_resize
from sparse_icnet.formats.exchange.quantizers import CODE_RANGES
from sparse_icnet.formats.exchange.repair import quantize_before_codes
from sparse_icnet.formats.exchange.tail import normalized
from sparse_icnet.formats.exchange.tensors import Tensor, Value
from sparse_icnet.network.faces import PLANAR, REAL_TYPES, Faces, OutputFace
from sparse_icnet.network.graph import (
    Argmax,
    Bilinear,
    Graph,
    GraphError,
    Op,
    Quantize,
    Resize,
    Softmax,
    pruned,
)
from sparse_icnet.network.meta import MAX_TEXT, Meta
from sparse_icnet.suggest import did_you_mean


def to_graph(model: Model, output: str | None = None) -> Graph:
    """The graph of a model of a file; FormatError, with the place in the file, if it is none.

    output  name of the output to compute; None: the only one
    """
    result = _chosen(model, output)
    _check_quantized(model)
    try:
        with np.errstate(all="ignore"):  # infinities are refused where they matter
            return _Walk(model).run(result)
    except GraphError as error:
        raise FormatError(f"{model.label}: {error}") from None


def _chosen(model: Model, output: str | None) -> Result:
    names = [result.name[:80] for result in model.results]
    shown = ", ".join(map(repr, names[:16]))
    if output is None:
        if len(names) == 1:
            return model.results[0]
        choose = (
            f" {shown}: choose one by its name, output={names[0]!r} or --output {names[0]}" if names else ""
        )
        raise FormatError(f"{model.label}: expected one network output, found {len(names)}{choose}")
    chosen = [result for result in model.results if result.name == output]
    if len(chosen) != 1:
        hint = did_you_mean(output[:80], names)
        raise FormatError(
            f"{model.label}: expected an output of the file, {shown}, found {output!r:.80}{hint}"
        )
    return chosen[0]


QUANTIZERS = ("fakequantize", "quantizelinear", "dequantizelinear")

_FLOAT_MODEL = """\
{label}: expected an INT8 model, found one without quantizers.  NNCF (pip install nncf openvino) makes it INT8:
    import nncf, openvino
    model = openvino.Core().read_model({name!r})
    pictures = nncf.Dataset(BLOBS)  # some hundred inputs as the network takes them, float32 (1, 3, H, W)
    int8 = nncf.quantize(model, pictures, preset=nncf.QuantizationPreset.MIXED)
    openvino.save_model(int8, {int8!r})"""


def float_model(label: str) -> str:
    """The message about the file `label`: its name as Python writes it, whatever it is made of."""
    path = Path(label)
    return _FLOAT_MODEL.format(label=label, name=path.name, int8=f"{path.stem}-int8.xml")


def _check_quantized(model: Model) -> None:
    """FormatError, with a way out, for a network of real numbers: neither quantizers nor weights of 8 bits."""
    operations = {node.operation for node in model.nodes}
    values = (
        node.attributes.value for node in model.nodes if isinstance(node.attributes, ConstantAttributes)
    )
    has_codes = any(value is not None and value.dtype.name in ("int8", "uint8") for value in values)
    if "convolution" in operations and not operations.intersection(QUANTIZERS) and not has_codes:
        raise FormatError(float_model(model.label))


class _Walk:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.builder = Builder()
        self.values: dict[Key, Value] = {}
        self.elements = 0  # of constants so far

    def run(self, result: Result) -> Graph:
        self.builder.integers = frozenset(
            key
            for node in self.model.nodes
            if isinstance(node.attributes, ConvertAttributes) and node.attributes.dtype in CODE_RANGES
            for key in node.inputs.values()
        )
        self.builder.resize = resize = picture_resize(self.model)
        for index in in_order(self.model, result.source):
            node = self.model.nodes[index]
            values = self._values(node)
            for port, (key, value) in enumerate(zip(node.outputs, values, strict=False)):
                if value is not None:
                    if resize is None or node.name not in resize.nodes:
                        _check_declared(node, value, port)
                    self.values[key] = value
        value = self._read(result.where, result.source)
        if not isinstance(value, Tensor) or value.codes is not None:
            codes = ", found codes: keep the DequantizeLinear at the end" if isinstance(value, Tensor) else ""
            raise FormatError(
                f"{result.where}: expected the result to be real values that depend on the input{codes}"
            )
        if value.channels is not None:
            raise FormatError(
                f"{result.where}: expected a result that a convolution computes, found channels of the input"
            )
        face = self._output_face(result, value)
        output = self.builder.operand(value)
        ended, output, notes = normalized(self.builder.ops, output)
        ops = pruned(ended.values(), output)
        self._check_bilinear(ops, output)
        repaired, more = quantize_before_codes(ops, self.builder.unique)
        ops, notes = pruned(repaired, output), [*notes, *more]
        if not any(isinstance(op, Quantize) for op in ops):
            raise FormatError(
                f"{self.model.label}: expected an INT8 model, found no quantizer of an activation, only of weights: "
                "quantize both, as nncf.quantize does"
            )
        faces = Faces(self.builder.face, face)
        normalization = self.builder.normalization()
        return Graph(
            ops, output, normalization, self.builder.size_is_free, _meta([*self.builder.notes, *notes]), faces
        )

    def _check_bilinear(self, ops: Iterable[Op], output: str) -> None:
        """FormatError, with a way out, for a bilinear resize within the network."""
        by_name = {op.name: op for op in ops}
        end = by_name[output]
        while isinstance(end, Resize | Softmax | Argmax | Quantize):
            end = by_name[end.input]
        for op in by_name.values():
            if isinstance(op, Bilinear) and op is not end:
                where = next((n.where for n in self.model.nodes if n.name == op.name), self.model.label)
                raise FormatError(
                    f"{where}: expected nothing but the last resize to be bilinear, found one within the network: "
                    "train and export it with mode 'nearest'"
                )

    def _output_face(self, result: Result, value: Tensor) -> OutputFace:
        """What the file declares of its result: for real values also half precision that it computes in."""
        dtype = value.dtype
        if not self.builder.holds_classes(value):
            dtype = (
                result.dtype if result.dtype in REAL_TYPES else dtype if dtype in REAL_TYPES else "float32"
            )
        axes = f"N{value.axes[1:]}" if value.axes.startswith("1") else value.axes
        own = "uint8" if self.builder.holds_classes(value) else "float32"
        full = axes if len(axes) != 4 else _with_sizes_of_one(axes)
        try:
            return OutputFace("" if dtype == own else dtype, full)
        except ValueError as error:
            raise FormatError(f"{result.where}: {error}") from None

    def _read(self, where: str, key: Key) -> Value:
        if key not in self.values:
            port, name = next(
                (node.outputs.index(key), node.name) for node in self.model.nodes if key in node.outputs
            )
            raise FormatError(f"{where}: reads output {port} of {name!r}, which is not supported")
        return self.values[key]

    def _values(self, node: AnyNode) -> tuple[Value | None, ...]:
        """A value for each output of `node`."""
        operation = TABLE[node.operation]
        operation.check(node)
        inputs = {name: self._read(node.where, key) for name, key in node.inputs.items()}
        constants = {name: value for name, value in inputs.items() if isinstance(value, Constant)}
        if operation.fold is not None and len(constants) == len(inputs):
            folded = _folded(operation, node, constants)
            shared = any(folded.array is constant.array for constant in constants.values())
            return (folded if shared else self._counted(node, folded),)
        if operation.convert is None:
            raise FormatError(f"{node.where}: operation {operation.name!r} is not supported here")
        value = operation.convert(self.builder, node, **inputs)
        if isinstance(value, tuple):
            return value
        return (self._counted(node, value) if isinstance(value, Constant) and not constants else value,)

    def _counted(self, node: AnyNode, constant: Constant) -> Constant:
        self.elements += constant.array.size
        if self.elements > MAX_ELEMENTS:
            raise FormatError(f"{node.where}: expected at most {MAX_ELEMENTS} elements in all constants")
        return constant


def _with_sizes_of_one(axes: str) -> str:
    """The axes of a planar tensor by name, also those of size 1."""
    return PLANAR if all(found in (axis, "1") for found, axis in zip(axes, PLANAR, strict=True)) else axes


def _meta(notes: list[str]) -> Meta:
    """What reading changed, as far as there is room for it."""
    text = "; ".join(notes)
    return Meta(notes=text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}...")


def _folded(operation: Operation, node: AnyNode, constants: dict[str, Constant]) -> Constant:
    assert operation.fold is not None
    try:
        return operation.fold(node, **constants)
    except FormatError:
        raise
    except (ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise FormatError(
            f"{node.where}: cannot compute this {operation.name} of constants: {brief(error)}"
        ) from None


def _check_declared(node: AnyNode, value: Value, output: int) -> None:
    declared = node.declared[output] if output < len(node.declared) else None
    found = value.dimensions if isinstance(value, Tensor) else value.shape
    if declared is None:
        return
    if len(declared) != len(found) or any(d not in (f, -1) for d, f in zip(declared, found, strict=True)):
        raise FormatError(f"{node.where}: the file states the output shape {declared}, found {found}")
