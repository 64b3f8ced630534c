"""Palettes, class names, overlays, legends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from networks import random_picture
from PIL import Image

from sparse_icnet import CLASSES, PALETTE, png, render


def test_class_image_holds_indices_and_colours(tmp_path):
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path / "map.png"
    png.save_png(render.class_image(classes), path)
    with Image.open(path) as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), classes)
        assert [tuple(colour) for colour in np.asarray(read.convert("RGB")).reshape(-1, 3)] == list(PALETTE)


@pytest.mark.parametrize("count", [1, 2, 12, 13, 256])
def test_palette_colours_differ(count):
    colours = render.palette(classes=count)
    assert colours.shape == (count, 3)
    assert [tuple(c) for c in colours[: len(CLASSES)].tolist()] == list(PALETTE[:count])
    assert len({tuple(c) for c in colours.tolist()[:40]}) == min(count, 40)


def test_overlay_blends():
    classes = np.full((2, 2), 3, np.uint8)
    result = np.asarray(render.overlay(Image.new("RGB", (2, 2), (0, 0, 0)), classes, alpha=0.5))
    assert np.abs(result.astype(int) - np.array(PALETTE[3]) / 2).max() <= 1


# Linear RGB as people see it who lack one kind of cones: Machado, Oliveira, Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009), severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
# Linear sRGB -> XYZ (IEC 61966-2-1), white D65.
XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]
WHITE = [0.95047, 1.0, 1.08883]


def seen(colours, sight):
    """CIE Lab (n, 3) of sRGB colours as that kind of eyes sees them."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ np.transpose(SIGHT[sight])).clip(0, 1) @ np.transpose(XYZ) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def difference_1976(one, other):
    return float(np.linalg.norm(np.subtract(one, other)))


def difference_2000(one, other):
    """CIEDE2000 of two Lab colours: Sharma, Wu, Dalal, Color Research and Application 30 (2005)."""
    chroma = np.hypot([one[1], other[1]], [one[2], other[2]]).mean()
    factor = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    (l1, a1, b1), (l2, a2, b2) = one, other
    c1, c2 = np.hypot(a1 * factor, b1), np.hypot(a2 * factor, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * factor)) % 360 for a, b in ((a1, b1), (a2, b2)))
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    if c1 * c2 == 0:
        turn, hue = 0.0, h1 + h2
    else:
        turn = (h2 - h1 + 180) % 360 - 180
        hue = (h1 + h2) / 2 if abs(h1 - h2) <= 180 else ((h1 + h2 + 360) / 2) % 360
    step = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    by_lightness = 1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2)
    by_chroma, by_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    rotation *= np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    x, y, z = (l2 - l1) / by_lightness, (c2 - c1) / by_chroma, step / by_hue
    return float(np.sqrt(x * x + y * y + z * z + rotation * y * z))


def closest(colours, sight, difference):
    lab = seen(colours, sight)
    return min(
        (difference(lab[i], lab[j]), CLASSES[i], CLASSES[j])
        for i, j in itertools.combinations(range(len(lab)), 2)
    )


def test_the_differences_are_those_of_their_papers():
    """Pairs 1, 7, 17, 24 and 25 of the test data of Sharma, Wu and Dalal."""
    pairs = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (50, 3.2592, 0.3350), 1.0),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ]
    for one, other, expected in pairs:
        assert difference_2000(one, other) == pytest.approx(expected, abs=1e-4)
    white, grey = seen([(255, 255, 255), (119, 119, 119)], "normal")
    assert white == pytest.approx([100, 0, 0], abs=1e-2)
    assert grey == pytest.approx([50.03, 0, 0], abs=1e-2)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("difference", [difference_1976, difference_2000])
def test_colour_blind_palette(sight, difference):
    """Every pair of classes is at least 20 apart, by either measure."""
    colours = render.palette("colour-blind")
    assert colours.shape == (len(CLASSES), 3)
    distance, one, other = closest(colours, sight, difference)
    assert distance >= 20, f"{one} and {other}"


def test_the_usual_palette_would_fail():
    """The measure finds what it should: building and pedestrian for those who lack the red or green cones."""
    assert min(closest(PALETTE, sight, difference_1976)[0] for sight in SIGHT) < 10


