"""Reading small ONNX files: QuantizeLinear/DequantizeLinear, NNCF's FakeQuantize, and hostile ones."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs onnx (extra onnx)")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from make_ir import bias, codes, scales  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sparse_icnet.formats.errors import FormatError  # noqa: E402
from sparse_icnet.formats.exchange.geometry import mean_matrix  # noqa: E402
from sparse_icnet.formats.onnx import read as onnx_read  # noqa: E402
from sparse_icnet.network.graph import (  # noqa: E402
    Argmax,
    AveragePool,
    Convolution,
    Graph,
    MaxPool,
    Normalization,
    Quantizer,
    Resize,
)
from sparse_icnet.reference.evaluate import evaluate_float  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402

OPENVINO = "org.openvinotoolkit"


class Model:
    """Nodes and initializers so far; methods return the name of their output."""

    def __init__(self, opset: int = 17, shape=(1, 3, 12, 12)) -> None:
        self.opset, self.shape = opset, shape
        self.nodes, self.initializers = [], []

    def constant(self, value, dtype="float32", name=None) -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes) -> str:
        name = f"{kind}_{len(self.nodes)}"
        names = [name if i == 0 else f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name, domain=domain, **attributes))
        return names[-1]

    def quantized(self, x="image", scale=0.01, zero=128, dtype="uint8") -> str:
        parameters = (self.constant(scale), self.constant(zero, dtype))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)

    def weights(self, values, steps) -> str:
        zeros = self.constant(np.zeros(len(steps)), "int8")
        return self.node(
            "DequantizeLinear", self.constant(values, "int8"), self.constant(steps), zeros, axis=0
        )

    def convolution(self, x, count=4, channels=3, kernel=1, **attributes) -> str:
        w = self.weights(codes((count, channels, kernel, kernel)), scales(count))
        return self.node("Conv", x, w, self.constant(bias(count).ravel()), **attributes)

    def proto(self, output: str):
        value = helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)
        result = helper.make_empty_tensor_value_info(output)
        graph = helper.make_graph(self.nodes, "g", [value], [result], self.initializers)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(OPENVINO, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def save(self, output: str, folder):
        path = folder / "m.onnx"
        path.write_bytes(self.proto(output).SerializeToString())
        return path

    def load(self, output: str, folder) -> Graph:
        return onnx_read.load(self.save(output, folder))


def small() -> tuple[Model, str]:
    m = Model()
    x = m.quantized(
        m.node("Relu", m.convolution(m.quantized(), kernel=3, strides=[2, 2], pads=[1, 1, 1, 1])), 0.02, 0
    )
    x = m.node(
        "Resize",
        x,
        "",
        m.constant([1, 1, 2, 2]),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return m, m.node("Softmax", m.convolution(x, 5, 4), axis=1)


def agrees(m: Model, output: str, folder) -> Graph:
    """Load and compare with ONNX Runtime, its optimizations off."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra reference)")
    graph = m.load(output, folder)
    blob = np.random.default_rng(3).uniform(-1.4, 1.4, graph.input.shape).astype(np.float32)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(m.proto(output).SerializeToString(), options)
    (expected,) = session.run(None, {"image": blob[None]})
    found = evaluate_float(graph, blob, np.float32)[graph.output].reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(found)) >= 2
    if graph.quantizer(graph.output) is None:
        np.testing.assert_allclose(
            Oracle(graph, blob).output().reshape(expected.shape), found, rtol=1e-4, atol=1e-5
        )
    return graph


def test_quantize_and_dequantize(tmp_path):
    graph = agrees(*small(), tmp_path)
    first, second = graph.convolutions
    assert np.array_equal(first.weight, codes((4, 3, 3, 3)))
    assert np.array_equal(second.weight_scale, scales(5))
    assert np.array_equal(first.bias, bias(4).ravel())
    assert graph.quantizer(first.input) == Quantizer(0.01, 128)
    assert graph.normalization == Normalization()


@pytest.mark.parametrize(
    ("zero", "dtype"), [(0, "uint8"), (77, "uint8"), (0, "int8"), (-128, "int8"), (5, "int8")]
)
def test_signed_and_unsigned_activations(tmp_path, zero, dtype):
    m = Model()
    agrees(m, m.convolution(m.quantized(zero=zero, dtype=dtype), kernel=3, pads=[1, 1, 1, 1]), tmp_path)


