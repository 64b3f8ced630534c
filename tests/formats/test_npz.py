"""The native weight file: exact round trips, the same bytes each time, and no trust in what comes from outside."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from hypothesis import given, settings

from sparse_icnet.formats import native, native_members
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Graph,
    Input,
    MaxPool,
    Normalization,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
)

Members = dict[str, bytes]


def assert_same(left: Graph, right: Graph) -> None:
    """Every field of every operation is equal, arrays with their dtype."""
    assert (left.output, left.normalization) == (right.output, right.normalization)
    assert len(left.ops) == len(right.ops)
    for a, b in zip(left.ops, right.ops, strict=True):
        assert type(a) is type(b)
        for spec in fields(a):
            x, y = getattr(a, spec.name), getattr(b, spec.name)
            if isinstance(x, np.ndarray):
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)
            else:
                assert x == y
                assert type(x) is type(y)


def every_operation() -> Graph:
    """One of each kind, with names that JSON and zip files must not stumble over."""
    rng = np.random.default_rng(0)
    name = 'conv/1.weight "ü"\n\\'
    ops = (
        Input("image", (3, 8, 16)),
        Affine("affine", "image", np.float32([1, -2, 0.1]), np.float32([0, 1e-30, 3])),
        Quantize("codes", "affine", Quantizer(0.1, -5, -128, 127)),
        MaxPool("pool", "codes", (3, 2), (2, 1), (1, 0, 1, 1)),
        graphs.random_convolution(rng, name, "codes", (4, 3, 3, 3), 0.4, padding=(1, 1, 1, 1)),
        graphs.random_convolution(rng, "empty", "codes", (4, 3, 1, 1), 0.0),
        Add("sum", name, "empty"),
        Relu("relu", "sum"),
        Quantize("other", "relu", Quantizer(np.float32(1) / 3)),
        AveragePool("mean", "other", (2, 4)),
        Resize("up", "mean", (8, 16)),
        Softmax("softmax", "up"),
        Argmax("classes", "softmax"),
    )
    return Graph(ops, "softmax", Normalization(1.0, (0.1, 0.2, 0.3), (1.0, 2.0, 1e-3)))


def test_every_kind_of_operation_survives(tmp_path):
    graph = every_operation()
    native.save(graph, tmp_path / "all.npz")
    assert_same(native.load(tmp_path / "all.npz"), graph)
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"], "a temporary file is left"


@settings(deadline=None, max_examples=60, print_blob=True)
@given(graph=graphs.graphs())
def test_random_graphs_survive(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "graph.npz"
    channels = graph.input.shape[0]
    values = tuple(float(i + 1) for i in range(channels))
    graph = Graph(graph.ops, graph.output, Normalization(255.0, values, values))
    native.save(graph, path)
    assert_same(native.load(path), graph)


def test_icnet_survives_in_the_same_bytes(tiny_graph, tiny_file, tmp_path):
    loaded = native.load(tiny_file)
    assert_same(loaded, tiny_graph)
    for name in ("again.npz", "other name.npz"):
        native.save(loaded, tmp_path / name)
        assert (tmp_path / name).read_bytes() == tiny_file.read_bytes()


def test_numpy_reads_the_members(tiny_graph, tiny_file):
    """The documented layout, without this package."""
    op = tiny_graph.convolutions[5]
    with np.load(tiny_file, allow_pickle=False) as file:
        document = json.loads(file["graph"].tobytes())
        (entry,) = (e for e in document["ops"] if e["name"] == op.name)
        key, shape = entry["weight"]["csr"], entry["weight"]["shape"]
        dense = np.zeros((shape[0], np.prod(shape[1:])), np.int8)
        for row in range(shape[0]):
            part = slice(*file[f"{key}.indptr"][row : row + 2])
            dense[row, file[f"{key}.indices"][part]] = file[f"{key}.data"][part]
        np.testing.assert_array_equal(dense.reshape(shape), op.weight)
        np.testing.assert_array_equal(file[entry["bias"]["array"]], op.bias)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(native, "_write_members", fail)
    with pytest.raises(OSError, match="disk full"):
        native.save(every_operation(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- hostile files -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("npz") / "good.npz"
    native.save(every_operation(), path)
    return path.read_bytes()


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def with_header(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """An .npy member that declares what `header` says."""
    text = repr(header).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


def assert_refused(path: Path, message: str, memory: int = 8 << 20) -> None:
    """One line that names the file, little memory, no other exception."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            native.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert str(path) in text
    assert len(text.splitlines()) == 1, text
    assert len(text) < 2000
    assert peak < memory, f"{peak} bytes allocated"


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a zip file at all", b"\x93NUMPY\x01\x00", b"\0" * 5000]
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    assert_refused(path, "expected a sparse-icnet")