def test_palettes_by_name_and_value(tmp_path):
    assert np.array_equal(render.palette(), PALETTE)
    assert np.array_equal(render.palette("camvid", 3), PALETTE[:3])
    own = [(1, 2, 3), (4, 5, 6), (255, 0, 0)]
    assert render.palette(own, 2).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert render.palette(np.array(own, np.uint8), 3).dtype == np.uint8
    path = tmp_path / "p.txt"
    path.write_text("(1, 2, 3)\n(4,5,6),\n\n# a comment\n  255 0 0  \n")
    assert render.palette(path, 3).tolist() == render.palette(str(path), 3).tolist() == [list(c) for c in own]
    path.write_bytes(b"\xef\xbb\xbf(1, 2, 3)\r\n(4, 5, 6)\r\n")
    assert len(render.read_palette(path)) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("camvit", "expected camvid, colour-blind or a file, found 'camvit'"),
        ([(1, 2, 3)], "expected a colour for each of 12 classes, found 1"),
        ([(1, 2)] * 12, r"integers of shape \(classes, 3\)"),
        ([(1, 2, 256)] * 12, "within 0..255, found 1 to 256"),
        (np.zeros((12, 3)), "expected integers"),
    ],
)
def test_wrong_palettes(source, message):
    with pytest.raises(ValueError, match=message):
        render.palette(source)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected 1 to 256 lines"),
        (b"(1, 2, 3)\n(1, 2)\n", r"line 2: expected \(r, g, b\) of 0 to 255, found '\(1, 2\)'"),
        (b"(1, 2, 300)", "line 1: expected"),
        (b"(1, 2, -3)", "line 1: expected"),
        (b"(1.0, 2, 3)", "line 1: expected"),
        (b"__import__('os').abort()", "line 1: expected .*, found"),
        (b"\xff\xfe\x00", "expected UTF-8 text"),
        ("(\u0661, \u0662, \u0663 4)".encode(), "line 1: expected"),
        (b"(1, 2, 3)\n" * 257, "expected 1 to 256 lines .*, found 257"),
        (b"(1, 2, 3)\n" * 10000, "at most 65536 bytes"),
        (b"((((" * 1000, r"found '\(\(.*\.\.\.$"),
    ],
)
def test_wrong_palette_files(tmp_path, data, message):
    path = tmp_path / "p.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        render.palette(path)
    assert str(caught.value).startswith(str(path))


def test_class_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("road\nsign symbol\nTräger\n\n", "utf-8")
    assert render.read_class_names(path) == ("road", "sign symbol", "Träger")
    assert render.read_class_names(path, 3) == ("road", "sign symbol", "Träger")
    assert render.checked_class_names(["a", "b"], 2) == ("a", "b")
    for names in ("ab", ["a", 1]):
        with pytest.raises(TypeError, match="sequence of strings"):
            render.checked_class_names(names)
    with pytest.raises(ValueError, match="class 1: expected distinct names, found 'a' as at 0"):
        render.checked_class_names(["a", "a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "expected 3 class names, found 2"),
        ("a\nb\nc\nd\n", "expected 3 class names, found 4"),
        ("a\n\nc\n", "line 2: expected a name of 1 to 100 printable characters, found ''"),
        ("a\nb\na\n", "line 3: expected distinct names, found 'a' as at 1"),
        ("a\nb\x1b[31m\nc\n", "line 2: expected a name"),
        ("a\nb\n" + "c" * 101, "line 3: expected a name"),
    ],
)
def test_wrong_class_names(tmp_path, text, message):
    path = tmp_path / "names.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        render.read_class_names(path, 3)
    assert str(caught.value).startswith(str(path))


def test_overlay_arguments():
    picture, classes = Image.fromarray(random_picture(6, 8)), np.full((6, 8), 3, np.uint8)
    assert np.array_equal(np.asarray(render.overlay(picture, classes, alpha=0)), np.asarray(picture))
    assert (np.asarray(render.overlay(picture, classes, alpha=1)) == PALETTE[3]).all()
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"alpha must lie in 0\.\.1"):
            render.overlay(picture, classes, alpha=alpha)
    with pytest.raises(ValueError, match="image's size 6x8, found 8x6"):
        render.overlay(picture, classes.T)


