"""Pictures -> PNG files (W3C, "Portable Network Graphics Specification", 3rd edition).

Encoding an overlay may take as long as the inference that it shows, so what is done for every pixel is chosen by
measurement: all rows take one filter, Average for photographs, Up for class maps, whose rows are like those above them; and
no matches are searched for (`sparse_icnet.deflate`).  Pillow's encoder takes four times as long for an overlay, whose file
is 10 to 20 % smaller then, and twice as long for a class map, whose file is 15 % larger.  Grey pictures are left to it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sparse_icnet.deflate import Packer
from sparse_icnet.files import replacing

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # filter type: value - above
_AVERAGE = 3  # value - floor((left + above) / 2)
_COLOUR_TYPES = {"RGB": 2, "P": 3}
_BYTES_AT_A_TIME = 1 << 18  # stay in the cache of a core


def save_png(
    picture: Image.Image,
    path: str | os.PathLike[str],
    text: PngInfo | None = None,
    may_replace: Callable[[], None] | None = None,
) -> None:
    """Write a PNG whole or not at all; OSError where it cannot be written.

    picture      of any mode that Pillow can write as PNG
    text         what its text chunks say
    may_replace  as for `sparse_icnet.files.replacing`
    """
    with replacing(Path(path), may_replace) as temporary:
        if _is_plain(picture):
            with open(temporary, "wb") as file:
                file.writelines(_parts(picture, text))
        else:
            picture.save(temporary, format="PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=text)


def _is_plain(picture: Image.Image) -> bool:
    """Whether `_parts` knows all that is in a picture; the others are left to Pillow."""
    if picture.mode == "P" and (picture.palette is None or picture.palette.mode != "RGB"):
        return False
    return (
        picture.mode in _COLOUR_TYPES
        and picture.width * picture.height > 0
        and "transparency" not in picture.info
    )


def _parts(picture: Image.Image, text: PngInfo | None) -> Iterator[bytes]:
    """The bytes of a PNG, in order."""
    pixels = np.asarray(picture).reshape(picture.height, -1)
    yield _SIGNATURE
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, _COLOUR_TYPES[picture.mode], 0, 0, 0)
    yield _chunk(b"IHDR", head)
    for name, content, *_ in text.chunks if text else ():
        yield _chunk(name, content)
    if picture.mode == "P":
        colours = bytes(picture.getpalette("RGB") or ())
        yield _chunk(b"PLTE", colours.ljust(3 * (int(pixels.max()) + 1), b"\0")[: 3 * 256])
    filter_type, distance = (_UP, 1) if picture.mode == "P" else (_AVERAGE, len(picture.mode))
    packer = Packer()
    rows = max(1, _BYTES_AT_A_TIME // pixels.shape[1])
    for first in range(0, picture.height, rows):
        packed = packer.compress(_filtered(pixels, first, first + rows, filter_type, distance))
        if packed:
            yield _chunk(b"IDAT", packed)
    yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def _filtered(pixels: NDArray[np.uint8], first: int, last: int, filter_type: int, distance: int) -> bytes:
    """Rows first..last behind the byte that names their filter; left of a row and above the picture are zeros.

    pixels    uint8 (rows, bytes of a row)
    distance  bytes from a pixel to the one at its left
    """
    values = pixels[first:last]
    out = np.empty((len(values), values.shape[1] + 1), np.uint8)
    out[:, 0] = filter_type
    above = np.empty_like(values)
    above[1:] = values[:-1]
    above[0] = pixels[first - 1] if first else 0
    if filter_type == _AVERAGE:
        left = np.empty_like(values)
        left[:, :distance] = 0
        left[:, distance:] = values[:, :-distance]
        above = (left & above) + ((left ^ above) >> 1)  # floor((left + above) / 2) within a byte
    np.subtract(values, above, out=out[:, 1:])
    return out.tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return b"%b%b%b%b" % (
        struct.pack(">I", len(content)),
        name,
        content,
        struct.pack(">I", zlib.crc32(content, zlib.crc32(name))),
    )
