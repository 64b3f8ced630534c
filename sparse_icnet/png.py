"""PNG files written fast: one filter for the whole picture, run lengths and Huffman codes.

Pillow tries five filters on each row and searches for repeats that photographs do not have.  Here each row is stored as its
difference from the one above (filter 2, "Up", of the PNG specification, one subtraction for the whole picture), and zlib
looks for runs alone (Z_RLE): photographs with overlays in half the time, and a little smaller.  Indexed pictures are
stored as they are, for zlib to find repeats.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {"L": 0, "RGB": 2, "P": 3}
_NO_FILTER, _UP = 0, 2
_LEVEL, _WINDOW_BITS, _MEMORY = 1, 15, 9


def encoded(picture: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """A picture of mode L, RGB or P (other modes as RGB) as a PNG file, 8 bits a channel.

    text  keyword -> text of tEXt chunks, before the pixels; Latin-1 without NUL, keywords of 1 to 79 characters

    Raises ValueError for a text that such a chunk cannot hold.
    """
    if picture.mode not in _COLOUR_TYPES:
        picture = picture.convert("RGB")
    chunks = [
        _chunk(
            b"IHDR",
            struct.pack(">IIBBBBB", picture.width, picture.height, 8, _COLOUR_TYPES[picture.mode], 0, 0, 0),
        )
    ]
    for keyword, value in (text or {}).items():
        if not 1 <= len(keyword) <= 79 or "\0" in keyword + value:
            raise ValueError(f"expected a keyword of 1 to 79 characters and no NUL, found {keyword!r}")
        chunks.append(_chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + value.encode("latin-1")))
    if picture.mode == "P":
        chunks.append(_chunk(b"PLTE", bytes(picture.getpalette("RGB") or [0, 0, 0])))
    strategy = zlib.Z_DEFAULT_STRATEGY if picture.mode == "P" else zlib.Z_RLE
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY, strategy)
    rows = _filtered(np.asarray(picture), _NO_FILTER if picture.mode == "P" else _UP)
    chunks.append(_chunk(b"IDAT", compressor.compress(rows.data) + compressor.flush()))
    return _SIGNATURE + b"".join((*chunks, _chunk(b"IEND", b"")))


def _filtered(pixels: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
    """uint8 (H, W) or (H, W, 3) -> (H, 1 + bytes of a row): each row behind the number of its filter."""
    flat = pixels.reshape(len(pixels), -1)
    rows = np.empty((len(flat), 1 + flat.shape[1]), np.uint8)
    rows[:, 0] = kind
    if kind == _UP:
        rows[0, 1:] = flat[0]
        np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])  # modulo 256, as the specification wants it
    else:
        rows[:, 1:] = flat
    return rows


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
