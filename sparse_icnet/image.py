"""Pictures in and out, with Pillow: decode, fit to the network, class maps back, palette PNG and overlay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sparse_icnet.files import replacing
from sparse_icnet.network.graph import Size
from sparse_icnet.network.icnet import CLASSES, PALETTE

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 1 << 27  # 134 million: 400 MB as RGB


class ImageError(ValueError):
    """A picture that cannot be used: the message says which, what was expected and what came."""


def to_rgb(image: ImageLike) -> Image.Image:
    """A path, a PIL image or a uint8 array (H, W, 3) as an upright RGB image.

    EXIF orientation is applied, transparency is dropped, 16 bits are cut to the upper 8, of several frames
    the first counts.  Raises OSError for a file that cannot be opened, ImageError for one that is no
    picture or has more than MAX_PIXELS pixels, TypeError and ValueError for another type or shape.
    """
    if isinstance(image, Image.Image):
        return _decoded(image, "image")
    if isinstance(image, np.ndarray):
        _check_array(image)
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file, _opened(file, image) as opened:
            return _decoded(opened, image)
    raise TypeError(f"an image must be a path, a PIL image or a uint8 array, found {type(image).__name__}")


def _check_array(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8:
        raise TypeError(f"an image array must be uint8, found {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image array must have shape (height, width, 3), found {image.shape}")


def _opened(file, source: object) -> Image.Image:
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{source}: {error}") from error
    except Exception as error:  # decoders of broken files raise nearly anything
        raise ImageError(
            f"{source}: expected a picture that Pillow can read, found none ({_brief(error)})"
        ) from error


def _decoded(image: Image.Image, source: object) -> Image.Image:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{source}: expected 1 to {MAX_PIXELS} pixels, found {width} x {height}")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # as above: truncated and hostile data
        raise ImageError(f"{source}: the picture is damaged ({_brief(error)})") from error
    if image.mode.startswith("I"):  # 16-bit grey, "I;16" or (from older files) "I"
        grey = np.asarray(image.convert("I")).clip(0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode == "F":
        raise ImageError(
            f"{source}: expected 8 or 16 bits a channel, found float pixels of unknown range (mode F)"
        )
    if image.mode == "La":  # premultiplied grey, which Pillow converts to LA alone
        image = image.convert("LA")
    return image.convert("RGB")


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def fit(image: Image.Image, size: Size) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) of `size` (height, width): bilinear (Pillow), stretched to the network's aspect."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def fitted(image: ImageLike, size: Size) -> tuple[NDArray[np.uint8], Size]:
    """(`fit` of the upright image, its own height and width); an array of `size` is taken as it is.

    Raises what `to_rgb` raises.
    """
    if isinstance(image, np.ndarray) and image.shape[:2] == tuple(size):
        _check_array(image)
        return image, size
    picture = to_rgb(image)
    return fit(picture, size), (picture.height, picture.width)


def enlarge(classes: NDArray[np.uint8], network: Size, size: Size) -> NDArray[np.uint8]:
    """Class map (h, w) -> `size` (H', W') by way of the network's own size, nearest both times.

    Up to `network` as equation (Q7), i * h // H; from there to `size` by pixel centres, as Pillow.
    """
    rows, columns = (
        (2 * np.arange(length) + 1) * full // (2 * length) * small // full
        for length, full, small in zip(size, network, classes.shape, strict=True)
    )
    return classes.take(columns, 1).take(rows, 0)


def palette(classes: int = len(CLASSES)) -> NDArray[np.uint8]:
    """RGB uint8 (classes, 3): PALETTE, continued by distinct colours where a model has more classes."""
    colours = [*PALETTE[:classes]]
    for i in range(len(colours), classes):  # bits of the index, reversed, spread over the channels
        colours.append(
            tuple(sum((i >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3)) | 31 for c in range(3))
        )
    return np.array(colours, np.uint8).reshape(classes, 3)


def class_image(classes: NDArray[np.uint8], colours: NDArray[np.uint8] | None = None) -> Image.Image:
    """Indexed image (mode P): pixel = class index, palette = `colours` (classes, 3) or PALETTE."""
    picture = Image.fromarray(np.ascontiguousarray(classes))
    picture.putpalette((palette() if colours is None else colours).tobytes())
    return picture


def overlay(
    image: Image.Image,
    classes: NDArray[np.uint8],
    colours: NDArray[np.uint8] | None = None,
    opacity: float = 0.55,
) -> Image.Image:
    """`image` with the colours of `classes` (its own size) laid over it."""
    return Image.blend(image.convert("RGB"), class_image(classes, colours).convert("RGB"), opacity)


def save_png(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG whole or not at all."""
    with replacing(Path(path)) as temporary:
        picture.save(temporary, format="PNG", compress_level=1)