@pytest.mark.parametrize("size", [(768, 960), (360, 480), (20, 30), (300, 4000), (1000, 100)])
def test_legend(size):
    """Beside the picture, which stays as it is; a swatch in the colour of each class that occurs, the largest first."""
    picture = Image.fromarray(random_picture(*size))
    shares = [0.0] * 12
    shares[3], shares[7], shares[0] = 0.6, 0.396, 0.004
    result = render.with_legend(picture, CLASSES, shares, render.palette())
    pixels = np.asarray(result)
    assert np.array_equal(pixels[: size[0], : size[1]], np.asarray(picture))
    assert result.height >= size[0]
    column = pixels[:, size[1] :]
    places = {}
    for number in range(12):
        rows = np.flatnonzero((column == PALETTE[number]).all(2).sum(1) >= 8)
        if rows.size:
            places[number] = rows.mean()
    # The frame of a swatch is grey as well, but the sky's own place is the last.
    assert sorted({3, 7, 0}, key=places.get)[:2] in ([3, 7], [3, 0])
    assert places[3] < places[7]
    assert {3, 7} <= set(places) <= {3, 7, 0}
    assert (column < 100).all(2).any()  # letters
    assert (pixels[-1, size[1] :] == 255).all() or (pixels[-1] == 255).all()


def test_legend_of_long_and_foreign_names():
    names = ["x" * 100, "\u65e5\u672c", "a\u0301"]
    picture = Image.new("RGB", (200, 100))
    result = render.with_legend(picture, names, [0.5, 0.3, 0.2], render.palette(classes=3))
    assert result.width < 200 + 400
    assert render.with_legend(picture, names, [0, 0, 0], render.palette(classes=3)).height == 100


def test_letters_that_the_font_lacks_lose_their_marks():
    picture, colours = Image.new("RGB", (200, 100)), render.palette(classes=2)
    plain, marked = (
        np.asarray(render.with_legend(picture, names, [0.7, 0.3], colours))
        for names in (["Burgersteig", "cafe?"], ["B\u00fcrgersteig", "caf\u00e9\u6a39"])
    )
    assert np.array_equal(plain, marked)


def test_legend_without_freetype(monkeypatch):
    def none(size=None):
        if size is not None:
            raise ImportError("no FreeType")
        return bitmap

    if not hasattr(render.ImageFont, "load_default_imagefont"):
        pytest.skip("this Pillow has no function for its bitmap font")
    bitmap = render.ImageFont.load_default_imagefont()
    monkeypatch.setattr(render.ImageFont, "load_default", none)
    render._font.cache_clear()
    try:
        result = render.with_legend(
            Image.new("RGB", (200, 100)), ["road", "\u65e5"], [0.7, 0.3], render.palette(classes=2)
        )
    finally:
        render._font.cache_clear()
    assert (np.asarray(result)[:, 200:] < 100).all(2).sum() > 50


def test_share_text():
    assert [render.share_text(share) for share in (0, 0.001, 0.0099, 0.01, 0.314, 1)] == [
        "0 %",
        "< 1 %",
        "< 1 %",
        "1 %",
        "31 %",
        "100 %",
    ]


def test_side_by_side():
    left, right = Image.fromarray(random_picture(30, 40)), Image.fromarray(random_picture(20, 50, seed=1))
    result = np.asarray(render.side_by_side(left, right))
    assert result.shape == (30, 92, 3)
    assert np.array_equal(result[:, :40], np.asarray(left))
    assert np.array_equal(result[:20, 42:], np.asarray(right))
    assert (result[:, 40:42] == 255).all()


def test_confidence_image():
    confidence = np.array([[0, 0.5, 1, 1 / 12]], np.float32)
    picture = render.confidence_image(confidence)
    assert picture.mode == "L"
    assert np.asarray(picture).tolist() == [[0, 128, 255, 21]]


def test_large_pictures_are_worked_on_in_bands(monkeypatch):
    """The same to the last byte as in one go."""
    rng = np.random.default_rng(5)
    picture = Image.fromarray(rng.integers(0, 256, (37, 50, 3), dtype=np.uint8))
    classes = rng.integers(0, 12, (37, 50), dtype=np.uint8)
    confidence = rng.random((37, 50), dtype=np.float32)

    def all_of_it():
        return (
            render.overlay(picture, classes, alpha=0.3).tobytes(),
            render.class_shares(classes, 12),
            render.confidence_image(confidence).tobytes(),
        )

    whole = all_of_it()
    for pixels in (1, 99, 100, 50 * 36, 50 * 37 - 1):
        monkeypatch.setattr(render, "_BAND", pixels)
        assert all_of_it() == whole
