"""Tensors of ONNX files as arrays, bounded."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.nodes import MAX_ELEMENTS, MAX_RANK

# TensorProto.DataType -> NumPy, and the field that holds values that are not raw
TYPES = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
}
SHORT_TYPES = {
    **{16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz"},
    **{21: "uint4", 22: "int4", 23: "float4e2m1"},
}
MAX_NAME = 255  # bytes of a file name, as file systems take them
EXTERNAL = 1  # TensorProto.DataLocation


class Beside:
    """Files with data of tensors, in the folder of the .onnx itself: no other folder, and no links."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent

    def read(self, tensor: Any, size: int, where: str) -> bytes:
        """The `size` bytes that `tensor` says are elsewhere."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if (
            not name.isprintable()
            or not 1 <= len(name.encode()) <= MAX_NAME
            or name in (".", "..")
            or any(mark in name for mark in "/\\:")
        ):
            raise FormatError(
                f"{where}: expected external data in a file of the model's own folder, found {name[:80]!r}"
            )
        offset, length = (self._number(entries, key, where) for key in ("offset", "length"))
        if length not in (None, size):
            raise FormatError(f"{where}: expected {size} bytes of external data, found {length}")
        path: Path = self.folder / name
        if path.is_symlink() or not path.is_file():
            found = "a link" if path.is_symlink() else "none" if not path.exists() else "a folder or a device"
            raise FormatError(f"{where}: expected the file {path} with its data, found {found}")
        with path.open("rb") as stream:
            # Where systems end a file at the latest differs; what lies beyond this one's end is not asked for.
            stream.seek(min(offset or 0, os.fstat(stream.fileno()).st_size))
            data: bytes = stream.read(size)
        if len(data) < size:
            raise FormatError(f"{where}: expected {size} bytes at {offset or 0} of {path}, found {len(data)}")
        return data

    @staticmethod
    def _number(entries: dict[str, str], key: str, where: str) -> int | None:
        text = entries.get(key)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise FormatError(
                f"{where}: expected a whole number as {key} of external data, found {text[:40]!r}"
            )
        return int(text)


def tensor_value(tensor: Any, where: str, beside: Beside) -> NDArray[Any]:
    """A TensorProto as an array; sizes are checked before anything is allocated."""
    if tensor.data_type not in TYPES:
        found = SHORT_TYPES.get(tensor.data_type, f"data type {tensor.data_type}")
        raise FormatError(
            f"{where}: expected a float type or integers of 8 bits or more, found {found}: "
            "quantize weights and activations to 8-bit integers"
        )
    if tensor.HasField("segment"):
        raise FormatError(f"{where}: segmented tensors are not supported")
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    if len(shape) > MAX_RANK or min(shape, default=1) < 0 or count > MAX_ELEMENTS:
        raise FormatError(
            f"{where}: expected at most {MAX_ELEMENTS} elements in {MAX_RANK} dimensions, found shape "
            f"{list(shape)[:16]}"
        )
    name, key = TYPES[tensor.data_type]
    dtype = np.dtype(name)
    size = count * dtype.itemsize
    if tensor.data_location == EXTERNAL or tensor.external_data:
        data: bytes | None = beside.read(tensor, size, where)
    else:
        data = tensor.raw_data if tensor.HasField("raw_data") else None
    if data is not None:
        if len(data) != size:
            raise FormatError(f"{where}: expected {size} bytes for {name} {shape}, found {len(data)}")
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    values = getattr(tensor, key)
    if len(values) != count:
        raise FormatError(f"{where}: expected {count} values for shape {shape}, found {len(values)}")
    if key in ("float_data", "double_data"):
        return np.asarray(values, dtype).reshape(shape)
    stored = np.dtype(np.uint16) if name == "float16" else dtype
    bounds = (0, 1) if name == "bool" else (np.iinfo(stored).min, np.iinfo(stored).max)
    if count and not bounds[0] <= min(values) <= max(values) <= bounds[1]:
        raise FormatError(f"{where}: expected numbers of {name}, found {min(values)}..{max(values)}")
    array = np.asarray(values, stored)
    return (array.view(np.float16) if name == "float16" else array).reshape(shape)
