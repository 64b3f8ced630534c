"""Pictures in and out."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import random_picture
from PIL import Image

from sparse_icnet import CLASSES, PALETTE, image
from sparse_icnet.files import replacing


def test_array_path_and_picture_give_the_same_pixels(tmp_path):
    pixels = random_picture(13, 17)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    for source in (pixels, path, str(path), Image.open(path)):
        assert np.array_equal(np.asarray(image.to_rgb(source)), pixels)


def test_array_of_another_layout_in_memory():
    pixels = random_picture(8, 12)
    assert np.array_equal(np.asarray(image.to_rgb(pixels[::-1, ::2])), pixels[::-1, ::2])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa"]
)
def test_every_mode_becomes_rgb(mode):
    grey = Image.new("L", (5, 4), 255)
    if mode in ("La", "RGBa"):
        picture = grey.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode == "LAB":
        picture = Image.new("LAB", (5, 4), (255, 128, 128))
    else:
        picture = grey.convert("P").convert(mode) if mode == "PA" else grey.convert(mode)
    assert picture.mode == mode
    result = image.to_rgb(picture)
    assert result.mode == "RGB"
    assert np.asarray(result).min() >= 254


def test_palette_and_transparency_give_the_colours_behind():
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.info["transparency"] = 0
    assert np.asarray(image.to_rgb(picture)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    clear = Image.new("RGBA", (1, 1), (1, 2, 3, 0))
    assert np.asarray(image.to_rgb(clear)).tolist() == [[[1, 2, 3]]]


def test_sixteen_bit_grey_keeps_the_upper_byte(tmp_path):
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    assert np.asarray(image.to_rgb(path))[..., 0].tolist() == [[0, 0, 1, 0x12, 0xFF]]


def test_float_pixels_are_refused():
    with pytest.raises(image.ImageError, match="float pixels"):
        image.to_rgb(Image.new("F", (4, 4)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """A file as a camera writes it, turned by its tag, gives the upright picture."""
    upright = Image.fromarray(random_picture(6, 9))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "camera.png"
    stored.save(path, exif=exif)
    assert np.array_equal(np.asarray(image.to_rgb(path)), np.asarray(upright))


def test_first_frame_of_several(tmp_path):
    path = tmp_path / "film.gif"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.asarray(image.to_rgb(path))[0, 0].tolist() == [255, 0, 0]


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("RGB", (20, 11)).save(path)
    monkeypatch.setattr(image, "MAX_PIXELS", 219)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(image.ImageError, match="expected 1 to 219 pixels, found 20 x 11"):
        image.to_rgb(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "gif"])
def test_truncated_and_scrambled_files(tmp_path, suffix):
    """Any damage is an ImageError that names the file, never another exception."""
    path = tmp_path / f"broken.{suffix}"
    Image.fromarray(random_picture(40, 50)).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    errors = []
    for case in range(60):
        damaged = bytearray(data[: rng.integers(0, len(data))] if case % 2 else data)
        for place in rng.integers(0, max(len(damaged), 1), 8 if damaged and case % 3 else 0):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow mentions some damage that it can live with
                image.to_rgb(path)
        except image.ImageError as error:
            errors.append(str(error))
    assert len(errors) > 10
    for error in errors:
        assert str(path) in error
        assert "\n" not in error


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        image.to_rgb(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "uint8, found float32"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(height, width, 3\), found \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"found \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"found \(0, 4, 3\)"),
        (7, TypeError, "path, a PIL image or a uint8 array, found int"),
        (None, TypeError, "found NoneType"),
    ],
)
def test_wrong_types_and_shapes(source, error, message):
    with pytest.raises(error, match=message):
        image.to_rgb(source)


def test_fit_is_pillows_bilinear():
    picture = Image.fromarray(random_picture(50, 70))
    fitted = image.fit(picture, (32, 48))
    assert fitted.shape == (32, 48, 3)
    assert np.array_equal(fitted, np.asarray(picture.resize((48, 32), Image.Resampling.BILINEAR)))
    assert np.array_equal(image.fit(picture, (50, 70)), np.asarray(picture))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 8), st.integers(1, 60), st.integers(1, 60))
def test_enlarge_is_repeat_then_pillows_nearest(rows, columns, factor, height, width):
    small = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns)
    full = small.repeat(factor, 0).repeat(factor, 1)
    expected = np.asarray(Image.fromarray(full).resize((width, height), Image.Resampling.NEAREST))
    found = image.enlarge(small, full.shape, (height, width))
    # A centre exactly between two pixels belongs to the later one; Pillow's float steps may err there.
    rows, columns = (
        (2 * np.arange(length) + 1) * before % (2 * length) != 0
        for length, before in zip((height, width), full.shape, strict=True)
    )
    assert found.shape == expected.shape
    assert np.array_equal(found[rows][:, columns], expected[rows][:, columns])


def test_class_image_holds_indices_and_colours(tmp_path):
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path / "map.png"
    image.save_png(image.class_image(classes), path)
    with Image.open(path) as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), classes)
        assert [tuple(colour) for colour in np.asarray(read.convert("RGB")).reshape(-1, 3)] == list(PALETTE)


@pytest.mark.parametrize("count", [1, 2, 12, 13, 256])
def test_palette_colours_differ(count):
    colours = image.palette(count)
    assert colours.shape == (count, 3)
    assert [tuple(c) for c in colours[: len(CLASSES)].tolist()] == list(PALETTE[:count])
    assert len({tuple(c) for c in colours.tolist()[:40]}) == min(count, 40)


def test_overlay_blends():
    classes = np.full((2, 2), 3, np.uint8)
    result = np.asarray(image.overlay(Image.new("RGB", (2, 2), (0, 0, 0)), classes, opacity=0.5))
    assert np.abs(result.astype(int) - np.array(PALETTE[3]) / 2).max() <= 1


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_fitted_takes_an_array_of_the_right_size_as_it_is():
    pixels = random_picture(32, 48)
    found, size = image.fitted(pixels, (32, 48))
    assert found is pixels
    assert size == (32, 48)
    for source in (pixels, Image.fromarray(pixels)):
        for target in ((32, 48), (16, 24)):
            found, size = image.fitted(source, target)
            assert np.array_equal(found, image.fit(Image.fromarray(pixels), target))
            assert size == (32, 48)


@pytest.mark.parametrize("shape", [(32, 48), (32, 48, 4)])
def test_fitted_checks_arrays_of_the_right_size(shape):
    with pytest.raises(ValueError, match=r"\(height, width, 3\)"):
        image.fitted(np.zeros(shape, np.uint8), (32, 48))
    with pytest.raises(TypeError, match="uint8, found float32"):
        image.fitted(np.zeros((32, 48, 3), np.float32), (32, 48))
