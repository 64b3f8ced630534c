"""Pictures of results, drawn by Pillow alone: palettes, class maps, overlays, legends, side by side, confidence."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sparse_icnet.network.icnet import CLASSES, PALETTE
from sparse_icnet.network.meta import MAX_CLASSES, checked_class_names, shown

# Every pair of classes is at least 20 apart by CIEDE2000, and by the CIE 1976 difference in Lab, for normal sight and for
# simulated protanopia and deuteranopia (Machado, Oliveira, Fernandes 2009, severity 1); in the order of CLASSES.
COLOUR_BLIND_PALETTE = (
    (161, 220, 255),
    (128, 32, 8),
    (255, 252, 210),
    (107, 71, 161),
    (139, 121, 143),
    (127, 172, 138),
    (250, 215, 21),
    (76, 76, 77),
    (16, 11, 89),
    (225, 79, 19),
    (23, 150, 248),
    (0, 0, 0),
)
PALETTES = {"camvid": PALETTE, "colour-blind": COLOUR_BLIND_PALETTE}
PaletteLike: TypeAlias = "str | os.PathLike[str] | NDArray[np.uint8] | Sequence[tuple[int, int, int]]"

ALPHA = 0.55  # share of the class colour in an overlay
MAX_TEXT_FILE = 1 << 16  # bytes of a palette or a file of class names

_COLOUR = re.compile(r"\(?\s*(\d{1,3})\s*[,\s]\s*(\d{1,3})\s*[,\s]\s*(\d{1,3})\s*,?\s*\)?,?")
_BACKGROUND, _INK, _FRAME = (255, 255, 255), (32, 32, 32), (128, 128, 128)
_SMALLEST_FONT = 11  # pixels
_BAND = 1 << 20  # pixels
_SHOWN_NAME = 32  # characters of a class name in a legend


def palette(source: PaletteLike = "camvid", classes: int = len(CLASSES)) -> NDArray[np.uint8]:
    """RGB uint8 (classes, 3).

    source  "camvid", "colour-blind", a palette file (`read_palette`), or the colours themselves, at least `classes`

    The named ones are continued by distinct colours where a model has more classes than they have.  Raises ValueError
    for a name that is no file either, for a wrong file and for too few colours; OSError for an unreadable file.

    >>> palette("colour-blind", classes=2).tolist()      # sky, building
    [[161, 220, 255], [128, 32, 8]]
    >>> palette([(255, 0, 0), (0, 0, 255)], classes=2).shape
    (2, 3)
    >>> palette("color-blind")
    Traceback (most recent call last):
    ValueError: palette: expected camvid, colour-blind or a file, found 'color-blind'
    """
    if isinstance(source, str) and source in PALETTES:
        return _continued(PALETTES[source], classes)
    if isinstance(source, str | os.PathLike):
        if isinstance(source, str) and not os.path.exists(source):
            raise ValueError(f"palette: expected {', '.join(PALETTES)} or a file, found {source!r}")
        return _enough(read_palette(source), classes, os.fsdecode(source))
    colours = np.asarray(source)
    if colours.ndim != 2 or colours.shape[1] != 3 or colours.dtype.kind not in "iu":
        raise ValueError(
            f"palette: expected integers of shape (classes, 3), found {colours.dtype} {colours.shape}"
        )
    if colours.size and not 0 <= colours.min() <= colours.max() <= 255:
        raise ValueError(f"palette: expected values within 0..255, found {colours.min()} to {colours.max()}")
    return _enough(colours.astype(np.uint8), classes, "palette")


def _enough(colours: NDArray[np.uint8], classes: int, name: str) -> NDArray[np.uint8]:
    if len(colours) < classes:
        raise ValueError(f"{name}: expected a colour for each of {classes} classes, found {len(colours)}")
    return colours[:classes]


def _continued(known: Sequence[tuple[int, int, int]], classes: int) -> NDArray[np.uint8]:
    colours = [*known[:classes]]
    for i in range(len(colours), classes):  # bits of the index, reversed, spread over the channels
        red, green, blue = (
            sum((i >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3)) | 31 for c in range(3)
        )
        colours.append((red, green, blue))
    return np.array(colours, np.uint8).reshape(classes, 3)


def read_palette(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """RGB uint8 (n, 3) from a text file with one `(r, g, b)` a line, as the demos of the Open Model Zoo read it.

    Parentheses may be left out, empty lines and lines that begin with # are skipped.  Raises ValueError naming file
    and line for anything else, OSError for an unreadable file.
    """
    colours: list[list[int]] = []
    for number, line in _lines(path):
        if not line or line.startswith("#"):
            continue
        match = _COLOUR.fullmatch(line)
        values = [int(text) for text in match.groups()] if match else []
        if not values or max(values) > 255:
            raise ValueError(
                f"{os.fsdecode(path)}: line {number}: expected (r, g, b) of 0 to 255, found {shown(line)}"
            )
        colours.append(values)
    if not 1 <= len(colours) <= MAX_CLASSES:
        raise ValueError(
            f"{os.fsdecode(path)}: expected 1 to {MAX_CLASSES} lines of (r, g, b), found {len(colours)}"
        )
    return np.array(colours, np.uint8)


def read_class_names(path: str | os.PathLike[str], classes: int | None = None) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the classes; empty lines at the end do not count.

    classes  how many the model has; None: not known yet

    Raises ValueError naming file and line for a wrong number and for what `checked_class_names` refuses, OSError for
    an unreadable file.
    """
    names = [line for _, line in _lines(path)]
    while names and not names[-1]:
        names.pop()
    return checked_class_names(names, classes, f"{os.fsdecode(path)}: line ", 1)


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """(number from 1, stripped line) of a small UTF-8 text file."""
    with open(path, "rb") as file:
        data = file.read(MAX_TEXT_FILE + 1)
    if len(data) > MAX_TEXT_FILE:
        raise ValueError(f"{os.fsdecode(path)}: expected at most {MAX_TEXT_FILE} bytes of text, found more")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fsdecode(path)}: expected UTF-8 text: {error}") from error
    # Not `splitlines`, which also splits at form feeds and other separators.
    lines = text.replace("\r\n", "\n").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1)]


