"""The native weight file: one .npz with the graph as JSON and each layer's weights as CSR.

Members
    graph              uint8, UTF-8 JSON: {"format": "sparse-icnet", "version": 1, "output", "normalization", "ops"} and,
                       where there is something to say, "meta": an object of the fields of `Meta`, each of them optional;
                       "faces": {"input": {...}, "output": {...}} of the fields of `InputFace` and `OutputFace`
    <layer>.indptr     int32 (O + 1,)
    <layer>.indices    uint16 or uint32 (nnz,)
    <layer>.data       int8 (nnz,), float32 of a FloatConvolution
    <layer>.weight_scale, .bias   float32 (O,)
    <layer>.scale, .shift         float32 (C,), for an Affine
where <layer> is "layer" and a number that the JSON names.  Nothing is ever unpickled, sizes are checked before reading.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Set
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.files import replacing
from sparse_icnet.formats.errors import FormatError, parsing, read_bounded
from sparse_icnet.formats.native_members import MAX_BYTES, Members
from sparse_icnet.network import graph as g
from sparse_icnet.network.faces import Faces, InputFace, OutputFace
from sparse_icnet.network.limits import MAX_LENGTH
from sparse_icnet.network.meta import Meta, shown
from sparse_icnet.sparse.csr import CSR

VERSION = 1
MAX_OPS = 10_000
MAX_JSON = 1 << 24  # bytes
MAX_NAME = 1 << 12  # characters

_OPS: dict[str, type] = {
    op.__name__: op
    for op in (
        g.Input,
        g.Affine,
        g.Quantize,
        g.Convolution,
        g.FloatConvolution,
        g.Add,
        g.Relu,
        g.MaxPool,
        g.AveragePool,
        g.Resize,
        g.Bilinear,
        g.Softmax,
        g.Argmax,
    )
}
_LENGTHS = {"shape": 3, "padding": 4, "kernel": 2, "stride": 2, "dilation": 2, "bins": 2, "size": 2}
_NORMALIZATION = {"divisor", "mean", "std"}
_ARRAY_FIELDS = {"weight", "weight_scale", "bias", "scale", "shift"}


def save(graph: g.Graph, path: str | os.PathLike[str], meta: Meta | None = None) -> None:
    """Write `graph` to `path`, first to a temporary file beside it.

    meta  what the file says about the network; None: `graph.meta`
    """
    path = Path(path)
    meta = graph.meta if meta is None else meta
    arrays: dict[str, NDArray[Any]] = {}
    ops = [_op_to_json(op, f"layer{i:04d}", arrays) for i, op in enumerate(graph.ops)]
    document: dict[str, Any] = {
        "format": "sparse-icnet",
        "version": VERSION,
        "output": graph.output,
        "normalization": {
            "divisor": graph.normalization.divisor,
            "mean": list(graph.normalization.mean),
            "std": list(graph.normalization.std),
        },
        "ops": ops,
    }
    if meta != Meta():
        document["meta"] = {key: value for key, value in asdict(meta).items() if value}
    if graph.faces != Faces():
        document["faces"] = asdict(graph.faces)
    arrays["graph"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _write_members(file, arrays)


def load(path: str | os.PathLike[str], content: bytes | None = None) -> g.Graph:
    """Read a file that `save` wrote; raises FormatError naming file, member and what was expected, OSError as it comes.

    content  of the file, where it was read already
    """
    path = Path(path)
    members = Members(path, read_bounded(path, MAX_BYTES) if content is None else content)
    try:
        return _graph(path, members)
    except g.GraphError as error:
        raise FormatError(f"{path}: {error}") from error


def _write_members(file: Any, arrays: dict[str, NDArray[Any]]) -> None:
    """A deterministic .npz: fixed time stamps, so the same graph gives the same bytes and the same digest."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _op_to_json(op: g.Op, key: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": type(op).__name__}
    for spec in fields(op):
        if not spec.init:
            continue
        value = getattr(op, spec.name)
        if isinstance(value, g.Quantizer):
            value = [value.scale, value.zero_point, value.low, value.high]
        elif isinstance(op, g.AnyConvolution) and spec.name == "weight":
            csr = CSR.from_dense(value)
            arrays |= {f"{key}.indptr": csr.indptr, f"{key}.indices": csr.indices, f"{key}.data": csr.data}
            value = {"csr": key, "shape": list(csr.shape)}
        elif spec.name in _ARRAY_FIELDS and isinstance(value, np.ndarray):
            arrays[f"{key}.{spec.name}"] = value
            value = {"array": f"{key}.{spec.name}"}
        entry[spec.name] = value
    return entry


