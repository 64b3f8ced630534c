"""Model files: `load` and `save` choose the format: `native`, or one of the folders `onnx` and `openvino`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_icnet.floats import standard_floats
from sparse_icnet.formats.errors import FormatError, check_regular
from sparse_icnet.suggest import did_you_mean

if TYPE_CHECKING:
    from sparse_icnet.network.graph import Graph

SUFFIXES = (".npz", ".xml", ".onnx")
MAX_NATIVE = 1 << 28  # bytes of a native file
_NATIVE = b"PK"  # what it begins with, as a zip archive


@standard_floats()
def load(path: str | os.PathLike[str], output: str | None = None, content: bytes | None = None) -> Graph:
    """Read a model: native .npz, OpenVINO IR (.xml, its .bin beside it) or ONNX.

    output   name of the output to compute, of a file with several; None: the only one
    content  of a native file that was read already, as by `native_content`

    Raises FileNotFoundError (or another OSError), FormatError for a file that is not a model that this
    package can run, ModuleNotFoundError for ONNX without the package onnx.
    """
    from sparse_icnet.network.constants import check_constants
    from sparse_icnet.network.graph import GraphError

    path = Path(path)
    try:
        graph = _reader(path, content)(path, output)
        check_constants(graph)
    except GraphError as error:
        raise FormatError(f"{path}: {error}") from error
    except MemoryError as error:
        raise FormatError(f"{path}: expected a model that fits into memory, found a larger one") from error
    return graph


def native_content(path: Path) -> bytes | None:
    """The bytes of a native file; None of any other, and of one that cannot be read, which `load` says why."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            start = file.read(len(_NATIVE))
            if start != _NATIVE or os.fstat(file.fileno()).st_size > MAX_NATIVE:
                return None
            return start + file.read(MAX_NATIVE)
    except (OSError, FormatError, MemoryError):
        return None


def _reader(path: Path, content: bytes | None) -> Callable[[Path, str | None], Graph]:
    match ".npz" if content is not None else kind(path):
        case ".npz":
            from sparse_icnet.formats import native

            return partial(_native, partial(native.load, content=content))
        case ".xml":
            from sparse_icnet.formats.openvino import read as openvino_read

            return openvino_read.load
    from sparse_icnet.formats.onnx import read as onnx_read

    return onnx_read.load


def _native(load: Callable[[Path], Graph], path: Path, output: str | None) -> Graph:
    """A native file, which has one output."""
    graph = load(path)
    if output is not None and output != graph.output:
        hint = did_you_mean(output[:80], [graph.output])
        raise FormatError(
            f"{path}: expected an output of the file, {graph.output!r}, found {output!r:.80}{hint}"
        )
    return graph


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a model in the format of the suffix: .npz, .xml (with .bin beside it) or .onnx.

    Raises FormatError for another suffix and for faces that the format cannot hold, FileExistsError for a .bin there
    without its .xml, ImportError for ONNX without the package onnx, OSError where nothing can be written.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".npz":
            from sparse_icnet.formats import native

            native.save(graph, path)
        case ".xml":
            from sparse_icnet.formats.openvino import write as openvino_write

            openvino_write.save(graph, path)
        case ".onnx":
            from sparse_icnet.formats.onnx import write as onnx_write

            onnx_write.save(graph, path)
        case suffix:
            raise FormatError(
                f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, found {suffix or 'none'!r}"
            )


def kind(path: Path) -> str:
    """The suffix of the format that `path` holds, by its first bytes where they tell, else by its name."""
    check_regular(path)
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        raise FormatError(f"{path}: expected a model, found an empty file")
    if start.startswith(_NATIVE):
        return ".npz"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return ".xml"
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return ".onnx"
    if suffix == ".bin" and path.with_suffix(".xml").is_file():
        raise FormatError(
            f"{path}: expected the .xml of an OpenVINO model, found its weights: give {path.stem}.xml"
        )
    expected = {".npz": "a zip archive (.npz)", ".xml": "XML (OpenVINO IR)"}.get(suffix)
    raise FormatError(
        f"{path}: expected {expected or 'a model (.npz, OpenVINO .xml or .onnx)'}, found {start[:8]!r}..."
    )
