"""Small valid models that the mutations start from: every operation, every form that the readers know."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from make_ir import Ir, bias, codes, scales

from sparse_icnet import formats
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Normalization,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Size,
    Softmax,
)
from sparse_icnet.network.meta import Meta

from .values import Files

READERS = ("npz", "ir", "onnx")
SUFFIXES = {"npz": ".npz", "ir": ".xml", "onnx": ".onnx"}


def available() -> tuple[str, ...]:
    """The readers that can be fuzzed here."""
    return READERS if find_spec("onnx") else READERS[:2]


class _Builder:
    """Operations so far; each method appends some and returns the name of the result."""

    def __init__(self, size: Size, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.ops: list[Op] = [Input("image", (3, *size))]

    def add(self, op: Op) -> str:
        self.ops.append(op)
        return op.name

    def codes(
        self, source: str, scale: float = 0.03, zero_point: int = 0, low: int = 0, high: int = 255
    ) -> str:
        return self.add(Quantize(f"{source}/codes", source, Quantizer(scale, zero_point, low, high)))

    def convolution(
        self,
        name: str,
        source: str,
        outputs: int,
        inputs: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
    ) -> str:
        shape = (outputs, inputs, kernel, kernel)
        weight = self.rng.integers(-127, 128, shape) * (self.rng.random(shape) < 0.6)
        scale = self.rng.uniform(0.7, 1.4, outputs) / (50 * np.sqrt(inputs) * kernel)
        scale[0] *= -1  # as after folding a batch norm of negative gamma
        shift = self.rng.normal(0, 0.3, outputs)
        padding = dilation * (kernel - 1) // 2
        return self.add(
            Convolution(
                name,
                source,
                weight.astype(np.int8),
                scale.astype(np.float32),
                shift.astype(np.float32),
                (stride, stride),
                (dilation, dilation),
                (padding,) * 4,
            )
        )

    def in_float32(
        self, name: str, source: str, outputs: int, inputs: int, kernel: int = 1, stride: int = 1
    ) -> str:
        weight = self.rng.normal(0, 1 / (np.sqrt(inputs) * kernel), (outputs, inputs, kernel, kernel))
        weight *= self.rng.random(weight.shape) < 0.6
        shift = self.rng.normal(0, 0.3, outputs).astype(np.float32)
        window = ((stride, stride), (1, 1), (kernel // 2,) * 4)
        return self.add(FloatConvolution(name, source, weight.astype(np.float32), shift, *window))

    def relu(self, source: str) -> str:
        return self.codes(self.add(Relu(f"{source}/relu", source)))

    def graph(self, normalization: Normalization | None = None) -> Graph:
        return Graph(tuple(self.ops), self.ops[-1].name, normalization or Normalization())


def _plain(size: Size) -> Graph:
    """Strided 3x3, pool, 3x3 of stride 1, residual, softmax."""
    g = _Builder(size, 1)
    x = g.relu(g.convolution("first", g.codes("image", 0.02, 114), 6, 3, 3, 2))
    x = g.add(MaxPool("pool", x, (3, 3), (2, 2), (1, 1, 1, 1)))
    y = g.relu(g.convolution("second", x, 6, 6, 3))
    y = g.convolution("third", y, 6, 6)
    y = g.relu(g.add(Add("sum", y, x)))
    g.add(Softmax("probabilities", g.convolution("logits", y, 5, 6)))
    return g.graph()


def _branches(size: Size) -> Graph:
    """What ICNet is made of: halves, a bottleneck, pyramid pooling, a cascade fusion, the last enlargement."""
    height, width = size
    g = _Builder(size, 2)
    image = g.codes("image", 0.02, 114)
    high = g.relu(g.convolution("high", image, 4, 3, 3, 2))
    low = g.add(Resize("half", image, (height // 2, width // 2)))
    low = g.relu(g.convolution("low", low, 8, 3, 3, 2))
    x = g.relu(g.convolution("reduce", low, 4, 8))
    x = g.convolution("increase", g.relu(g.convolution("square", x, 4, 4, 3, dilation=2)), 8, 4)
    low = g.relu(g.add(Add("residual", x, g.convolution("projection", low, 8, 8))))
    running = low
    for bins in (1, 2, 3):
        pooled = g.add(AveragePool(f"mean{bins}", low, (bins, bins)))
        up = g.add(Resize(f"up{bins}", pooled, (height // 4, width // 4)))
        running = g.add(Add(f"pyramid{bins}", running, up))
    low = g.codes(running, 0.1)
    up = g.add(Resize("double", low, (height // 2, width // 2)))
    fused = g.add(
        Add("fusion", g.convolution("wide", up, 6, 8, 3, dilation=2), g.convolution("narrow", high, 6, 4))
    )
    logits = g.convolution("logits", g.relu(fused), 5, 6)
    g.add(Softmax("probabilities", g.add(Resize("enlarged", logits, size))))
    return g.graph()


def _classes(size: Size, native: bool) -> Graph:
    """Normalization in the file, signed and asymmetric codes, quantizers on the inputs of a sum, a class map.

    native  also narrow codes, which only the native format has
    """
    g = _Builder(size, 3)
    scale, shift = np.array([0.02, 0.018, 0.021], np.float32), np.array([-2.1, -2.0, -1.8], np.float32)
    image = g.codes(g.add(Affine("affine", "image", scale, shift)), 0.02, -5, -128, 127)
    x = g.codes(g.convolution("first", image, 5, 3, 3, 2), 0.05, 100)
    pooled = g.add(MaxPool("pool", image, (2, 2), (2, 2)))
    y = g.codes(g.convolution("second", pooled, 5, 3), 0.04, 0, -127 if native else -128, 127)
    x = g.codes(g.add(Add("sum", x, y)), 0.06, 8, 0, 15 if native else 255)
    logits = g.convolution("logits", x, 7, 5, 3)
    g.add(Resize("enlarged", g.add(Argmax("classes", logits)), size))
    return g.graph(Normalization(1.0, (0.0,) * 3, (1.0,) * 3))


def _means(size: Size, bins: Size) -> Graph:
    """A pooled map that is quantized and resized on the way to a sum."""
    height, width = size
    g = _Builder(size, 4)
    x = g.relu(g.convolution("first", g.codes("image", 0.02, 114), 5, 3, 3, 2))
    mean = g.codes(g.add(AveragePool("mean", x, bins)), 0.05)
    up = g.add(Resize("up", mean, (height // 2, width // 2)))
    x = g.codes(g.add(Add("sum", x, up)), 0.1)
    x = g.relu(g.convolution("second", x, 6, 5, 3))
    g.add(Softmax("probabilities", g.convolution("logits", x, 4, 6)))
    return g.graph()


def _smooth(size: Size) -> Graph:
    """Logits of a quarter of the size, interpolated to all of it; the native file also says what it is."""
    g = _Builder(size, 5)
    x = g.relu(g.convolution("first", g.codes("image", 0.02, 114), 5, 3, 3, 4))
    logits = g.convolution("logits", x, 6, 5)
    g.add(Softmax("probabilities", g.add(Bilinear("smooth", logits, size))))
    names = tuple(f"class {i}" for i in range(6))
    return replace(g.graph(), meta=Meta("small", names, {"accuracy": 0.5}, "Apache-2.0", "For tests."))


def _smooth_classes(size: Size) -> Graph:
    """A class map of logits interpolated between the centres of the corners."""
    g = _Builder(size, 6)
    x = g.relu(g.convolution("first", g.codes("image", 0.02, 114), 4, 3, 2, 2))
    x = g.add(Bilinear("smooth", g.convolution("logits", x, 5, 4), size, True))
    g.add(Argmax("classes", x))
    return g.graph()


def _in_float32(size: Size) -> Graph:
    """The first layer, one in the middle and the last in float32; a max pool, a mean and sums without quantizers."""
    height, width = size
    g = _Builder(size, 7)
    x = g.add(Relu("relu", g.in_float32("first", "image", 5, 3, 3, 2)))
    x = g.add(MaxPool("pool", x, (3, 3), (2, 2), (1, 1, 1, 1)))
    up = g.add(Resize("up", g.add(AveragePool("mean", x, (2, 4))), (height // 4, width // 4)))
    x = g.codes(g.add(Add("sum", x, up)), 0.03, 20)
    x = g.add(Add("both", g.convolution("second", x, 6, 5, 3), g.in_float32("third", x, 6, 5, 3)))
    g.add(Softmax("probabilities", g.in_float32("logits", g.relu(x), 4, 6)))
    return g.graph()


def graphs(reader: str) -> dict[str, Graph]:
    """Each kind of network at a size of its own; tails of vectors and whole ones both occur, pools overlap and tile."""
    return {
        "plain": _plain((32, 48)),
        "branches": _branches((48, 64)),
        "classes": _classes((24, 40), reader == "npz"),
        "smooth": _smooth((32, 64)),
        "corners": _smooth_classes((32, 32)),
        "means": _means((32, 36), (3, 5)),
        "floats": _in_float32((32, 48)),
    }


def _foreign_ir(form: str, version: int) -> Ir:
    """A network of 16x32 pixels with pooling, a slice, a resize and an argmax by TopK (softmax in version 7)."""
    ir = Ir(version)
    x = ir.fake_quantize(ir.parameter((1, 3, 16, 32)), -1.28, 1.27, name="image_codes")
    x = ir.convolution(x, ir.weights(codes((4, 3, 3, 3)), scales(4), form), 1, 1, name="first")
    x = ir.binary_operation("Add", x, ir.constant(bias(4)), name="first/bias")
    x = ir.fake_quantize(ir.unary("ReLU", x, name="relu"), 0.0, 2.55, name="relu_codes")
    if version >= 10:
        pads = {"pads_begin": "0,0", "pads_end": "0,0"}
        data = {"strides": "2,2", "kernel": "2,2", **pads, "rounding_type": "floor"}
        x = ir.layer("MaxPool", [x], [(1, 4, 8, 16)], data, name="pool")
        sizes, axes = ir.constant([16, 32], "int64"), ir.constant([2, 3], "int64")
        data = {
            "mode": "nearest",
            "shape_calculation_mode": "sizes",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
            "antialias": "false",
            **pads,
            "cube_coeff": "-0.75",
        }
        x = ir.layer(
            "Interpolate", (x, sizes, ir.constant([2.0, 2.0]), axes), [(1, 4, 16, 32)], data, "opset4", "up"
        )
        ends = [ir.constant(value, "int64") for value in ([0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 2, 2])]
        masks = {"begin_mask": "1,1,1,1", "end_mask": "1,1,1,1", "new_axis_mask": "", "shrink_axis_mask": ""}
        x = ir.layer(
            "StridedSlice", (x, *ends), [(1, 4, 8, 16)], {**masks, "ellipsis_mask": ""}, name="slice"
        )
    x = ir.convolution(x, ir.weights(codes((5, 4, 1, 1), 1), scales(5), form), name="second")
    x = ir.binary_operation("Add", x, ir.constant(bias(5)), name="second/bias")
    if version < 10:
        ir.unary("SoftMax", x, name="probabilities", axis=1)
        return ir
    top_k: dict[str, object] = {"axis": 1, "mode": "max", "sort": "none", "index_element_type": "i32"}
    shape = (1, 1, 8, 16)
    top = ir.layer("TopK", (x, ir.constant(1, "int64")), [shape, shape], top_k, "opset3", "top")
    ir.result((top[0], top[1] + 1))
    return ir


def _hand_made_onnx() -> bytes:
    """ONNX as NNCF and PyTorch write it: FakeQuantize of its own domain, batch norm, sizes computed from shapes."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(value: object, dtype: str = "float32") -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], name, domain=domain, **attributes))
        return name

    def quantized(x: str, low: object, high: object, levels: int = 256) -> str:
        ends = [constant(value) for value in (low, high)]
        return node("FakeQuantize", x, *ends, *ends, domain="org.openvinotoolkit", levels=levels)

    def weights(shape: tuple[int, ...], seed: int) -> str:
        steps = scales(shape[0]).reshape(-1, 1, 1, 1)
        return quantized(constant(codes(shape, seed) * steps), -127 * steps, 127 * steps, 255)

    x = node("Div", node("Sub", "image", constant(np.full((1, 3, 1, 1), 0.4))), constant(0.3))
    x = quantized(x, -1.28, 1.27)
    x = node(
        "Conv", x, weights((4, 3, 3, 3), 0), constant(bias(4).ravel()), strides=[2, 2], pads=[1, 1, 1, 1]
    )
    gamma, beta, mean, variance = (
        constant(np.linspace(low, high, 4)) for low, high in ((-1, 2), (0, 1), (0, 1), (1, 2))
    )
    x = quantized(
        node("Relu", node("BatchNormalization", x, gamma, beta, mean, variance, epsilon=1e-3)), 0.0, 2.55
    )
    whole = node("Slice", node("Shape", "image"), constant([2], "int64"), constant([4], "int64"))
    half = node("Div", whole, constant([2, 2], "int64"))
    pooled = node("GlobalAveragePool", x)
    sizes = node("Concat", constant([1, 4], "int64"), half, axis=0)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    x = quantized(node("Add", x, node("Resize", pooled, "", "", sizes, **nearest)), 0.0, 5.1)
    x = node("Conv", x, weights((5, 4, 1, 1), 1), constant(bias(5).ravel()))
    x = node("Resize", x, "", constant([1, 1, 2, 2]), **nearest)
    result = node("Cast", node("ArgMax", x, axis=1, keepdims=1), to=TensorProto.UINT8)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 16, 32))],
        [helper.make_empty_tensor_value_info(result)],
        constants,
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("org.openvinotoolkit", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return bytes(model.SerializeToString())


@cache
def bases(reader: str) -> dict[str, Files]:
    """Name -> files of every base model of a reader."""
    found = {name: saved(graph, reader) for name, graph in graphs(reader).items()}
    if reader == "ir":
        for name, form, version in (
            ("float", "fake_quantize", 11),
            ("int8", "int8", 10),
            ("old", "fake_quantize", 7),
        ):
            ir = _foreign_ir(form, version)
            found[name] = {".xml": ir.text().encode(), ".bin": ir.binary}
    if reader == "onnx":
        found["nncf"] = {".onnx": _hand_made_onnx()}
    return found


def saved(graph: Graph, reader: str) -> Files:
    """`graph` in the format of `reader`."""
    with tempfile.TemporaryDirectory() as folder:
        formats.save(graph, Path(folder) / f"m{SUFFIXES[reader]}")
        return {path.suffix: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def written(files: Files, stem: str | os.PathLike[str]) -> Path:
    """Write `files` as `stem` with each suffix; the path that `load` takes."""
    paths = [Path(f"{os.fspath(stem)}{suffix}") for suffix in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_bytes(content)
    return next(path for path in paths if path.suffix != ".bin")
