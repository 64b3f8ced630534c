"""Pictures -> PNG files (W3C, "Portable Network Graphics Specification", 3rd edition).

Encoding an overlay takes longer than the inference that it shows, so what is done for every pixel is chosen by
measurement: RGB rows all take the filter Average, and only run-length matches are searched for.  Pillow's encoder tries
five filters a row and takes twice the time for a file that is 3 to 9 % smaller.
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

from sparse_icnet.files import replacing

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AVERAGE = 3  # filter type: value - floor((left + above) / 2)
_BYTES_AT_A_TIME = 1 << 18  # stay in the cache of a core


def save_png(
    picture: Image.Image,
    path: str | os.PathLike[str],
    text: PngInfo | None = None,
    may_replace: Callable[[], None] | None = None,
) -> None:
    """Write a PNG whole or not at all; OSError where it cannot be written.

    picture      RGB, or what Pillow can write as PNG: indexed pictures and grey ones are left to it
    text         what its text chunks say
    may_replace  as for `sparse_icnet.files.replacing`
    """
    with replacing(Path(path), may_replace) as temporary:
        if picture.mode == "RGB" and picture.width and picture.height:
            with open(temporary, "wb") as file:
                file.writelines(_rgb_parts(np.asarray(picture), text))
        else:
            # Indexed pictures have repeats that zlib's search finds.
            strategy = zlib.Z_DEFAULT_STRATEGY if picture.mode == "P" else zlib.Z_RLE
            picture.save(temporary, format="PNG", compress_level=1, compress_type=strategy, pnginfo=text)


def _rgb_parts(pixels: NDArray[np.uint8], text: PngInfo | None) -> Iterator[bytes]:
    """The bytes of a PNG of `pixels`, uint8 (H, W, 3), in order."""
    height, width, _ = pixels.shape
    yield _SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))  # 8 bits, RGB
    for name, content, *_ in text.chunks if text else ():
        yield _chunk(name, content)
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    rows = max(1, _BYTES_AT_A_TIME // (3 * width))
    for first in range(0, height, rows):
        packed = packer.compress(_filtered(pixels, first, min(first + rows, height)))
        if packed:
            yield _chunk(b"IDAT", packed)
    yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def _filtered(pixels: NDArray[np.uint8], first: int, last: int) -> bytes:
    """Rows first..last behind the byte that names their filter; left of a row and above the picture are zeros."""
    values = pixels[first:last].reshape(last - first, -1)
    left, above = np.zeros_like(values), np.zeros_like(values)
    left[:, 3:] = values[:, :-3]
    above[1:] = values[:-1]
    if first:
        above[0] = pixels[first - 1].reshape(-1)
    out = np.empty((len(values), values.shape[1] + 1), np.uint8)
    out[:, 0] = _AVERAGE
    half_sum = (left & above) + ((left ^ above) >> 1)  # floor((left + above) / 2) within a byte
    np.subtract(values, half_sum, out=out[:, 1:])
    return out.tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return b"%b%b%b%b" % (
        struct.pack(">I", len(content)),
        name,
        content,
        struct.pack(">I", zlib.crc32(content, zlib.crc32(name))),
    )