def class_image(classes: NDArray[np.uint8], colours: NDArray[np.uint8] | None = None) -> Image.Image:
    """Indexed image (mode P): pixel = class index, palette = `colours` (classes, 3) or PALETTE."""
    picture = Image.fromarray(np.ascontiguousarray(classes))
    picture.putpalette((palette() if colours is None else colours).tobytes())
    return picture


def overlay(
    image: Image.Image,
    classes: NDArray[np.uint8],
    colours: NDArray[np.uint8] | None = None,
    alpha: float = ALPHA,
) -> Image.Image:
    """`image` (1 - alpha) + colours of `classes` (its own size) * alpha, RGB.

    alpha  0 (the image alone) to 1 (the colours alone)

    Raises ValueError for another alpha and a class map of another size.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, found {alpha}")
    if classes.shape != (image.height, image.width):
        raise ValueError(
            f"expected a class map of the image's size {image.height}x{image.width}, "
            f"found {'x'.join(map(str, classes.shape))}"
        )
    picture = image if image.mode == "RGB" else image.convert("RGB")
    if image.width * image.height <= _BAND:
        return Image.blend(picture, class_image(classes, colours).convert("RGB"), alpha)
    result = Image.new("RGB", image.size)
    for top, bottom in _bands(image.height, image.width):
        band = picture.crop((0, top, image.width, bottom))
        shown = class_image(classes[top:bottom], colours).convert("RGB")
        result.paste(Image.blend(band, shown, alpha), (0, top))
    return result


def class_shares(classes: NDArray[np.uint8], count: int) -> tuple[float, ...]:
    """Share of the pixels of each of `count` classes, 0 to 1."""
    if not classes.size:
        return (0.0,) * count
    # Pillow counts bytes as they are; `bincount` makes int64 of them and takes three times as long.
    counts = np.array(Image.fromarray(np.ascontiguousarray(classes)).histogram()[:count], np.int64)
    return tuple((counts / classes.size).tolist())


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """(first row, end) of bands of a large picture: what is made of one on the way takes little memory beside it."""
    rows = max(1, _BAND // max(width, 1))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def share_text(share: float) -> str:
    """A share as people read it.

    >>> [share_text(share) for share in (0.0, 0.004, 0.314, 1.0)]
    ['0 %', '< 1 %', '31 %', '100 %']
    """
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def with_legend(
    picture: Image.Image,
    names: Sequence[str],
    shares: Sequence[float],
    colours: NDArray[np.uint8],
) -> Image.Image:
    """`picture` with a column at its right: colour, name and share of each class that occurs, the largest first.

    The letters grow with the picture; they are Pillow's own, which knows ASCII: others lose their marks or become "?".
    Where the column is higher than the picture, white is added below that.
    """
    shown = sorted((i for i, share in enumerate(shares) if share > 0), key=lambda i: -shares[i])
    pixels = min(picture.height / 32, picture.width / 24, picture.height / (1.7 * (len(shown) + 1)))
    font = _font(max(_SMALLEST_FONT, round(pixels)))
    size = font.size if isinstance(font, ImageFont.FreeTypeFont) else _SMALLEST_FONT
    line, margin, gap = math.ceil(1.7 * size), math.ceil(0.8 * size), math.ceil(0.6 * size)
    labels = [_drawable(names[i]) for i in shown]
    labels = [one if len(one) <= _SHOWN_NAME else f"{one[: _SHOWN_NAME - 3]}..." for one in labels]
    texts = [share_text(shares[i]) for i in shown]
    name_width = max((_width(font, label) for label in labels), default=0)
    text_width = max((_width(font, text) for text in texts), default=0)
    swatch = math.ceil(1.2 * size)
    column = 2 * margin + swatch + gap + name_width + 2 * gap + text_width
    height = max(picture.height, 2 * margin + line * len(shown))
    canvas = Image.new("RGB", (picture.width + column, height), _BACKGROUND)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (i, label, text) in enumerate(zip(shown, labels, texts, strict=True)):
        left, middle = picture.width + margin, margin + line * row + line // 2
        red, green, blue = colours[i].tolist()
        top = middle - swatch // 2
        draw.rectangle((left, top, left + swatch, top + swatch), (red, green, blue), _FRAME)
        _text(draw, (left + swatch + gap, middle), label, font, "lm")
        _text(draw, (picture.width + column - margin, middle), text, font, "rm")
    return canvas


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures beside each other with a narrow white gap."""
    gap = max(2, left.width // 160)
    canvas = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), _BACKGROUND)
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + gap, 0))
    return canvas


