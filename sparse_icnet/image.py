"""Pictures in, with Pillow: decode, fit to the network, class maps back to their size.

`to_rgb` is the one gateway for pictures from outside: what comes back is a plain upright RGB picture without metadata,
and whatever a decoder raises about one picture is an ImageError that names it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Size

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]"

# Formats of photographs and screens: what a folder is searched for.  Any other format that Pillow knows can be named.
_ALWAYS = (
    *(".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff"),
)
_OPTIONAL = {
    "PIL._avif": (".avif", ".avifs"),
    "PIL._webp": (".webp",),
}
_JPEG_2000 = (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx")
SUFFIXES = frozenset(
    (
        *_ALWAYS,
        *(suffix for module, names in _OPTIONAL.items() if find_spec(module) for suffix in names),
        *(_JPEG_2000 if hasattr(import_module("PIL._imaging"), "jpeg2k_decoder") else ()),
    )
)
MAX_PIXELS = 1 << 27  # 134 million: 400 MB as RGB
_BAND = 1 << 20  # pixels converted at a time
MAX_STREAM = 1 << 30  # bytes of a stream that cannot be rewound

_ACCEPTED = "a path, bytes, a binary file object, a PIL image or a uint8 array"
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM")  # Pillow has their readers at once
_REFUSED = frozenset(
    {"EPS", "WMF"}
)  # drawn by programs outside Pillow (Ghostscript, Windows) that a file would steer
_ANIMATED = frozenset({"AVIF", "GIF", "PNG", "WEBP"})  # where several frames are a film, not pages or views
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A picture that cannot be used: the message says which, what was expected and what came."""


class Frame(NamedTuple):
    """One frame of an animation: a picture as `to_rgb` makes it, and the seconds that it is shown."""

    picture: Image.Image
    seconds: float


def to_rgb(image: ImageLike, name: str | None = None) -> Image.Image:
    """An upright RGB picture of its own, without metadata.

    image  path, the bytes of a file, a binary file object (read from its beginning, left open), a PIL image
           (its current frame; not changed), or a uint8 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4)
    name   what errors call it; None: its path or its kind

    EXIF orientation is applied, EXIF that cannot be parsed counts as none, transparency is dropped (the colours
    behind it stay), 16 bits are cut to the upper 8, of several frames the first counts.

    Raises OSError for a path that cannot be opened, TypeError for an object of another type, and ImageError for all
    else: an array of another shape, no picture, a damaged one, one without pixels or with more than MAX_PIXELS.
    """
    name = name or name_of(image)
    if isinstance(image, Image.Image):
        return _plain(image, name)
    if isinstance(image, np.ndarray):
        pixels = _rgb_pixels(image, name)
        return Image.fromarray(np.ascontiguousarray(pixels))
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            return to_rgb(file, name)
    with _opened(image, name) as opened:
        return _plain(opened, name)


def frame_count(image: ImageLike, name: str | None = None) -> int:
    """Number of frames that `frames` yields if none is damaged: 1 for a picture that is no animation.

    Opens the picture without decoding it; raises what `to_rgb` raises about that.
    """
    return measure(image, name)[0]


def measure(image: ImageLike, name: str | None = None) -> tuple[int, int]:
    """(`frame_count`, pixels of a frame) of a picture that is opened and not decoded."""
    name = name or name_of(image)
    if isinstance(image, np.ndarray):
        return 1, math.prod(image.shape[:2])
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            return measure(file, name)
    if isinstance(image, Image.Image):
        return len(_film(image, name)), image.width * image.height
    with _opened(image, name) as opened:
        return len(_film(opened, name)), opened.width * opened.height


def frames(image: ImageLike, name: str | None = None) -> Iterator[Frame]:
    """The frames of an animated GIF, WebP, PNG or AVIF, as they are shown; of anything else the picture itself.

    Browsers show a GIF frame of 0 or 10 ms for 100 ms, and so does `seconds`; of a picture that is no animation it is 0.
    Pages of a TIFF and views of an MPO are no animation.  Raises what `to_rgb` raises; where a later frame is
    damaged, ImageError names it after those before it were yielded.
    """
    name = name or name_of(image)
    if isinstance(image, np.ndarray):
        yield Frame(to_rgb(image, name), 0.0)
    elif isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            yield from frames(file, name)
    elif isinstance(image, Image.Image):
        yield from _frames(image, name)
    else:
        with _opened(image, name) as opened:
            yield from _frames(opened, name)


def _frames(image: Image.Image, name: str) -> Iterator[Frame]:
    film = _film(image, name)
    if len(film) == 1:
        yield Frame(_plain(image, name), 0.0)
        return
    for number, index in enumerate(film, 1):
        place = f"{name}: frame {number} of {len(film)}"
        try:
            image.seek(index)
        except Exception as error:  # decoders of broken files raise exceptions of any type
            raise ImageError(f"{place}: the picture is damaged ({_brief(error)})") from error
        picture = _plain(image, place)
        yield Frame(picture, _seconds(image))


def _film(image: Image.Image, name: str) -> range:
    """Indices of the frames that an animation shows; range(1) for a still picture."""
    if image.format not in _ANIMATED:
        return range(1)
    try:
        count = int(getattr(image, "n_frames", 1))
    except Exception as error:
        raise ImageError(f"{name}: the picture is damaged ({_brief(error)})") from error
    # An animated PNG may begin with a picture for readers that know no animations; it is no frame.
    first = 1 if count > 1 and getattr(image, "default_image", False) else 0
    return range(first, count) if count > 1 else range(1)


