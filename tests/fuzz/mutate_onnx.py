"""Changes of an ONNX model: attributes, initializers, nodes and what they read, shapes, opsets, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .values import TEXTS, Files, array_values, changed, flipped, integer, number, pick

KINDS = (
    *(
        "Constant",
        "Identity",
        "Cast",
        "QuantizeLinear",
        "DequantizeLinear",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Conv",
    ),
    *(
        "BatchNormalization",
        "Relu",
        "Clip",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "ReduceMean",
        "Resize",
    ),
    *(
        "Softmax",
        "ArgMax",
        "TopK",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Shape",
        "Slice",
        "Gather",
    ),
    *("Concat", "Floor", "Ceil", "Upsample", "Dropout", "Sigmoid", "If", "FakeQuantize", "MatMul"),
)


def mutate(files: Files, rng: np.random.Generator) -> Files:
    """One to four changes of the protocol buffer; one time in fourteen of its bytes."""
    import onnx

    data = files[".onnx"]
    if rng.random() < 1 / 14:
        return {".onnx": flipped(rng, data)}
    model = onnx.ModelProto()
    model.ParseFromString(data)
    changes = (
        (6, _attribute),
        (6, _initializer),
        (4, _inputs),
        (3, _node),
        (1, _proto),
        (1, _shape),
        (1, _opset),
    )
    changed(rng, changes, model)
    try:
        return {".onnx": model.SerializeToString()}
    except ValueError:  # a change that protocol buffers cannot hold
        return {".onnx": flipped(rng, data)}


def _attribute(model: Any, rng: np.random.Generator) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    node = pick(rng, nodes)
    attribute = pick(rng, list(node.attribute))
    chance = rng.random()
    if chance < 0.05:
        node.attribute.remove(attribute)
    elif chance < 0.1:
        attribute.name = pick(
            rng, ("axis", "pads", "strides", "group", "kernel_shape", "auto_pad", "ceil_mode", "x")
        )
    elif chance < 0.15:
        attribute.type = int(rng.integers(0, 12))
    elif attribute.type == 2:
        attribute.i = _int64(integer(rng, attribute.i))
    elif attribute.type == 1:
        attribute.f = _float32(number(rng, attribute.f))
    elif attribute.type == 3:
        words = (
            "nearest",
            "linear",
            "floor",
            "SAME_UPPER",
            "VALID",
            "NOTSET",
            "half_pixel",
            "align_corners",
            "ceil",
        )
        attribute.s = pick(rng, (*TEXTS, *words)).encode()
    elif attribute.type == 7 and attribute.ints:
        numbers = list(attribute.ints)
        if rng.random() < 0.3:
            numbers = pick(rng, (numbers[:-1], numbers * 2, [*numbers, 1], numbers[::-1], []))
        elif rng.random() < 0.4:
            numbers = [_int64(integer(rng, n)) for n in numbers]
        else:
            at = int(rng.integers(len(numbers)))
            numbers[at] = _int64(integer(rng, numbers[at]))
        del attribute.ints[:]
        attribute.ints.extend(numbers)
    elif attribute.type == 4:
        _tensor(attribute.t, rng)


def _int64(value: int) -> int:
    return max(-(1 << 63), min((1 << 63) - 1, value))


def _float32(value: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float32(value))


def _initializer(model: Any, rng: np.random.Generator) -> None:
    if model.graph.initializer:
        _tensor(pick(rng, list(model.graph.initializer)), rng)


def _tensor(tensor: Any, rng: np.random.Generator) -> None:
    """Values, seldom the shape, the type or where the data stands."""
    from onnx import numpy_helper

    chance = rng.random()
    if chance < 0.06 and tensor.dims:
        at = int(rng.integers(len(tensor.dims)))
        tensor.dims[at] = _int64(integer(rng, tensor.dims[at]))
    elif chance < 0.09:
        tensor.dims.extend([pick(rng, (1, 0, -1, 1 << 40))])
    elif chance < 0.12:
        tensor.data_type = int(rng.integers(0, 22))
    elif chance < 0.14:
        tensor.data_location = 1
    elif chance < 0.16:
        tensor.int32_data.extend([1, 300, -5])
        if rng.random() < 0.5:
            tensor.ClearField("raw_data")
    elif chance < 0.18:
        tensor.raw_data = flipped(rng, tensor.raw_data)
    else:
        try:
            array = numpy_helper.to_array(tensor)
        except Exception:  # changed before
            return
        if array.dtype.kind == "f" and rng.random() < 0.4:
            with np.errstate(all="ignore"):
                factor = np.float64(pick(rng, (2, 0.5, -1, 1e4, 1e-4, 1e30, 1e-30, 0, 3.3)))
                array = (array * factor).astype(array.dtype)
        else:
            array = array_values(rng, array)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))


def _tensors(model: Any) -> list[str]:
    graph = model.graph
    names = [output for node in graph.node for output in node.output]
    return [*names, *(t.name for t in graph.initializer), *(value.name for value in graph.input)] or [""]


def _inputs(model: Any, rng: np.random.Generator) -> None:
    nodes = [node for node in model.graph.node if node.input]
    if not nodes:
        return
    node = pick(rng, nodes)
    at = int(rng.integers(len(node.input)))
    match int(rng.integers(8)):
        case 0:
            node.input[at] = ""
        case 1:
            node.input[at] = "nowhere"
        case 2:
            del node.input[at]
        case 3:
            node.input.append(pick(rng, _tensors(model)))
        case 4:
            node.output[0] = pick(rng, _tensors(model))
        case 5:
            graph = model.graph
            if graph.output:
                graph.output[0].name = pick(rng, _tensors(model))
        case _:
            node.input[at] = pick(rng, _tensors(model))


def _node(model: Any, rng: np.random.Generator) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    at, other = (int(i) for i in rng.integers(len(nodes), size=2))
    match int(rng.integers(6)):
        case 0:
            del nodes[at]
        case 1 | 2:
            nodes[at].op_type = pick(rng, KINDS)
        case 3:
            nodes[at].domain = pick(rng, ("", "ai.onnx", "org.openvinotoolkit", "com.microsoft", "x"))
        case 4:
            nodes.append(nodes[other])
        case _:
            # A new operation between a node and its readers.
            source = nodes[at].output[0] if nodes[at].output else ""
            for node in nodes:
                for place, name in enumerate(node.input):
                    if name == source:
                        node.input[place] = "between"
            nodes.add(
                op_type=pick(rng, ("Relu", "Softmax", "Identity", "Floor", "ArgMax")),
                input=[source],
                output=["between"],
            )


def _proto(model: Any, rng: np.random.Generator) -> None:
    graph = model.graph
    match int(rng.integers(6)):
        case 0:
            graph.initializer.append(graph.initializer[0]) if graph.initializer else None
        case 1:
            graph.output.extend(list(graph.output))
        case 2:
            graph.input.extend(list(graph.input))
        case 3:
            del graph.initializer[:]
        case 4:
            model.ir_version = _int64(integer(rng, model.ir_version))
        case _:
            graph.node.sort(key=lambda node: node.name)


def _shape(model: Any, rng: np.random.Generator) -> None:
    values = list(model.graph.input) + list(model.graph.output)
    if not values:
        return
    dims = pick(rng, values).type.tensor_type.shape.dim
    if not dims:
        return
    dim = pick(rng, list(dims))
    if rng.random() < 0.3:
        dim.dim_param = "n"
    else:
        dim.dim_value = _int64(pick(rng, (integer(rng, dim.dim_value), 16, 32, 48, 64, 33, 500)))


def _opset(model: Any, rng: np.random.Generator) -> None:
    if model.opset_import:
        entry = pick(rng, list(model.opset_import))
        entry.version = pick(rng, (0, 6, 9, 10, 11, 12, 13, 17, 19, 21, 23, 1000, -1))
