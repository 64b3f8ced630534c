"""Changes of a native file: values and structure of its JSON, arrays, headers of arrays, members of the archive, bytes."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .values import TEXTS, Files, array_values, changed, flipped, integer, number, pick

Members = dict[str, bytes]
GRAPH = "graph.npy"
NAMES = ("name", "input", "left", "right", "output")


@dataclass
class _Model:
    """A native file taken apart; `document` is the JSON of the member `graph`."""

    members: Members
    document: dict[str, Any]

    def pack(self) -> None:
        self.members[GRAPH] = _npy(np.frombuffer(json.dumps(self.document).encode(), np.uint8))


def mutate(files: Files, rng: np.random.Generator) -> Files:
    """Up to four changes of the JSON, then perhaps of the arrays, then of the archive itself."""
    with zipfile.ZipFile(io.BytesIO(files[".npz"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    model = _Model(members, json.loads(np.load(io.BytesIO(members[GRAPH])).tobytes()))
    kind = rng.random()
    if kind < 0.75:
        changed(rng, ((6, _value), (5, _geometry), (3, _structure)), model)
        model.pack()
    if kind > 0.65:
        changed(rng, ((6, _array), (2, _header), (1, _text)), model)
    data = _archive(model.members, rng)
    return {".npz": pick(rng, _ARCHIVE)(data, rng) if rng.random() < 0.12 else data}


def _text(model: _Model, rng: np.random.Generator) -> None:
    content = np.load(io.BytesIO(model.members[GRAPH])).tobytes()
    model.members[GRAPH] = _npy(np.frombuffer(flipped(rng, content), np.uint8))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def _archive(members: Members, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    method = pick(
        rng, (zipfile.ZIP_STORED,) * 24 + (zipfile.ZIP_DEFLATED,) * 24 + (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members.items():
            archive.writestr(_entry(name, method), content)
        if rng.random() < 0.02:
            name = pick(rng, sorted(members))
            archive.writestr(_entry(name, method), flipped(rng, members[name]))
    return buffer.getvalue()


def _entry(name: str, method: int) -> zipfile.ZipInfo:
    """An entry without the time of day."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = method
    return entry


