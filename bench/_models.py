"""The models of a comparison, each in the form that each engine likes best, and the pictures they see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_icnet import bundled, formats
from sparse_icnet.formats.onnx import write as onnx_write
from sparse_icnet.formats.openvino import write as openvino_write
from sparse_icnet.image import fit, to_rgb
from sparse_icnet.network.graph import Argmax, Bilinear, Graph, Resize, Size, Softmax, pruned, resized
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.reference import onnxruntime_peer
from sparse_icnet.sparse.block_csr import block_density
from sparse_icnet.video.writing import Writer

BLOCK_MODEL = "icnet-camvid-int8-block4x4"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model to compare.

    path            what this engine loads
    only_size       the one size it is for, or None: any
    narrow_weights  weights in half the range of int8, so that kernels without VNNI do not saturate: 2 * 64 * 255 < 2**15
    """

    name: str
    path: Path
    only_size: Size | None = None
    narrow_weights: bool = False

    def graph(self, size: Size) -> Graph:
        """The model at `size`."""
        return resized(formats.load(self.path), size)

    def about(self) -> dict[str, Any]:
        """Share of zero weights and of blocks that hold a non-zero, weighted by multiply-accumulates."""
        graph = formats.load(self.path)
        macs = np.array(
            [op.weight.size * np.prod(graph.shape(op.name)[1:]) for op in graph.convolutions], float
        )
        sizes = np.array([op.weight.size for op in graph.convolutions], float)
        zeros = [1 - np.count_nonzero(op.weight) / op.weight.size for op in graph.convolutions]
        facts = {"name": self.name, "zeros": _mean(zeros, sizes), "work_zeros": _mean(zeros, macs)}
        for rows in (1, 2, 4):
            density = [block_density(op.weight, rows) for op in graph.convolutions]
            facts[f"work_blocks_{rows}x4"] = _mean(density, macs)
        return facts


def _mean(values: list[float], weights: NDArray) -> float:
    return round(float(np.average(values, weights=weights)), 4)


def entry_of(path: Path) -> Entry:
    """The model of a file."""
    largest = max(int(np.abs(op.weight.astype(np.int16)).max()) for op in formats.load(path).convolutions)
    return Entry(path.stem, path, narrow_weights=largest <= 64)


def default_entries() -> list[Entry]:
    """The bundled models: the default one, and that with 4x4 blocks if it is there."""
    paths = (bundled.DEFAULT_WEIGHTS, bundled.WEIGHTS / f"{BLOCK_MODEL}.npz")
    return [entry_of(path) for path in paths if path.is_file()]


def export(entry: Entry, size: Size, folder: Path, engines: list[str]) -> dict[str, str]:
    """Write what each engine loads at `size` into `folder`; engine -> path, engine/case -> what else it loads for a case.

    An .xml stays what it is for OpenVINO: its own quantizers, where its own tool put them.
    """
    stem = f"{entry.name}-{size[0]}x{size[1]}"
    paths = {"sparse-icnet": str(entry.path)}
    graph = entry.graph(size)
    if "openvino" in engines:
        xml = entry.path
        if entry.path.suffix != ".xml":
            xml = folder / f"{stem}.xml"
            openvino_write.save(graph, xml)
        paths["openvino"] = str(xml)
    if "onnxruntime" in engines:
        onnx_write.save(graph, folder / f"{stem}.onnx")
        image = onnxruntime_peer.with_image_and_classes(graph, None)
        (folder / f"{stem}.image.onnx").write_bytes(image)
        paths["onnxruntime"] = str(folder / f"{stem}.onnx")
    smooth = smooth_graph(graph, size)
    if "openvino" in engines:
        openvino_write.save(smooth, folder / f"{stem}-smooth.xml")
        paths["openvino/smooth"] = str(folder / f"{stem}-smooth.xml")
    if "onnxruntime" in engines:
        image = onnxruntime_peer.with_image_and_classes(smooth, None)
        (folder / f"{stem}-smooth.image.onnx").write_bytes(image)
        paths["onnxruntime/smooth"] = str(folder / f"{stem}-smooth.onnx")
    return paths


def smooth_graph(graph: Graph, size: Size) -> Graph:
    """`graph` with its logits enlarged from their grid to `size` by bilinear interpolation, whatever it did before."""
    graph = optimize(graph)
    op = graph[graph.output]
    while isinstance(op, Resize | Softmax | Argmax):
        op = graph[op.input]
    if isinstance(op, Bilinear):
        op = graph[op.input]
    tail = (Bilinear("smooth", op.name, size), Softmax("smooth/probabilities", "smooth"))
    return replace(graph, ops=(*pruned(graph.ops, op.name), *tail), output=tail[-1].name)


def write_inputs(graph: Graph, size: Size, folder: Path) -> dict[str, str]:
    """The bundled photo at `size`: case -> .npy file, and "picture" -> .png file."""
    pixels = fit(to_rgb(bundled.SAMPLE_IMAGE), size)
    levels = graph.normalization.table()
    blob = np.stack([levels[c][pixels[..., c]] for c in range(3)])[None]
    stem = f"input-{size[0]}x{size[1]}"
    image = folder / f"{stem}.u8.npy"
    paths = {"classes": image, "smooth": image, "probabilities": folder / f"{stem}.f32.npy"}
    np.save(paths["classes"], pixels)
    np.save(paths["probabilities"], np.ascontiguousarray(blob, np.float32))
    picture = folder / f"{stem}.png"
    Image.fromarray(pixels).save(picture)
    return {case: str(path) for case, path in (*paths.items(), ("picture", picture))}


def write_pictures(folder: Path, count: int, size: Size = (720, 960)) -> None:
    """`count` JPEG files of CamVid's size: crops of the bundled photo, so that decoding is real work."""
    folder.mkdir()
    for number, crop in enumerate(_crops(count, size)):
        crop.save(folder / f"{number:04d}.jpg", quality=90)


def write_film(path: Path, count: int, size: Size = (720, 960)) -> None:
    """An MP4 of `count` frames of CamVid's size, 25 a second: crops of the bundled photo, each shown three times."""
    rate = Fraction(25)
    with Writer(path, size, rate, 1 / rate) as writer:
        for index, crop in enumerate(_crops(-(-count // 3), size)):
            for frame in range(3 * index, min(3 * index + 3, count)):
                writer.write(frame, frame, crop)


def _crops(count: int, size: Size) -> Iterator[Image.Image]:
    photo = to_rgb(bundled.SAMPLE_IMAGE)
    rng = np.random.default_rng(0)
    for _ in range(count):
        width = int(rng.integers(photo.width // 2, photo.width))
        height = min(photo.height, width * size[0] // size[1])
        left, top = (int(rng.integers(0, n + 1)) for n in (photo.width - width, photo.height - height))
        crop = photo.crop((left, top, left + width, top + height))
        yield crop.resize((size[1], size[0]), Image.Resampling.BICUBIC)
