"""What files say about their models, and how the native format carries it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from networks import random_icnet

import sparse_icnet
from sparse_icnet.formats import native
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.graph import Normalization, resized
from sparse_icnet.network.meta import Meta
from sparse_icnet.network.rewrite import optimize

NAMES = tuple(f"kind {i}" for i in range(12))
META = Meta(
    "tiny", NAMES, {"mIoU, nothing, smooth": 0.25, "frames": 101}, "Apache-2.0", "Random weights, of no use."
)


@pytest.fixture
def with_document(tiny_file, tmp_path):
    """Write the tiny model with its JSON document changed, and return the path."""

    def make(**changes):
        path = tmp_path / "changed.npz"
        with zipfile.ZipFile(tiny_file) as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                data = old.read(info)
                if info.filename == "graph.npy":
                    document = json.loads(np.load(io.BytesIO(data)).tobytes()) | changes
                    member = io.BytesIO()
                    np.save(member, np.frombuffer(json.dumps(document).encode(), np.uint8))
                    data = member.getvalue()
                new.writestr(info.filename, data)
        return path

    return make


def test_a_file_carries_its_meta(tiny_graph, tmp_path):
    path = tmp_path / "m.npz"
    native.save(tiny_graph, path, META)
    assert native.load(path).meta == META
    net = sparse_icnet.load(path, threads=1)
    assert net.class_names == net.meta.class_names == NAMES
    assert net.meta.name == "tiny"
    assert net.meta.input_size == (192, 192)
    assert net.meta.normalization == Normalization()
    assert dict(net.meta.accuracy) == {"mIoU, nothing, smooth": 0.25, "frames": 101.0}
    assert net.meta.licence == "Apache-2.0"
    assert net.meta.notes.startswith("Random")
    assert sparse_icnet.load(path, (192, 96), threads=1).meta == net.meta
    native.save(native.load(path), path)
    assert native.load(path).meta == META
    with pytest.raises(TypeError):
        net.meta.accuracy["frames"] = 1


def test_the_graph_keeps_it(tiny_graph):
    graph = replace(tiny_graph, meta=META)
    assert optimize(graph).meta == resized(graph, (192, 96)).meta == META
    assert pickle.loads(pickle.dumps(graph)).meta == META
    assert pickle.loads(pickle.dumps(sparse_icnet.Model(graph, 1))).meta.licence == "Apache-2.0"


def test_files_without_it_stay_as_they_were(tiny_graph, tiny_file, tmp_path):
    path = tmp_path / "m.npz"
    native.save(tiny_graph, path)
    assert path.read_bytes() == tiny_file.read_bytes()
    assert b"meta" not in zipfile.ZipFile(path).read("graph.npy")
    net = sparse_icnet.load(path, threads=1)
    assert net.graph.meta == Meta()
    assert net.meta.class_names == sparse_icnet.CLASSES
    assert (net.meta.name, net.meta.licence, dict(net.meta.accuracy)) == ("", "", {})


def test_what_is_given_goes_before_what_the_file_says(tiny_graph, tmp_path):
    path = tmp_path / "m.npz"
    native.save(tiny_graph, path, META)
    others = [f"other {i}" for i in range(12)]
    assert sparse_icnet.load(path, threads=1, class_names=others).class_names == tuple(others)


def test_names_for_another_number_of_classes(tmp_path):
    path = tmp_path / "m.npz"
    native.save(random_icnet((192, 192), classes=7), path, META)
    with pytest.raises(FormatError, match=r"m\.npz: meta: expected 7 class names, .* found 12"):
        sparse_icnet.load(path)


def test_some_fields_are_enough(with_document):
    assert native.load(with_document(meta={"licence": "MIT"})).meta == Meta(licence="MIT")
    assert native.load(with_document(meta={})).meta == Meta()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (None, "meta: expected an object with some of"),
        ([], "meta: expected an object with some of"),
        ({"license": "MIT"}, "expected an object with some of accuracy, class_names, licence, name, notes"),
        ({"name": 3}, "meta: name: expected 0 to 1000 printable characters, found 3"),
        ({"name": "x" * 1001}, "name: expected 0 to 1000 printable"),
        ({"notes": "\x1b[2J"}, "notes: expected .* found '.x1b"),
        ({"licence": "\ud800"}, "licence: expected"),
        ({"accuracy": [1]}, "accuracy: expected at most 256 figures by name, found list"),
        ({"accuracy": {"": 1}}, "accuracy: expected 1 to 1000"),
        ({"accuracy": {"a": "1"}}, "meta: accuracy: 'a': expected a finite number"),
        ({"accuracy": {"a": True}}, "expected a finite number"),
        ({"accuracy": {"a": float("nan")}}, "expected a finite number"),
        ({"accuracy": {"a": float("inf")}}, "expected a finite number"),
        ({"accuracy": {"a": 10**400}}, "expected a finite number, found an integer of 1329 bits"),
        ({"accuracy": {str(i): i for i in range(257)}}, "at most 256 figures"),
        ({"class_names": "abc"}, "class_names must be a list"),
        ({"class_names": [1]}, "sequence of strings"),
        ({"class_names": ["a", "a"]}, "expected distinct names"),
        ({"class_names": [""]}, "expected a name of 1 to 100"),
        ({"class_names": [f"{i}" for i in range(257)]}, "expected 1 to 256 class names, found 257"),
    ],
)
def test_hostile_meta(with_document, meta, message):
    path = with_document(meta=meta)
    with pytest.raises(FormatError, match=message) as caught:
        native.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