def _graph(path: Path, members: Members) -> g.Graph:
    where = f"{path}: member 'graph'"
    text = members.array("graph", "uint8", MAX_JSON).tobytes()
    with parsing(where, "UTF-8 JSON"):
        document = json.loads(text.decode(), object_pairs_hook=_distinct(where))
    if not isinstance(document, dict) or document.get("format") != "sparse-icnet":
        raise FormatError(f"{path}: expected a sparse-icnet weight file, found another kind of .npz")
    if type(document.get("version")) is not int or document["version"] != VERSION:
        raise FormatError(
            f"{path}: expected format version {VERSION}, found {_shown(document.get('version'))}"
        )
    keys = {"format", "version", "output", "normalization", "ops"}
    top = _Object(document, where, keys | ({"meta", "faces"} & set(document)))
    entries = top.values["ops"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_OPS:
        raise FormatError(f"{where}: expected a list of 1 to {MAX_OPS} operations")
    ops = tuple(_op_from_json(entry, f"{where}: operation {i}", members) for i, entry in enumerate(entries))
    normalization = _normalization(
        _Object(top.values["normalization"], f"{where}: normalization", _NORMALIZATION)
    )
    meta = _meta(document["meta"], f"{where}: meta") if "meta" in document else Meta()
    faces = _faces(top) if "faces" in document else Faces()
    graph = g.Graph(ops, top.text("output"), normalization, meta=meta, faces=faces)
    if not len(normalization.mean) == len(normalization.std) == graph.input.shape[0]:
        raise FormatError(
            f"{where}: normalization must have {graph.input.shape[0]} channels, found {len(normalization.mean)} means "
            f"and {len(normalization.std)} deviations"
        )
    return graph


def _faces(top: _Object) -> Faces:
    faces = top.object("faces", {"input", "output"})
    taken = faces.object("input", {"dtype", "axes", "bgr", "picture", "whole"})
    given = faces.object("output", {"dtype", "axes"})
    picture = None if taken.values["picture"] is None else taken.integers("picture", 2)
    try:
        return Faces(
            InputFace(
                *(taken.text("dtype"), taken.text("axes"), taken.flag("bgr")),
                None if picture is None else (picture[0], picture[1]),
                taken.flag("whole"),
            ),
            OutputFace(given.text("dtype"), given.text("axes")),
        )
    except ValueError as error:
        raise FormatError(f"{faces.where}: {error}") from error


def _meta(values: Any, where: str) -> Meta:
    known = {spec.name for spec in fields(Meta)}
    if not isinstance(values, dict) or not set(values) <= known:
        found = sorted(values) if isinstance(values, dict) else values
        raise FormatError(
            f"{where}: expected an object with some of {', '.join(sorted(known))}, found {_shown(found)}"
        )
    names = values.get("class_names", [])
    if not isinstance(names, list):
        raise FormatError(f"{where}: class_names must be a list of strings, found {_shown(names)}")
    try:
        return Meta(**(values | {"class_names": tuple(names)}))
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where}: {error}") from error


def _distinct(where: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Refuses a JSON object that names a key twice, of which readers take different ones."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise FormatError(
                f"{where}: expected keys that are unique, found one twice in {_shown(sorted(values))}"
            )
        return values

    return make


def _normalization(values: _Object) -> g.Normalization:
    divisor, mean, std = values.number("divisor"), values.numbers("mean"), values.numbers("std")
    if not all(map(math.isfinite, (divisor, *mean, *std))) or 0 in (divisor, *std):
        raise FormatError(
            f"{values.where}: expected finite numbers with non-zero divisor and std, found others"
        )
    return g.Normalization(divisor, mean, std)


