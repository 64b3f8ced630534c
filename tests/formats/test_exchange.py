"""The table of operations that files may hold: complete, consistent, and open for a new entry."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs onnx (extra onnx)")

from test_import_onnx import Model  # noqa: E402

import sparse_icnet.formats  # noqa: E402
from sparse_icnet.formats.errors import FormatError  # noqa: E402
from sparse_icnet.formats.exchange.attributes import Attributes, AxisAttributes  # noqa: E402
from sparse_icnet.formats.exchange.builder import Builder  # noqa: E402
from sparse_icnet.formats.exchange.nodes import Node  # noqa: E402
from sparse_icnet.formats.exchange.operations import MANY, TABLE, Operation  # noqa: E402
from sparse_icnet.formats.exchange.tensors import Tensor, Value  # noqa: E402
from sparse_icnet.formats.onnx import operations as onnx_operations  # noqa: E402
from sparse_icnet.formats.onnx.operations import OnnxNode  # noqa: E402
from sparse_icnet.network.graph import Graph  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402


@dataclasses.dataclass(frozen=True)
class ScaledAttributes(Attributes):
    factor: float


def _scaled(g: Builder, node: Node[ScaledAttributes], x: Value) -> Tensor:
    return g.scaled(node, g.activation(node, x), node.attributes.factor, 0.0)


def _negation(node: OnnxNode) -> None:
    node.gives("scaled", node.named("x"), ScaledAttributes(-1.0))


@pytest.fixture
def negation(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX's Neg: one entry of the table and one function of the reader."""
    entry = Operation("scaled", ("x",), (), ScaledAttributes, _scaled)
    monkeypatch.setitem(TABLE, "scaled", entry)
    monkeypatch.setitem(onnx_operations.READERS, ("", "Neg"), _negation)


def _negated(folder: Path, by_multiplication: bool) -> Graph:
    m = Model()
    x = m.convolution(m.quantized())
    x = m.node("Mul", x, m.constant(-1.0)) if by_multiplication else m.node("Neg", x)
    return m.load(m.node("Softmax", x, axis=1), folder)


def test_a_new_operation_is_one_entry_and_one_function(negation, tmp_path):
    image = np.random.default_rng(7).standard_normal((3, 12, 12)).astype(np.float32)
    expected = Oracle(_negated(tmp_path, by_multiplication=True), image).output()
    found = Oracle(_negated(tmp_path, by_multiplication=False), image).output()
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(found) > 0.01


def test_without_its_entry_the_operation_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"m\.onnx: node 4 'Neg_4': operation 'Neg' is not supported"):
        _negated(tmp_path, by_multiplication=False)


@pytest.mark.parametrize("name", TABLE)
def test_functions_take_the_inputs_by_the_names_of_the_entry(name):
    entry = TABLE[name]
    assert entry.name == name
    for function, first in ((entry.convert, 2), (entry.fold, 1)):
        if function is None or MANY[0] in (*entry.required, *entry.optional):
            continue
        parameters = list(inspect.signature(function).parameters.values())[first:]
        assert tuple(p.name for p in parameters if p.default is p.empty) == entry.required
        assert tuple(p.name for p in parameters if p.default is not p.empty) == entry.optional


def test_a_reader_that_gives_other_inputs_or_attributes_is_a_fault():
    relu, gather = TABLE["relu"], TABLE["gather"]
    where = "m: 'r'"
    with pytest.raises(FormatError, match="expected 1 inputs, found 0"):
        relu.check(Node("relu", "r", where, ("y",), Attributes()))
    with pytest.raises(TypeError, match="'relu' takes Attributes and the inputs"):
        relu.check(Node("relu", "r", where, ("y",), Attributes(), {"x": 0, "weight": 1}))
    with pytest.raises(TypeError, match="'gather' takes AxisAttributes"):
        gather.check(Node("gather", "r", where, ("y",), Attributes(), {"x": 0, "indices": 1}))
    gather.check(Node("gather", "r", where, ("y",), AxisAttributes(1), {"x": 0, "indices": 1}))


def test_no_file_of_the_formats_is_long():
    folder = Path(sparse_icnet.formats.__file__).parent
    assert {
        path.name: lines
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 350
    } == {}
