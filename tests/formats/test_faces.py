"""Types and axes that files declare for their own input and output, resizes of pictures inside them, BGR."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

openvino = pytest.importorskip("openvino", reason="needs openvino (extra reference)")

from engine import Net  # noqa: E402
from networks import random_picture  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet import formats  # noqa: E402
from sparse_icnet.formats.errors import FormatError  # noqa: E402
from sparse_icnet.image import enlarge  # noqa: E402
from sparse_icnet.network.bgr import for_rgb  # noqa: E402
from sparse_icnet.network.faces import Faces, InputFace, OutputFace, arranged, planar  # noqa: E402
from sparse_icnet.network.graph import Argmax, Graph, Normalization, Quantizer, Resize, Softmax  # noqa: E402
from sparse_icnet.reference import compare  # noqa: E402
from sparse_icnet.reference.oracle import Oracle  # noqa: E402

SIZE, PICTURE = (64, 96), (70, 90)
CORE = openvino.Core()
P = openvino.preprocess
AS_WRITTEN = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}


def network(tail: str = "softmax") -> Graph:
    net = Net(SIZE, Quantizer(0.02, 114))
    codes = net.codes(net.relu(net.convolution(net.image, 16, 3, 2)))
    logits = net.convolution(net.codes(net.relu(net.convolution(codes, 16, 3, 1))), 5)
    last = {"softmax": Softmax, "argmax": Argmax}[tail]("last", logits)
    return Graph((*net.ops, last, Resize("up", "last", SIZE)), "up")


def processed(folder, steps, graph=None, half=False):
    """The network as OpenVINO saves it behind the steps of its PrePostProcessor."""
    formats.save(graph or network(), folder / "plain.xml")
    processor = P.PrePostProcessor(CORE.read_model(folder / "plain.xml"))
    processor.input().model().set_layout(openvino.Layout("NCHW"))
    processor.output().model().set_layout(openvino.Layout("NCHW"))
    steps(processor)
    openvino.save_model(processor.build(), folder / "net.xml", compress_to_fp16=half)
    return folder / "net.xml"


def openvino_runs(path, blob):
    return CORE.compile_model(CORE.read_model(path), "CPU", AS_WRITTEN)(blob)[0]


def assert_close(found, expected):
    """Equal but for ties of a quantizer, which some pixels meet."""
    difference = np.abs(found.astype(np.float64) - expected)
    assert difference.max() < 0.03
    assert difference.mean() < 1e-3
    assert np.ptp(expected) > 0.2


def bytes_in_rows(processor):
    processor.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    processor.input().preprocess().convert_element_type(openvino.Type.f32).mean([99, 103, 105]).scale(
        [75, 77, 76]
    )


def half_in_rows(processor):
    processor.output().tensor().set_layout(openvino.Layout("NHWC")).set_element_type(openvino.Type.f16)


def both(processor):
    bytes_in_rows(processor)
    half_in_rows(processor)


def half_in(processor):
    processor.input().tensor().set_element_type(openvino.Type.f16)
    processor.input().preprocess().convert_element_type(openvino.Type.f32)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("steps", [bytes_in_rows, half_in_rows, both, half_in])
def test_types_and_axes_are_those_of_the_file(tmp_path, steps, half):
    path = processed(tmp_path, steps, half=half)
    net, picture = sparse_icnet.load(path, threads=1), random_picture(*SIZE)
    blob = net.blob(picture)
    expected = openvino_runs(path, blob)
    found = net(blob)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert_close(found, expected)
    if steps in (bytes_in_rows, both):
        assert (blob.dtype, blob.shape) == (np.uint8, (1, *SIZE, 3))
        np.testing.assert_array_equal(blob[0], picture)
    classes = net.segment(picture, smooth=False)
    rows = steps in (half_in_rows, both)
    disagreeing = np.mean(classes != found.argmax(3 if rows else 1)[0])
    assert (
        disagreeing < 0.01 if steps is half_in else disagreeing == 0
    )  # a picture is not rounded to half precision
    out = np.empty_like(found)
    assert net(blob, out=out) is out
    np.testing.assert_array_equal(out, found)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net))(blob), found)
    assert compare.verify(net.graph, [blob], threads=1).passed
    assert compare.verify(net.graph, [blob], "openvino", threads=1).passed
    with pytest.raises((TypeError, ValueError), match=f"a blob must be {blob.dtype} of shape"):
        net(np.zeros((1, 5, 5, 5), np.int8))


@pytest.mark.parametrize("dtype", ["f32", "u8"])
def test_pictures_resized_in_the_file_as_pillow_does(tmp_path, dtype):
    def steps(processor):
        tensor = processor.input().tensor()
        tensor.set_element_type(openvino.Type.u8).set_layout(
            openvino.Layout("NHWC")
        ).set_spatial_static_shape(*PICTURE)
        process = processor.input().preprocess()
        if dtype == "f32":
            process.convert_element_type(openvino.Type.f32)
        process.resize(P.ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
        process.convert_element_type(openvino.Type.f32).mean([99, 103, 105]).scale([75, 77, 76])

    path = processed(tmp_path, steps)
    net, picture = sparse_icnet.load(path, threads=1), random_picture(*PICTURE)
    assert net.size == SIZE
    blob = net.blob(picture)
    np.testing.assert_array_equal(blob, picture[None])
    found, expected = net(blob), openvino_runs(path, blob)
    assert_close(found, expected)
    if dtype == "u8":  # and so `segment` computes just what the file does
        classes = enlarge(found.argmax(1)[0].astype(np.uint8), SIZE, PICTURE)
        np.testing.assert_array_equal(net.segment(picture, smooth=False), classes)
    assert compare.verify(net.graph, [blob], "openvino", threads=1).passed
    for suffix in (".npz", ".xml"):
        formats.save(net.graph, tmp_path / f"again{suffix}")
        again = sparse_icnet.load(tmp_path / f"again{suffix}", threads=1)
        np.testing.assert_array_equal(again(blob), found)
    with pytest.raises(FormatError, match="cannot be written as ONNX"):
        formats.save(net.graph, tmp_path / "again.onnx")


@pytest.mark.parametrize("kind", ["RESIZE_LINEAR", "RESIZE_BILINEAR_PILLOW", "RESIZE_NEAREST"])
def test_pictures_of_any_size_are_resized_by_pillow(tmp_path, kind):
    def steps(processor):
        tensor = processor.input().tensor()
        tensor.set_element_type(openvino.Type.u8).set_layout(
            openvino.Layout("NHWC")
        ).set_spatial_dynamic_shape()
        process = processor.input().preprocess().resize(getattr(P.ResizeAlgorithm, kind))
        process.convert_element_type(openvino.Type.f32).mean([99, 103, 105]).scale([75, 77, 76])

    path = processed(tmp_path, steps)
    net, picture = sparse_icnet.load(path, threads=1), random_picture(*SIZE)
    assert (net.size, net.graph.size_is_free) == (SIZE, False)
    assert "pictures of any size are resized by Pillow" in net.meta.notes
    blob = net.blob(picture)
    assert_close(net(blob), openvino_runs(path, blob))


@pytest.mark.parametrize("kind", ["RESIZE_LINEAR", "RESIZE_CUBIC"])
def test_another_resize_of_pictures_is_refused(tmp_path, kind):
    def steps(processor):
        processor.input().tensor().set_spatial_static_shape(*PICTURE)
        processor.input().preprocess().resize(getattr(P.ResizeAlgorithm, kind))

    with pytest.raises(
        FormatError, match=r"found a resize .* from 70x90 to 64x96 inside the file: save the model"
    ):
        sparse_icnet.load(processed(tmp_path, steps))


@pytest.mark.parametrize("suffix", [".npz", ".xml", ".onnx"])
@pytest.mark.parametrize("tail", ["softmax", "argmax"])
def test_every_format_keeps_them(tmp_path, suffix, tail):
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="needs onnx (extra peers)")
    graph = network(tail)
    real = (OutputFace("float16", "NHWC"), OutputFace("", "CHW"), OutputFace("float64"))
    classes = (OutputFace("int64", "NHW"), OutputFace("int32", "NHW1"), OutputFace("uint16", "HW"))
    inputs = (InputFace("uint8", "NHWC"), InputFace("float16", bgr=True), InputFace("int32"))
    picture = random_picture(*SIZE)
    for given, taken in zip(real if tail == "softmax" else classes, inputs, strict=True):
        pixels = Normalization(1, (0,) * 3, (1,) * 3) if taken.takes_bytes else graph.normalization
        faced = Graph(graph.ops, graph.output, pixels, faces=Faces(taken, given))
        formats.save(faced, tmp_path / f"net{suffix}")
        again = sparse_icnet.load(tmp_path / f"net{suffix}", threads=1, bgr=taken.bgr and suffix != ".npz")
        assert again.graph.faces == faced.faces
        own = sparse_icnet.Model(faced, threads=1)
        blob = again.blob(picture)
        assert (blob.dtype, blob.shape) == (taken.dtype, own.blob(picture).shape)
        np.testing.assert_array_equal(again(blob), own(blob))
        assert again(blob).dtype == np.dtype(given.dtype or np.float32)
        np.testing.assert_array_equal(again.segment(picture), own.segment(picture))
        if suffix == ".xml":
            assert compare.verify(faced, [blob], "openvino", threads=1).passed
        if suffix == ".onnx":
            pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra peers)")
            assert compare.verify(faced, [blob], "onnxruntime", threads=1).passed


def test_a_file_that_expects_blue_green_red(tmp_path):
    grey = Normalization(255, (0.4,) * 3, (0.3,) * 3)
    graph, picture = replace(network(), normalization=grey), random_picture(*SIZE)
    formats.save(graph, tmp_path / "net.npz")
    rgb = sparse_icnet.load(tmp_path / "net.npz", threads=1)
    bgr = sparse_icnet.load(tmp_path / "net.npz", threads=1, bgr=True)
    np.testing.assert_array_equal(bgr.segment(picture), rgb.segment(picture[..., ::-1]))
    blob = rgb.blob(picture)
    np.testing.assert_array_equal(bgr(blob), rgb(blob))  # the order of the file
    np.testing.assert_array_equal(bgr(bgr.blob(picture)), bgr.probabilities(picture)[None])
    assert pickle.loads(pickle.dumps(bgr)).graph.faces.input.bgr
    formats.save(bgr.graph, tmp_path / "bgr.npz")
    for said in (False, True):  # the file says it, so saying it once more changes nothing
        again = sparse_icnet.load(tmp_path / "bgr.npz", threads=1, bgr=said)
        np.testing.assert_array_equal(again.segment(picture), bgr.segment(picture))
    assert for_rgb(for_rgb(graph)).faces == graph.faces
    with_scales = Net(SIZE, affine=True)
    codes = with_scales.codes(with_scales.convolution(with_scales.image, 4))
    scaled = with_scales.classify(codes, classes=5)
    blob = np.random.default_rng(0).standard_normal((3, *SIZE)).astype(np.float32)
    np.testing.assert_array_equal(
        Oracle(for_rgb(scaled), blob[::-1].copy()).output(), Oracle(scaled, blob).output()
    )


@pytest.mark.parametrize("axes", ["NCHW", "NHWC", "NHW", "HW", "N1HW1", "WH1"])
def test_axes_there_and_back(axes):
    shape = (3, 4, 5) if "C" in axes else (1, 4, 5)
    values = np.arange(np.prod(shape)).reshape(shape)
    moved = arranged(values, axes)
    assert [size for size in moved.shape if size > 1] == [
        dict(zip("CHW", shape, strict=True))[a] for a in axes if a in "CHW"
    ]
    np.testing.assert_array_equal(planar(moved, axes), values)


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        (lambda: InputFace("int8"), "dtype: expected one of"),
        (lambda: InputFace(axes="NCHC"), "axes: expected N first"),
        (lambda: InputFace(axes="CNHW"), "axes: expected N first"),
        (lambda: InputFace(picture=(0, 5)), "picture: expected"),
        (lambda: OutputFace("bool"), "dtype: expected one of"),
        (
            lambda: Graph(network().ops, "up", faces=Faces(InputFace(axes="NHW"))),
            "expected an axis C, of size 3",
        ),
        (
            lambda: Graph(network().ops, "up", faces=Faces(output=OutputFace("uint8"))),
            "for real values, found uint8",
        ),
    ],
)
def test_what_no_file_has_is_refused(faces, message):
    with pytest.raises(ValueError, match=message):
        faces()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda faces: faces.pop("output"), "must have the fields"),
        (lambda faces: faces["input"].update(dtype="complex64"), "faces: dtype: expected one of"),
        (lambda faces: faces["input"].update(axes=["N"]), "axes must be a string"),
        (lambda faces: faces["input"].update(axes="NHW"), "expected an axis C, of size 3"),
        (lambda faces: faces["input"].update(bgr=1), "bgr must be true or false"),
        (lambda faces: faces["input"].update(picture=[1 << 20, 1]), "picture: expected"),
        (lambda faces: faces["input"].update(picture=[1, 2, 3]), "picture must be 2 integers"),
        (lambda faces: faces["input"].update(more=1), "must have the fields"),
        (lambda faces: faces["output"].update(dtype="int64"), "for real values, found int64"),
    ],
)
def test_damaged_faces_of_a_native_file_are_refused(tmp_path, change, message):
    graph = replace(network(), faces=Faces(InputFace("uint8", "NHWC"), OutputFace("float16")))
    formats.save(graph, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as archive:
        members = dict(archive)
    document = json.loads(members["graph"].tobytes())
    change(document["faces"])
    members["graph"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    np.savez(tmp_path / "net.npz", **members)
    with pytest.raises(FormatError, match=message):
        formats.load(tmp_path / "net.npz")


def test_batches_and_results_of_the_callers(tmp_path):
    net = sparse_icnet.Model(
        replace(network("argmax"), faces=Faces(InputFace("uint8", "NHWC"), OutputFace("int64", "NHW"))),
        threads=1,
    )
    pair = np.stack([random_picture(*SIZE), random_picture(*SIZE, seed=1)])
    found = net(pair)
    assert (found.dtype, found.shape) == (np.int64, (2, *SIZE))
    np.testing.assert_array_equal(found[1], net(pair[1:])[0])
    with pytest.raises(TypeError, match="out must be a int64 array"):
        net(pair, out=np.empty((2, *SIZE), np.uint8))
    alone = sparse_icnet.Model(
        replace(network("argmax"), faces=Faces(output=OutputFace("uint8", "HW"))), threads=1
    )
    blob = alone.blob(pair[0])
    assert alone(blob).shape == SIZE
    assert alone(blob, out=np.empty(SIZE, np.uint8)).shape == SIZE
    with pytest.raises(ValueError, match=r"expected one blob, .* found 2"):
        alone(np.concatenate([blob, blob]))


def test_probabilities_of_half_precision_are_verified():
    whole = network()
    graph = Graph(whole.ops[:-1], "last", faces=Faces(output=OutputFace("float16")))
    blob = np.random.default_rng(2).standard_normal((1, 3, *SIZE)).astype(np.float32)
    report = compare.verify(graph, [blob], "openvino", threads=1)
    assert report.passed, report