def test_integer_bias_and_weights_of_one_scale(tmp_path):
    m = Model()
    w = m.node("DequantizeLinear", m.constant(codes((4, 3, 1, 1)), "int8"), m.constant(0.003))
    b = m.node(
        "DequantizeLinear",
        m.constant([1000, -2000, 3000, 5], "int32"),
        m.constant([0.01 * 0.003] * 4),
        axis=0,
    )
    graph = agrees(m, m.node("Conv", m.quantized(), w, b), tmp_path)
    assert np.array_equal(graph.convolutions[0].weight_scale, np.full(4, 0.003, np.float32))
    np.testing.assert_allclose(
        graph.convolutions[0].bias, np.asarray([1000, -2000, 3000, 5]) * 3e-5, rtol=1e-6
    )


def test_float_weights_behind_quantize_and_dequantize(tmp_path):
    m = Model()
    steps, zeros = m.constant(scales(4)), m.constant(np.zeros(4), "int8")
    w = m.constant(codes((4, 3, 1, 1)) * scales(4).reshape(4, 1, 1, 1))
    w = m.node("QuantizeLinear", w, steps, zeros, axis=0)
    w = m.node("DequantizeLinear", w, steps, zeros, axis=0)
    graph = agrees(m, m.node("Conv", m.quantized(), w), tmp_path)
    assert np.array_equal(graph.convolutions[0].weight, codes((4, 3, 1, 1)))


def test_pooling_and_resize_of_codes(tmp_path):
    """Between QuantizeLinear and DequantizeLinear."""
    m = Model()
    parameters = (m.constant(0.01), m.constant(128, "uint8"))
    x = m.node("QuantizeLinear", "image", *parameters)
    x = m.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = m.node("DequantizeLinear", x, *parameters)
    graph = agrees(m, m.convolution(x), tmp_path)
    assert [type(op) for op in graph][2:] == [MaxPool, Convolution]


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize(("size", "kernel", "pads"), [(12, 3, 1), (13, 2, 0), (11, 3, 1), (7, 2, 1)])
def test_max_pool(tmp_path, ceil_mode, size, kernel, pads):
    m = Model(shape=(1, 3, size, size))
    x = m.node(
        "MaxPool",
        m.quantized(),
        kernel_shape=[kernel] * 2,
        strides=[2, 2],
        pads=[pads] * 4,
        ceil_mode=ceil_mode,
    )
    agrees(m, m.convolution(x), tmp_path)


@pytest.mark.parametrize(
    "form", ["GlobalAveragePool", "AveragePool", "axes", "axes as input", "without axes"]
)
def test_means(tmp_path, form):
    m = Model(18 if form == "axes as input" else 17)
    x = m.quantized()
    if form == "GlobalAveragePool":
        x = m.node(form, x)
    elif form == "AveragePool":
        x = m.node(form, x, kernel_shape=[4, 6], strides=[4, 6])
    elif form == "axes":
        x = m.node("ReduceMean", x, axes=[2, -1], keepdims=0)
    elif form == "axes as input":
        x = m.node("ReduceMean", x, m.constant([2, 3], "int64"))
    else:
        with pytest.raises(FormatError, match="mean over height and width"):
            m.load(m.node("ReduceMean", x), tmp_path)
        return
    agrees(m, x, tmp_path)