def _leaves(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _leaves(tree[key])


def _value(model: _Model, rng: np.random.Generator) -> None:
    document = model.document
    container, key = pick(rng, list(_leaves(document)))
    old = container[key]
    if isinstance(old, str) and key in NAMES and rng.random() < 0.7:  # read another tensor
        container[key] = pick(
            rng, [op.get("name") for op in document.get("ops", [{}]) if isinstance(op, dict)] or [""]
        )
    elif rng.random() < 0.08:
        container[key] = pick(rng, (None, True, "", [], {}, [old], str(old), {"a": old}, -1, 1.5))
    elif isinstance(old, bool) or old is None:
        container[key] = 1
    elif isinstance(old, int):
        container[key] = integer(rng, old)
    elif isinstance(old, float):
        container[key] = number(rng, old)
    elif isinstance(old, str):
        container[key] = pick(rng, TEXTS)
    elif isinstance(old, list):
        container[key] = pick(rng, (old[:-1], old * 2, old[::-1], old[1:], [*old, 0]))


def _geometry(model: _Model, rng: np.random.Generator) -> None:
    """Changes that often leave a valid graph: code ranges, scales, windows, sizes."""
    document = model.document
    ops = [op for op in document.get("ops", []) if isinstance(op, dict)]
    quantizers = [
        op["quantizer"] for op in ops if isinstance(op.get("quantizer"), list) and len(op["quantizer"]) == 4
    ]
    windows = [
        op for op in ops if op.get("type") in ("Convolution", "MaxPool", "AveragePool", "Resize", "Input")
    ]
    if quantizers and rng.random() < 0.6:
        quantizer = pick(rng, quantizers)
        if rng.random() < 0.5:
            offsets = (1, -1, 100, -100, -128, 255, -32768, 32512, 32513, 65280, 1 << 31, -(1 << 31), 1 << 62)
            offset = pick(rng, offsets)
            quantizer[1:] = [code + offset for code in quantizer[1:]]
        elif rng.random() < 0.5:
            low, high = sorted(rng.integers(-130, 300, 2).tolist())
            quantizer[1:] = [int(rng.integers(low, high + 1)), low, high]
        else:
            quantizer[0] = number(rng, quantizer[0])
        return
    if not windows:
        return
    op = pick(rng, windows)
    fields = [
        key for key in ("stride", "dilation", "padding", "kernel", "bins", "size", "shape") if key in op
    ]
    field = pick(rng, fields)
    value = op[field]
    if not isinstance(value, list) or not all(isinstance(n, int) for n in value):
        return
    choices: tuple[list[int], ...] = (
        [n * 2 for n in value],
        [max(1, n // 2) for n in value],
        [n + 1 for n in value],
        [int(n) for n in rng.integers(0, 6, len(value))],
        value[::-1],
        [*value[:-1], value[-1] * 50],
        [value[0] * 50, *value[1:]],
        [integer(rng, n) for n in value],
    )
    op[field] = pick(rng, choices)


def _structure(model: _Model, rng: np.random.Generator) -> None:
    document = model.document
    ops = document.get("ops")
    if not isinstance(ops, list) or not ops:
        return
    at, other = (int(i) for i in rng.integers(len(ops), size=2))
    match int(rng.integers(7)):
        case 0:
            del ops[at]
        case 1:
            ops[at], ops[other] = ops[other], ops[at]
        case 2:
            ops.insert(at, json.loads(json.dumps(ops[other])))
        case 3:
            if isinstance(ops[at], dict) and isinstance(ops[other], dict):
                ops[at]["type"] = ops[other].get("type")
        case 4:
            if isinstance(ops[at], dict) and ops[at]:
                del ops[at][pick(rng, sorted(ops[at]))]
        case 5:
            name = f"new{len(ops)}"
            source = ops[at].get("name") if isinstance(ops[at], dict) else "image"
            kind = pick(rng, ("Relu", "Softmax", "Argmax", "Resize", "Quantize", "Add"))
            entry: dict[str, Any] = {"type": kind, "name": name, "input": source}
            if kind == "Resize":
                entry["size"] = rng.integers(1, 70, 2).tolist()
            elif kind == "Quantize":
                entry["quantizer"] = [0.05, 10, 0, 255]
            elif kind == "Add":
                entry = {"type": kind, "name": name, "left": source, "right": source}
            ops.insert(at + 1, entry)
            for reader in ops[at + 2 :]:  # whoever read the source reads the new one
                if isinstance(reader, dict):
                    reader |= {key: name for key in ("input", "left", "right") if reader.get(key) == source}
        case _:
            document[pick(rng, ("output", "version", "format", "ops", "more"))] = pick(
                rng, ("probabilities", "logits", "image", 1, 2, None, [])
            )


def _array(model: _Model, rng: np.random.Generator) -> None:
    members = model.members
    name = pick(rng, sorted(members))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a header that was changed before
        array = np.load(io.BytesIO(members[name]))
    match int(rng.integers(8)):
        case 0:
            array = array[: array.size // 2]
        case 1:
            array = np.concatenate([array, array])
        case 2:
            with np.errstate(invalid="ignore"):
                array = array.astype(pick(rng, ("f4", "f8", "i1", "u1", "i4", ">i4", "u2", "i8", "?")))
        case 3:
            array = pick(
                rng, (array[None], array.reshape(-1, 1), array[:0], array[0] if array.size else array)
            )
        case _:
            if name != GRAPH:
                array = array_values(rng, array)
    members[name] = _npy(np.asarray(array))


def _header(model: _Model, rng: np.random.Generator) -> None:
    members = model.members
    name = pick(rng, sorted(members))
    content = members[name]
    end = content.find(b"\n") + 1
    text = content[10:end].rstrip()
    changes: tuple[tuple[bytes, bytes], ...] = (
        (b"False", b"True"),
        (b"(", b"(("),
        (b",)", b",1)"),
        (b"(", b"(-"),
        (b",)", b"L,)"),
        (b"}", b"6"),
        (b"|", b"<"),
        (b"<", b">"),
        (b"'descr'", b"'''"),
        (b"(", b"(" * 120),
        (b"i", b"O"),
        (b"}", b"} " + b" " * 5000),
    )
    text = flipped(rng, text) if rng.random() < 0.3 else text.replace(*pick(rng, changes))
    version = pick(rng, (1, 1, 1, 2, 3, 9))
    size = len(text) + 1
    if rng.random() < 0.1:
        size = pick(rng, (0, 65535, size - 1, size + 1))
    length = struct.pack("<H", size & 65535) if version == 1 else struct.pack("<I", size)
    members[name] = b"\x93NUMPY" + bytes([version, 0]) + length + text + b"\n" + content[end:]


def _field(data: bytes, rng: np.random.Generator) -> bytes:
    """A number in the headers of one member, in both or in one of them."""
    changed = bytearray(data)
    fields = (
        (4, 6, 2),
        (6, 8, 2),
        (8, 10, 2),
        (14, 16, 4),
        (18, 20, 4),
        (22, 24, 4),
        (26, 28, 2),
        (28, 30, 2),
        (42, 42, 4),
    )
    local, central, size = pick(rng, fields)
    values = (0, 1, 2, 8, 9, 12, 14, 0x20, 0x800, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(1 << 31)))
    value = (pick(rng, values) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    entries = _places(data, b"PK\1\2")
    headers = _places(data, b"PK\3\4")
    member = int(rng.integers(len(entries)))
    for at, offset in ((headers[member % len(headers)], local), (entries[member], central)):
        if rng.random() < 0.7:
            changed[at + offset : at + offset + size] = value
    return bytes(changed)


def _places(data: bytes, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    return places


def _end(data: bytes, rng: np.random.Generator) -> bytes:
    """The record at the end of the archive: counts, size and place of its directory, comment."""
    changed = bytearray(data)
    at, size = data.rindex(b"PK\5\6"), pick(rng, ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)))
    value = pick(rng, (0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, int(rng.integers(1 << 16)))) & (
        (1 << 8 * size[1]) - 1
    )
    changed[at + size[0] : at + size[0] + size[1]] = value.to_bytes(size[1], "little")
    return bytes(changed)


def _zip64(data: bytes, rng: np.random.Generator) -> bytes:
    """A member whose sizes stand in an extra field of 64-bit numbers."""
    at = pick(rng, _places(data, b"PK\1\2"))
    changed = bytearray(data)
    extra = struct.pack("<HHQQ", 1, 16, *(pick(rng, (0, 1 << 40, (1 << 64) - 1, 100)) for _ in range(2)))[
        : pick(rng, (20, 12, 4))
    ]
    changed[at + 20 : at + 28] = b"\xff" * 8
    changed[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
    name = int.from_bytes(data[at + 28 : at + 30], "little")
    changed[at + 46 + name : at + 46 + name] = extra
    end = changed.rindex(b"PK\5\6")
    size = int.from_bytes(changed[end + 12 : end + 16], "little") + len(extra)
    changed[end + 12 : end + 16] = (size & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(changed)


def _raw(data: bytes, rng: np.random.Generator) -> bytes:
    return flipped(rng, data)


_ARCHIVE: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _field,
    _field,
    _field,
    _end,
    _zip64,
    _raw,
    _raw,
)
