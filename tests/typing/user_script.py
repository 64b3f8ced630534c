"""A script as a user writes it, over the whole public surface; `tests/faces/test_typing.py` checks its types and runs it.

Usage: user_script.py MODEL PICTURE FOLDER
"""
# pyright: strict

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sparse_icnet
from sparse_icnet import CLASSES, DEFAULT_WEIGHTS, PALETTE, ImageError, Model, Result, load
from sparse_icnet.activations import Activation
from sparse_icnet.image import Frame, frame_count, frames, to_rgb
from sparse_icnet.info import LayerInfo, ModelInfo, ModelMeta, Profile
from sparse_icnet.network.graph import Graph, Normalization, Quantizer
from sparse_icnet.render import palette, read_class_names
from sparse_icnet.run.tracing import Recording, StepTime
from sparse_icnet.study.timing import Analysis, Spread, Timing

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, _):
        return value


def main(model: str, picture: Path, folder: Path) -> None:
    net = load(model, size=(192, 192), threads=1)
    assert_type(net, Model)
    assert_type(net.size, tuple[int, int])
    assert_type(net.class_names, tuple[str, ...])
    assert_type(net.path, Path | None)
    assert_type(net.graph, Graph)
    assert_type(sparse_icnet.__version__, str)
    assert_type(DEFAULT_WEIGHTS, Path)
    assert len(CLASSES) == len(PALETTE)

    with Image.open(picture) as opened:
        pixels: NDArray[np.uint8] = np.asarray(opened.convert("RGB"))
        one_of_each(net, picture, opened, pixels)
    results(net, picture, folder)
    figures(net)
    inside(net, pixels)
    pictures(picture, folder)


def one_of_each(net: Model, path: Path, opened: Image.Image, pixels: NDArray[np.uint8]) -> None:
    assert_type(net.segment(path), NDArray[np.uint8])
    assert_type(net.segment(str(path), smooth=False), NDArray[np.uint8])
    assert_type(net.segment(path.read_bytes()), NDArray[np.uint8])
    assert_type(net.segment(io.BytesIO(path.read_bytes())), NDArray[np.uint8])
    with open(path, "rb") as file:
        assert_type(net.segment(file), NDArray[np.uint8])
    assert_type(net.segment(opened), NDArray[np.uint8])
    assert_type(net.segment(pixels), NDArray[np.uint8])
    assert_type(net.segment([path, path]), list[NDArray[np.uint8]])
    mixed: list[Path | NDArray[np.uint8]] = [path, pixels]
    assert_type(net.segment(mixed), list[NDArray[np.uint8]])
    assert_type(net.predict(pixels), Result)
    assert_type(net.predict((path, path), smooth=False), list[Result])
    assert_type(net.probabilities(pixels), NDArray[np.float32])
    assert_type(net.probabilities([pixels]), list[NDArray[np.float32]])
    blob = net.blob(pixels)
    assert_type(blob, NDArray[Any])  # as the file takes it
    answer = net(blob)
    assert answer.shape[1] == len(net.class_names)


def results(net: Model, path: Path, folder: Path) -> None:
    result = net.predict(path)
    assert_type(result.classes, NDArray[np.uint8])
    assert_type(result.confidence, NDArray[np.float32])
    assert_type(result.mean_confidence, float)
    assert_type(result.shares, dict[str, float])
    assert_type(result.class_names, tuple[str, ...])
    assert_type(result.size, tuple[int, int])
    assert_type(result.summary(), str)
    assert_type(result.probabilities(), NDArray[np.float32])
    assert_type(result.probabilities(np.float16), NDArray[np.float16])
    assert_type(result.overlay(alpha=0.4, legend=False, palette="colour-blind"), Image.Image)
    assert_type(result.side_by_side(), Image.Image)
    assert_type(result.class_image(), Image.Image)
    assert_type(result.confidence_image(), Image.Image)
    result.save(folder / "overlay.png")
    result.save(folder / "classes.png", "classes", palette=[(i, i, i) for i in range(12)])
    assert result.shares["road"] <= 1


def figures(net: Model) -> None:
    info = net.info()
    assert_type(info, ModelInfo)
    assert_type(info.layers, tuple[LayerInfo, ...])
    assert_type(info["conv1_1"].zeros, float)
    assert_type(info.to_dict(), dict[str, Any])
    profile = net.profile(repeats=1)
    assert_type(profile, Profile)
    assert_type(profile.seconds, float)
    assert_type(profile.steps, tuple[StepTime, ...])
    analysis = net.analyze(rounds=1)
    assert_type(analysis, Analysis)
    assert_type(analysis.first["conv1_1"].saved, Spread | None)
    assert_type(analysis.second, Timing | None)
    assert_type(net.trace(np.zeros((9, 9, 3), np.uint8)), Recording)
    meta = net.meta
    assert_type(meta, ModelMeta)
    assert_type(meta.input_size, tuple[int, int] | None)
    assert_type(meta.normalization, Normalization)
    assert_type(meta.accuracy, Mapping[str, float])
    assert_type(meta.licence, str)


def inside(net: Model, pixels: NDArray[np.uint8]) -> None:
    tensors = net.activations(pixels, ["conv1_1", "conv1_1/codes"])
    assert_type(tensors, dict[str, Activation])
    codes = tensors["conv1_1/codes"]
    assert_type(codes.quantizer, Quantizer | None)
    assert_type(codes.values, NDArray[np.float32])
    other: Model = pickle.loads(pickle.dumps(net))
    assert np.array_equal(other.segment(pixels), net.segment(pixels))
    assert_type(sparse_icnet.Model(net.graph, threads=1, class_names=net.class_names), Model)


def pictures(path: Path, folder: Path) -> None:
    assert_type(to_rgb(path), Image.Image)
    assert_type(frame_count(path), int)
    for frame in frames(path):
        assert_type(frame, Frame)
        assert_type(frame.seconds, float)
    assert_type(palette("colour-blind"), NDArray[np.uint8])
    (folder / "names.txt").write_text("a\nb\n")
    assert_type(read_class_names(folder / "names.txt"), tuple[str, ...])
    try:
        to_rgb(b"nothing")
    except ImageError as error:
        print(error)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
