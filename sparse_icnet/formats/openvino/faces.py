"""A file's own types and axes as OpenVINO IR: what stands before the first and behind the last layer of `write`."""

from __future__ import annotations

import numpy as np

from sparse_icnet.formats.exchange.faces import input_order, output_order
from sparse_icnet.formats.openvino.document import ELEMENT_TYPES, Document, Value, numbers
from sparse_icnet.network.faces import PLANAR, InputFace, OutputFace, arranged_shape


def read_input(document: Document, face: InputFace, shape: tuple[int, int, int], name: str) -> Value:
    """The parameter called `name`; its value as float32 (1, C, H, W)."""
    order, element = input_order(face), ELEMENT_TYPES[face.dtype]
    given = (shape[0], *(face.picture or shape[1:]))
    declared = (1, *arranged_shape(given, face.axes))
    data = {"shape": numbers(declared), "element_type": element}
    value = document.layer("Parameter", name, (), declared, data, element=element, tensor=name)
    planar, planes = (1, *given), (1, *shape)
    if face.axes != PLANAR:
        axes = document.constant(f"{name}/order", np.array(order, np.int64))
        value = document.layer("Transpose", f"{name}/planar", (value, axes), planar, element=element)
    if face.picture is not None:
        if not face.whole and element != "f32":
            value, element = _converted(document, f"{name}/real", value, planar, "f32"), "f32"
        value = _stretched(document, name, value, shape, element)
    if element != "f32":
        value = _converted(document, f"{name}/float", value, planes, "f32")
    if face.bgr:
        indices = document.constant(f"{name}/channels", np.array([2, 1, 0], np.int64))
        axis = document.constant(f"{name}/axis", np.array(1, np.int64))
        value = document.layer(
            "Gather", f"{name}/rgb", (value, indices, axis), planes, {"batch_dims": "0"}, opset=8
        )
    return value


def _stretched(
    document: Document, name: str, value: Value, shape: tuple[int, int, int], element: str
) -> Value:
    sources = (
        value,
        document.constant(f"{name}/size", np.array(shape[1:], np.int64)),
        document.constant(f"{name}/axes", np.array([2, 3], np.int64)),
    )
    data = {
        "mode": "bilinear_pillow",
        "shape_calculation_mode": "sizes",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_floor",
        "antialias": "false",
        "pads_begin": "0, 0, 0, 0",
        "pads_end": "0, 0, 0, 0",
        "cube_coeff": "-0.75",
    }
    return document.layer(
        "Interpolate", f"{name}/resized", sources, (1, *shape), data, opset=11, element=element
    )


def _converted(document: Document, name: str, value: Value, shape: tuple[int, ...], element: str) -> Value:
    return document.layer("Convert", name, (value,), shape, {"destination_type": element}, element=element)


def give_output(document: Document, face: OutputFace, shape: tuple[int, int, int], value: Value) -> Value:
    """The value (1, C, h, w) as the file gives it."""
    element, name = document.shapes[value][1], "result"
    if face.dtype and ELEMENT_TYPES[face.dtype] != element:
        element = ELEMENT_TYPES[face.dtype]
        value = _converted(document, f"{name}/convert", value, (1, *shape), element)
    order, sizes = output_order(face, shape)
    if order != (0, 1, 2, 3):
        axes = document.constant(f"{name}/order", np.array(order, np.int64))
        moved = tuple((1, *shape)[axis] for axis in order)
        value = document.layer("Transpose", f"{name}/transpose", (value, axes), moved, element=element)
    if face.axes != PLANAR:
        target = document.constant(f"{name}/shape", np.array(sizes, np.int64))
        data = {"special_zero": "false"}
        value = document.layer("Reshape", f"{name}/reshape", (value, target), sizes, data, element=element)
    return value
