"""Pictures in and out."""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import random_picture
from PIL import Image

from sparse_icnet import image
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


def test_sixteen_bit_grey_in_bands(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 1 << 16, (23, 17), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    for pixels in (1, 17, 40, 1000):
        monkeypatch.setattr(image, "_BAND", pixels)
        assert np.array_equal(np.asarray(image.to_rgb(tmp_path / "deep.png"))[..., 1], values >> 8)


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


def test_no_picture_runs_another_program(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    path = tmp_path / "photo.jpg"
    path.write_bytes(file.getvalue())
    with Image.open(path) as opened:
        assert opened.format == "EPS"
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(image.ImageError, match=r"photo\.jpg: expected a picture that Pillow can read"):
        image.to_rgb(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        image.to_rgb(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "image array: expected uint8, found float32"),
        (np.zeros((4,), np.uint8), ValueError, r"expected shape .*, found \(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"found \(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"found \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "expected 1 to 134217728 pixels, found 4 x 0"),
        (7, TypeError, "image: expected a path, bytes, .* or a uint8 array, found int"),
        (None, TypeError, "found NoneType"),
        (io.StringIO("x"), TypeError, "binary mode, found one in text mode"),
        (b"", ValueError, "image of 0 bytes: expected a picture that Pillow can read, found none"),
        (io.BytesIO(b"GIF89a"), ValueError, "image: expected a picture that Pillow can read"),
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


def test_fitted_checks_arrays_of_the_right_size():
    grey = random_picture(32, 48)[..., 0]
    found, _ = image.fitted(grey, (32, 48))
    assert np.array_equal(found, np.stack([grey] * 3, 2))
    with pytest.raises(TypeError, match="uint8, found float32"):
        image.fitted(np.zeros((32, 48, 3), np.float32), (32, 48))
    with pytest.raises(image.ImageError, match="the third: expected shape"):
        image.fitted(np.zeros((32, 48, 5), np.uint8), (32, 48), "the third")


def test_bytes_and_file_objects(tmp_path):
    pixels = random_picture(13, 17)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    stream = io.BytesIO(data)
    stream.seek(7)  # read from its beginning all the same
    for source in (data, bytearray(data), memoryview(data), stream):
        assert np.array_equal(np.asarray(image.to_rgb(source)), pixels)
    assert not stream.closed
    with open(path, "rb") as file:
        assert np.array_equal(np.asarray(image.to_rgb(file)), pixels)
        assert not file.closed
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb") as other:
        other.write(data)
        other.close()
        assert np.array_equal(np.asarray(image.to_rgb(file)), pixels)


def test_errors_name_a_file_object(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    with open(path, "rb") as file, pytest.raises(image.ImageError, match=r"broken\.png: expected a picture"):
        image.to_rgb(file)


def test_arrays_of_every_kind():
    pixels = random_picture(8, 12)
    grey = pixels[..., 1]
    clear = np.concatenate([pixels, np.zeros((8, 12, 1), np.uint8)], 2)
    assert np.array_equal(np.asarray(image.to_rgb(grey)), np.stack([grey] * 3, 2))
    assert np.array_equal(np.asarray(image.to_rgb(grey[..., None])), np.stack([grey] * 3, 2))
    assert np.array_equal(np.asarray(image.to_rgb(clear)), pixels)


def jpeg_with_exif(exif: bytes) -> bytes:
    """A JPEG whose EXIF block holds `exif`, whatever that is."""
    file = io.BytesIO()
    Image.fromarray(random_picture(16, 24)).save(file, "JPEG", exif=b"Exif\0\0" + exif)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "exif",
    [
        b"not a TIFF header at all",
        b"II*\0",
        b"II*\0\xff\xff\xff\x7f",
        b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x02\xff\xff\xff\xff\0\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0",  # orientation "x"
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x2a\0\0\0\0\0\0\0",  # orientation 42
    ],
)
def test_exif_that_cannot_be_parsed_counts_as_none(tmp_path, suffix, exif):
    pixels = random_picture(16, 24)
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0" + exif)
    picture = image.to_rgb(path)
    assert picture.size == (24, 16)
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(picture), np.asarray(opened.convert("RGB")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@given(st.binary(max_size=80), st.booleans())
def test_any_exif_gives_a_picture(data, header):
    """Whatever the EXIF block holds, the picture comes out plain: RGB, class Image, nothing attached."""
    picture = image.to_rgb(jpeg_with_exif(b"II*\0\x08\0\0\0" * header + data))
    assert type(picture) is Image.Image
    assert sorted(picture.size) == [16, 24]
    assert picture.info == {}
    assert not picture.getexif()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_turned_tiff_is_turned_once(tmp_path, compression):
    upright = Image.fromarray(random_picture(6, 9))
    path = tmp_path / "turned.tif"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, tiffinfo={0x0112: 6}, compression=compression)
    assert np.array_equal(np.asarray(image.to_rgb(path)), np.asarray(upright))
    with Image.open(path) as opened:
        opened.load()
        assert np.array_equal(np.asarray(image.to_rgb(opened)), np.asarray(upright))


def test_the_callers_picture_stays_as_it_was():
    picture = Image.fromarray(random_picture(6, 9))
    picture.info["note"] = "kept"
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.info["exif"] = exif.tobytes()
    result = image.to_rgb(picture)
    assert result.size == (6, 9)
    assert picture.size == (9, 6)
    assert picture.info["note"] == "kept"
    assert result.info == {}
    plain = Image.fromarray(random_picture(6, 9))
    image.to_rgb(plain).putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(plain), random_picture(6, 9))


@pytest.mark.parametrize("place", ["load", "convert", "transpose"])
@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), ZeroDivisionError(), SyntaxError("x")]
)
def test_whatever_a_picture_raises_is_an_image_error(monkeypatch, place, error):
    def fail(*_, **__):
        raise error

    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = jpeg_with_exif(exif)
    monkeypatch.setattr(Image.Image, place, fail)
    with pytest.raises(image.ImageError, match="street: the picture is damaged"):
        image.to_rgb(data, "street")


@pytest.mark.parametrize("suffix", sorted(image.SUFFIXES - {".apng", ".jpc", ".j2c", ".avifs"}))
def test_every_suffix_is_of_a_format_that_pillow_reads(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    if Image.registered_extensions()[suffix] not in Image.SAVE:
        pytest.skip("this Pillow reads the format, and does not write it")
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    Image.fromarray(random_picture(32, 32)).convert(mode).save(path)
    assert image.to_rgb(path).size == (32, 32)


def test_suffixes_name_what_cameras_and_screens_write():
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".mpo", ".tiff"} <= image.SUFFIXES
    assert all(suffix == suffix.lower() for suffix in image.SUFFIXES)
    assert set(Image.registered_extensions()) >= image.SUFFIXES


COLOURS = [(255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 0)]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_frames_of_an_animation(tmp_path, suffix):
    path = tmp_path / f"film.{suffix}"
    pictures = [Image.new("RGB", (16, 8), colour) for colour in COLOURS]
    options = {"lossless": True} if suffix == "webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[40, 80, 120, 200], **options)
    for source in (path, path.read_bytes(), Image.open(path)):
        assert image.frame_count(source) == 4
        found = list(image.frames(source))
        assert [frame.picture.getpixel((3, 3)) for frame in found] == COLOURS
        assert all(type(frame.picture) is Image.Image and frame.picture.mode == "RGB" for frame in found)
        assert [frame.seconds for frame in found] == pytest.approx([0.04, 0.08, 0.12, 0.2])
    assert image.to_rgb(path).getpixel((3, 3)) == COLOURS[0]


def test_the_default_picture_of_an_animated_png_is_no_frame(tmp_path):
    path = tmp_path / "film.png"
    pictures = [Image.new("RGB", (16, 8), colour) for colour in COLOURS]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], default_image=True, duration=50)
    assert image.frame_count(path) == 3
    assert [frame.picture.getpixel((3, 3)) for frame in image.frames(path)] == COLOURS[1:]