def test_sizes_through_shape_slice_and_concat(tmp_path):
    m = Model()
    x = m.quantized()
    shape = m.node("Shape", x)
    head = m.node("Slice", shape, *(m.constant(v, "int64") for v in ([0], [2], [0])))
    rows = m.node("Gather", shape, m.constant(2, "int64"))
    rows = m.node("Unsqueeze", m.node("Mul", rows, m.constant(2, "int64")), m.constant([0], "int64"))
    size = m.node("Concat", head, rows, m.constant([6], "int64"), axis=0)
    size = m.node("Cast", m.node("Cast", size, to=TensorProto.FLOAT), to=TensorProto.INT64)
    x = m.node("Resize", x, "", "", size, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    graph = agrees(m, m.convolution(x), tmp_path)
    assert [op.size for op in graph if isinstance(op, Resize)] == [(24, 6)]


@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_resize_modes_agree_or_are_refused(tmp_path, mode, rounding):
    accepted = 0
    for factors in ([1, 1, 2, 2], [1, 1, 0.5, 0.5], [1, 1, 0.25, 4], [1, 1, 3, 0.5]):
        m = Model()
        x = m.node(
            "Resize",
            m.quantized(),
            "",
            m.constant(factors),
            coordinate_transformation_mode=mode,
            nearest_mode=rounding,
        )
        try:
            agrees(m, m.convolution(x), tmp_path)
            accepted += 1
        except FormatError as error:
            assert "nearest resize" in str(error)  # noqa: PT017
    assert accepted == 4 or (mode, rounding) != ("asymmetric", "floor")


def test_arithmetic_around_the_convolutions(tmp_path):
    """Normalization of the image, batch norm, Clip as ReLU, Identity, residual Add."""
    m = Model()
    x = m.node("Sub", "image", m.constant(np.asarray([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)))
    x = m.quantized(m.node("Div", x, m.constant(np.asarray([0.5, 0.6, 0.7]).reshape(1, 3, 1, 1))), 0.02)
    y = m.node(
        "BatchNormalization",
        m.convolution(x, 3),
        *(m.constant(v) for v in ([1.5, -2, 0.3], [1, 0, -1], [0.1, 0.2, 0.3], [1, 2, 3])),
        epsilon=1e-3,
    )
    y = m.node("Add", m.node("Identity", y), x)
    y = m.quantized(m.node("Clip", y, m.constant(0.0), ""), 0.02, 0)
    graph = agrees(m, m.convolution(y), tmp_path)
    assert graph.convolutions[0].weight_scale[1] < 0
    assert graph.normalization.divisor == 255


def test_class_map(tmp_path):
    m = Model()
    x = m.node("ArgMax", m.convolution(m.quantized(), 5), axis=1, keepdims=0)
    graph = agrees(m, m.node("Cast", x, to=TensorProto.INT32), tmp_path)
    assert isinstance(graph[graph.output], Argmax)


def test_fake_quantize_of_nncf(tmp_path):
    m = Model()

    def fake_quantize(x, low, high, levels):
        ranges = [m.constant(v) for v in (low, high, low, high)]
        return m.node("FakeQuantize", x, *ranges, domain=OPENVINO, levels=levels)

    x = fake_quantize("image", [-1.28], [1.27], 256)
    steps = 127 * scales(4).reshape(4, 1, 1, 1)
    w = fake_quantize(m.constant(codes((4, 3, 3, 3)) * steps / 127), -steps, steps, 255)
    y = m.node("Conv", x, w, pads=[1, 1, 1, 1])
    factors = ([2, -1, 0.5, 1], [0.1, 0.2, 0.3, 0.4], [0, 1, 0, -1], [1, 2, 3, 4])
    y = m.node("BatchNormalization", y, *(m.constant(v) for v in factors))
    graph = m.load(fake_quantize(m.node("Relu", y), [0.0], [2.55], 256), tmp_path)
    (conv,) = graph.convolutions
    factor = np.asarray(factors[0]) / np.sqrt(np.asarray(factors[3]) + 1e-5)
    assert np.array_equal(conv.weight, codes((4, 3, 3, 3)))
    np.testing.assert_allclose(conv.weight_scale, scales(4) * factor, rtol=1e-6)
    np.testing.assert_allclose(conv.bias, np.asarray(factors[1]) - np.asarray(factors[2]) * factor, rtol=1e-6)
    assert graph.quantizer(conv.input) == Quantizer(0.01, 128)


def test_old_softmax_over_everything_is_refused(tmp_path):
    m = Model(11)
    with pytest.raises(FormatError, match="softmax over channels alone"):
        m.load(m.node("Softmax", m.convolution(m.quantized()), axis=1), tmp_path)
    m = Model(11)
    x = m.node("Transpose", m.convolution(m.quantized()), perm=[0, 2, 3, 1])
    x = m.node("Transpose", m.node("Softmax", x, axis=3), perm=[0, 3, 1, 2])
    graph = m.load(x, tmp_path)
    assert graph.shape(graph.output) == (4, 12, 12)


def changed(change) -> bytes:
    m, output = small()
    proto = m.proto(output)
    change(proto)
    return proto.SerializeToString()


def external(proto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def domain(proto) -> None:
    proto.graph.node[2].domain = "com.example"


def set_type(kind):
    def change(proto) -> None:
        next(node for node in proto.graph.node if node.op_type == "Relu").op_type = kind

    return change


def set_dims(*dims):
    def change(proto) -> None:
        tensor = next(t for t in proto.graph.initializer if len(t.dims) == 4)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def set_initializer(number, value):
    return lambda proto: proto.graph.initializer[number].CopyFrom(
        numpy_helper.from_array(value, f"c{number}")
    )


def cycle(proto) -> None:
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    relu.input[0] = relu.output[0]


WRONG = {
    "external data": (external, r"initializer 'c\d+': .* of the model's own folder, found '/etc/passwd'"),
    "unknown domain": (
        domain,
        r"node 2 '.*': expected operations of ONNX or com.microsoft, org.openvinotoolkit",
    ),
    "unknown operation": (set_type("Mish"), r"node \d+ '.*': operation 'Mish' is not supported"),
    "huge dims": (set_dims(1 << 40, 1 << 40, 3, 3), "expected at most"),
    "negative dims": (set_dims(-4, -3, 3, 3), "expected at most"),
    "other dims": (set_dims(4, 3, 3, 4), "bytes for int8"),
    "cycle": (cycle, "without cycles"),
    "no opset": (lambda p: p.opset_import.pop(0), "expected an ONNX model of opset 9"),
    "old opset": (lambda p: setattr(p.opset_import[0], "version", 3), "expected an ONNX model of opset 9"),
    "no nodes": (lambda p: p.graph.ClearField("node"), "expected 1..8192 nodes"),
    "two outputs": (
        lambda p: p.graph.output.append(p.graph.output[0]),
        "expected one network output, found 2",
    ),
    "two inputs": (
        lambda p: p.graph.input.add(name="other"),
        "input 'other': expected an input of known shape",
    ),
    "missing tensor": (
        lambda p: p.graph.node[1].input.__setitem__(0, "gone"),
        "reads tensor 'gone', which nothing defines",
    ),
    "tensor defined twice": (lambda p: p.graph.initializer.append(p.graph.initializer[0]), "unique"),
    "data type": (lambda p: setattr(p.graph.initializer[0], "data_type", 8), "data type 8"),
    "attribute type": (
        lambda p: setattr(p.graph.node[-1].attribute[0], "type", 3),
        "'axis' must be an integer",
    ),
    "name of two lines": (lambda p: setattr(p.graph.node[0], "name", "a\nb"), "printable name"),
    "other scale": (
        lambda p: (
            p.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half")),
            p.graph.node[1].input.__setitem__(1, "half"),
        ),
        "scale and zero point of the QuantizeLinear before it",
    ),
    "zero point of 16 bits": (set_initializer(1, np.int16(3)), "8-bit codes"),
    "scale 0": (set_initializer(0, np.float32(0)), "finite and positive"),
    "scale NaN": (set_initializer(0, np.float32(np.nan)), "finite and positive"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_by_name(tmp_path, case):
    change, message = WRONG[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(changed(change))
    with pytest.raises(FormatError, match=message) as caught:
        onnx_read.load(path)
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_onnx(tmp_path):
    path = tmp_path / "m.onnx"
    for content in (b"", b"hello", b"\xff" * 100, changed(lambda p: None)[:-7]):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"m\.onnx"):
            onnx_read.load(path)
    with pytest.raises(FileNotFoundError):
        onnx_read.load(tmp_path / "nothing.onnx")


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(changed(lambda p: None))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"sparse-icnet\[onnx\]"):
        onnx_read.load(path)


def test_a_type_that_is_no_text_is_refused(tmp_path):
    """protobuf then gives bytes."""
    data = changed(lambda p: None)
    path = tmp_path / "m.onnx"
    path.write_bytes(data.replace(b"\x22\x10DequantizeLinear", b"\x22\x10\xdfequantizeLinear"))
    with pytest.raises(FormatError, match="type: expected a printable name"):
        onnx_read.load(path)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_random_bytes_give_a_graph_or_a_format_error(tmp_path, seed):
    rng = random.Random(seed)
    data = bytearray(changed(lambda p: None))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.randint(1, 8)]
            case _:
                data[at:at] = rng.randbytes(rng.randint(1, 4))
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(data))
    try:
        assert isinstance(onnx_read.load(path), Graph)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("shape", "size", "free"),
    [
        ((1, 3, 12, 12), (12, 12), False),
        (("batch", 3, 12, 12), (12, 12), False),
        ((1, 3, "height", "width"), (768, 960), True),
        ((1, 3, 12, "width"), (12, 960), True),
        ((1, 3, -1, -1), (768, 960), True),
    ],
)
def test_free_sizes_are_carried_and_filled_in(tmp_path, shape, size, free):
    """Sizes that the file states are kept; free ones are 768 and 960."""
    m = Model(shape=shape)
    graph = m.load(m.node("Softmax", m.convolution(m.quantized()), axis=1), tmp_path)
    assert graph.input.shape == (3, *size)
    assert graph.size_is_free == free


@pytest.mark.parametrize("bins", [(1, 1), (2, 5), (12, 5), (5, 12), (7, 11), (12, 12)])
def test_adaptive_pools_as_products_with_matrices(tmp_path, bins):
    """What the writer makes of windows that do not tile the map, rows or columns first."""
    for columns_first in (True, False):
        m = Model()
        rows = m.constant(mean_matrix(12, bins[0]))
        columns = m.constant(mean_matrix(12, bins[1]).T)
        x = m.quantized()
        if columns_first:
            x = m.node("MatMul", rows, m.node("MatMul", x, columns))
        else:
            x = m.node("MatMul", m.node("MatMul", rows, x), columns)
        graph = agrees(m, m.node("Softmax", x, axis=1), tmp_path)
        (pool,) = (op for op in graph if isinstance(op, AveragePool))
        assert pool.bins == bins


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((12, 3)), "found another matrix"),
        (np.ones((12, 3)) / 4, "found another matrix"),
        (mean_matrix(12, 3), "matrix of means over 12 columns, found shape"),
        (mean_matrix(12, 3).T[None], "found shape"),
        (np.zeros((12, 0)), "found shape"),
    ],
)
def test_other_products_with_matrices_are_refused(tmp_path, matrix, message):
    m = Model()
    x = m.node("MatMul", m.quantized(), m.constant(matrix))
    with pytest.raises(FormatError, match=message):
        m.load(m.node("Softmax", m.convolution(m.quantized(x)), axis=1), tmp_path)