def test_missing_files_and_folders_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        native.load(tmp_path / "missing.npz")
    with pytest.raises((IsADirectoryError, FormatError, PermissionError)):
        native.load(tmp_path)


def test_truncated_anywhere_is_refused(good, tmp_path):
    path = tmp_path / "model.npz"
    for length in [*range(1, len(good), len(good) // 60), len(good) - 1]:
        path.write_bytes(good[:length])
        assert_refused(path, "damaged|expected")


def test_a_flipped_byte_is_an_error_or_harmless(good, tmp_path):
    """No byte of the file can make the reader crash, hang or return a graph that breaks its own rules."""
    path = tmp_path / "model.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(good), 300):
        data = bytearray(good)
        data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            graph = native.load(path)
        except FormatError as error:
            refused += 1
            text = str(error)
            if len(text.splitlines()) != 1 or str(path) not in text:
                pytest.fail(f"byte {place}: {text!r}")
        else:
            assert len(graph.ops) == len(every_operation().ops)
    assert refused > 150


def document_of(members: Members) -> dict[str, Any]:
    return json.loads(np.load(io.BytesIO(members["graph.npy"])).tobytes())


def op_of(document: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(entry for entry in document["ops"] if entry["type"] == kind)


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set one value in the document; a first element that is an operation's type means that operation."""

    def change(document: dict[str, Any]) -> None:
        target: Any = document
        keys = list(path)
        if keys[0] not in document:
            target = op_of(document, str(keys.pop(0)))
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        target = document if len(path) == 1 else op_of(document, path[0])
        del target[path[-1]]

    return change


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("version", value=2), "version 1, found 2"),
        (put("version", value="1"), "version 1, found '1'"),
        (put("version", value=True), "version 1, found True"),
        (drop("version"), "version 1, found None"),
        (put("format", value="other"), "another kind"),
        (put("ops", value={}), "list of 1 to"),
        (put("ops", value=[]), "list of 1 to"),
        (put("ops", value=[7]), "unknown operation type"),
        (put("ops", value=[[]]), "unknown operation type"),
        (put("ops", 0, value=None), "unknown operation type"),
        (put("ops", value=[{"type": "Input", "name": "x", "shape": [3, 8, 8]}] * 20_000), "list of 1 to"),
        (drop("output"), "output"),
        (put("output", value="nothing"), "output 'nothing'"),
        (put("output", value=["softmax"]), "output"),
        (drop("normalization"), "normalization"),
        (put("normalization", value=None), "NoneType|normalization"),
        (put("normalization", "divisor", value=0), "non-zero divisor"),
        (put("normalization", "divisor", value="x"), "'x'"),
        (put("normalization", "std", value=[0, 1, 1]), "non-zero divisor and std"),
        (put("normalization", "mean", value=[NAN, 1, 1]), "finite"),
        (put("normalization", "mean", value=[1, 1]), "3 channels"),
        (put("normalization", "mean", value=7), "int|mean"),
        (put("Relu", "type", value="Tanh"), "unknown operation type 'Tanh'"),
        (put("Relu", "type", value=["Relu"]), "unknown operation type"),
        (put("Relu", "type", value={"a": 1}), "unknown operation type"),
        (put("Relu", "more", value=1), "must have the fields"),
        (drop("Relu", "input"), "must have the fields"),
        (put("Relu", "input", value="missing"), "'missing'"),
        (put("Relu", "input", value="relu"), "'relu'"),
        (put("Relu", "input", value=7), "must be a string"),
        (put("Relu", "name", value=["x"]), "must be a string"),
        (put("Relu", "name", value="sum"), "unique"),
        (put("Input", "shape", value=[3, 8]), "shape must be 3 integers"),
        (put("Input", "shape", value=[3, 8, 1 << 40]), "shape"),
        (put("Input", "shape", value=[3, 8, 16.0]), "integer"),
        (put("Input", "shape", value=[3, 8, True]), "integer"),
        (put("Input", "shape", value=5), "int"),
        (put("Quantize", "quantizer", value=[0, 0, 0, 255]), "scale"),
        (put("Quantize", "quantizer", value=[NAN, 0, 0, 255]), "scale"),
        (put("Quantize", "quantizer", value=[-1.0, 0, 0, 255]), "scale"),
        (put("Quantize", "quantizer", value=[1.0, 300, 0, 255]), "zero point"),
        (put("Quantize", "quantizer", value=[1.0, 0, 0, 256]), "codes"),
        (
            put("Quantize", "quantizer", value=[1.0, 0, 0, 1 << 80]),
            "quantizer: expected an integer of 32 bits, found an integer of 81 bits",
        ),
        (put("Quantize", "quantizer", value=[1.0, 0, 0]), "unpack|quantizer"),
        (put("Quantize", "quantizer", value=[1.0, 0, 0, 255, 5]), "unpack|quantizer"),
        (put("Quantize", "quantizer", value=[]), "unpack|quantizer|enough"),
        (put("Quantize", "quantizer", value=1.0), "float|quantizer"),
        (put("Quantize", "quantizer", value=[1e-40, 0, 0, 255]), "scale must be at least"),
        (put("Quantize", "quantizer", value=["1", 0, 0, 255]), "quantizer must be scale, zero point"),
        (
            put("Quantize", "quantizer", value=[10**400, 0, 0, 255]),
            "expected a number, found an integer of 1329",
        ),
        (
            put("Quantize", "quantizer", value=[1.0, -32700, -32769, -32600]),
            r"codes must lie in -32768\.\.32767",
        ),
        (
            put("Quantize", "quantizer", value=[1.0, 32700, 32600, 32768]),
            r"codes must lie in -32768\.\.32767",
        ),
        (put("Quantize", "quantizer", value=[1.0, -(2**31), -(2**31), 255 - 2**31]), "codes must lie in"),
        (put("Relu", "name", value="\ud800"), "4096 characters of Unicode, found '.ud800'"),
        (put("Relu", "name", value="x" * 5000), "4096 characters"),
        (put("Input", "shape", value=[3, 8, 10**4000]), "found an integer of 13288 bits"),
        (put("MaxPool", "stride", value=[1, 1 << 31]), "stride: expected an integer of 32 bits"),
        (put("MaxPool", "stride", value=[1, 1 << 30]), r"stride of 2 integers within 1\.\.4096"),
        (put("normalization", "divisor", value=True), "divisor: expected a number, found True"),
        (put("normalization", "mean", value=["1", 0, 0]), "mean: expected a number, found '1'"),
        (put("normalization", "more", value=1), "must have the fields"),
        (put("MaxPool", "kernel", value=[0, 0]), "kernel of 2 integers"),
        (put("MaxPool", "kernel", value=[3]), "kernel must be 2 integers"),
        (put("MaxPool", "padding", value=[9, 9, 9, 9]), "padding"),
        (put("MaxPool", "stride", value=["2", 1]), "integer"),
        (put("AveragePool", "bins", value=[0, 4]), "bins"),
        (put("AveragePool", "bins", value=[1 << 30, 4]), "bins"),
        (put("Resize", "size", value=[0, 4]), "size"),
        (put("Resize", "size", value=[1 << 30, 4]), "size"),
        (put("Convolution", "stride", value=[0, 1]), "stride"),
        (put("Convolution", "stride", value=[1, 1, 1]), "stride must be 2 integers"),
        (put("Convolution", "padding", value=[1 << 20, 0, 0, 0]), "padding"),
        (put("Convolution", "padding", value=[0]), "padding must be 4 integers"),
        (put("Convolution", "dilation", value=[1 << 40, 1]), "kernel no larger|dilation"),
        (
            put("Convolution", "weight", "shape", value=[4, 3, 3]),
            "shape must be 4 integers, found a list of 3",
        ),
        (put("Convolution", "weight", "shape", value=[4, -3, -3, 3]), "not acceptable"),
        (put("Convolution", "weight", "shape", value=[1 << 16, 1 << 16, 3, 3]), "not acceptable"),
        (
            put("Convolution", "weight", "shape", value=[1 << 70, 1, 1, 1]),
            "shape: expected an integer of 32 bits",
        ),
        (
            put("Convolution", "weight", "shape", value=[4, 3, 3, 1 << 23]),
            "kernel no larger|not acceptable|int8",
        ),
        (put("Convolution", "weight", "shape", value=[5, 3, 3, 3]), "indptr"),
        (
            put("Convolution", "weight", "shape", value=[4, 1, 3, 3]),
            "indices' must be .* of at most 36 elements",
        ),
        (put("Convolution", "weight", "csr", value="nothing"), "'nothing.indptr' is missing"),
        (put("Convolution", "weight", "csr", value=["x"]), "csr must be a string, found a list of 1"),
        (put("Convolution", "weight", value={}), "csr"),
        (put("Convolution", "weight", value=[1]), "list"),
        (put("Convolution", "bias", value={"array": "../../etc/passwd"}), "missing"),
        (put("Convolution", "bias", value={"array": "graph"}), r"float32 of one dimension, found .*\|u1"),
        (put("Convolution", "bias", value=[0.0]), "list"),
        (put("Affine", "scale", value={"array": "layer0004.bias"}), "shape"),
    ],
)
def test_wrong_documents_are_refused(good, change, message, tmp_path):
    members = members_of(good)
    document = document_of(members)
    change(document)
    members["graph.npy"] = npy(np.frombuffer(json.dumps(document).encode(), np.uint8))
    assert_refused(write(tmp_path / "model.npz", members), message, memory=48 << 20)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"format": "sparse-icnet", "version": 1' + b"0" * 10_000 + b"}",
        b'{"format": "sparse-icnet", "version": 1, "ops": [{"type": "Input"}], "ops": 3}',
    ],
)
def test_bad_json_is_refused(good, text, tmp_path):
    members = members_of(good)
    members["graph.npy"] = npy(np.frombuffer(text, np.uint8))
    assert_refused(
        write(tmp_path / "model.npz", members),
        "graph|JSON|kind|recursion|version|fields|digits|list",
        memory=48 << 20,
    )


