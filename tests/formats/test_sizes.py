"""Which input size a command runs at, and class maps of other sizes than the input, from the command line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import random_blob, random_picture
from PIL import Image

from sparse_icnet import cli, formats
from sparse_icnet.formats import native
from sparse_icnet.network.graph import Argmax, Graph, Resize, resized
from sparse_icnet.reference.oracle import Oracle

ONE = ["--threads", "1"]


def test_every_command_takes_the_size_of_the_file(tiny_file, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(random_picture(100, 140, seed=4)).save(photo)
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    Image.fromarray(random_picture(60, 80)).save(tmp_path / "val" / "a.png")
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "valannot" / "a.png")
    for arguments, expected in (
        (("info", tiny_file, *ONE), "input 3x192x192 RGB, output 12x192x192"),
        (("verify", tiny_file, photo, *ONE), "at 192x192 against oracle"),
        (("eval", tiny_file, "--data", tmp_path, *ONE), "1 frames at 192x192"),
        (("verify", tiny_file, photo, "--size", "64x96", *ONE), "at 64x96 against oracle"),
    ):
        cli.main([str(argument) for argument in arguments])
        assert expected in " ".join(
            capsys.readouterr().out.split()
        )  # lines are as long as the terminal is wide
    assert cli.main(["export", str(tiny_file), str(tmp_path / "m.xml")]) == 0
    assert formats.load(tmp_path / "m.xml").input.shape == (3, 192, 192)


def test_help_says_which_sizes(capsys):
    for command in ("segment", "verify", "export", "info", "eval", "profile", "analyze"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "multiples of 32 for ICNet (default: what the model says, else 768x960)" in text


def test_class_maps_from_the_command_line(tiny_graph, tmp_path, capsys):
    """A network that ends in the argmax of its logits, 48x48 for 192x192."""
    ops = [op for op in tiny_graph if op.name not in ("logits_up", "probabilities")]
    ops.append(Argmax("classes", "conv6_cls"))
    model, photo = tmp_path / "classes.npz", tmp_path / "photo.png"
    native.save(Graph(tuple(ops), "classes"), model)
    Image.fromarray(random_picture(100, 140, seed=4)).save(photo)
    assert cli.main(["verify", str(model), str(photo), *ONE]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert cli.main(["segment", str(photo), "-o", str(tmp_path), "--model", str(model), *ONE]) == 0
    with Image.open(tmp_path / "photo.png.classes.png") as picture:
        assert picture.size == (140, 100)


def test_info_says_that_the_size_is_free(tiny_graph, tmp_path, capsys, monkeypatch):
    graph = replace(tiny_graph, size_is_free=True)
    monkeypatch.setattr(formats, "load", lambda path, output=None, content=None: graph)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    assert cli.main(["info", str(path), *ONE]) == 0
    assert "input 3x192x192 RGB (the file leaves the size free), output" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".npz", ".xml", ".onnx"])
@pytest.mark.parametrize("size", [None, (192, 192)])
def test_class_maps_survive_every_format(tiny_graph, tmp_path, suffix, size):
    """The argmax of small logits, and enlarged by a nearest resize behind it."""
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="needs onnx (extra onnx)")
    ops = [op for op in tiny_graph if op.name not in ("logits_up", "probabilities")]
    ops.append(Argmax("classes", "conv6_cls"))
    if size:
        ops.append(Resize("enlarged", "classes", size))
    graph = Graph(tuple(ops), ops[-1].name)
    formats.save(graph, tmp_path / f"m{suffix}")
    found = formats.load(tmp_path / f"m{suffix}")
    assert found.returns_classes
    blob = random_blob(graph)
    np.testing.assert_array_equal(Oracle(found, blob).output(), Oracle(graph, blob).output())


@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_sizes_whose_pools_overlap_survive_every_format(tiny_graph, tmp_path, suffix):
    """Multiples of 32 that are none of 96: ONNX has no adaptive pool, and the file holds products with matrices."""
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="needs onnx (extra onnx)")
    graph = resized(tiny_graph, (64, 160))
    formats.save(graph, tmp_path / f"m{suffix}")
    found = formats.load(tmp_path / f"m{suffix}")
    blob = random_blob(graph)
    np.testing.assert_array_equal(Oracle(found, blob).output(), Oracle(graph, blob).output())
