"""Between what a file takes and gives (`network.faces`) and what its graph does: float32 (3, H, W), (C, h, w)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_icnet.arguments import check_out, checked_blob
from sparse_icnet.network.faces import InputFace, OutputFace, arranged, arranged_shape, planar
from sparse_icnet.network.graph import Graph, Size

if TYPE_CHECKING:
    from sparse_icnet.run.session import Session

Blob = NDArray[np.generic]


def input_shape(graph: Graph) -> tuple[int, ...]:
    """Shape of one input as the file takes it, without the axis N."""
    face, (channels, height, width) = graph.faces.input, graph.input.shape
    return arranged_shape((channels, *(face.picture or (height, width))), face.axes)


def output_shape(graph: Graph) -> tuple[int, ...]:
    """Shape of one output as the file gives it, without the axis N."""
    return arranged_shape(graph.shape(graph.output), graph.faces.output.axes)


def output_type(graph: Graph) -> np.dtype[np.generic]:
    """Type of the numbers of an output as the file gives it."""
    return np.dtype(graph.faces.output.dtype or (np.uint8 if graph.returns_classes else np.float32))


def graph_input(graph: Graph, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB pixels (H, W, 3) -> float32 (3, H, W), normalized."""
    table = graph.normalization.table()
    return np.stack([table[c][pixels[..., c]] for c in range(3)])


def file_input(graph: Graph, pixels: NDArray[np.uint8]) -> Blob:
    """RGB pixels (h, w, 3) of the pictures that the file takes -> one input of `input_shape`."""
    return _as_file(graph_input(graph, pixels), graph.faces.input)


def _as_file(planes: NDArray[np.float32], face: InputFace) -> Blob:
    channels = planes[::-1] if face.bgr else planes
    blob: Blob = np.ascontiguousarray(arranged(channels, face.axes).astype(face.dtype, copy=False))
    return blob


def from_file_input(graph: Graph, blob: Blob) -> NDArray[np.float32]:
    """One input of `input_shape` -> float32 (3, H, W)."""
    face = graph.faces.input
    planes = planar(blob, face.axes)
    if face.bgr:
        planes = planes[::-1]
    if face.picture is not None and face.picture != graph.input.shape[1:]:
        planes = np.stack([_stretched(plane, graph.input.shape[1:], face.whole) for plane in planes])
    return np.ascontiguousarray(planes.astype(np.float32, copy=False))


def _stretched(plane: NDArray[np.generic], size: Size, whole: bool) -> NDArray[np.float32]:
    """One channel to `size` by Pillow's bilinear resize, of bytes to bytes if `whole`."""
    picture = Image.fromarray(np.ascontiguousarray(plane.astype(np.uint8 if whole else np.float32)))
    stretched = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(stretched, np.float32)


def file_output(graph: Graph, result: NDArray[np.float32 | np.uint8]) -> Blob:
    """What the graph gives -> one output of `output_shape` and `output_type`."""
    with np.errstate(over="ignore"):
        return arranged(result, graph.faces.output.axes).astype(output_type(graph), copy=False)


def from_file_output(graph: Graph, result: Blob) -> NDArray[np.float32 | np.uint8]:
    """One output as the file gives it, without the axis N -> float32 (C, h, w) or uint8 (1, h, w)."""
    kind = np.uint8 if graph.returns_classes else np.float32
    return np.ascontiguousarray(planar(result, graph.faces.output.axes).astype(kind, copy=False))


def results(graph: Graph, session: Session, blob: Blob, out: Blob | None) -> Blob:
    """What `Model.__call__` says: the outputs for the inputs `blob`, as the file takes and gives them."""
    blobs = checked_blob(blob, graph.faces.input, input_shape(graph))
    batched = "N" in graph.faces.output.axes
    if not batched and len(blobs) != 1:
        raise ValueError(
            f"expected one blob, for the output of this file has no axis for more, found {len(blobs)}"
        )
    shape, dtype = (len(blobs), *output_shape(graph)), output_type(graph)
    if out is None:
        given: NDArray[Any] = np.empty(shape, dtype)
    else:
        check_out(out, shape if batched else shape[1:], dtype, blob)
        given = out if batched else out[None]
    as_it_is = graph.faces.output == OutputFace()
    for one, result in zip(blobs, given, strict=True):
        values = from_file_input(graph, one)
        if as_it_is:
            session.output(values, out=result)
        else:
            result[...] = file_output(graph, session.output(values))
    return out if out is not None else given if batched else given[0]