def test_a_key_twice_is_refused(good, tmp_path):
    """Readers of JSON differ in which of the two they take."""
    members = members_of(good)
    text = json.dumps(document_of(members)).replace('"name": "relu"', '"name": "relu", "name": "relu"')
    members["graph.npy"] = npy(np.frombuffer(text.encode(), np.uint8))
    assert_refused(write(tmp_path / "model.npz", members), "keys that are unique")


class _Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "unpickled"))


def test_nothing_is_unpickled(good, tmp_path):
    mark = tmp_path / "mark"
    array = np.empty(1, object)
    array[0] = _Bomb(mark)
    pickled = npy(array)
    members = members_of(good)
    for name in members:
        for content in (pickled, pickle.dumps(_Bomb(mark))):
            path = write(tmp_path / "model.npz", {**members, name: content})
            assert_refused(path, f"member '{name.removesuffix('.npy')}' must be ")
    assert not mark.exists()


@pytest.mark.parametrize("part", ["graph", "layer0004.indptr", "layer0004.data", "layer0004.bias"])
@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, np.float64),
        np.zeros(4, np.int64),
        np.zeros((1, 4), np.float32),
        np.zeros((1, 4), np.uint8),
        np.zeros((1, 5), np.int32),
        np.zeros((4, 1), np.int8),
        np.zeros(4, "U3"),
        np.zeros(4, [("x", np.int8)]),
        np.float32(3),
    ],
)
def test_members_of_another_kind_are_refused(good, part, array, tmp_path):
    members = members_of(good)
    members[f"{part}.npy"] = npy(np.asarray(array))
    assert_refused(write(tmp_path / "model.npz", members), f"member '{part}' must be ")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("layer0004.indptr", np.int32([0, 9, 3, 20, 30]), "indptr"),
        ("layer0004.indptr", np.int32([0, 1, 2, 3, 1 << 30]), "data"),
        ("layer0004.indptr", np.int32([0, -1, -2, -3, -4]), "indptr"),
        ("layer0004.indices", np.uint16([65535] * 3), "indices"),
        ("layer0004.scale", np.float32([1, 1, 1, 1]), "0004"),
        ("layer0004.bias", np.float32([1, 1, 1, np.nan]), "finite bias"),
        ("layer0004.bias", np.float32([1, 1, 1]), "bias float32 of shape"),
        ("layer0004.weight_scale", np.float32([1, 1, 1, 0]), "non-zero weight scales"),
        ("layer0004.weight_scale", np.float32([1, 1, 1, np.inf]), "finite weight_scale"),
        ("layer0001.scale", np.float32([1, 1, np.nan]), "finite scale"),
    ],
)
def test_wrong_values_are_refused(good, name, array, message, tmp_path):
    members = members_of(good)
    if name == "layer0004.scale":  # a member that nobody names must not matter
        members[f"{name}.npy"] = npy(array)
        assert_same(native.load(write(tmp_path / "model.npz", members)), every_operation())
        return
    assert f"{name}.npy" in members
    members[f"{name}.npy"] = npy(array)
    assert_refused(write(tmp_path / "model.npz", members), message)


