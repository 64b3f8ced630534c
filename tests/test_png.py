"""PNG files of our own, as other readers read them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from networks import random_picture
from PIL import Image

from sparse_icnet import image, png


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (13, 17), (100, 3)])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_pillow_reads_the_same_pixels(mode, size):
    picture = Image.fromarray(random_picture(*size, seed=size[0]))
    picture = picture.quantize(12) if mode == "P" else picture.convert(mode)
    data = png.encoded(picture)
    Image.open(io.BytesIO(data)).verify()
    with Image.open(io.BytesIO(data)) as read:
        assert (read.format, read.mode, read.size) == ("PNG", mode, picture.size)
        assert np.array_equal(np.asarray(read), np.asarray(picture))
        assert np.array_equal(np.asarray(read.convert("RGB")), np.asarray(picture.convert("RGB")))


def test_extreme_differences_between_rows():
    pixels = np.zeros((6, 5, 3), np.uint8)
    pixels[1::2] = 255
    pixels[3] = 1
    with Image.open(io.BytesIO(png.encoded(Image.fromarray(pixels)))) as read:
        assert np.array_equal(np.asarray(read), pixels)


def test_other_modes_become_rgb():
    with Image.open(io.BytesIO(png.encoded(Image.new("CMYK", (3, 2), (255, 0, 0, 0))))) as read:
        assert read.mode == "RGB"
        assert read.getpixel((0, 0)) == (0, 255, 255)


def test_texts(tmp_path):
    text = {"Software": "sparse-icnet", "more": "caf\u00e9 = 1"}
    with Image.open(io.BytesIO(png.encoded(Image.new("L", (2, 2)), text))) as read:
        assert read.text == text
    for wrong in ({"": "x"}, {"k" * 80: "x"}, {"key": "a\0b"}, {"key": "\u2603"}):
        with pytest.raises(ValueError, match=r"keyword|latin-1"):
            png.encoded(Image.new("L", (2, 2)), wrong)
    image.save_png(Image.new("RGB", (2, 2), (1, 2, 3)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert read.getpixel((1, 1)) == (1, 2, 3)


def test_not_larger_than_pillow_makes_them():
    """Of a picture with noise, an overlay's kind, and of one with runs."""
    noisy = random_picture(300, 400)
    for picture in (Image.fromarray(noisy), Image.new("RGB", (400, 300), (9, 9, 9))):
        theirs = io.BytesIO()
        picture.save(theirs, format="PNG", compress_level=1)
        assert len(png.encoded(picture)) < 1.1 * len(theirs.getvalue())
