"""Files that cannot be read: one FormatError that names file and member, whatever the libraries below raise."""

from __future__ import annotations

import io
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from xml.parsers import expat

import numpy as np
import pytest
from make_ir import small_network

from sparse_icnet import formats
from sparse_icnet.formats import native, native_members
from sparse_icnet.formats.errors import FormatError, parsing
from sparse_icnet.formats.onnx import read as onnx_read
from sparse_icnet.formats.openvino import xml as openvino_xml
from sparse_icnet.network.graph import Convolution, Graph, Input, Quantize, Quantizer, Softmax

LAYER = "layer0002.data"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    """A native file of one convolution; `LAYER` is the member of its weights."""
    weight = np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1, 1)
    ops = (
        Input("image", (3, 32, 32)),
        Quantize("codes", "image", Quantizer(0.02, 114)),
        Convolution("logits", "codes", weight, np.full(4, 0.1, np.float32), np.zeros(4, np.float32)),
        Softmax("probabilities", "logits"),
    )
    path = tmp_path_factory.mktemp("good") / "good.npz"
    native.save(Graph(ops, "probabilities"), path)
    return path.read_bytes()


def refused(path: Path) -> str:
    """The message of the FormatError, which names the file on one line."""
    with pytest.raises(FormatError) as caught:
        formats.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
    return text


