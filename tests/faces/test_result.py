"""`Model.predict` and what its `Result` gives."""

from __future__ import annotations

import io
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from networks import random_picture
from PIL import Image

from sparse_icnet import CLASSES, Model, Result, render, result
from sparse_icnet.image import ImageError, fitted
from sparse_icnet.network.bilinear import bilinear
from sparse_icnet.network.graph import Bilinear, Graph, Softmax

SIZE = (192, 192)


@pytest.fixture(scope="module")
def picture():
    return random_picture(100, 150, seed=4)


@pytest.fixture(scope="module")
def found(tiny_net, picture) -> Result:
    return tiny_net.predict(picture)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", [SIZE, (100, 150), (1, 1), (3, 700)])
def test_classes_and_logits_are_those_of_the_engine(tiny_net, size, smooth):
    picture = random_picture(*size, seed=4)
    found = tiny_net.predict(picture, smooth)
    assert found.smooth == smooth
    assert found.classes.dtype == np.uint8
    assert found.classes.shape == found.size == size
    assert np.array_equal(found.classes, tiny_net.segment(picture, smooth))
    assert np.array_equal(found.logits, tiny_net.session.logits_of_image(fitted(picture, SIZE)[0]))
    if size == SIZE:
        assert len(np.unique(found.classes)) > 3


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("smooth", [True, False])
def test_networks_with_a_bilinear_upsampling_of_their_own(tiny_graph, align_corners, smooth):
    ops = [op for op in tiny_graph if not isinstance(op, Softmax) and op.name != "logits_up"]
    ops += [Bilinear("up", "conv6_cls", SIZE, align_corners), Softmax("probabilities", "up")]
    net = Model(Graph(tuple(ops), "probabilities"), threads=1)
    assert net.plan.upsampling is not None
    picture = random_picture(100, 150, seed=4)
    found = net.predict(picture, smooth)
    assert np.array_equal(found.classes, net.segment(picture, smooth))
    probabilities = found.probabilities()
    own = np.take_along_axis(probabilities, found.classes[None].astype(np.intp), 0)[0]
    assert np.abs(own - probabilities.max(0)).max() < 1e-6
    whole = random_picture(*SIZE, seed=5)
    assert np.abs(net.predict(whole, smooth).probabilities() - net.probabilities(whole)).max() < 1e-5


def test_the_network_runs_once(tiny_net, picture, monkeypatch):
    session, runs = tiny_net.session, []
    launch = type(session)._launch
    monkeypatch.setattr(
        type(session), "_launch", lambda self, *arguments: runs.append(1) or launch(self, *arguments)
    )
    found = tiny_net.predict(picture)
    found.confidence, found.probabilities(), found.shares, found.overlay()
    assert len(runs) == 1


@pytest.mark.parametrize("size", [SIZE, (100, 150), (37, 53), (1, 1), (400, 90)])
@pytest.mark.parametrize("smooth", [True, False])
def test_probabilities_confidence_and_classes_agree(tiny_net, size, smooth, monkeypatch):
    found = tiny_net.predict(random_picture(*size, seed=2), smooth)
    probabilities = found.probabilities()
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (12, *size)
    assert np.abs(probabilities.sum(0) - 1).max() < 1e-5
    confidence = found.confidence
    assert confidence.dtype == np.float32
    assert confidence.shape == size
    assert np.abs(confidence - probabilities.max(0)).max() < 1e-6
    own = np.take_along_axis(probabilities, found.classes[None].astype(np.intp), 0)[0]
    assert np.abs(own - confidence).max() < 1e-6
    assert found.mean_confidence == pytest.approx(confidence.mean(), abs=1e-6)
    half = found.probabilities(np.float16)
    assert half.dtype == np.float16
    assert np.abs(half - probabilities).max() < 1e-3
    with pytest.raises(ValueError, match=r"expected np\.float32 or np\.float16"):
        found.probabilities(np.float64)
    for rows in (1, 7, 1000):  # however many rows at a time: the same bits
        monkeypatch.setattr(result, "_CHUNK", 1)
        monkeypatch.setattr(result, "_LEAST_ROWS", rows)
        assert np.array_equal(found.probabilities(), probabilities)


def test_blocks_have_the_probabilities_of_the_network(tiny_net):
    """At the network's own size, without interpolation, they are those of the model card."""
    picture = random_picture(*SIZE, seed=3)
    found = tiny_net.predict(picture, smooth=False)
    assert np.abs(found.probabilities() - tiny_net.probabilities(picture)).max() < 1e-5


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(100, 150), (1, 1), (33, 7), (500, 24)])
def test_interpolation_is_that_of_the_oracle(found, size, align_corners):
    """(Q11), bit for bit."""
    image = Image.fromarray(random_picture(*size))
    other = replace(found, image=image, classes=np.zeros(size, np.uint8), align_corners=align_corners)
    bands = np.concatenate([band for _, band in other._bands()], 1)
    assert np.array_equal(bands, bilinear(found.logits, size, align_corners))


