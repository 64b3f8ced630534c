"""The native weight file: one .npz with the graph as JSON and each layer's weights as CSR.

Members
    graph              uint8, UTF-8 JSON: {"format": "sparse-icnet", "version": 1, "output", "normalization", "ops"}
    <layer>.indptr     int32 (O + 1,)
    <layer>.indices    uint16 or uint32 (nnz,)
    <layer>.data       int8 (nnz,)
    <layer>.weight_scale, .bias   float32 (O,)
    <layer>.scale, .shift         float32 (C,), for an Affine
where <layer> is "layer" and a number that the JSON names.  Nothing is ever unpickled, sizes are checked before reading.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network import graph as g
from sparse_icnet.sparse.csr import CSR

VERSION = 1
MAX_BYTES = 1 << 28  # of one member and of all members together, uncompressed
MAX_MEMBERS = 1 << 14
MAX_OPS = 10_000

_OPS: dict[str, type] = {
    op.__name__: op
    for op in (
        g.Input,
        g.Affine,
        g.Quantize,
        g.Convolution,
        g.Add,
        g.Relu,
        g.MaxPool,
        g.AveragePool,
        g.Resize,
        g.Softmax,
        g.Argmax,
    )
}
_LENGTHS = {"shape": 3, "padding": 4, "kernel": 2, "stride": 2, "dilation": 2, "bins": 2, "size": 2}
_ARRAY_FIELDS = {"weight", "weight_scale", "bias", "scale", "shift"}


def save(graph: g.Graph, path: str | os.PathLike[str]) -> None:
    """Write `graph` to `path`, first to a temporary file beside it."""
    path = Path(path)
    arrays: dict[str, NDArray] = {}
    ops = [_op_to_json(op, f"layer{i:04d}", arrays) for i, op in enumerate(graph.ops)]
    document = {
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
    arrays["graph"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            _write_members(file, arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> g.Graph:
    """Read a file that `save` wrote; raises FormatError naming file, member and what was expected."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _graph(path, _Members(path, archive))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise FormatError(
            f"{path}: expected a sparse-icnet .npz file, found a damaged archive: {error}"
        ) from error
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError, zipfile.error) as error:
        raise FormatError(f"{path}: {error}") from error
    except Exception as error:
        # zlib.error and struct.error derive from Exception directly: any damage must come out as one clear line.
        if type(error).__module__ in ("zlib", "struct"):
            raise FormatError(f"{path}: damaged archive: {error}") from error
        raise


