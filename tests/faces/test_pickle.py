"""Models and graphs in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from networks import random_icnet, random_picture

import sparse_icnet
from sparse_icnet.formats import native
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.network.digest import digest
from sparse_icnet.network.graph import GraphError, resized

NAMES = tuple(f"kind {i}" for i in range(12))


def segment_elsewhere(net, picture):
    return net.predict(picture), repr(net)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_model_works_in_another_process(tiny_net, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    picture = random_picture(60, 80)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        found, text = pool.submit(segment_elsewhere, tiny_net, picture).result()
    assert np.array_equal(found.classes, tiny_net.segment(picture))
    assert np.array_equal(found.confidence, tiny_net.predict(picture).confidence)
    assert text == repr(tiny_net)


def test_from_a_file_by_path_and_options(tiny_file):
    net = sparse_icnet.load(tiny_file, size=(192, 96), threads=1, class_names=NAMES)
    data = pickle.dumps(net)
    assert len(data) < 2000
    other = pickle.loads(data)
    assert (other.size, other.threads, other.class_names, other.path) == ((192, 96), 1, NAMES, net.path)
    picture = random_picture(40, 50)
    assert np.array_equal(other.segment(picture), net.segment(picture))


def test_a_relative_path_holds_elsewhere(tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_file.parent)
    data = pickle.dumps(sparse_icnet.load(tiny_file.name, threads=1))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).size == (192, 192)


def test_bundled_models_by_name():
    net = sparse_icnet.load(size=(96, 96), threads=1)
    data = pickle.dumps(net)
    assert str(net.path).encode() not in data
    assert digest(pickle.loads(data).graph) == digest(net.graph)


def test_another_file_is_noticed(tiny_file, tmp_path):
    path = tmp_path / "model.npz"
    shutil.copy(tiny_file, path)
    data = pickle.dumps(sparse_icnet.load(path, threads=1))
    native.save(random_icnet((192, 192), seed=2), path)
    with pytest.raises(
        FormatError, match=r"model\.npz: expected the network that was pickled .*, found another"
    ):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        pickle.loads(data)


def test_from_memory_by_content(tiny_graph):
    net = sparse_icnet.Model(tiny_graph, 1, NAMES)
    other = pickle.loads(pickle.dumps(net))
    assert digest(other.graph) == digest(tiny_graph)
    assert (other.size, other.threads, other.class_names, other.path) == (net.size, 1, NAMES, None)
    picture = random_picture(40, 50)
    assert np.array_equal(other.segment(picture), net.segment(picture))


def test_graphs_are_checked_when_they_come_back(tiny_graph):
    graph = pickle.loads(pickle.dumps(tiny_graph))
    assert [op.name for op in graph] == [op.name for op in tiny_graph]
    assert graph.shape(graph.output) == tiny_graph.shape(tiny_graph.output)
    kind, (graph_type, arguments) = tiny_graph.__reduce__()
    with pytest.raises(GraphError, match="must be an operation"):
        kind(graph_type, {**arguments, "output": "nothing"})


def test_digest_tells_networks_apart(tiny_graph):
    assert digest(tiny_graph) == digest(random_icnet((192, 192), seed=1))
    others = [random_icnet((192, 192), seed=2), resized(tiny_graph, (192, 96))]
    assert len({digest(tiny_graph), *map(digest, others)}) == 3
