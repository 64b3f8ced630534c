"""PNG files, read back by Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sparse_icnet import png


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        picture.verify()  # checks the sums of all chunks
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 256]),
    seed=st.integers(0, 9),
)
def test_rgb(tmp_path_factory, height, width, levels, seed):
    rng = np.random.default_rng(seed)
    pixels = (rng.integers(0, levels, (height, width, 3)) * (255 // max(levels - 1, 1))).astype(np.uint8)
    path = tmp_path_factory.mktemp("png") / "a.png"
    png.save_png(Image.fromarray(pixels), path)
    assert np.array_equal(read(path), pixels)


@pytest.mark.parametrize("at_a_time", [1, 3 * 50 * 7, 3 * 50 * 20, 10**9])
def test_rows_are_packed_in_parts(tmp_path, monkeypatch, at_a_time):
    monkeypatch.setattr(png, "_BYTES_AT_A_TIME", at_a_time)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    png.save_png(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), pixels)


def test_a_smooth_picture_is_packed(tmp_path):
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None, None], (240, 300, 3))
    png.save_png(Image.fromarray(np.ascontiguousarray(ramp)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < ramp.size / 50


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_text(tmp_path, mode):
    text = PngInfo()
    text.add_text("Software", "something")
    text.add_itxt("Title", "Straße")
    png.save_png(Image.new(mode, (5, 4)), tmp_path / "a.png", text)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
        picture.load()
        assert picture.text == {"Software": "something", "Title": "Straße"}


def test_a_picture_without_pixels_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises((ValueError, SystemError, OSError)):
        png.save_png(Image.new("RGB", (0, 4)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("colours", "values"), [(1, 1), (12, 12), (16, 3), (17, 17), (256, 256), (4, 9)])
def test_indexed(tmp_path, colours, values):
    """Values and colours; a value without a colour of its own is black."""
    rng = np.random.default_rng(0)
    palette = rng.integers(1, 256, (colours, 3), dtype=np.uint8)
    pixels = np.repeat(rng.integers(0, values, (30, 5), dtype=np.uint8), 13, axis=1)
    pixels[0, 0] = values - 1
    picture = Image.fromarray(pixels)
    picture.putpalette(palette.tobytes())
    png.save_png(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as found:
        found.verify()
    with Image.open(tmp_path / "a.png") as found:
        assert found.mode == "P"
        assert np.array_equal(np.asarray(found), pixels)
        shown = np.asarray(found.convert("RGB"))
    assert np.array_equal(shown, np.concatenate([palette, np.zeros((256, 3), np.uint8)])[pixels])


def test_transparency_stays(tmp_path):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P")
    picture.info["transparency"] = 3
    png.save_png(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as found:
        assert np.asarray(found.convert("RGBA"))[:, :, 3].reshape(-1).tolist() == [255] * 3 + [0] + [255] * 8