def _op_from_json(entry: Any, where: str, members: Members) -> g.Op:
    found = entry.get("type") if isinstance(entry, dict) else entry
    if not isinstance(entry, dict) or not isinstance(found, str) or found not in _OPS:
        raise FormatError(
            f"{where}: unknown operation type {_shown(found)}, expected one of {', '.join(_OPS)}"
        )
    kind = _OPS[found]
    names = [spec.name for spec in fields(kind) if spec.init]
    op = _Object(entry, f"{where} ({found})", {"type", *names})
    op = _Object(entry, f"{op.where} {op.text('name')!r}", {"type", *names})
    values: dict[str, Any] = {}
    for name in names:
        if name in ("name", "input", "left", "right"):
            values[name] = op.text(name)
        elif name == "quantizer":
            values[name] = _quantizer(op)
        elif name == "weight":
            weight = op.object(name, {"csr", "shape"})
            values[name] = members.weights(
                weight.where,
                weight.text("csr"),
                _four(weight.integers("shape", 4)),
                "float32" if kind is g.FloatConvolution else "int8",
            )
        elif name in _ARRAY_FIELDS:
            values[name] = members.array(op.object(name, {"array"}).text("array"), "float32", MAX_LENGTH)
        elif name == "align_corners":
            values[name] = op.flag(name)
        else:
            values[name] = op.integers(name, _LENGTHS[name])
    made: g.Op = kind(**values)
    return made


def _quantizer(op: _Object) -> g.Quantizer:
    value = op.values["quantizer"]
    if not isinstance(value, list) or len(value) != 4 or type(value[0]) not in (int, float):
        raise FormatError(
            f"{op.where}: quantizer must be scale, zero point, lowest and highest code, found {_shown(value)}"
        )
    scale, *integers = value
    try:
        return g.Quantizer(
            _number(scale, op.where), *(_integer(number, "quantizer", op.where) for number in integers)
        )
    except g.GraphError as error:
        raise FormatError(f"{op.where}: {error}") from error


class _Object:
    """A JSON object with exactly the given keys, its values read as what they should be; errors begin with `where`."""

    def __init__(self, values: Any, where: str, keys: Set[str]) -> None:
        if not isinstance(values, dict):
            raise FormatError(f"{where}: expected an object with {sorted(keys)}, found {_shown(values)}")
        if set(values) != keys:
            raise FormatError(f"{where}: must have the fields {sorted(keys)}, found {_shown(sorted(values))}")
        self.values, self.where = values, where

    def text(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str):
            raise FormatError(f"{self.where}: {key} must be a string, found {_shown(value)}")
        if len(value) > MAX_NAME or not (value.isascii() or _is_unicode(value)):
            raise FormatError(
                f"{self.where}: {key} must be at most {MAX_NAME} characters of Unicode, found {_shown(value)}"
            )
        return value

    def flag(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {key} must be true or false, found {_shown(value)}")
        return value

    def object(self, key: str, keys: Set[str]) -> _Object:
        return _Object(self.values[key], f"{self.where}: {key}", keys)

    def integers(self, key: str, count: int) -> tuple[int, ...]:
        value = self.values[key]
        if not isinstance(value, list) or len(value) != count:
            raise FormatError(f"{self.where}: {key} must be {count} integers, found {_shown(value)}")
        return tuple(_integer(number, key, self.where) for number in value)

    def number(self, key: str) -> float:
        return _number(self.values[key], f"{self.where}: {key}")

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self.values[key]
        if not isinstance(value, list) or len(value) > MAX_LENGTH:
            raise FormatError(f"{self.where}: {key} must be a list of numbers, found {_shown(value)}")
        return tuple(_number(number, f"{self.where}: {key}") for number in value)


def _four(numbers: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = numbers
    return a, b, c, d


def _integer(value: Any, key: str, where: str) -> int:
    if type(value) is not int or not -(1 << 31) <= value < 1 << 31:
        raise FormatError(f"{where}: {key}: expected an integer of 32 bits, found {_shown(value)}")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) is float:
        return value
    if type(value) is int and abs(value) < 1 << 63:
        return float(value)
    raise FormatError(f"{where}: expected a number, found {_shown(value)}")


def _is_unicode(text: str) -> bool:
    """Whether it has no lone surrogate, which JSON can spell."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(value: Any) -> str:
    """A JSON value for a message: `shown`, and of what holds others their number."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'dict'} of {len(value)}"
    return shown(value)
