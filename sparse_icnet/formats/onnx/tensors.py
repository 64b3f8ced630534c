"""Tensors of ONNX files as arrays, bounded."""

from __future__ import annotations

import math
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
EXTERNAL = 1  # TensorProto.DataLocation


def tensor_value(tensor: Any, where: str) -> NDArray[Any]:
    """A TensorProto as an array; sizes are checked before anything is allocated."""
    if tensor.data_location == EXTERNAL or tensor.external_data:
        raise FormatError(f"{where}: expected data inside the file, found external data")
    if tensor.data_type not in TYPES:
        raise FormatError(f"{where}: expected a float or integer type, found data type {tensor.data_type}")
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
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * dtype.itemsize:
            raise FormatError(
                f"{where}: expected {count * dtype.itemsize} bytes for {name} {shape}, found "
                f"{len(tensor.raw_data)}"
            )
        return (
            np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
        )
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
