"""Reading hand-written OpenVINO IR: forms of weights, batch norm, normalization, quantizers that move."""

from __future__ import annotations

import numpy as np
import pytest
from make_ir import Ir, bias, codes, scales, small_network

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.openvino import read as openvino_read
from sparse_icnet.network.graph import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    Graph,
    MaxPool,
    Normalization,
    Op,
    Quantizer,
    Resize,
)
from sparse_icnet.reference.evaluate import evaluate_float
from sparse_icnet.reference.oracle import Oracle


def load(ir: Ir, folder) -> Graph:
    return openvino_read.load(ir.save(folder))


def blob(graph: Graph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.4, 1.4, graph.input.shape).astype(np.float32)


def only(graph: Graph, kind: type[Op]) -> Op:
    (op,) = [op for op in graph if isinstance(op, kind)]
    return op


def quantized_input(shape: tuple[int, ...] = (1, 3, 8, 8)):
    ir = Ir()
    return ir, ir.fake_quantize(ir.parameter(shape), -1.28, 1.27, name="codes")


def finished(ir: Ir, x, folder) -> Graph:
    """The graph with a quantizer and a 1x1 convolution behind `x`."""
    channels = ir.dims[x][1]
    x = ir.fake_quantize(x, 0.0, 2.55, name="last_codes")
    x = ir.convolution(x, ir.weights(codes((2, channels, 1, 1)), scales(2)), name="last")
    ir.result(x)
    return load(ir, folder)


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize("form", ["int8", "fake_quantize"])
def test_weights_of_both_forms_are_the_codes_that_were_written(tmp_path, version, form):
    graph = load(small_network(version, form), tmp_path)
    kinds = [type(op).__name__ for op in graph]
    assert kinds == ["Input", "Quantize", "Convolution", "Relu", "Quantize", "Convolution", "Softmax"]
    assert np.array_equal(graph["first"].weight, codes((4, 3, 3, 3)))
    np.testing.assert_allclose(graph["first"].weight_scale, scales(4), rtol=1e-6)
    assert np.array_equal(graph["first"].bias, bias(4).ravel())
    assert graph["first"].stride == (2, 2)
    assert graph["first"].padding == (1, 1, 1, 1)
    assert graph["image_codes"].quantizer == Quantizer(0.01, 128)
    assert graph["relu_codes"].quantizer == Quantizer(0.01, 0)
    assert graph.output == "probabilities"
    assert graph.shape(graph.output) == (5, 4, 4)
    assert graph.normalization == Normalization()


def test_version_7_is_the_same_network(tmp_path):
    old, new = load(small_network(7, "fake_quantize"), tmp_path), load(small_network(11), tmp_path)
    assert [(type(op), op.name) for op in old] == [(type(op), op.name) for op in new]
    x = blob(new)
    assert Oracle(old, x).output().tobytes() == Oracle(new, x).output().tobytes()