def written(folder: Path, data: bytes, name: str = "m.npz") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def entries(data: bytes, name: str) -> tuple[int, int]:
    """Offsets of the local header and of the central directory entry of a member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        local = archive.getinfo(f"{name}.npy").header_offset
    return local, data.rindex(b"PK\1\2", 0, data.rindex(f"{name}.npy".encode()))


def patched(data: bytes, name: str, local: int, central: int, value: bytes) -> bytes:
    """A field of both headers of a member set to `value`; offsets within the headers."""
    changed = bytearray(data)
    for start, offset in zip(entries(data, name), (local, central), strict=True):
        changed[start + offset : start + offset + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize(
    ("local", "central", "value", "message"),
    [
        (6, 8, b"\1\0", "encrypted"),
        (6, 8, b"\x20\0", "patched|compressed"),
        (6, 8, b"\x41\0", "strong encryption|encrypted"),
        (8, 10, b"\x0e\0", "expected it stored or deflated, found method 14"),
        (8, 10, b"\x0c\0", "found method 12"),
        (8, 10, b"\x63\0", "found method 99"),
        (14, 16, b"\1\2\3\4", "CRC"),
        (22, 24, b"\xff\xff\xff\x0f", "bytes"),
        (22, 24, b"\1\0\0\0", "an .npy array"),
        (18, 20, b"\1\0\0\0", "an .npy array"),
        (4, 6, b"\xff\0", "version|zip file"),
    ],
)
def test_zip_headers_that_lie(good, tmp_path, local, central, value, message):
    text = refused(written(tmp_path, patched(good, LAYER, local, central, value)))
    assert any(part in text for part in message.split("|")), text
    assert "expected" in text or "must be" in text


@pytest.mark.parametrize("size", [1 << 40, (1 << 64) - 1, 0])
def test_zip64_sizes_that_lie(good, tmp_path, size):
    """A zip64 extra field in the central directory overrides the sizes of the member."""
    _, central = entries(good, LAYER)
    extra = struct.pack("<HHQ", 1, 8, size)
    data = bytearray(good)
    data[central + 24 : central + 28] = b"\xff" * 4
    length = 46 + len(f"{LAYER}.npy")
    data[central + 30 : central + 32] = len(extra).to_bytes(2, "little")
    data[central + length : central + length] = extra
    end = data.rindex(b"PK\5\6")
    old = int.from_bytes(data[end + 12 : end + 16], "little")
    data[end + 12 : end + 16] = (old + len(extra)).to_bytes(4, "little")
    text = refused(written(tmp_path, bytes(data)))
    assert "expected" in text or f"member '{LAYER}'" in text


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(folder: Path, members: dict[str, bytes], twice: str | None = None) -> Path:
    path = folder / "m.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(twice, members[twice])
    return path


def test_members_of_one_name(good, tmp_path):
    path = rewritten(tmp_path, members_of(good), f"{LAYER}.npy")
    assert "members of distinct names" in refused(path)


def header(text: str, payload: bytes = b"\1" * 11, version: int = 1) -> bytes:
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + payload


NORMAL = "{'descr': '|i1', 'fortran_order': False, 'shape': (11,), }\n"


@pytest.mark.parametrize(
    "content",
    [
        header(NORMAL.replace("(11,)", "(11, 1)")),
        header(NORMAL.replace("(11,)", "(11, 1)").replace("False", "True")),
        header(NORMAL.replace("(11,)", "(12,)")),
        header(NORMAL.replace("(11,)", "(-11,)")),
        header(NORMAL.replace("(11,)", "(11L,)")),
        header(NORMAL.replace("(11,)", "(1_1,)")),
        header(NORMAL.replace("(11,)", "(" * 150 + "11" + ",)" * 150)),
        header(NORMAL.replace("(11,)", "-" * 3000 + "1")),
        header(NORMAL.replace("|i1", "|O")),
        header(NORMAL.replace("|i1", "<x9")),
        header(NORMAL.replace("|i1", "|f1")),
        header(NORMAL.replace("}", "6")),
        header(NORMAL.replace("\n", "")),
        header(NORMAL + "\n"),
        header("'''"),
        header("{'descr': (" * 100),
        header("\0" * 100),
        header(NORMAL + " " * 5000, version=2),
        header(NORMAL, version=3),
        header(NORMAL, payload=b""),
        b"\x93NUMPY\1\0\xff\xff{}",
        b"\x93NUMPY",
    ],
)
@pytest.mark.filterwarnings("error")
def test_member_headers(good, tmp_path, content):
    members = members_of(good) | {f"{LAYER}.npy": content}
    assert f"member '{LAYER}'" in refused(rewritten(tmp_path, members))


@pytest.mark.parametrize(
    "content",
    [
        header(NORMAL, bytes([250, 251, 252, 253, 254, 255, 1, 2, 3, 4, 5])),
        header(NORMAL.replace("False", "True"), bytes([250, 251, 252, 253, 254, 255, 1, 2, 3, 4, 5])),
        header(
            NORMAL.replace("\n", " " * 70 + "\n"), bytes([250, 251, 252, 253, 254, 255, 1, 2, 3, 4, 5]), 2
        ),
    ],
)
def test_harmless_headers_are_read(good, tmp_path, content):
    """Column order makes no difference to one dimension."""
    path = rewritten(tmp_path, members_of(good) | {f"{LAYER}.npy": content})
    expected = formats.load(written(tmp_path, good, "good.npz")).convolutions[0].weight
    np.testing.assert_array_equal(formats.load(path).convolutions[0].weight, expected)


def test_arrays_of_the_other_byte_order(good, tmp_path):
    members = members_of(good)
    for name, content in members.items():
        array = np.load(io.BytesIO(content))
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array.astype(array.dtype.newbyteorder(">")))
        members[name] = buffer.getvalue()
    (found,) = formats.load(rewritten(tmp_path, members)).convolutions
    assert found.weight_scale.dtype.isnative
    np.testing.assert_array_equal(found.weight_scale, np.full(4, 0.1, np.float32))


@pytest.mark.parametrize(
    "error",
    [
        tokenize.TokenError("EOF in multi-line statement", (2, 0)),
        RuntimeError("File is encrypted"),
        zlib.error("invalid stored block lengths"),
        struct.error("unpack requires"),
        zipfile.BadZipFile("x"),
        zipfile.LargeZipFile(),
        NotImplementedError("compression type 9"),
        EOFError(),
        OSError(22, "Invalid argument"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        expat.ExpatError("no element found"),
        KeyError("descr"),
        AssertionError(),
        type("Unheard", (Exception,), {})("two\nlines " + "x" * 5000),
    ],
)
def test_whatever_a_library_raises(error):
    with (
        pytest.raises(
            FormatError, match=r"^m\.npz: member 'x': expected an array, found damaged data \(.+\)$"
        ) as caught,
        parsing("m.npz: member 'x'", "an array"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert len(str(caught.value)) < 300


def test_what_is_no_fault_of_the_file_passes():
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error), parsing("m.npz", "a file"):
            raise error
    with pytest.raises(FormatError, match=r"^inner$"), parsing("m.npz", "a file"):
        raise FormatError("inner")


class OwnError(Exception):
    """A fault of this package."""


@pytest.mark.parametrize(
    "place", [(native, "_op_from_json"), (native, "_normalization"), (native_members.CSR, "to_dense")]
)
def test_faults_behind_parsing_stay_visible(good, tmp_path, monkeypatch, place):
    def fault(*_: object) -> None:
        raise OwnError

    monkeypatch.setattr(*place, fault)
    with pytest.raises(OwnError):
        formats.load(written(tmp_path, good))


def test_errors_of_the_file_system_stay_what_they_are(good, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        formats.load(tmp_path / "none.npz")
    path = written(tmp_path, good)

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(OSError, match="Input/output error"):
        formats.load(path)


def test_the_weights_beside_an_ir(tmp_path, monkeypatch):
    """A missing .bin is a fault of the model; one that cannot be read is one of the system."""
    path = small_network().save(tmp_path)
    weights = path.with_suffix(".bin")
    right = Path.open

    def broken(self: Path, *arguments: object, **options: object) -> object:
        if self == weights:
            raise PermissionError(13, "Permission denied", str(self))
        return right(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        with pytest.raises(PermissionError):
            formats.load(path)
    weights.unlink()
    with pytest.raises(
        FormatError, match=r"m\.bin: expected the weights of m\.xml beside it, found no such file"
    ):
        formats.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".npz", ".xml", ".onnx"])
def test_pipes_and_folders_are_not_opened(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("pipe", "folder"):
        assert "found a folder or a device" in refused(tmp_path / f"{name}{suffix}")


def test_memory_that_a_model_asks_for_in_vain(good, tmp_path, monkeypatch):
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(native_members.CSR, "to_dense", exhausted)
    assert "expected a model that fits into memory" in refused(written(tmp_path, good))


@pytest.mark.parametrize(
    "text",
    [
        "<?xml version='1.0' encoding='utf-7'?><net/>",
        "<?xml version='1.0' encoding='\udcff'?><net/>",
        "<?xml version='1.0' encoding='utf-16'?><net/>",
        "<net version='11'>\0</net>",
        "<net a='1' a='2'/>",
        "<net>&undefined;</net>",
        "<net xmlns:a='b' a:c='d'><a:layers/>",
        "<net>" + "<layers>" * 40 + "</net>",
    ],
)
def test_broken_xml(tmp_path, text):
    path = written(tmp_path, text.encode("utf-8", "surrogateescape"), "m.xml")
    assert "expected" in refused(path)


def test_faults_of_the_reader_of_ir_stay_visible(tmp_path, monkeypatch):
    def fault(*_: object) -> None:
        raise OwnError

    path = small_network().save(tmp_path)
    monkeypatch.setattr(openvino_xml, "_layer", fault)
    with pytest.raises(OwnError):
        formats.load(path)


def test_broken_onnx(tmp_path):
    pytest.importorskip("onnx", reason="needs onnx (extra onnx)")
    nested = b""
    for _ in range(400):  # a graph in an attribute of a node of a graph ...
        nested = b"\x0a" + _length(nested) + nested
    for data in (nested, b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 100, b"\x08\x80", b"\x3a\x03abc"):
        assert "expected" in refused(written(tmp_path, data, "m.onnx"))


def _length(data: bytes) -> bytes:
    size, result = len(data), b""
    while size >= 128:
        result, size = result + bytes([size & 127 | 128]), size >> 7
    return result + bytes([size])


def test_faults_of_the_reader_of_onnx_stay_visible(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="needs onnx (extra onnx)")

    def fault(*_: object) -> None:
        raise OwnError

    value = onnx.helper.make_tensor_value_info("x", 1, (1, 3, 8, 8))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    path = written(tmp_path, onnx.helper.make_model(graph).SerializeToString(), "m.onnx")
    monkeypatch.setattr(onnx_read._Reader, "run", fault)
    with pytest.raises(OwnError):
        formats.load(path)
