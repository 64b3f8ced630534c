"""The members of a native file: a zip archive of .npy arrays of one dimension; sizes are checked before reading."""

from __future__ import annotations

import io
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats import MAX_NATIVE
from sparse_icnet.formats.errors import FormatError, parsing
from sparse_icnet.sparse.csr import CSR

MAX_BYTES = MAX_NATIVE  # of all members together uncompressed, too
MAX_MEMBERS = 1 << 14
MAX_HEADER = 1 << 12  # bytes of an .npy header
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# The header as NumPy writes it.  NumPy's own parser takes any Python literal, which it hands to the compiler of Python.
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=][a-z][0-9]{1,3})', 'fortran_order': (?:False|True), "
    rb"'shape': \((?P<count>[0-9]{1,18}),\), \} *\n"
)
_MAGIC = b"\x93NUMPY"


class Members:
    """The arrays of the archive whose bytes are `data`; errors begin with `path`.

    Members are stored or deflated, not encrypted, and of distinct names.  Those that nobody asks for are not looked at.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        with parsing(path, "a sparse-icnet .npz file"):
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        infos = self._archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise FormatError(f"{path}: expected at most {MAX_MEMBERS} members, found {len(infos)}")
        total = sum(info.file_size for info in infos)
        if total > MAX_BYTES:
            raise FormatError(f"{path}: expected at most {MAX_BYTES} bytes uncompressed, found {total}")
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise FormatError(f"{path}: expected members of distinct names, found one twice")
        self._dense_left = MAX_BYTES

    def array(self, name: str, dtypes: str, most: int) -> NDArray[Any]:
        """The member `name`, of one of `dtypes` ("uint16|uint32") and of at most `most` elements."""
        where = f"{self.path}: member {name!r}"
        head, payload = self._parts(name, where, 8 * most + MAX_HEADER)
        header = _HEADER.fullmatch(head)
        kind = _dtype(header["descr"].decode()) if header else None
        if header is None or kind is None or kind.name not in dtypes.split("|"):
            raise FormatError(
                f"{where} must be an .npy array: {dtypes} of one dimension, found {head[:80]!r}"
            )
        count = int(header["count"])
        if count > most or count * kind.itemsize != len(payload):
            raise FormatError(
                f"{where} must be {dtypes} of at most {most} elements, found {count} declared in {len(payload)} bytes"
            )
        return np.frombuffer(payload, kind).astype(kind.newbyteorder("="))

    def _parts(self, name: str, where: str, limit: int) -> tuple[bytes, bytes]:
        """Header and payload of an .npy file of at most `limit` bytes; a file of another kind is all header."""
        if (info := self._infos.get(f"{name}.npy")) is None:
            raise FormatError(f"{where} is missing")
        if info.compress_type not in METHODS:
            raise FormatError(f"{where}: expected it stored or deflated, found method {info.compress_type}")
        if info.file_size > limit:
            raise FormatError(f"{where}: expected at most {limit} bytes, found {info.file_size}")
        with parsing(where, "an .npy array"), self._archive.open(info) as member:
            content = member.read(
                info.file_size
            )  # without a number it would inflate whatever the stream holds
        if content[:6] != _MAGIC or content[6:8] not in (b"\1\0", b"\2\0"):
            return content, b""
        start = 10 if content[6] == 1 else 12
        end = start + int.from_bytes(content[8:start], "little")
        return (content[start:end], content[end:]) if end <= MAX_HEADER else (content, b"")

    def weights(self, where: str, key: str, shape: tuple[int, int, int, int], kind: str) -> NDArray[Any]:
        """Dense weights (O, I, kh, kw) of dtype `kind` from the CSR arrays `key`; `where` begins messages about them."""
        size = math.prod(shape) if min(shape) >= 1 else 0
        if not 0 < size * np.dtype(kind).itemsize <= self._dense_left:
            raise FormatError(f"{where}: weights of shape {shape} are not acceptable")
        self._dense_left -= size * np.dtype(kind).itemsize
        indptr = self.array(f"{key}.indptr", "int32", shape[0] + 1)
        indices = self.array(f"{key}.indices", "uint16|uint32", size)
        data = self.array(f"{key}.data", kind, size)
        try:
            matrix = CSR(shape, indptr, indices, data)
        except ValueError as error:
            raise FormatError(f"{where}: {error}") from error
        return matrix.to_dense()


def _dtype(descr: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(descr)
    except TypeError:
        return None