def test_version_7_layers(tmp_path):
    """Pooling, Resample, ScaleShift as batch norm, Eltwise of activations, biases in blobs, <pre-process>."""
    ir = Ir(7)
    ir.extra = "".join(
        f'<channel id="{i}"><mean value="{mean}"/></channel>' for i, mean in enumerate((104.0, 110.5, 120.25))
    )
    ir.extra = f'<pre-process reference-layer-name="image">{ir.extra}</pre-process>'
    x = ir.fake_quantize(ir.parameter(), -128.0, 127.0)
    offset, size = ir.append(bias(4).ravel())
    blobs = f'<blobs><biases offset="{offset}" size="{size}"/></blobs>'
    weights = ir.weights(codes((4, 3, 3, 3)), scales(4), "fake_quantize")
    data = {
        "kernel": "3,3",
        "strides": "1,1",
        "pads_begin": "1,1",
        "pads_end": "1,1",
        "output": 4,
        "group": 1,
    }
    x = ir.layer("Convolution", (x, weights), [(1, 4, 8, 8)], data, name="conv", blobs=blobs)
    gamma, beta = np.asarray([2, -1, 0.5, 3], np.float32), np.asarray([1, 2, 3, 4], np.float32)
    (start, length), (beta_start, _) = ir.append(gamma), ir.append(beta)
    blobs = f'<weights offset="{start}" size="{length}"/><biases offset="{beta_start}" size="{length}"/>'
    blobs = f"<blobs>{blobs}</blobs>"
    x = ir.layer("ScaleShift", [x], [(1, 4, 8, 8)], name="bn", blobs=blobs)
    x = ir.fake_quantize(ir.unary("ReLU", x), 0.0, 25.5)
    data = {"pool-method": "max", "kernel": "3,3", "strides": "2,2", "pads_begin": "1,1", "pads_end": "1,1"}
    x = ir.layer("Pooling", [x], [(1, 4, 4, 4)], {**data, "rounding-type": "floor"}, name="pool")
    data = {"pool-method": "avg", "kernel": "4,4", "strides": "4,4"}
    mean = ir.layer("Pooling", [x], [(1, 4, 1, 1)], data, name="mean")
    data = {"type": "caffe.ResampleParameter.NEAREST", "factor": "4.0"}
    mean = ir.layer("Resample", [mean], [(1, 4, 4, 4)], data, name="up")
    ir.binary_operation("Add", x, mean, name="sum")
    graph = load(ir, tmp_path)
    np.testing.assert_allclose(graph["conv"].weight_scale, scales(4) * gamma, rtol=1e-6)
    np.testing.assert_allclose(graph["conv"].bias, bias(4).ravel() * gamma + beta, rtol=1e-6)
    assert graph["pool"] == MaxPool("pool", graph["pool"].input, (3, 3), (2, 2), (1, 1, 1, 1))
    assert graph["mean"].bins == (1, 1)
    assert graph["up"] == Resize("up", "mean", (4, 4))
    assert isinstance(graph["sum"], Add)
    np.testing.assert_allclose(only(graph, Affine).shift, [-104.0, -110.5, -120.25])
    assert graph.normalization == Normalization(1.0, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("form", ["BatchNormInference", "Multiply, Add", "Add, Divide"])
def test_batch_norm_behind_a_convolution_folds(tmp_path, form):
    gamma = np.asarray([2, -1, 0.5, -3], np.float32).reshape(1, 4, 1, 1)
    beta = np.asarray([1, 2, -3, 4], np.float32).reshape(1, 4, 1, 1)
    ir, x = quantized_input()
    x = ir.convolution(x, ir.weights(codes((4, 3, 3, 3)), scales(4)), name="conv")
    x = ir.binary_operation("Add", x, ir.constant(bias(4)))
    if form == "BatchNormInference":
        mean, variance = np.asarray([1, -1, 2, 0.5]), np.asarray([4, 1, 0.25, 2])
        vectors = [gamma.ravel(), beta.ravel(), mean, variance]
        inputs = (x, *(ir.constant(vector) for vector in vectors))
        x = ir.layer(form, inputs, [ir.dims[x]], {"epsilon": 1e-3}, "opset5")
        factor = gamma.ravel() / np.sqrt(variance + 1e-3)
        scale, shift = scales(4) * factor, (bias(4).ravel() - mean) * factor + beta.ravel()
    elif form == "Multiply, Add":
        x = ir.binary_operation("Multiply", x, ir.constant(gamma))
        x = ir.binary_operation("Add", x, ir.constant(beta))
        scale, shift = scales(4) * gamma.ravel(), (bias(4) * gamma + beta).ravel()
    else:
        x = ir.binary_operation("Add", x, ir.constant(beta))
        x = ir.binary_operation("Divide", x, ir.constant(gamma))
        scale, shift = scales(4) / gamma.ravel(), ((bias(4) + beta) / gamma).ravel()
    graph = finished(ir, ir.unary("ReLU", x), tmp_path)
    np.testing.assert_allclose(graph["conv"].weight_scale, scale, rtol=1e-6)
    np.testing.assert_allclose(graph["conv"].bias, shift, rtol=1e-5)
    assert np.array_equal(graph["conv"].weight, codes((4, 3, 3, 3)))


def test_a_batch_norm_folded_into_the_output_range_scales_the_weights(tmp_path):
    """Input range of one scalar, output range per channel and reversed for a negative gamma."""
    gamma = np.asarray([0.5, -2, 1, 3], np.float32).reshape(4, 1, 1, 1)
    weights = codes((4, 3, 1, 1))
    ir, x = quantized_input()
    w = ir.constant(weights.astype(np.float32) * 0.01)
    w = ir.fake_quantize(w, -1.27, 1.27, 255, output=(-1.27 * gamma, 1.27 * gamma))
    ir.result(ir.convolution(x, w, name="conv"))
    graph = load(ir, tmp_path)
    assert np.array_equal(graph["conv"].weight, weights)
    np.testing.assert_allclose(graph["conv"].weight_scale, 0.01 * gamma.ravel(), rtol=1e-6)


def test_a_batch_norm_of_gamma_0_leaves_zero_weights_and_the_bias(tmp_path):
    gamma = np.asarray([1, 0, 1, 1], np.float32).reshape(1, 4, 1, 1)
    ir, x = quantized_input()
    x = ir.convolution(x, ir.weights(codes((4, 3, 1, 1)), scales(4)), name="conv")
    x = ir.binary_operation(
        "Add", ir.binary_operation("Multiply", x, ir.constant(gamma)), ir.constant(bias(4))
    )
    ir.result(x)
    conv = load(ir, tmp_path)["conv"]
    assert not conv.weight[1].any()
    assert conv.weight[0].any()
    assert np.array_equal(conv.bias, bias(4).ravel())


def test_one_convolution_read_before_and_after_its_bias(tmp_path):
    ir, x = quantized_input()
    plain = ir.convolution(x, ir.weights(codes((3, 3, 1, 1)), scales(3)), name="conv")
    biased = ir.binary_operation("Add", plain, ir.constant(bias(3)))
    ir.result(ir.binary_operation("Add", plain, biased, name="sum"))
    graph = load(ir, tmp_path)
    first, second = (graph[name] for name in graph["sum"].inputs)
    assert not first.bias.any()
    assert np.array_equal(second.bias, bias(3).ravel())


@pytest.mark.parametrize(("zero", "dtype"), [(128, "uint8"), (3, "int8")])
def test_int8_weights_with_a_zero_point(tmp_path, zero, dtype):
    values = codes((2, 3, 1, 1)).astype(np.int16) // 2
    ir, x = quantized_input()
    stored = (values + zero).astype(dtype)
    w = ir.layer("Convert", [ir.constant(stored, dtype)], [stored.shape], {"destination_type": "f32"})
    zeros = ir.layer(
        "Convert", [ir.constant([[[[zero]]]] * 2, dtype)], [(2, 1, 1, 1)], {"destination_type": "f32"}
    )
    w = ir.layer("Subtract", (w, zeros), [stored.shape])
    w = ir.layer("Multiply", (w, ir.constant(scales(2).reshape(2, 1, 1, 1))), [stored.shape])
    ir.result(ir.convolution(x, w, name="conv"))
    assert np.array_equal(load(ir, tmp_path)["conv"].weight, values)


@pytest.mark.parametrize("levels", ["255", "255.0", "254", "256"])
def test_levels_of_symmetric_weights(tmp_path, levels):
    """254 is NNCF's half range of 2021, 256 is -128..127; zeros stay exact zeros in each."""
    weights = codes((2, 3, 1, 1)) // 4
    low = {"254": -126, "255": -127, "256": -128}[levels[:3]]
    high = 127
    ir, x = quantized_input()
    w = ir.constant(weights.astype(np.float32) * 0.01)
    ir.result(ir.convolution(x, ir.fake_quantize(w, low * 0.01, high * 0.01, levels), name="conv"))
    conv = load(ir, tmp_path)["conv"]
    assert np.array_equal(conv.weight, weights)
    assert not conv.weight[weights == 0].any()


def test_half_precision_weights_and_ranges(tmp_path):
    """f16 behind Convert; the rounding of the range moves the zero point by less than one code."""
    weights = (codes((2, 3, 1, 1)).astype(np.float32) / 128).astype(np.float16)
    ir, _ = quantized_input()

    def half(value) -> tuple[int, int]:
        shape = np.shape(value)
        return ir.layer("Convert", [ir.constant(value, "float16")], [shape], {"destination_type": "f32"})

    ranges = [half(value) for value in (-1.28 * 1.7, 1.27 * 1.7) * 2]
    x = ir.layer("FakeQuantize", ((0, 0), *ranges), [(1, 3, 8, 8)], {"levels": 256}, name="half_codes")
    bounds = [half(value) for value in (-127 / 128, 127 / 128) * 2]
    w = ir.layer("FakeQuantize", (half(weights), *bounds), [weights.shape], {"levels": 255})
    ir.result(ir.convolution(x, w, name="conv"))
    graph = load(ir, tmp_path)
    assert np.array_equal(graph["conv"].weight, codes((2, 3, 1, 1)))
    assert graph["half_codes"].quantizer.zero_point == 128


@pytest.mark.parametrize(
    ("mean", "deviation", "divisor"), [((0.39, 0.4, 0.41), 0.3, 255.0), ((100, 103, 105), 76.0, 1.0)]
)
@pytest.mark.parametrize("form", ["Subtract, Divide", "Multiply, Add", "FakeQuantize"])
def test_normalization_in_the_file(tmp_path, form, mean, deviation, divisor):
    mean = np.asarray(mean, np.float32).reshape(1, 3, 1, 1)
    deviation = np.full((1, 3, 1, 1), deviation, np.float32)
    ir = Ir()
    x = ir.parameter()
    if form == "Subtract, Divide":
        x = ir.binary_operation("Subtract", x, ir.constant(mean))
        x = ir.binary_operation("Divide", x, ir.constant(deviation))
    elif form == "Multiply, Add":
        x = ir.binary_operation("Multiply", x, ir.constant(1 / deviation))
        x = ir.binary_operation("Add", x, ir.constant(-mean / deviation))
    if form == "FakeQuantize":
        x = ir.fake_quantize(
            x, mean - 1.28 * deviation, mean + 1.27 * deviation, output=(-1.28, 1.27), name="codes"
        )
    else:
        x = ir.fake_quantize(x, -1.28, 1.27, name="codes")
    ir.result(ir.convolution(x, ir.weights(codes((2, 3, 1, 1)), scales(2)), name="conv"))
    graph = load(ir, tmp_path)
    assert graph["codes"].quantizer == Quantizer(0.01, 128)
    np.testing.assert_allclose(only(graph, Affine).scale, 1 / deviation.ravel(), rtol=1e-5)
    np.testing.assert_allclose(only(graph, Affine).shift, -(mean / deviation).ravel(), rtol=1e-4)
    assert graph.normalization == Normalization(divisor, (0.0,) * 3, (1.0,) * 3)


def test_normalization_is_shared_by_branches_and_passes_a_resize(tmp_path):
    ir = Ir()
    image = ir.parameter()
    half = ir.layer(
        "Interpolate",
        (image, ir.constant([4, 4], "int64"), ir.constant([1.0, 1.0]), ir.constant([2, 3], "int64")),
        [(1, 3, 4, 4)],
        {
            "mode": "nearest",
            "shape_calculation_mode": "sizes",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
            "antialias": "false",
        },
        "opset4",
        "half",
    )
    outputs = []
    for x in (image, half):
        low = np.asarray([0, 10, 20], np.float32).reshape(1, 3, 1, 1)
        x = ir.fake_quantize(x, low, low + 255, output=(-1.28, 1.27))
        outputs.append(ir.convolution(x, ir.weights(codes((2, 3, 4, 4)), scales(2)), stride=4))
    high = ir.layer(
        "Interpolate",
        (outputs[1], ir.constant([2, 2], "int64")),
        [(1, 2, 2, 2)],
        {"axes": "2,3", "mode": "nearest", "align_corners": "false"},
    )
    ir.result(ir.binary_operation("Add", outputs[0], high))
    graph = load(ir, tmp_path)
    affine = only(graph, Affine)
    assert graph["half"] == Resize("half", affine.name, (4, 4))


def test_a_quantizer_behind_a_max_pool_of_real_values_moves_above_it(tmp_path):
    ir, x = quantized_input()
    x = ir.convolution(x, ir.weights(codes((4, 3, 1, 1)), scales(4)), name="conv")
    pool = {"kernel": "3,3", "strides": "2,2", "pads_begin": "1,1", "pads_end": "1,1"}
    x = ir.layer("MaxPool", [ir.unary("ReLU", x, name="relu")], [(1, 4, 4, 4)], pool, name="pool")
    outputs = []
    for high in (2.55, 5.1):
        y = ir.fake_quantize(x, 0.0, high, name=f"codes_{high}")
        outputs.append(ir.convolution(y, ir.weights(codes((2, 4, 1, 1)), scales(2)), name=f"conv_{high}"))
    ir.result(ir.binary_operation("Add", *outputs))
    graph = load(ir, tmp_path)
    pools = [op for op in graph if isinstance(op, MaxPool)]
    assert sorted(graph.quantizer(op.name).scale for op in pools) == pytest.approx([0.01, 0.02])
    # The file says: quantize the maximum of the real values.
    image = blob(graph)
    reference = Oracle(graph, image)
    for high in (2.55, 5.1):
        quantizer = graph[f"codes_{high}"].quantizer
        padded = np.pad(
            reference.real("relu", quantizer.scale), ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf
        )
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))
        expected = np.clip(np.rint(windows), 0, 255)
        assert np.array_equal(reference.codes(f"codes_{high}"), expected)
        assert len(np.unique(expected)) > 10


