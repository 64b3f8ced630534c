"""Changes of an OpenVINO IR: attributes, dimensions, edges, layers, constants in the .bin, text, bytes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np

from .values import FLOATS, TEXTS, Files, array_values, changed, flipped, integer, number, pick

TYPES = {"f32": "<f4", "f16": "<f2", "i8": "i1", "u8": "u1", "i32": "<i4", "i64": "<i8", "fp32": "<f4"}
KINDS = (
    *("Parameter", "Result", "Const", "Convert", "FakeQuantize", "Add", "Subtract", "Multiply", "Divide"),
    *("Convolution", "GroupConvolution", "ReLU", "Relu", "Clamp", "MaxPool", "AvgPool", "AdaptiveAvgPool"),
    *("ReduceMean", "Interpolate", "SoftMax", "TopK", "Reshape", "Transpose", "Squeeze", "Unsqueeze"),
    *(
        "StridedSlice",
        "Slice",
        "Gather",
        "Concat",
        "ShapeOf",
        "Floor",
        "Ceiling",
        "BatchNormInference",
        "Sigmoid",
    ),
    *("Input", "Eltwise", "Pooling", "Resample", "ScaleShift", "Power", "Permute", "ArgMax"),
)
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


@dataclass
class _Model:
    root: ET.Element
    binary: bytes


def mutate(files: Files, rng: np.random.Generator) -> Files:
    """One to four changes of the tree and the constants; now and then of the text or bytes behind them."""
    model = _Model(ET.fromstring(files[".xml"].decode()), files[".bin"])
    changes = (
        (8, _attribute),
        (6, _constant),
        (3, _edge),
        (3, _layer),
        (2, _dim),
        (1, _input_shape),
        (1, _offset),
    )
    changed(rng, changes, model)
    text = ET.tostring(model.root, encoding="utf-8")
    if rng.random() < 0.08:
        text = _text(text, rng)
    binary = flipped(rng, model.binary) if rng.random() < 0.03 else model.binary
    return {".xml": text, ".bin": binary}


def _attribute(model: _Model, rng: np.random.Generator) -> None:
    """An attribute of the data of a layer, seldom of any other element."""
    root = model.root
    elements = list(root.iter("data")) if rng.random() < 0.8 else list(root.iter())
    element = pick(rng, elements or [root])
    if not element.attrib:
        return
    key = pick(rng, sorted(element.attrib))
    old = element.attrib[key]
    chance = rng.random()
    if chance < 0.05:
        del element.attrib[key]
    elif chance < 0.1:
        element.attrib[pick(rng, (f"{key}x", "axis", "levels", "auto_pad", "group", "keep_dims"))] = old
    elif chance < 0.2 or not NUMBER.search(old):
        words = (
            "true",
            "false",
            "nearest",
            "linear",
            "floor",
            "ceil",
            "max",
            "min",
            "same_upper",
            "valid",
            "numpy",
            "f32",
            "i8",
        )
        element.attrib[key] = pick(rng, (*TEXTS, *words))
    elif chance < 0.4:
        element.attrib[key] = ",".join(str(integer(rng, int(float(n)))) for n in NUMBER.findall(old))
    else:
        numbers = NUMBER.findall(old)
        at = int(rng.integers(len(numbers)))
        numbers[at] = _number_text(numbers[at], rng)
        element.attrib[key] = ",".join(numbers)


def _number_text(old: str, rng: np.random.Generator) -> str:
    return (
        str(number(rng, float(old)))
        if "." in old or rng.random() < 0.1
        else str(integer(rng, int(float(old))))
    )


def _constant(model: _Model, rng: np.random.Generator) -> None:
    """Values of one constant; a scalar or range of a FakeQuantize as likely as weights."""
    root = model.root
    places = []
    for layer in root.iter("layer"):
        data, blob = layer.find("data"), layer.find("blobs/custom")
        source = blob if blob is not None else data
        if layer.get("type", "").lower() in ("const", "constant") and source is not None:
            kind = (data.get("element_type") if data is not None else None) or layer.get(
                "precision", ""
            ).lower()
            try:
                places.append((int(source.get("offset", "")), int(source.get("size", "")), TYPES[kind or ""]))
            except (ValueError, KeyError):  # changed before
                continue
    binary = model.binary
    if not places:
        return
    offset, size, kind = pick(rng, places)
    part = binary[offset : offset + size] if offset >= 0 and size > 0 else b""
    dtype = np.dtype(kind)
    if not part or len(part) % dtype.itemsize:
        return
    array = np.frombuffer(part, dtype)
    if dtype.kind == "f" and rng.random() < 0.4:
        with np.errstate(all="ignore"):
            array = (array * np.float64(pick(rng, (2, 0.5, -1, 1e4, 1e-4, 1e30, 1e-30, 0, 3.3)))).astype(
                dtype
            )
    else:
        array = array_values(rng, array)
    model.binary = binary[:offset] + array.tobytes() + binary[offset + size :]


def _edge(model: _Model, rng: np.random.Generator) -> None:
    root = model.root
    edges = root.find("edges")
    if edges is None or not len(edges):
        return
    edge = pick(rng, list(edges))
    layers = [layer.get("id", "0") for layer in root.iter("layer")]
    match int(rng.integers(6)):
        case 0:
            edges.remove(edge)
        case 1:
            edges.append(ET.Element("edge", dict(edge.attrib)))
        case 2 | 3:
            edge.set("from-layer", pick(rng, layers))
        case 4:
            edge.set("to-layer", pick(rng, layers))
        case _:
            edge.set(
                pick(rng, ("from-port", "to-port")),
                pick(rng, ("0", "1", "2", "3", "-1", "9999999999999999999")),
            )


def _layer(model: _Model, rng: np.random.Generator) -> None:
    root = model.root
    layers = root.find("layers")
    if layers is None or not len(layers):
        return
    layer = pick(rng, list(layers))
    match int(rng.integers(8)):
        case 0:
            layers.remove(layer)
        case 1:
            layers.append(ET.fromstring(ET.tostring(layer)))
        case 2 | 3:
            layer.set("type", pick(rng, KINDS))
        case 4:
            layer.set(
                "version",
                pick(rng, ("opset1", "opset4", "opset8", "opset11", "opset14", "opset99", "extension", "")),
            )
        case 5:
            layer.set("id", pick(rng, ("0", "1", "-5", "99999", "x")))
        case 6:
            for part in layer.findall("data"):
                layer.remove(part)
        case _:
            root.set("version", pick(rng, ("5", "6", "7", "10", "11", "12", "-1", "x")))


def _dim(model: _Model, rng: np.random.Generator) -> None:
    root = model.root
    dims = list(root.iter("dim"))
    if dims:
        dim = pick(rng, dims)
        text = (dim.text or "").strip()
        old = int(text) if text.lstrip("-").isdecimal() else 1
        dim.text = pick(rng, (str(integer(rng, old)), "-1", "", "x"))


def _input_shape(model: _Model, rng: np.random.Generator) -> None:
    """Another size of the input, and no word of the file about the others."""
    root = model.root
    for layer in root.iter("layer"):
        if layer.get("type") in ("Parameter", "Input"):
            size = pick(rng, ((16, 32), (64, 64), (33, 47), (1, 16), (32, 16), (100, 20), (20, 500)))
            data = layer.find("data")
            if data is not None:
                data.set("shape", f"1,3,{size[0]},{size[1]}")
            for port in layer.iter("port"):
                for dim, value in zip(port.findall("dim"), (1, 3, *size), strict=False):
                    dim.text = str(value)
        elif rng.random() < 0.95:
            for port in layer.iter("port"):
                for dim in port.findall("dim"):
                    dim.text = "-1" if layer.get("type") not in ("Const", "Constant") else dim.text


def _offset(model: _Model, rng: np.random.Generator) -> None:
    root = model.root
    sources = [element for element in root.iter() if "offset" in element.attrib]
    if sources:
        source = pick(rng, sources)
        key = pick(rng, ("offset", "size"))
        old = source.get(key, "0")
        source.set(key, str(integer(rng, int(old) if old.lstrip("-").isdecimal() else 0)))


def _text(text: bytes, rng: np.random.Generator) -> bytes:
    changes = (
        flipped(rng, text),
        b'<!DOCTYPE net [<!ENTITY a "aaaaaaaa">]>' + text,
        b"<?xml version='1.0' encoding='"
        + pick(rng, (b"utf-16", b"latin-1", b"x", b"ascii"))
        + b"'?>"
        + text,
        text.replace(b"<layers>", b"<layers>" * pick(rng, (2, 40))),
        text.replace(b"</net>", b""),
        b"\xef\xbb\xbf" + text,
        text.replace(b'="1"', f'="{pick(rng, FLOATS)}"'.encode(), 3),
    )
    return pick(rng, changes)