def test_interpolation_in_float64(tiny_net, picture):
    """(Q11) written anew: half-pixel centres, edges clamped."""
    found = tiny_net.predict(picture)
    logits = found.logits.astype(np.float64)
    points = []
    for length, count in zip((100, 150), logits.shape[1:], strict=True):
        place = ((np.arange(length) + 0.5) * count / length - 0.5).clip(0, count - 1)
        points.append((place.astype(int), np.minimum(place.astype(int) + 1, count - 1), place % 1))
    (up, down, y), (left, right, x) = points
    rows = logits[:, up] * (1 - y)[:, None] + logits[:, down] * y[:, None]
    values = rows[:, :, left] * (1 - x) + rows[:, :, right] * x
    values = np.exp(values - values.max(0))
    assert np.abs(found.probabilities() - values / values.sum(0)).max() < 1e-5


def test_shares(found):
    assert list(found.shares) == list(CLASSES) == list(found.class_names)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["road"] == (found.classes == CLASSES.index("road")).mean()
    largest = max(found.shares, key=found.shares.get)
    assert found.summary().startswith(f"{largest} ")


def test_frozen_and_short(found):
    with pytest.raises(FrozenInstanceError):
        found.classes = None
    assert repr(found) == f"Result('image array', 100x150, {found.summary()})"
    assert len(repr(found)) < 200


def test_a_list_gives_a_list(tiny_net, picture, tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(picture).save(path)
    several = tiny_net.predict([path, picture, path.read_bytes()])
    assert isinstance(several, list)
    assert several[0].name == str(path)
    assert several[1].name == "image array 1"
    assert all(np.array_equal(one.classes, several[0].classes) for one in several)
    with pytest.raises(ImageError, match="image array 1: expected shape"):
        tiny_net.predict([picture, picture[0, 0]])


def test_the_picture_of_a_result_is_upright_and_plain(tiny_net, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(picture).save(path, exif=exif)
    found = tiny_net.predict(path)
    assert found.image.size == (100, 150)
    assert found.classes.shape == (150, 100)
    assert found.image.info == {}


def test_overlay(found, picture):
    plain = found.overlay(legend=False, alpha=0.3)
    expected = render.overlay(Image.fromarray(picture), found.classes, alpha=0.3)
    assert np.array_equal(np.asarray(plain), np.asarray(expected))
    with_legend = found.overlay(alpha=0.3)
    assert with_legend.width > 150
    assert np.array_equal(np.asarray(with_legend)[:100, :150], np.asarray(expected))
    other = found.overlay(legend=False, alpha=1, palette="colour-blind")
    assert np.array_equal(np.asarray(other), render.palette("colour-blind")[found.classes])
    both = np.asarray(found.side_by_side(legend=False, alpha=0.3))
    assert np.array_equal(both[:, :150], picture)
    assert np.array_equal(both[:, -150:], np.asarray(expected))


@pytest.mark.parametrize("name", ["classes.png", "confidence.png", "overlay.png", "side-by-side.png"])
def test_save_pictures(found, tmp_path, name):
    path = tmp_path / name
    found.save(path, path.stem)
    expected = {
        "classes": found.class_image,
        "confidence": found.confidence_image,
        "overlay": found.overlay,
        "side-by-side": found.side_by_side,
    }[path.stem]()
    with Image.open(path) as read:
        assert read.mode == expected.mode
        assert np.array_equal(np.asarray(read), np.asarray(expected))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_save_arrays_and_other_formats(found, tmp_path):
    arrays = {
        "classes": found.classes,
        "confidence": found.confidence,
        "probabilities": found.probabilities(),
    }
    for kind, array in arrays.items():
        found.save(tmp_path / f"{kind}.npy", kind)
        read = np.load(tmp_path / f"{kind}.npy")
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
    for suffix in (".jpg", ".webp", ".TIF", ".bmp"):
        found.save(tmp_path / f"o{suffix}", legend=False)
        with Image.open(tmp_path / f"o{suffix}") as read:
            assert read.size == (150, 100)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.png", "overlays", "expected one of classes, overlay, .*, found 'overlays'"),
        ("a.jpg", "classes", "expected a name that ends in .bmp, .png, .tif, .tiff, .npy for classes, found"),
        ("a.npy", "overlay", "for overlay, found '.npy'"),
        ("a.png", "probabilities", "ends in .npy for probabilities, found '.png'"),
        ("a", "overlay", "found 'none'"),
    ],
)
def test_save_refuses(found, tmp_path, name, kind, message):
    with pytest.raises(ValueError, match=message):
        found.save(tmp_path / name, kind)
    assert not list(tmp_path.iterdir())


def test_notebooks(found):
    with Image.open(io.BytesIO(found._repr_png_())) as read:
        assert read.format == "PNG"
        assert np.array_equal(np.asarray(read), np.asarray(found.overlay()))
    text = found._repr_html_()
    assert "data:image/png;base64," in text
    assert found.summary() in text


def test_notebooks_escape_names_and_bound_sizes(tiny_net):
    found = tiny_net.predict(random_picture(1500, 2000))
    with Image.open(io.BytesIO(found._repr_png_())) as read:
        assert read.width <= 1280
        assert read.height <= 960
    hostile = Result(
        found.image, found.classes, found.class_names, found.logits, True, found.network, "<script>&\"'"
    )
    assert "<script>" not in hostile._repr_html_()


def test_results_travel(found):
    other = pickle.loads(pickle.dumps(found))
    assert np.array_equal(other.classes, found.classes)
    assert np.array_equal(other.confidence, found.confidence)
    assert other.shares == found.shares