def test_relu_of_codes_may_feed_a_convolution(tmp_path):
    ir, x = quantized_input()
    x = ir.unary("ReLU", x, name="relu")
    ir.result(ir.convolution(x, ir.weights(codes((2, 3, 1, 1)), scales(2)), name="conv"))
    graph = load(ir, tmp_path)
    assert graph.quantizer(graph["conv"].input) == Quantizer(0.01, 128, 128, 255)
    image = blob(graph)
    exact = evaluate_float(graph, image)
    assert np.array_equal(exact[graph["conv"].input], np.maximum(exact["codes"], 0))
    np.testing.assert_allclose(Oracle(graph, image).output(), exact["conv"], rtol=1e-5, atol=1e-6)


def test_names_stay_and_doubles_get_a_number(tmp_path):
    ir = small_network()
    text = ir.text().replace('name="second"', 'name="first"')
    path = ir.save(tmp_path)
    path.write_text(text)
    assert [op.name for op in openvino_read.load(path) if isinstance(op, Convolution)] == ["first", "first#2"]


def test_adding_a_pooled_pixel_is_adding_it_everywhere(tmp_path):
    ir, x = quantized_input()
    axes = ir.constant([2, 3], "int64")
    mean = ir.layer("ReduceMean", (x, axes), [(1, 3)], {"keep_dims": "false"}, name="mean")
    shape = ir.constant([0, 3, 1, -1], "int64")
    mean = ir.layer("Reshape", (mean, shape), [(1, 3, 1, 1)], {"special_zero": "true"})
    graph = finished(ir, ir.binary_operation("Add", x, mean, name="sum"), tmp_path)
    assert only(graph, AveragePool).bins == (1, 1)
    assert only(graph, Resize).size == (8, 8)


