"""Wrong and hostile OpenVINO IR: one clear line that names the place, or a sound graph, and nothing else."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_ir import Ir, codes, scales, small_network

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.nodes import MAX_NODES
from sparse_icnet.formats.openvino import read as openvino_read
from sparse_icnet.network.graph import Graph

NETWORKS = {
    "int8": small_network(11, "int8"),
    "fake_quantize": small_network(11, "fake_quantize"),
    "version 7": small_network(7, "fake_quantize"),
}
TEXT = {form: network.text() for form, network in NETWORKS.items()}
BINARY = {form: network.binary for form, network in NETWORKS.items()}


def write(folder: Path, text: str, binary: bytes) -> Path:
    (folder / "m.bin").write_bytes(binary)
    path = folder / "m.xml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def refusal(folder: Path, text: str, binary: bytes = BINARY["int8"]) -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(FormatError) as caught:
        openvino_read.load(write(folder, text, binary))
    message = str(caught.value)
    assert "\n" not in message
    assert "m.xml" in message or "m.bin" in message
    assert len(message) < 1000
    return message


MUTATIONS = {
    "not XML": (r"(?s)^.*$", "hello", "well-formed"),
    "another root": (r"(?s)^.*$", "<html/>", "expected an OpenVINO IR"),
    "truncated": (r"(?s)<edges>.*$", "", "well-formed XML"),
    "doctype": (r"<net ", '<!DOCTYPE net [<!ENTITY a "b">]><net ', "DOCTYPE"),
    "version 5": (r'version="11"', 'version="5"', "expected IR version 6, 7, 10 or 11, found 5"),
    "version in words": (
        r'version="11"',
        'version="eleven"',
        "'version' must be a whole number, found 'eleven'",
    ),
    "version with underscore": (r'version="11"', 'version="1_1"', "must be a whole number"),
    "version in other digits": (r'version="11"', 'version="\u0661\u0661"', "must be a whole number"),
    "no edges": (r"(?s)<edges>.*</edges>", "", "expected <layers> and <edges>"),
    "levels 1": (
        r'levels="256"',
        'levels="1"',
        r"layer 5 'image_codes': FakeQuantize levels must be 2..256, found 1",
    ),
    "levels 257": (r'levels="256"', 'levels="257"', "levels must be 2..256, found 257"),
    "levels 2.5": (r'levels="256"', 'levels="2.5"', "'levels' must be a whole number, found '2.5'"),
    "no levels": (r'levels="256"', "", "'levels' is missing"),
    "unknown operation": (
        r'type="ReLU"',
        'type="Mish"',
        "layer 13 'relu': operation 'Mish' is not supported",
    ),
    "unknown opset": (
        r'type="ReLU" version="opset1"',
        'type="ReLU" version="mine"',
        "'ReLU of 'mine''|\"ReLU of 'mine'\"",
    ),
    "type i4": (
        r'element_type="i8"',
        'element_type="i4"',
        "expected a float or integer type of 8 bits or more, found 'i4'",
    ),
    "negative offset": (r'offset="0"', 'offset="-4"', "at offset -4 inside m.bin"),
    "offset beyond the end": (r'offset="16"', 'offset="999999"', "at offset 999999 inside m.bin"),
    "size too large": (r'size="4"', 'size="8"', "found 8 bytes"),
    "size too small": (r'size="108"', 'size="100"', "found 100 bytes"),
    "huge shape": (r'shape="4,3,3,3"', 'shape="999999999999,999999999999,3,3"', "found 108 bytes"),
    "negative shape": (r'shape="4,3,3,3"', 'shape="-4,-3,3,3"', "found 108 bytes"),
    "other shape": (r'shape="4,3,3,3"', 'shape="3,4,3,3"', "states the output shape"),
    "wrong dims": (
        r"<dim>5</dim><dim>4</dim><dim>4</dim>",
        "<dim>5</dim><dim>4</dim><dim>3</dim>",
        " states the output shape",
    ),
    "rank 9": (r'shape="4,3,3,3"', 'shape="1,1,1,1,1,4,3,3,3"', "at most 8 numbers"),
    "stride 0": (r'strides="2,2"', 'strides="0,2"', "at least 1 as strides"),
    "huge stride": (r'strides="2,2"', 'strides="99999,2"', "as strides"),
    "negative padding": (r'pads_begin="1,1"', 'pads_begin="-1,1"', "at least 0 as pads_begin"),
    "padding of 2e9": (r'pads_begin="1,1"', 'pads_begin="2000000000,1"', "as pads_begin"),
    "padding of rank 3": (r'pads_begin="1,1"', 'pads_begin="1,1,1"', "two numbers"),
    "unknown auto_pad": (r'pads_begin="1,1"', 'auto_pad="some"', "auto_pad must be"),
    "softmax over rows": (r'axis="1"', 'axis="2"', "expected axis 1, the channels, found 2"),
    "duplicate layer": (r'<layer id="13"', '<layer id="12"', "unique, found 12 twice"),
    "duplicate port": (
        r'<port id="1" precision="FP32"',
        '<port id="0" precision="FP32"',
        "port ids that are unique",
    ),
    "edge from a missing layer": (r'from-layer="0"', 'from-layer="77"', "found no layer 77"),
    "edge from a missing port": (
        r'from-layer="0" from-port="0"',
        'from-layer="0" from-port="3"',
        "leaves port 3",
    ),
    "edge to a missing layer": (r'to-layer="5"', 'to-layer="77"', "found no layer 77"),
    "edge to a missing port": (r'to-layer="5" to-port="0"', 'to-layer="5" to-port="9"', "enters port 9"),
    "edge left out": (r'<edge from-layer="0".*/>', "", "expected an edge into port 0, found none"),
    "two results": (
        r"</layers>",
        '<layer id="99" name="r" type="Result" version="opset1"/></layers>',
        " expected one network output",
    ),
    "no result": (r'type="Result"', 'type="ReLU"', "expected one network output"),
    "two inputs": (r'type="ReLU"', 'type="Parameter"', "expected|second"),
    "name of two lines": (r'name="relu"', 'name="re&#10;lu"', "printable name"),
    "long name": (r'name="relu"', f'name="{"x" * 2000}"', "printable name"),
    "batch of 2": (r'shape="1,3,8,8"', 'shape="2,3,8,8"', "expected an input of shape"),
    "free height": (r'shape="1,3,8,8"', 'shape="1,3,?,8"', "states the output shape"),
    "broadcast unknown": (r'auto_broadcast="numpy"', 'auto_broadcast="pdpd"', "auto_broadcast must be"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_wrong_files_are_refused_by_name(tmp_path, mutation):
    pattern, replacement, message = MUTATIONS[mutation]
    form = "int8"
    text, count = re.subn(pattern, lambda _: replacement, TEXT[form], count=1)
    assert count >= 1, "the mutation does not apply"
    assert re.search(message, refusal(tmp_path, text)), refusal(tmp_path, text)


def test_a_second_edge_into_a_port_is_refused(tmp_path):
    edge = re.search(r'<edge from-layer="0".*/>\n', TEXT["int8"])[0]
    assert "expected one edge into port 0, found a second" in refusal(
        tmp_path, TEXT["int8"].replace(edge, edge * 2)
    )


def test_a_cycle_is_refused(tmp_path):
    relu = re.search(r'<edge from-layer="12" from-port="2" to-layer="13" to-port="0"/>', TEXT["int8"])[0]
    text = TEXT["int8"].replace(
        relu, relu.replace('from-layer="12" from-port="2"', 'from-layer="13" from-port="1"')
    )
    assert "without cycles" in refusal(tmp_path, text)


def test_missing_and_truncated_weights(tmp_path):
    assert "at offset" in refusal(tmp_path, TEXT["int8"], BINARY["int8"][:-1])
    assert "at offset" in refusal(tmp_path, TEXT["int8"], b"")
    (tmp_path / "m.bin").unlink()
    with pytest.raises(FormatError, match=r"m\.bin: expected the weights of m\.xml"):
        openvino_read.load(tmp_path / "m.xml")
    (tmp_path / "m.bin").mkdir()
    with pytest.raises(FormatError, match=r"m\.bin: expected a file, found a folder"):
        openvino_read.load(tmp_path / "m.xml")
    with pytest.raises(FileNotFoundError):
        openvino_read.load(tmp_path / "nothing.xml")


def with_ranges(low, high, output=None, levels: object = 256) -> Ir:
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), low, high, levels, output, name="codes")
    ir.result(ir.convolution(x, ir.weights(codes((2, 3, 1, 1)), scales(2))))
    return ir


def with_weights(w, low, high, output=None, levels: object = 255) -> Ir:
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    w = ir.fake_quantize(ir.constant(w), low, high, levels, output, name="weights")
    ir.result(ir.convolution(x, w, name="conv"))
    return ir


PER_CHANNEL = np.asarray([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
ONES = np.ones((2, 3, 1, 1), np.float32)
QUANTIZERS = {
    "NaN": (with_ranges(np.nan, 1.0), "must be finite"),
    "infinite": (with_ranges(0.0, np.inf), "must be finite"),
    "empty range": (with_ranges(1.0, 1.0), "input_low must be below input_high"),
    "reversed": (with_ranges(1.0, 0.0), "input_low must be below input_high"),
    "zero between codes": (with_ranges(-1.0, 1.0), "represent 0 exactly .* found zero point 127.5"),
    "zero outside": (with_ranges(1.0, 2.0), "represent 0 exactly"),
    "per channel": (
        with_ranges(-1.28 * PER_CHANNEL, 1.27 * PER_CHANNEL),
        "one output range for all channels",
    ),
    "five channels": (with_ranges(np.zeros((1, 5, 1, 1)), 1.0), "constant per channel or a single one"),
    "negative activation": (with_ranges(0.0, 2.55, (2.55, 0.0)), "represent 0|output_low must be below"),
    "empty": (with_ranges(np.zeros((1, 0, 1, 1)), 1.0), "1..67108864 elements|broadcast"),
    "weights NaN": (with_weights(ONES * np.nan, -1.0, 1.0), "expected finite weights"),
    "weights not around zero": (with_weights(ONES * 0, -1.0, 1.0, (-2.0, 1.0)), "represent 0 exactly"),
    "zero weights not zero": (with_weights(ONES * 0, -1.27, 1.27, (0.0, 2.54)), "zero weights to stay zero"),
    "weights per input": (with_weights(ONES, -PER_CHANNEL, PER_CHANNEL), "one per output channel"),
    "weights of another shape": (with_weights(ONES, -np.ones((5, 1, 1, 1)), 1.0), "broadcast"),
    "weights that grow": (with_weights(ONES[:1], -np.ones((5, 1, 1, 1)), 1.0), "ranges that broadcast to"),
}


@pytest.mark.parametrize("case", QUANTIZERS)
def test_quantizers_that_cannot_be_represented_are_refused(tmp_path, case):
    ir, message = QUANTIZERS[case]
    with pytest.raises(FormatError, match=message) as caught:
        openvino_read.load(ir.save(tmp_path))
    assert re.match(r".*m\.xml: layer \d+ '", str(caught.value))


def with_layer(
    kind: str, dims: tuple[int, ...], opset: str = "opset1", inputs=(), real: bool = False, **data
) -> Ir:
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    if real:
        x = ir.convolution(x, ir.weights(codes((3, 3, 1, 1)), scales(3)))
    constants = [
        ir.constant(value, "int64" if np.asarray(value).dtype.kind == "i" else "float32") for value in inputs
    ]
    x = ir.layer(kind, (x, *constants), [dims], data, opset, "layer")
    ir.result(x)
    return ir


def resize(**changed) -> dict:
    data = {
        "mode": "nearest",
        "shape_calculation_mode": "sizes",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return data | changed


LAYERS = {
    "cubic": (
        with_layer("Interpolate", (1, 3, 16, 16), "opset11", [[16, 16], [2, 3]], **resize(mode="cubic")),
        "expected mode 'nearest' or bilinear at the places of pixels, found 'cubic'",
    ),
    "linear of its own": (
        with_layer("Interpolate", (1, 3, 16, 16), "opset11", [[16, 16], [2, 3]], **resize(mode="linear")),
        "expected mode 'nearest' or bilinear at the places of pixels, found 'linear of triangles'",
    ),
    "linear, asymmetric": (
        with_layer(
            "Interpolate", (1, 3, 16, 16), "opset11", [[16, 16], [2, 3]], **resize(mode="linear_onnx")
        ),
        "expected a bilinear resize with half_pixel or align_corners, found 'asymmetric' from 8x8 to 16x16",
    ),
    "linear to a single pixel": (
        with_layer(
            "Interpolate",
            (1, 3, 16, 1),
            "opset11",
            [[16, 1], [2, 3]],
            **resize(mode="linear_onnx", coordinate_transformation_mode="pytorch_half_pixel"),
        ),
        "expected a bilinear resize with half_pixel or align_corners, found 'pytorch_half_pixel' from 8x8 to 16x1",
    ),
    "linear with antialias": (
        with_layer(
            "Interpolate",
            (1, 3, 4, 4),
            "opset11",
            [[4, 4], [2, 3]],
            **resize(mode="linear_onnx", coordinate_transformation_mode="half_pixel", antialias="true"),
        ),
        "expected a bilinear resize without antialias",
    ),
    "align corners": (
        with_layer(
            "Interpolate",
            (1, 3, 16, 16),
            "opset11",
            [[16, 16], [2, 3]],
            **resize(coordinate_transformation_mode="align_corners"),
        ),
        "reads pixel i",
    ),
    "half pixel by 3": (
        with_layer(
            "Interpolate",
            (1, 3, 2, 8),
            "opset11",
            [[2, 8], [2, 3]],
            **resize(coordinate_transformation_mode="half_pixel"),
        ),
        "reads pixel i",
    ),
    "scale to half a pixel": (
        with_layer(
            "Interpolate",
            (1, 3, 12, 12),
            "opset11",
            [[1.55, 1.5], [2, 3]],
            **resize(shape_calculation_mode="scales"),
        ),
        "whole size",
    ),
    "resized channels": (
        with_layer("Interpolate", (1, 6, 8, 8), "opset11", [[6, 8], [1, 2]], **resize()),
        "height and width",
    ),
    "resize padding": (
        with_layer(
            "Interpolate", (1, 3, 8, 8), "opset11", [[8, 8], [2, 3]], pads_begin="0,0,1,0", **resize()
        ),
        "without padding",
    ),
    "huge resize": (
        with_layer("Interpolate", (1, 3, 8, 8), "opset11", [[1 << 40, 8], [2, 3]], **resize()),
        "height and width",
    ),
    "overlapping average": (
        with_layer("AvgPool", (1, 3, 3, 3), kernel="4,4", strides="2,2"),
        "windows tile the map",
    ),
    "average of a part": (
        with_layer("AvgPool", (1, 3, 2, 2), kernel="3,3", strides="3,3"),
        "windows tile the map",
    ),
    "mean over channels": (
        with_layer("ReduceMean", (1, 1, 8, 8), inputs=[[1]], keep_dims="true"),
        "mean over height and width",
    ),
    "dilated pool": (
        with_layer("MaxPool", (1, 3, 4, 4), "opset8", kernel="2,2", strides="2,2", dilations="2,2"),
        "without dilation",
    ),
    "order twice": (
        with_layer("Transpose", (1, 3, 8, 8), inputs=[[0, 1, 1, 2]]),
        "expected an order of 4 axes",
    ),
    "reshape": (with_layer("Reshape", (1, 3, 64), inputs=[[1, 3, 64]]), "only adds or removes sizes of 1"),
    "per pixel": (
        with_layer("Add", (1, 3, 8, 8), real=True, inputs=[np.ones((8, 8))]),
        "constant per channel",
    ),
    "infinite bias": (with_layer("Add", (1, 3, 8, 8), real=True, inputs=[[np.inf]]), "finite constants"),
    "divided by 0": (with_layer("Divide", (1, 3, 8, 8), real=True, inputs=[[0.0]]), "divisor other than 0"),
    "clip at 6": (with_layer("Clamp", (1, 3, 8, 8), min="0", max="6"), "a clip that is a ReLU"),
    "variance": (
        with_layer(
            "BatchNormInference",
            (1, 3, 8, 8),
            "opset5",
            [[1.0] * 3, [1.0] * 3, [0.0] * 3, [-1.0] * 3],
            real=True,
            epsilon="1e-5",
        ),
        "variance",
    ),
    "odd slice": (
        with_layer(
            "StridedSlice",
            (1, 3, 3, 8),
            inputs=[[0, 0, 0, 0], [1, 3, 8, 8], [1, 1, 3, 1]],
            begin_mask="0,0,0,0",
            end_mask="0,0,0,0",
        ),
        "every k-th row",
    ),
    "top 2": (with_layer("TopK", (1, 2, 8, 8), "opset3", [2], axis="1", mode="max", sort="value"), "argmax"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_outside_the_engine_are_refused(tmp_path, case):
    ir, message = LAYERS[case]
    with pytest.raises(FormatError, match=message) as caught:
        openvino_read.load(ir.save(tmp_path))
    assert "m.xml: layer " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fractional_zero_points_of_weights_are_refused(tmp_path):
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    w = ir.layer(
        "Convert", [ir.constant(codes((2, 3, 1, 1)), "int8")], [(2, 3, 1, 1)], {"destination_type": "f32"}
    )
    w = ir.layer("Subtract", (w, ir.constant([[[[-18.3]]]])), [(2, 3, 1, 1)], name="zero")
    w = ir.layer("Multiply", (w, ir.constant(scales(2).reshape(2, 1, 1, 1))), [(2, 3, 1, 1)])
    ir.result(ir.convolution(x, w))
    with pytest.raises(FormatError, match=r"'zero': expected an integer zero point.*-18\.3"):
        openvino_read.load(ir.save(tmp_path))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.full((2, 3, 1, 1), np.nan), "'conv': expected finite weights"),
        (np.full((2, 3, 1, 1), np.inf), "'conv': expected finite weights"),
        (np.ones((2, 4, 1, 1)), "'conv': expected weights for 3 input channels"),
        (np.ones((2, 3, 9, 1)), "'conv': expected a kernel no larger than the padded map"),
        (np.ones((2, 3, 1)), r"'conv': expected weights of shape \(O, I, kh, kw\), found"),
    ],
)
def test_float_weights_that_no_layer_has(tmp_path, weights, message):
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    data = {"strides": "1,1", "dilations": "1,1", "pads_begin": "0,0", "pads_end": "0,0"}
    ir.result(ir.layer("Convolution", (x, ir.constant(weights)), [(1, 2, 8, 8)], data, name="conv"))
    with pytest.raises(FormatError, match=message):
        openvino_read.load(ir.save(tmp_path))


def test_plain_integer_weights_are_refused(tmp_path):
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    ir.result(ir.convolution(x, ir.constant(np.ones((2, 3, 1, 1)), "int8"), name="conv"))
    with pytest.raises(FormatError, match="'conv': expected float weights or quantized ones"):
        openvino_read.load(ir.save(tmp_path))


def test_constants_that_grow_are_bounded(tmp_path):
    """Twenty doublings of a concatenation would make 2**40 numbers."""
    ir = Ir()
    x = ir.constant(np.zeros(1 << 20), name="seed")
    for _ in range(20):
        x = ir.layer("Concat", (x, x), [ir.dims[x]], {"axis": 0})
    image = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    ir.result(ir.binary_operation("Add", image, x))
    text = re.sub(r"<dim>1048576</dim>", "<dim>-1</dim>", ir.text())
    assert "elements" in refusal(tmp_path, text, ir.binary)


def test_outer_products_of_constants_are_bounded(tmp_path):
    ir = Ir()
    x = ir.constant(np.ones((1, 1, 1, 20_000)))
    y = ir.constant(np.ones((1, 1, 20_000, 1)))
    z = ir.layer("Multiply", (x, y), [(1, 1, 20_000, 20_000)])
    image = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    ir.result(ir.binary_operation("Add", image, z))
    with pytest.raises(FormatError, match="elements"):
        openvino_read.load(ir.save(tmp_path))


def test_size_depth_and_number_of_layers_are_bounded(tmp_path):
    assert "depth" in refusal(
        tmp_path, TEXT["int8"].replace("<layers>", "<layers>" + "<a>" * 50 + "</a>" * 50)
    )
    assert "depth" in refusal(
        tmp_path, TEXT["int8"].replace("<edges>", "<rt_info>" * 50 + "</rt_info>" * 50 + "<edges>")
    )
    layers = "".join(
        f'<layer id="{100 + i}" name="n{i}" type="ReLU" version="opset1"/>' for i in range(MAX_NODES + 1)
    )
    assert "layers, found" in refusal(tmp_path, TEXT["int8"].replace("</layers>", layers + "</layers>"))


def test_deep_chains_do_not_exhaust_the_stack(tmp_path):
    ir = Ir()
    x = ir.fake_quantize(ir.parameter(), -1.28, 1.27)
    for _ in range(3000):
        x = ir.unary("ReLU", x)
    ir.result(x)
    assert len(openvino_read.load(ir.save(tmp_path)).ops) == 3002


def test_what_the_reader_must_ignore(tmp_path):
    """Comments, rt_info, unused layers of unknown kind, number lists of every style."""
    text = TEXT["int8"].replace("<edges>", "<!-- note --><rt_info><a><b value='1'/></a></rt_info><edges>")
    text = text.replace('strides="2,2"', 'strides=" 2, 2, "').replace('levels="256"', 'levels="256.0"')
    text = text.replace("</layers>", '<layer id="99" name="odd" type="Nothing" version="opset9"/></layers>')
    assert isinstance(openvino_read.load(write(tmp_path, text, BINARY["int8"])), Graph)


NASTY = (
    "0",
    "1",
    "-1",
    "2",
    "3",
    "255",
    "999999999999",
    "99999999999999999999999",
    "1e9",
    "nan",
    "",
    "?",
    "\u0663",
    "1_0",
)


def mutated(text: str, rng: random.Random) -> str:
    """A few random edits: numbers, lines, edges, pieces of text."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(7)
        lines = text.split("\n")
        if kind == 0:
            numbers = list(re.finditer(r"\d+", text))
            chosen = rng.choice(numbers)
            text = text[: chosen.start()] + rng.choice(NASTY) + text[chosen.end() :]
        elif kind == 1:
            lines.pop(rng.randrange(len(lines)))
            text = "\n".join(lines)
        elif kind == 2:
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = "\n".join(lines)
        elif kind == 3:
            types = re.findall(r'type="(\w+)"', text)
            chosen = rng.choice(list(re.finditer(r'type="(\w+)"', text)))
            text = text[: chosen.start(1)] + rng.choice(types) + text[chosen.end(1) :]
        elif kind == 4:
            start = rng.randrange(len(text))
            text = text[:start] + text[start + rng.randint(1, 30) :]
        elif kind == 5:
            numbers = list(re.finditer(r"\d+", text))
            one, other = rng.choice(numbers), rng.choice(numbers)
            text = text[: one.start()] + other[0] + text[one.end() :]
        else:
            attributes = list(re.finditer(r' \w+="[^"]*"', text))
            chosen = rng.choice(attributes)
            text = text[: chosen.start()] + text[chosen.end() :]
        if len(text) < 200:
            break
    return text


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), form=st.sampled_from(list(NETWORKS)))
def test_random_edits_give_a_graph_or_a_format_error(tmp_path, seed, form):
    text = mutated(TEXT[form], random.Random(seed))
    try:
        graph = openvino_read.load(write(tmp_path, text, BINARY[form]))
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(graph, Graph)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), form=st.sampled_from(list(NETWORKS)))
def test_random_bytes_of_weights_give_a_graph_or_a_format_error(tmp_path, seed, form):
    rng = random.Random(seed)
    binary = bytearray(BINARY[form])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(binary))
        special = [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", rng.randbytes(4)]
        binary[at : at + 4] = rng.choice(special)
    try:
        graph = openvino_read.load(write(tmp_path, TEXT[form], bytes(binary[: len(BINARY[form])])))
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(op.weight_scale).all() for op in graph.convolutions)


def test_random_edits_reach_both_outcomes(tmp_path):
    """The mutations are neither all harmless nor all fatal."""
    outcomes = set()
    for seed in range(40):
        try:
            openvino_read.load(write(tmp_path, mutated(TEXT["int8"], random.Random(seed)), BINARY["int8"]))
            outcomes.add("graph")
        except FormatError:
            outcomes.add("error")
    assert outcomes == {"graph", "error"}