def confidence_image(confidence: NDArray[np.float32]) -> Image.Image:
    """Grey image (mode L): 255 * confidence, rounded; white is certain."""
    grey = np.empty(confidence.shape, np.uint8)
    for top, bottom in _bands(*confidence.shape):
        grey[top:bottom] = np.rint(confidence[top:bottom] * np.float32(255))
    return Image.fromarray(grey)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font in `size` pixels; its small bitmap font where Pillow was built without FreeType."""
    try:
        return ImageFont.load_default(size)
    except ImportError:
        return ImageFont.load_default()


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return math.ceil(font.getlength(text))


def _drawable(text: str) -> str:
    """`text` in ASCII, all that both fonts of Pillow have: letters without their marks, "?" for those that have none.

    >>> _drawable("Bürgersteig, caf\u00e9, \u6a39")
    'Burgersteig, cafe, ?'
    """
    letters = []
    for letter in unicodedata.normalize("NFKD", text):
        if not unicodedata.combining(letter):
            letters.append(letter if letter.isascii() else "?")
    return "".join(letters)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    anchor: str,
) -> None:
    """`text` with its middle at the height of `place`, beginning ("lm") or ending ("rm") there."""
    if isinstance(font, ImageFont.FreeTypeFont):
        draw.text(place, text, _INK, font, anchor)
        return
    left, top, right, bottom = font.getbbox(text)  # the bitmap font knows no anchors
    x = place[0] - (int(right - left) if anchor == "rm" else 0)
    draw.text((x, place[1] - int(bottom - top) // 2), text, _INK, font)