@pytest.mark.parametrize("gap", [1, 2])
def test_a_concat_without_one_of_its_inputs(tmp_path, gap):
    m = Model()
    parts = [m.constant(part, "int64") for part in ([1], [3], [24], [24])]
    parts[gap] = ""
    sizes = m.node("Concat", *parts, axis=0)
    x = m.node(
        "Resize", m.quantized(), "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric"
    )
    with pytest.raises(
        FormatError, match="'Concat_0': expected inputs without a gap, found one that is absent"
    ):
        m.load(m.node("Softmax", m.convolution(x), axis=1), tmp_path)


def test_scales_of_probabilities_are_refused(tmp_path):
    m = Model()
    x = m.node("Softmax", m.convolution(m.quantized()), axis=1)
    with pytest.raises(FormatError, match="expected constants to scale or shift what convolutions read"):
        m.load(m.node("Mul", x, m.constant(2.0)), tmp_path)


@pytest.mark.parametrize(("code", "accepted"), [(254, True), (-255, True), (255, False), (-257, False)])
def test_weights_have_8_bits_around_their_zero_point(tmp_path, code, accepted):
    m = Model()
    values = np.full((1, 3, 1, 1), code)
    values[0, 0] = 3
    weights = m.node("DequantizeLinear", m.constant(values, "int32"), m.constant(0.01))
    output = m.node("Conv", m.quantized(), weights)
    if accepted:
        found = sum(op.weight.astype(int) for op in m.load(output, tmp_path).convolutions)
        np.testing.assert_array_equal(found, values)
    else:
        with pytest.raises(FormatError, match="expected weights of 8 bits around their zero point, found"):
            m.load(output, tmp_path)