def test_a_missing_member_is_named(good, tmp_path):
    members = members_of(good)
    for name in members:
        rest = {other: content for other, content in members.items() if other != name}
        path = write(tmp_path / "model.npz", rest)
        assert_refused(path, f"member '{name.removesuffix('.npy')}' is missing")


HUGE = {"descr": "|i1", "fortran_order": False, "shape": (1 << 40,)}


@pytest.mark.parametrize(
    "content",
    [
        with_header(HUGE),
        with_header(HUGE | {"shape": (1 << 62, 4)}),
        with_header(HUGE | {"shape": (1 << 31,)}, b"\1" * 100),
        with_header(HUGE | {"shape": (200_000_000,)}, b"\1" * 100),
        with_header(HUGE | {"shape": (-5,)}),
        with_header(HUGE | {"shape": "x"}),
        with_header(HUGE | {"descr": "|O", "shape": (3,)}, b"cos\nsystem\n(S'true'\ntR."),
        with_header({"descr": "|i1"}),
        b"\x93NUMPY\x09\x00" + b"\0" * 100,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        b"",
        b"no array",
    ],
)
def test_members_that_promise_more_than_they_hold_are_refused(good, content, tmp_path):
    members = members_of(good)
    members["layer0004.data.npy"] = content
    assert_refused(write(tmp_path / "model.npz", members), "member 'layer0004.data'")


