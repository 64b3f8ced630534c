"""A file's own types and axes as ONNX: what stands before the first and behind the last node of `write`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.faces import input_order, output_order
from sparse_icnet.network.faces import PLANAR, InputFace, OutputFace, arranged_shape


class Nodes(Protocol):
    """What the functions below need of the writer of `write`."""

    onnx: Any

    def node(
        self, kind: str, sources: Sequence[str], output: str, name: str | None = None, **attributes: Any
    ) -> str: ...
    def constant(self, name: str, array: NDArray[Any]) -> str: ...


def tensor_type(writer: Nodes, dtype: str) -> int:
    """The TensorProto.DataType of a NumPy type."""
    return int(writer.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def read_input(writer: Nodes, face: InputFace, shape: tuple[int, int, int], name: str) -> tuple[Any, str]:
    """(the declaration of the input called `name`, the value of it as float32 (1, C, H, W))."""
    if face.picture is not None:
        raise FormatError(
            f"input {name!r}: a file that resizes pictures itself cannot be written as ONNX, expected .npz or .xml"
        )
    order = input_order(face)
    declared = (1, *arranged_shape(shape, face.axes))
    info = writer.onnx.helper.make_tensor_value_info(name, tensor_type(writer, face.dtype), declared)
    value = name
    if face.dtype != "float32":
        value = writer.node("Cast", (value,), f"{name}/real", to=writer.onnx.TensorProto.FLOAT)
    if face.axes != PLANAR:
        value = writer.node("Transpose", (value,), f"{name}/planar", perm=order)
    if face.bgr:
        indices = writer.constant(f"{name}/order", np.array([2, 1, 0], np.int64))
        value = writer.node("Gather", (value, indices), f"{name}/rgb", axis=1)
    return info, value


def give_output(
    writer: Nodes, face: OutputFace, shape: tuple[int, int, int], dtype: str, value: str
) -> tuple[Any, str]:
    """(the declaration of the output, its value) from `value`, (1, C, h, w) of `dtype`."""
    name = value
    if face.dtype not in ("", dtype):
        value = writer.node("Cast", (value,), f"{name}/cast", to=tensor_type(writer, face.dtype))
    order, sizes = output_order(face, shape)
    if order != (0, 1, 2, 3):
        value = writer.node("Transpose", (value,), f"{name}/transposed", perm=order)
    if face.axes != PLANAR:
        target = writer.constant(f"{name}/axes", np.array(sizes, np.int64))
        value = writer.node("Reshape", (value, target), f"{name}/result")
    kind = tensor_type(writer, face.dtype or dtype)
    return writer.onnx.helper.make_tensor_value_info(value, kind, sizes), value
