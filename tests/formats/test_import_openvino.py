"""Operations that OpenVINO itself writes: what the reader accepts computes what OpenVINO computes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

openvino = pytest.importorskip("openvino", reason="needs openvino (extra reference)")

from make_ir import codes, scales  # noqa: E402
from openvino.utils.node_factory import NodeFactory  # noqa: E402

from sparse_icnet import formats  # noqa: E402
from sparse_icnet.formats.errors import FormatError  # noqa: E402
from sparse_icnet.formats.openvino import read as openvino_read  # noqa: E402
from sparse_icnet.network.graph import Argmax, Relu, Softmax  # noqa: E402
from sparse_icnet.reference.evaluate import evaluate_float  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402

ops = openvino.opset13
CORE = openvino.Core()


def quantized(shape=(1, 3, 12, 12)):
    """(parameter, its FakeQuantize)."""
    image = ops.parameter(shape, np.float32, name="image")
    return image, ops.fake_quantize(image, *(np.float32(v) for v in (-1.28, 1.27, -1.28, 1.27)), 256)


def saved(image, output, folder, half=False):
    path = folder / "m.xml"
    openvino.save_model(openvino.Model([output], [image], "m"), str(path), compress_to_fp16=half)
    return path


def agrees(image, output, folder, half=False) -> np.ndarray:
    """Load what OpenVINO saves and compare on one random input; returns the output."""
    path = saved(image, output, folder, half)
    graph = openvino_read.load(path)
    blob = np.random.default_rng(3).uniform(-1.4, 1.4, graph.input.shape).astype(np.float32)
    plain = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}
    expected = CORE.compile_model(CORE.read_model(path), "CPU", plain)(blob.reshape(image.shape))[0]
    found = evaluate_float(graph, blob, np.float32)[graph.output].reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(found)) > 2
    if not isinstance(graph[graph.output], Argmax) and graph.quantizer(graph.output) is None:
        np.testing.assert_allclose(
            Oracle(graph, blob).output().reshape(expected.shape), found, rtol=1e-5, atol=1e-5
        )
    return found


def integers(*values):
    return ops.constant(np.asarray(values, np.int64))


@pytest.mark.parametrize("size", [(24, 24), (48, 36), (6, 4), (3, 12), (12, 12)])
def test_interpolate_1(tmp_path, size):
    image, x = quantized()
    attributes = {"axes": [2, 3], "mode": "nearest", "align_corners": False}
    agrees(image, openvino.opset1.interpolate(x, integers(*size), attributes), tmp_path)


COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "align_corners")
ROUNDINGS = ("floor", "ceil", "simple", "round_prefer_floor", "round_prefer_ceil")


@pytest.mark.parametrize(("coordinate", "rounding"), list(itertools.product(COORDINATES, ROUNDINGS)))
def test_interpolate_4_agrees_or_is_refused(tmp_path, coordinate, rounding):
    accepted = 0
    for size in ((24, 24), (48, 12), (6, 6), (4, 3), (36, 2), (1, 1)):
        image, x = quantized()
        scale = np.asarray(size, np.float32) / 12
        attributes = {
            "mode": "nearest",
            "shape_calculation_mode": "sizes",
            "coordinate_transformation_mode": coordinate,
            "nearest_mode": rounding,
            "pads_begin": np.zeros(4, np.int64),
            "pads_end": np.zeros(4, np.int64),
        }
        inputs = [x, integers(*size), ops.constant(scale), integers(2, 3)]
        y = NodeFactory("opset4").create("Interpolate", [node.output(0) for node in inputs], attributes)
        try:
            agrees(image, y, tmp_path)
            accepted += 1
        except FormatError as error:
            assert "nearest resize" in str(error)  # noqa: PT017
    least = {("asymmetric", "floor"): 6, ("asymmetric", "simple"): 6, ("half_pixel", "round_prefer_floor"): 2}
    assert accepted >= least.get((coordinate, rounding), 0)


@pytest.mark.parametrize("by", ["sizes", "scales"])
@pytest.mark.parametrize("axes", [(2, 3), (3, 2), None])
def test_interpolate_11(tmp_path, by, axes):
    image, x = quantized()
    target = {2: 6, 3: 48}
    order = axes or (0, 1, 2, 3)
    full = {0: 1, 1: 3, **target}
    if by == "sizes":
        values = integers(*(full[axis] for axis in order))
    else:
        ratio = {0: 1, 1: 1, 2: 0.5, 3: 4}
        values = ops.constant(np.asarray([ratio[axis] for axis in order], np.float32))
    y = ops.interpolate(
        x,
        values,
        "nearest",
        by,
        axes=None if axes is None else integers(*axes),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    assert agrees(image, y, tmp_path).shape == (1, 3, 6, 48)


def test_a_single_pixel_may_be_resized_in_any_mode(tmp_path):
    image, x = quantized()
    mean = ops.reduce_mean(x, integers(2, 3), keep_dims=True)
    y = ops.interpolate(mean, integers(12, 12), "linear_onnx", "sizes", axes=integers(2, 3))
    agrees(image, ops.add(x, y), tmp_path)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("opset", [1, 8, 14])
@pytest.mark.parametrize(("size", "kernel", "padding"), [(12, 3, 1), (13, 2, 0), (11, 3, 0), (12, 2, 0)])
def test_max_pool(tmp_path, opset, rounding, size, kernel, padding):
    image, x = quantized((1, 3, size, size))
    window = ([2, 2], [padding] * 2, [padding] * 2, [kernel] * 2)
    if opset == 1:
        y = openvino.opset1.max_pool(x, *window, rounding_type=rounding)
    else:
        strides, begin, end, shape = window
        module = openvino.opset8 if opset == 8 else openvino.opset14
        y = module.max_pool(x, strides, [1, 1], begin, end, shape, rounding_type=rounding).output(0)
    agrees(image, y, tmp_path)


@pytest.mark.parametrize(("kernel", "stride"), [((4, 6), (4, 6)), ((12, 12), (1, 1)), ((12, 3), (5, 3))])
def test_average_pool_that_tiles(tmp_path, kernel, stride):
    image, x = quantized()
    agrees(image, ops.avg_pool(x, stride, [0, 0], [0, 0], kernel, True), tmp_path)


@pytest.mark.parametrize("bins", [(1, 1), (2, 2), (3, 3), (6, 6), (2, 3)])
def test_adaptive_average_pool(tmp_path, bins):
    image, x = quantized()
    agrees(image, openvino.opset8.adaptive_avg_pool(x, integers(*bins)), tmp_path)


@pytest.mark.parametrize("keep", [True, False])
def test_reduce_mean(tmp_path, keep):
    image, x = quantized()
    agrees(image, ops.reduce_mean(x, integers(-1, 2), keep_dims=keep), tmp_path)


@pytest.mark.parametrize(
    "masks", [([0, 0, 0, 0], [0, 0, 0, 0]), ([1, 1, 1, 1], [1, 1, 1, 1]), ([0, 1, 0, 1], [1, 0, 0, 1])]
)
def test_strided_slice_downsamples(tmp_path, masks):
    """A mask bit of 1 ignores the number beside it."""
    image, x = quantized()
    begin, end = (
        [7 * bit for bit in masks[0]],
        [-9 if bit else n for bit, n in zip(masks[1], (1, 3, 12, 12), strict=True)],
    )
    y = ops.strided_slice(x, integers(*begin), integers(*end), integers(1, 1, 2, 3), *masks)
    assert agrees(image, y, tmp_path).shape == (1, 3, 6, 4)


def test_slice_downsamples(tmp_path):
    image, x = quantized()
    y = openvino.opset8.slice(x, integers(0, 0), integers(12, 99), integers(2, 4), integers(2, -1))
    assert agrees(image, y, tmp_path).shape == (1, 3, 6, 3)


@pytest.mark.parametrize("mode", ["explicit", "same_upper", "same_lower", "valid"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_convolution_padding(tmp_path, mode, stride, dilation):
    image, x = quantized((1, 3, 12, 11))
    weights = codes((4, 3, 3, 3))
    w = ops.multiply(
        ops.convert(ops.constant(weights), np.float32), ops.constant(scales(4).reshape(4, 1, 1, 1))
    )
    y = ops.convolution(x, w, [stride] * 2, [1, 0], [2, 1], [dilation] * 2, mode)
    agrees(image, y, tmp_path)


def weights_of(shape):
    """(values of codes, one scale per output channel)."""
    outputs = shape[:-3]
    scale = scales(int(np.prod(outputs))).reshape(*outputs, 1, 1, 1)
    return ops.multiply(ops.convert(ops.constant(codes(shape)), np.float32), ops.constant(scale))


@pytest.mark.parametrize("version", ["opset1", "opset12"])
def test_zeros_around_a_map(tmp_path, version):
    image, x = quantized()
    begin, end = integers(0, 0, 1, 0), integers(0, 0, 2, 1)
    zeros = getattr(openvino, version).pad(x, begin, end, "constant", ops.constant(np.float32(0)))
    y = ops.convolution(zeros, weights_of((4, 3, 3, 3)), [2, 2], [0, 1], [0, 0], [1, 1])
    assert agrees(image, y, tmp_path).shape == (1, 4, 7, 6)


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("constant", 0.5, "expected padding with 0"),
        ("edge", 0, "found mode 'edge': train or export with zero"),
    ],
)
def test_other_padding_is_refused(tmp_path, mode, value, message):
    image, x = quantized()
    amounts = integers(0, 0, 1, 1)
    padded = ops.pad(x, amounts, amounts, mode, ops.constant(np.float32(value)))
    y = ops.convolution(padded, weights_of((4, 3, 3, 3)), [1, 1], [0, 0], [0, 0], [1, 1])
    with pytest.raises(FormatError, match=message):
        openvino_read.load(saved(image, y, tmp_path))


@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_of_groups(tmp_path, groups):
    image, x = quantized()
    weights = weights_of((groups, 4, 3 // groups, 3, 3))
    y = ops.group_convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    assert agrees(image, y, tmp_path).shape == (1, 4 * groups, 12, 12)


@pytest.mark.parametrize("opset", [1, 5])
def test_batch_norm(tmp_path, opset):
    image, x = quantized()
    w = ops.multiply(
        ops.convert(ops.constant(codes((4, 3, 1, 1))), np.float32),
        ops.constant(scales(4).reshape(4, 1, 1, 1)),
    )
    y = ops.convolution(x, w, [1, 1], [0, 0], [0, 0], [1, 1])
    gamma, beta, mean, variance = (
        np.asarray(v, np.float32) for v in ([1, -2, 0.5, 3], [1, 2, 3, 4], [0.1] * 4, [2, 1, 3, 4])
    )
    module = openvino.opset1 if opset == 1 else openvino.opset5
    agrees(image, module.batch_norm_inference(y, gamma, beta, mean, variance, 1e-3), tmp_path)


@pytest.mark.parametrize("half", [False, True])
def test_shapes_that_are_computed(tmp_path, half):
    """ShapeOf, Gather, Convert, Multiply, Concat, Unsqueeze, StridedSlice: sizes as exporters compute "
    "them."""
    image, x = quantized()
    shape = ops.shape_of(x)
    rows = ops.gather(shape, integers(2), integers(0))
    columns = ops.strided_slice(shape, integers(3), integers(4), integers(1), [0], [0])
    doubled = ops.convert(ops.multiply(ops.convert(rows, np.float32), np.float32(2)), np.int64)
    squeezed = ops.unsqueeze(ops.squeeze(columns, integers(0)), integers(0))
    target = ops.concat([ops.floor(ops.convert(doubled, np.float32)), ops.convert(squeezed, np.float32)], 0)
    y = ops.interpolate(
        x,
        ops.convert(target, np.int64),
        "nearest",
        "sizes",
        axes=integers(2, 3),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    w = ops.multiply(
        ops.convert(ops.constant(codes((4, 3, 1, 1))), np.float32),
        ops.constant(scales(4).reshape(4, 1, 1, 1)),
    )
    y = ops.convolution(y, w, [1, 1], [0, 0], [0, 0], [1, 1])
    assert agrees(image, ops.softmax(y, 1), tmp_path, half).shape == (1, 4, 24, 12)


@pytest.mark.parametrize("squeeze", [False, True])
def test_class_map(tmp_path, squeeze):
    image, x = quantized()
    y = openvino.opset11.topk(x, np.int64(1), 1, "max", "value", "i32").output(1)
    agrees(image, ops.squeeze(y, integers(1)) if squeeze else y, tmp_path)


def test_free_sizes_are_those_of_the_model_card(tmp_path):
    image = ops.parameter(openvino.PartialShape([-1, -1, -1, -1]), np.float32, name="image")
    x = ops.fake_quantize(image, *(np.float32(v) for v in (-1.28, 1.27, -1.28, 1.27)), 256)
    y = ops.interpolate(
        x,
        ops.constant(np.asarray([0.5, 0.25], np.float32)),
        "nearest",
        "scales",
        axes=integers(2, 3),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    graph = openvino_read.load(saved(image, y, tmp_path))
    assert graph.input.shape == (3, 768, 960)
    assert graph.shape(graph.output) == (3, 384, 240)


def test_preprocessing_that_openvino_puts_into_the_model(tmp_path):
    """Bytes in rows of pixels, mean and scale of pixel values: the graph takes the raw image."""
    image, x = quantized()
    w = ops.multiply(
        ops.convert(ops.constant(codes((4, 3, 1, 1))), np.float32),
        ops.constant(scales(4).reshape(4, 1, 1, 1)),
    )
    model = openvino.Model([ops.convolution(x, w, [1, 1], [0, 0], [0, 0], [1, 1])], [image], "m")
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean([99, 103, 105]).scale(
        [75, 77, 76]
    )
    path = tmp_path / "m.xml"
    openvino.save_model(steps.build(), str(path))
    graph = openvino_read.load(path)
    assert graph.input.shape == (3, 12, 12)
    assert graph.normalization.divisor == 1
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    plain = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}
    expected = CORE.compile_model(CORE.read_model(path), "CPU", plain)(pixels[None])[0][0]
    found = Oracle(graph, pixels.transpose(2, 0, 1).astype(np.float32)).output()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_normalization_of_a_raw_image(tmp_path):
    image = ops.parameter((1, 3, 12, 12), np.float32, name="image")
    mean, deviation = (
        np.asarray(v, np.float32).reshape(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    )
    x = ops.divide(ops.subtract(image, mean), deviation)
    x = ops.fake_quantize(x, *(np.float32(v) for v in (-1.28, 1.27, -1.28, 1.27)), 256)
    agrees(image, ops.avg_pool(x, (1, 1), [0, 0], [0, 0], (1, 1), True), tmp_path)


def test_input_range_per_channel_and_output_range_of_one(tmp_path):
    image = ops.parameter((1, 3, 12, 12), np.float32, name="image")
    low = np.asarray([-1.0, -0.8, -1.2], np.float32).reshape(1, 3, 1, 1)
    x = ops.fake_quantize(image, low, low + np.float32(2.1), np.float32(-1.28), np.float32(1.27), 256)
    agrees(image, ops.reduce_mean(x, integers(2, 3), keep_dims=True), tmp_path)


def test_one_of_several_outputs(tmp_path):
    image, x = quantized()
    first, second = ops.relu(x), ops.softmax(x, 1)
    first.output(0).get_tensor().set_names({"first,one"})
    second.output(0).get_tensor().set_names({"second"})
    path = tmp_path / "m.xml"
    openvino.save_model(openvino.Model([first, second], [image], "m"), str(path))
    with pytest.raises(FormatError, match=r"one network output, found 2 'first,one', 'second': choose one"):
        formats.load(path)
    with pytest.raises(FormatError, match="found 'third'"):
        formats.load(path, "third")
    graph = formats.load(path, "second")
    assert isinstance(graph[graph.output], Softmax)
    graph = formats.load(path, "first,one")
    assert isinstance(graph[graph.output], Relu)