def test_interleaved_input_and_class_output(tmp_path):
    """NHWC image > Transpose; TopK > Squeeze > Convert at the end."""
    ir = Ir()
    x = ir.parameter((1, 8, 6, 3))
    x = ir.layer("Transpose", (x, ir.constant([0, 3, 1, 2], "int64")), [(1, 3, 8, 6)])
    x = ir.fake_quantize(x, -1.28, 1.27)
    x = ir.convolution(x, ir.weights(codes((5, 3, 1, 1)), scales(5)))
    data = {"axis": 1, "mode": "max", "sort": "value", "index_element_type": "i64"}
    ir.dims[len(ir.layers) + 1, 3] = (1, 1, 8, 6)
    one = ir.constant(1, "int64")
    number, port = ir.layer("TopK", (x, one), [(1, 1, 8, 6), (1, 1, 8, 6)], data, "opset3", "classes")
    y = ir.layer("Squeeze", ((number, port + 1), ir.constant([1], "int64")), [(1, 8, 6)])
    y = ir.layer("Convert", [y], [(1, 8, 6)], {"destination_type": "i32"})
    ir.result(y)
    graph = load(ir, tmp_path)
    assert graph.input.shape == (3, 8, 6)
    assert graph.shape(graph.output) == (1, 8, 6)
    assert graph.output == "classes"


