"""The native weight file: one .npz with the graph as JSON and each layer's weights as CSR.

Members
    graph              uint8, UTF-8 JSON: {"format": "sparse-icnet", "version": 1, "output", "normalization", "ops"}
    <layer>.indptr     int32 (O + 1,)
    <layer>.indices    uint16 or uint32 (nnz,)
    <layer>.data       int8 (nnz,)
    <layer>.scale      float32 (O,)
    <layer>.bias       float32 (O,)
    <layer>.shift, .factor   float32 (C,), for an Affine
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
            members = _checked_members(path, archive)
            with np.load(path, allow_pickle=False) as file:
                return _graph(path, file, members)
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


def _checked_members(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise FormatError(f"{path}: expected at most {MAX_MEMBERS} members, found {len(infos)}")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise FormatError(f"{path}: expected at most {MAX_BYTES} bytes uncompressed, found {total}")
    return {info.filename: info.file_size for info in infos}


def _graph(path: Path, file: Any, members: dict[str, int]) -> g.Graph:
    def array(name: str, dtype: str, dimensions: int) -> NDArray:
        if f"{name}.npy" not in members:
            raise FormatError(f"{path}: member {name!r} is missing")
        value = file[name]
        kinds = dtype.split("|")
        if value.dtype.name not in kinds or value.ndim != dimensions:
            raise FormatError(
                f"{path}: member {name!r} must be {dtype} of {dimensions} dimensions, "
                f"found {value.dtype} {value.shape}"
            )
        return value

    try:
        document = json.loads(array("graph", "uint8", 1).tobytes().decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: member 'graph' must be UTF-8 JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != "sparse-icnet":
        raise FormatError(f"{path}: expected a sparse-icnet weight file, found another kind of .npz")
    if document.get("version") != VERSION:
        raise FormatError(f"{path}: expected format version {VERSION}, found {document.get('version')!r}")
    entries = document.get("ops")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_OPS:
        raise FormatError(f"{path}: expected a list of 1 to {MAX_OPS} operations")
    ops = tuple(_op_from_json(path, entry, array) for entry in entries)
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


def _op_from_json(path: Path, entry: Any, array: Any) -> g.Op:
    if not isinstance(entry, dict) or entry.get("type") not in _OPS:
        found = entry.get("type") if isinstance(entry, dict) else entry
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
            scale, *integers = value
            value = g.Quantizer(float(scale), *map(_integer, integers))
        elif name == "weight":
            key, shape = value["csr"], tuple(map(_integer, value["shape"]))
            if len(shape) != 4 or min(shape) < 1 or math.prod(shape) > MAX_BYTES:
                raise FormatError(
                    f"{path}: layer {entry['name']!r}: weights of shape {shape} are not acceptable"
                )
            value = CSR(
                shape,
                array(f"{key}.indptr", "int32", 1),
                array(f"{key}.indices", "uint16|uint32", 1),
                array(f"{key}.data", "int8", 1),
            ).to_dense()
        elif name in _ARRAY_FIELDS:
            value = array(str(value["array"]), "float32", 1)
        else:
            value = tuple(map(_integer, value))
        values[name] = value
    return kind(**values)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"expected an integer, found {value!r}")
    return value
