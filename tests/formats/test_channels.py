"""Channels reversed inside a file: read as another order of the first layers' weights."""

from __future__ import annotations

import numpy as np
import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package} (extra peers)")

import onnx  # noqa: E402
import torch  # noqa: E402
from make_ort import Small, blobs, exported, quantized, run  # noqa: E402
from test_import_onnx import Model  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet.formats.errors import FormatError  # noqa: E402
from sparse_icnet.network.graph import Affine, Convolution, Quantize  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402


class Reversed(torch.nn.Module):
    """`Small` behind a reversal of channels written in one of the ways that people write it, and its normalization."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.network = form, Small("logits")
        self.mean = torch.tensor([0.1, -0.2, 0.4]).reshape(1, 3, 1, 1)
        self.deviation = torch.tensor([1.5, 0.7, 1.1]).reshape(1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "scaled before" in self.form:
            x = (x - self.mean) / self.deviation
        if "gather" in self.form:
            x = x[:, [2, 1, 0]]
        elif "slices" in self.form:
            x = torch.cat([x[:, 2:3], x[:, 1:2], x[:, 0:1]], 1)
        else:
            red, green, blue = torch.split(x, 1, 1)
            x = torch.cat([blue, green, red], 1)
        if "scaled behind" in self.form:
            x = (x - self.mean) / self.deviation
        return self.network(x)


@pytest.mark.parametrize(
    "form",
    ["gather", "slices", "split", "gather scaled before", "split scaled behind", "slices scaled behind"],
)
def test_reversed_channels(tmp_path, form):
    path = quantized(
        exported(Reversed(form), tmp_path / "f.onnx"), tmp_path / "q.onnx", op_types_to_quantize=KINDS
    )
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds & {"Gather", "Split", "Slice"}
    net = sparse_icnet.load(path, threads=1)
    blob = blobs(9)[8]
    found, expected = net(blob), run(path, blob)
    np.testing.assert_array_equal(found[0], Oracle(net.graph, blob[0]).output())
    step = max(op.quantizer.scale for op in net.graph if isinstance(op, Quantize))
    np.testing.assert_allclose(found, expected, atol=1.5 * step)
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.01
    assert len([op for op in net.graph if isinstance(op, Affine)]) == ("scaled" in form)


KINDS = ["Conv", "MaxPool", "Add", "Relu"]


def reversal(m: Model, x: str, order=(2, 1, 0)) -> str:
    return m.node("Gather", x, m.constant(order, "int64"), axis=1)


def test_weights_follow_the_channels(tmp_path):
    m = Model()
    plain = m.load(m.convolution(m.quantized()), tmp_path)
    for order in [(2, 1, 0), (1, 2, 0)]:
        m = Model()
        graph = m.load(m.convolution(m.quantized(reversal(m, "image", order))), tmp_path)
        (found,), (weight,) = graph.convolutions, plain.convolutions
        np.testing.assert_array_equal(found.weight[:, list(order)], weight.weight)
    m = Model()
    graph = m.load(m.convolution(reversal(m, reversal(m, m.quantized()))), tmp_path)
    np.testing.assert_array_equal(graph.convolutions[0].weight, weight.weight)
    m = Model()
    two = m.load(m.convolution(m.quantized(reversal(m, "image", (2, 0))), channels=2), tmp_path)
    assert not two.convolutions[0].weight[:, 1].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m.node("Softmax", reversal(m, "image"), axis=1), "expected a convolution behind channels"),
        (lambda m: reversal(m, "image"), "expected a result that a convolution computes"),
        (lambda m: m.convolution(m.quantized(reversal(m, "image", (0, 0, 1)))), "each at most once"),
        (lambda m: m.convolution(m.quantized(reversal(m, "image", (0, 3, 1)))), "channels below 3"),
        (lambda m: reversal(m, m.convolution(m.quantized())), "of the network input or of codes"),
        (
            lambda m: m.node("Gather", "image", m.constant([0], "int64"), axis=2),
            "expected axis 1, the channels",
        ),
        (
            lambda m: m.node("Concat", m.quantized(), m.quantized(scale=0.02), axis=1),
            "expected a Concat of channels of one tensor",
        ),
    ],
)
def test_what_is_no_order_of_channels_is_refused(tmp_path, make, message):
    m = Model()
    output = make(m)
    m.convolution(m.quantized())  # a network with quantizers
    with pytest.raises(FormatError, match=message):
        m.load(output, tmp_path)


def test_codes_with_a_scale_per_channel_keep_the_order(tmp_path):
    m = Model()
    x = m.node("Mul", reversal(m, m.quantized()), m.constant(np.float32([1, 2, 3]).reshape(1, 3, 1, 1)))
    graph = m.load(m.node("Softmax", x, axis=1), tmp_path)
    (scaling,) = (op for op in graph if isinstance(op, Convolution))
    np.testing.assert_array_equal(scaling.weight[:, :, 0, 0], np.eye(3)[::-1])
    np.testing.assert_array_equal(scaling.weight_scale, [1, 2, 3])