def test_zip_bombs_are_refused_unread(good, tmp_path):
    members = members_of(good)
    members["layer0004.data.npy"] = with_header(
        HUGE | {"shape": (native_members.MAX_BYTES,)}, bytes(native_members.MAX_BYTES)
    )
    path = write(tmp_path / "model.npz", members)
    assert path.stat().st_size < 1 << 20
    assert_refused(path, "bytes uncompressed")


def test_dense_weights_are_bounded_together(good, tmp_path):
    """A hundred empty layers of 100 MB each cost nothing in the file."""
    members = members_of(good)
    document = document_of(members)
    layer = op_of(document, "Convolution")
    layer["weight"]["shape"] = [1, 3, 1 << 12, 1 << 13]
    document["ops"] = [layer | {"name": f"layer{i}"} for i in range(100)]
    members["graph.npy"] = npy(np.frombuffer(json.dumps(document).encode(), np.uint8))
    key = layer["weight"]["csr"]
    members |= {
        f"{key}.indptr.npy": npy(np.int32([0, 0])),
        f"{key}.indices.npy": npy(np.uint32([])),
        f"{key}.data.npy": npy(np.int8([])),
    }
    assert_refused(
        write(tmp_path / "model.npz", members), "not acceptable", memory=native_members.MAX_BYTES + (8 << 20)
    )


def test_too_many_members_are_refused(good, tmp_path):
    members = members_of(good) | {f"x{i}": b"" for i in range(native_members.MAX_MEMBERS)}
    assert_refused(write(tmp_path / "model.npz", members), "members", memory=64 << 20)


def test_a_member_that_lies_about_its_size_is_refused(good, tmp_path):
    """The directory of the archive promises few bytes, the stream inflates to many."""
    members = members_of(good)
    members["layer0004.data.npy"] = with_header(HUGE | {"shape": (100_000_000,)}, bytes(100_000_000))
    path = write(tmp_path / "model.npz", members)
    data = bytearray(path.read_bytes())
    size = len(members["layer0004.data.npy"]).to_bytes(4, "little")
    place = 0
    while (place := data.find(size, place)) >= 0:
        data[place : place + 4] = (200).to_bytes(4, "little")
        place += 4
    path.write_bytes(data)
    assert_refused(path, "member 'layer0004.data'|damaged")
