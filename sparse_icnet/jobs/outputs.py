"""Result files: what they are called, the mark in each that says whose it is, and whether one may be written.

A mark is text in the file itself: of a PNG in a text chunk, of a JPEG or an MP4 its comment, of a .npy a comment in the
padding of its header (which readers parse as a Python literal, where a comment is nothing).  It names the program, the
kind of the result, and the source by name and digest.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sparse_icnet
from sparse_icnet.files import replacing
from sparse_icnet.image import ImageError
from sparse_icnet.png import save_png as write_png

SUFFIX_OF_KIND: Mapping[str, str] = {
    "classes": ".classes.png",
    "overlay": ".overlay.png",
    "side-by-side": ".side-by-side.png",
    "confidence": ".confidence.png",
    "probabilities": ".probabilities.npy",
}
DRAWN_KINDS = ("overlay", "side-by-side")  # pictures for the eye, which may be JPEG
FILM_KINDS = ("overlay", "side-by-side")  # of a film a film, the others a file a frame
_KEYWORD = "sparse-icnet"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_QUALITY = 90
_MOST_JPEG = 65500  # pixels a side
_NPY = b"\x93NUMPY\x01\x00"
_MOST_BOXES = 1000  # beside each other in an MP4
_HEAD_BYTES = 1 << 15  # holds the longest mark: of 4096 bytes of name JSON makes up to six times as many


@dataclass(frozen=True, slots=True)
class Mark:
    """What a result says about itself.

    kind    a key of SUFFIX_OF_KIND
    source  output name of its source
    digest  of the source: 'sha256:' and 64 hexadecimal digits
    """

    kind: str
    source: str
    digest: str


def result_name(name: str, kind: str, frame: int | None = None, drawn: str = "png") -> str:
    """Name of the result of a source: street.jpg.classes.png; of a frame: walk.gif/00001.classes.png.

    drawn  "png" or "jpeg", the format of DRAWN_KINDS
    """
    stem = name if frame is None else f"{name}/{frame:05d}"
    return stem + (f".{kind}.jpg" if drawn == "jpeg" and kind in DRAWN_KINDS else SUFFIX_OF_KIND[kind])


def film_name(name: str, kind: str) -> str:
    """Name of a result of a film: drive.mp4.overlay.mp4; of the kinds that are a file a frame their pattern."""
    if kind in FILM_KINDS:
        return f"{name}.{kind}.mp4"
    return f"{name}/*{SUFFIX_OF_KIND[kind]}"


def is_result(path: Path) -> bool:
    """Whether `path` is a PNG, JPEG, .npy or MP4 that this program wrote.  False for what cannot be read."""
    return path.suffix.lower() in (".png", ".jpg", ".npy", ".mp4") and read_mark(path) is not None


def read_mark(path: Path) -> Mark | None:
    """The mark of a result; None for a file without one, or none that can be read."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            if head[4:8] == b"ftyp":
                return comment_mark(_mp4_comment(file))
            if head.startswith(_JPEG):
                return comment_mark(_jpeg_comment(head))
    except (OSError, struct.error):
        return None
    return _mark(_png_text(head) if head.startswith(_PNG) else _npy_text(head))


def mark_comment(mark: Mark) -> str:
    """The comment of a film that bears a mark."""
    return f"{_KEYWORD} {json.dumps(asdict(mark))}"


def comment_mark(comment: str) -> Mark | None:
    """The mark in a film's comment; None if it has none."""
    program, _, text = comment.partition(" ")
    return _mark(text) if program == _KEYWORD else None


def _mark(text: str) -> Mark | None:
    try:
        values = json.loads(text)
        return Mark(*(str(values[name]) for name in Mark.__slots__))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _png_text(head: bytes) -> str:
    """Text of the chunk of ours among the chunks that lie in `head` whole; '' if none is."""
    place = len(_PNG)
    while place + 8 <= len(head):
        length, name = struct.unpack_from(">I4s", head, place)
        content = head[place + 8 : place + 8 + length]
        keyword = _KEYWORD.encode() + b"\0"
        if name == b"tEXt" and len(content) == length and content.startswith(keyword):
            return content[len(keyword) :].decode("latin-1")
        if name == b"IDAT":
            break
        place += 12 + length
    return ""