def still_pictures(folder):
    """Pages of a TIFF, views of an MPO, an array, a picture: 16 pixels wide, 8 high."""
    pictures = [Image.new("RGB", (16, 8), colour) for colour in COLOURS]
    pages, views = folder / "pages.tif", folder / "views.mpo"
    for path in (pages, views):
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(views) as opened:
            whole = opened.format == "MPO"  # Pillow 10.3 writes damaged ones
    return [pages, *([views] if whole else []), random_picture(8, 16), pictures[0]]


def test_still_pictures_pages_and_views_are_one_frame(tmp_path):
    for source in still_pictures(tmp_path):
        assert image.frame_count(source) == 1
        (frame,) = image.frames(source)
        assert frame.picture.size == (16, 8)
        assert frame.seconds == 0


def test_frames_without_a_duration_last_as_in_browsers(tmp_path):
    path = tmp_path / "film.gif"
    pictures = [Image.new("RGB", (16, 8), colour) for colour in COLOURS]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    assert {frame.seconds for frame in image.frames(path)} == {0.1}


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_damaged_animations(tmp_path, suffix):
    """What is whole comes out, then one ImageError that names file and frame."""
    path = tmp_path / f"film.{suffix}"
    pictures = [Image.fromarray(random_picture(40, 50, seed=seed)) for seed in range(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=50)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    failed = 0
    for case in range(40):
        damaged = bytearray(data[: rng.integers(len(data) // 4, len(data))] if case % 2 else data)
        for place in rng.integers(0, len(damaged), 6 if case % 3 else 0):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for frame in image.frames(path):
                    assert frame.picture.mode == "RGB"
            except image.ImageError as error:
                failed += 1
                assert str(error).startswith(str(path))  # noqa: PT017
    assert failed > 5