def test_a_network_without_quantizers_is_refused(tmp_path):
    ir = Ir()
    x = ir.convolution(ir.parameter(), ir.weights(codes((2, 3, 1, 1)), scales(2)), name="conv")
    ir.result(ir.unary("SoftMax", x, axis=1))
    with pytest.raises(
        FormatError, match=r"m\.xml: expected an INT8 model, found no quantizer of an activation"
    ):
        load(ir, tmp_path)


@pytest.mark.parametrize(
    ("shape", "size", "free"),
    [
        ("1,3,8,8", (8, 8), False),
        ("?,3,8,8", (8, 8), False),
        ("-1,3,-1,-1", (768, 960), True),
        ("?,?,?,?", (768, 960), True),
        ("1,3,8,1..64", (8, 960), True),
    ],
)
def test_free_sizes_are_carried_and_filled_in(tmp_path, shape, size, free):
    """Sizes that the file states are kept; free ones are 768 and 960."""
    ir = Ir()
    x = ir.layer("Parameter", (), [(-1, -1, -1, -1)], {"shape": shape, "element_type": "f32"}, name="image")
    x = ir.fake_quantize(x, -1.28, 1.27, name="codes")
    w = ir.weights(codes((4, 3, 1, 1)), scales(4))
    attributes = {"strides": "1,1", "dilations": "1,1", "pads_begin": "0,0", "pads_end": "0,0"}
    x = ir.layer("Convolution", (x, w), [(-1, 4, -1, -1)], attributes, name="convolution")
    ir.result(ir.unary("SoftMax", x, axis=1))
    graph = openvino_read.load(ir.save(tmp_path))
    assert graph.input.shape == (3, *size)
    assert graph.size_is_free == free