def _write_members(file: Any, arrays: dict[str, NDArray]) -> None:
    """A deterministic .npz: fixed time stamps, so the same graph gives the same bytes and the same digest."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _op_to_json(op: g.Op, key: str, arrays: dict[str, NDArray]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": type(op).__name__}
    for spec in fields(op):
        if not spec.init:
            continue
        value = getattr(op, spec.name)
        if isinstance(value, g.Quantizer):
            value = [value.scale, value.zero_point, value.low, value.high]
        elif isinstance(op, g.Convolution) and spec.name == "weight":
            csr = CSR.from_dense(value)
            arrays |= {f"{key}.indptr": csr.indptr, f"{key}.indices": csr.indices, f"{key}.data": csr.data}
            value = {"csr": key, "shape": list(csr.shape)}
        elif spec.name in _ARRAY_FIELDS and isinstance(value, np.ndarray):
            arrays[f"{key}.{spec.name}"] = value
            value = {"array": f"{key}.{spec.name}"}
        entry[spec.name] = value
    return entry


class _Members:
    """The arrays of an archive.  Every size is checked before memory is taken for it."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise FormatError(f"{path}: expected at most {MAX_MEMBERS} members, found {len(infos)}")
        total = sum(info.file_size for info in infos)
        if total > MAX_BYTES:
            raise FormatError(f"{path}: expected at most {MAX_BYTES} bytes uncompressed, found {total}")
        self.path, self.archive = path, archive
        self.infos = {info.filename: info for info in infos}
        self.dense_left = MAX_BYTES

    def array(self, name: str, dtype: str, dimensions: int) -> NDArray:
        """The member `name`, of one of the dtypes in `dtype` ("uint16|uint32") and of `dimensions`."""
        if (info := self.infos.get(f"{name}.npy")) is None:
            raise FormatError(f"{self.path}: member {name!r} is missing")
        with self.archive.open(info) as member:
            try:
                version = np.lib.format.read_magic(member)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"version {version}")
                first = version == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, _, kind = read(member)
            except ValueError as error:
                reason = str(error).splitlines()[0]
                raise FormatError(f"{self.path}: member {name!r} must be an .npy array: {reason}") from error
            # Column order makes no difference to one dimension; none has more.
            if kind.name not in dtype.split("|") or len(shape) != dimensions:
                raise FormatError(
                    f"{self.path}: member {name!r} must be {dtype} of {dimensions} dimensions, found {kind} {shape}"
                )
            size = math.prod(shape) * kind.itemsize
            if min(shape) < 0 or size != info.file_size - member.tell():
                raise FormatError(
                    f"{self.path}: member {name!r} declares the shape {shape} of {kind}, "
                    f"found {info.file_size - member.tell()} bytes"
                )
            return np.frombuffer(bytearray(member.read()), kind).reshape(shape)

    def weights(self, layer: str, key: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
        """Dense int8 weights (O, I, kh, kw) from the CSR arrays `key`."""
        size = math.prod(shape) if len(shape) == 4 and min(shape) >= 1 else 0
        if not 0 < size <= self.dense_left:
            raise FormatError(f"{self.path}: layer {layer!r}: weights of shape {shape} are not acceptable")
        self.dense_left -= size
        return CSR(
            shape,
            self.array(f"{key}.indptr", "int32", 1),
            self.array(f"{key}.indices", "uint16|uint32", 1),
            self.array(f"{key}.data", "int8", 1),
        ).to_dense()


def _graph(path: Path, members: _Members) -> g.Graph:
    try:
        document = json.loads(members.array("graph", "uint8", 1).tobytes().decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: member 'graph' must be UTF-8 JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != "sparse-icnet":
        raise FormatError(f"{path}: expected a sparse-icnet weight file, found another kind of .npz")
    if type(document.get("version")) is not int or document["version"] != VERSION:
        raise FormatError(f"{path}: expected format version {VERSION}, found {document.get('version')!r}")
    entries = document.get("ops")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_OPS:
        raise FormatError(f"{path}: expected a list of 1 to {MAX_OPS} operations")
    ops = tuple(_op_from_json(path, entry, members) for entry in entries)
    n = document["normalization"]
    normalization = g.Normalization(
        float(n["divisor"]), tuple(map(float, n["mean"])), tuple(map(float, n["std"]))
    )
    finite = all(map(math.isfinite, (normalization.divisor, *normalization.mean, *normalization.std)))
    if not finite or 0 in (normalization.divisor, *normalization.std):
        raise FormatError(f"{path}: normalization must be finite with non-zero divisor and std, found {n}")
    graph = g.Graph(ops, str(document["output"]), normalization)
    if not len(normalization.mean) == len(normalization.std) == graph.input.shape[0]:
        raise FormatError(f"{path}: normalization must have {graph.input.shape[0]} channels, found {n}")
    return graph


def _op_from_json(path: Path, entry: Any, members: _Members) -> g.Op:
    found = entry.get("type") if isinstance(entry, dict) else entry
    if not isinstance(entry, dict) or not isinstance(found, str) or found not in _OPS:
        raise FormatError(f"{path}: unknown operation type {found!r}, expected one of {', '.join(_OPS)}")
    kind = _OPS[entry["type"]]
    names = {spec.name for spec in fields(kind) if spec.init}
    if set(entry) - {"type"} != names:
        raise FormatError(
            f"{path}: {entry['type']} {entry.get('name')!r} must have the fields {sorted(names)}, "
            f"found {sorted(set(entry) - {'type'})}"
        )
    values: dict[str, Any] = {}
    for name in names:
        value = entry[name]
        if name in ("name", "input", "left", "right"):
            if not isinstance(value, str):
                raise FormatError(f"{path}: {entry['type']}.{name} must be a string, found {value!r}")
        elif name == "quantizer":
            scale, zero_point, low, high = value
            value = g.Quantizer(float(scale), *map(_integer, (zero_point, low, high)))
        elif name == "weight":
            value = members.weights(entry["name"], str(value["csr"]), tuple(map(_integer, value["shape"])))
        elif name in _ARRAY_FIELDS:
            value = members.array(str(value["array"]), "float32", 1)
        else:
            value = tuple(map(_integer, value))
            if len(value) != _LENGTHS[name]:
                raise FormatError(
                    f"{path}: {found} {entry['name']!r}: {name} must be {_LENGTHS[name]} integers, found {value}"
                )
        values[name] = value
    return kind(**values)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"expected an integer, found {value!r}")
    return value