def _seconds(image: Image.Image) -> float:
    try:
        milliseconds = float(image.info.get("duration", 0))
    except (TypeError, ValueError):
        milliseconds = 0.0
    return milliseconds / 1000 if 10 < milliseconds < 1e9 else 0.1


def name_of(image: object, index: int | None = None) -> str:
    """What errors call an image: its path, or what it is and its place in a list."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    own = getattr(image, "filename" if isinstance(image, Image.Image) else "name", None)
    if isinstance(own, str) and own and not isinstance(image, np.ndarray):
        return own
    kind = "image"
    if isinstance(image, np.ndarray):
        kind = "image array"
    elif isinstance(image, bytes | bytearray | memoryview):
        kind = f"image of {len(image)} bytes"
    return kind if index is None else f"{kind} {index}"


def _rgb_pixels(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), a view where it can be."""
    if image.dtype != np.uint8:
        raise TypeError(f"{name}: expected uint8, found {image.dtype}")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"{name}: expected shape (height, width) or (height, width, 1, 3 or 4), found {image.shape}"
        )
    height, width, channels = image.shape
    _check_pixels(width, height, name)
    return image[..., :3] if channels > 1 else np.broadcast_to(image, (height, width, 3))


def _check_pixels(width: int, height: int, name: str) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{name}: expected 1 to {MAX_PIXELS} pixels, found {width} x {height}")


def _opened(source: object, name: str) -> Image.Image:
    """The picture in bytes or in a binary file object."""
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    elif isinstance(source, io.TextIOBase):
        raise TypeError(f"{name}: expected a file opened in binary mode, found one in text mode")
    elif not hasattr(source, "read"):
        raise TypeError(f"{name}: expected {_ACCEPTED}, found {type(source).__name__}")
    file = cast("IO[bytes]", source)
    try:
        file = file if _can_seek(file) else _whole(file)
        try:
            return Image.open(file, formats=_COMMON)
        except UnidentifiedImageError:
            Image.init()  # the readers of all other formats, some 50 ms
            return Image.open(file, formats=[one for one in Image.ID if one not in _REFUSED])
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders of broken files raise exceptions of any type
        raise ImageError(
            f"{name}: expected a picture that Pillow can read, found none ({_brief(error)})"
        ) from error


def _can_seek(file: IO[bytes]) -> bool:
    seekable = getattr(file, "seekable", None)
    return hasattr(file, "seek") and (seekable is None or bool(seekable()))


def _whole(file: IO[bytes]) -> io.BytesIO:
    """What a pipe or a socket still holds."""
    data = file.read(MAX_STREAM + 1)
    if len(data) > MAX_STREAM:
        raise ValueError(f"a stream of more than {MAX_STREAM} bytes")
    return io.BytesIO(data)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF (or XMP) says; 1 where there is none, or none that can be parsed."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as in `_opened`
        return 1
    return value if type(value) is int and value in _TURNS else 1


def _plain(image: Image.Image, name: str) -> Image.Image:
    """The current frame of `image`, decoded, upright and RGB; a picture of its own without metadata."""
    width, height = image.size
    _check_pixels(width, height, name)
    try:
        image.load()
        picture = _rgb(image, name)
        # After loading: a TIFF is turned by its decoder, which then drops the tag; a PNG may have its EXIF at the end.
        if (orientation := _orientation(image)) != 1:
            picture = picture.transpose(_TURNS[orientation])
    except ImageError:
        raise
    except Exception as error:  # as in `_opened`: truncated and hostile data
        raise ImageError(f"{name}: the picture is damaged ({_brief(error)})") from error
    picture.info = {}
    return picture


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Another picture of mode RGB and class Image."""
    if image.mode.startswith("I"):  # 16-bit grey, "I;16" or (from older files) "I"
        grey, rows = np.empty((image.height, image.width), np.uint8), max(1, _BAND // image.width)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            grey[top : top + rows] = np.asarray(band.convert("I")).clip(0, 65535) >> 8
        image = Image.fromarray(grey)
    elif image.mode == "F":
        raise ImageError(
            f"{name}: expected 8 or 16 bits a channel, found float pixels of unknown range (mode F)"
        )
    elif image.mode == "La":  # premultiplied grey, which Pillow converts to LA alone
        image = image.convert("LA")
    return image.convert("RGB")


def _brief(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words name an object in memory
        return "no known format"
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def fit(image: Image.Image, size: Size) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) of `size` (height, width): bilinear (Pillow), stretched to the network's aspect."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def fitted(image: ImageLike, size: Size, name: str | None = None) -> tuple[NDArray[np.uint8], Size]:
    """(`fit` of the upright image, its own height and width); an RGB array of `size` is taken as it is.

    Raises what `to_rgb` raises.
    """
    if isinstance(image, np.ndarray) and image.shape == (*size, 3) and image.dtype == np.uint8:
        return image, size
    picture = to_rgb(image, name)
    return fit(picture, size), (picture.height, picture.width)


def enlarge(class_map: NDArray[np.uint8], network: Size, size: Size) -> NDArray[np.uint8]:
    """Class map uint8 (h, w) -> `size` (H', W') by way of the network's own size, nearest both times."""
    rows, columns = (nearest_points(*lengths) for lengths in zip(class_map.shape, network, size, strict=True))
    return class_map.take(columns, 1).take(rows, 0)


def nearest_points(points: int, network: int, length: int) -> NDArray[np.int64]:
    """int64 (length,): of `points` grid points along an axis that of each pixel, by way of `network` pixels.

    Up to `network` as equation (Q7), i * points // network; from there to `length` by pixel centres, as Pillow.
    """
    return (2 * np.arange(length) + 1) * network // (2 * length) * points // network