def _jpeg_comment(head: bytes) -> str:
    """The comment of a JPEG, if it lies in `head` whole and before the pixels; '' if none does."""
    place = 2
    while place + 4 <= len(head) and head[place] == 0xFF and head[place + 1] != 0xDA:
        length = int.from_bytes(head[place + 2 : place + 4], "big")
        content = head[place + 4 : place + 2 + length]
        if head[place + 1] == 0xFE:
            return content.decode("ascii", "replace") if len(content) == length - 2 else ""
        place += 2 + max(length, 2)
    return ""


def _mp4_comment(file: BinaryIO) -> str:
    """The comment of an MP4, where FFmpeg writes it; '' if there is none."""
    start, end = 0, file.seek(0, os.SEEK_END)
    for name, skipped in (
        (b"moov", 0),
        (b"udta", 0),
        (b"meta", 4),
        (b"ilst", 0),
        (b"\xa9cmt", 0),
        (b"data", 8),
    ):
        found = _mp4_box(file, start, end, name)
        if found is None:
            return ""
        start, end = found[0] + skipped, found[1]
    file.seek(start)
    return file.read(min(max(end - start, 0), _HEAD_BYTES)).decode("utf-8", "replace")


def _mp4_box(file: BinaryIO, start: int, end: int, name: bytes) -> tuple[int, int] | None:
    """(first, end) of what the box `name` among those from `start` holds."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            break
        file.seek(start)
        length, found = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            length, head = int.from_bytes(file.read(8), "big"), 16
        stop = start + length if length else end
        if not start + head <= stop <= end:
            break
        if found == name:
            return start + head, stop
        start = stop
    return None


def _npy_text(head: bytes) -> str:
    if not head.startswith(_NPY) or len(head) < 10:
        return ""
    header = head[10 : 10 + int.from_bytes(head[8:10], "little")].decode("latin-1")
    return header.partition(f"# {_KEYWORD} ")[2].rstrip()


MayReplace: TypeAlias = "Callable[[], None] | None"  # as for `sparse_icnet.files.replacing`


def save_png(picture: Image.Image, path: Path, mark: Mark, may_replace: MayReplace = None) -> None:
    """Write a PNG with its mark, whole or not at all."""
    text = PngInfo()
    text.add_text("Software", f"sparse-icnet {sparse_icnet.__version__}")
    text.add_text(_KEYWORD, json.dumps(asdict(mark)))
    write_png(picture, path, text, may_replace)


def save_jpeg(picture: Image.Image, path: Path, mark: Mark, may_replace: MayReplace = None) -> None:
    """Write a JPEG with its mark, whole or not at all.  Raises ImageError for a picture that is too large for one."""
    if max(picture.size) > _MOST_JPEG:
        raise ImageError(
            f"{path}: expected at most {_MOST_JPEG} pixels a side of a JPEG, found {picture.height} x {picture.width}"
        )
    with replacing(path, may_replace) as temporary:
        picture.save(temporary, format="JPEG", quality=_JPEG_QUALITY, comment=mark_comment(mark).encode())


def save_npy(array: NDArray[np.generic], path: Path, mark: Mark, may_replace: MayReplace = None) -> None:
    """Write a .npy (version 1.0) with its mark, whole or not at all; `numpy.load` reads it, also memory-mapped."""
    array = np.ascontiguousarray(array)
    header = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {array.shape!r}, }}"
    header += f"  # {_KEYWORD} {json.dumps(asdict(mark))}"
    header += " " * (-(len(_NPY) + 2 + len(header) + 1) % 64) + "\n"
    with replacing(path, may_replace) as temporary, open(temporary, "wb") as file:
        file.write(_NPY + len(header).to_bytes(2, "little") + header.encode("ascii"))
        file.write(array.data)


def check_free(path: Path, digest: str, earlier: str | None = None) -> None:
    """Raise FileExistsError if `path` holds anything but a result of the source with this digest.

    earlier  digest that the source had when its results were written
    """
    if not os.path.lexists(path):
        return
    mark = read_mark(path)
    if mark is None:
        what = "exists and is no result of sparse-icnet"
    elif mark.digest not in (digest, earlier):
        what = f"exists and is the result of another source, {mark.source}"
    else:
        return
    raise FileExistsError(errno.EEXIST, f"{what}; --overwrite replaces it", str(path))
