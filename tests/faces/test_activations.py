"""`Model.activations`: any tensor of the network, to the bits of the oracle."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from networks import random_picture

import sparse_icnet
from sparse_icnet.network.graph import Quantize
from sparse_icnet.reference.oracle import Oracle

SIZE = (192, 192)


@pytest.fixture(scope="module")
def picture():
    return random_picture(*SIZE, seed=7)


@pytest.fixture(scope="module")
def oracle(tiny_net, picture):
    return Oracle(tiny_net.graph, tiny_net.blob(picture)[0])


def test_every_tensor_is_that_of_the_oracle(tiny_net, picture, oracle):
    """Also real values and what the engine computes elsewhere, at fewer places or not at all."""
    names = [op.name for op in tiny_net.graph]
    found = tiny_net.activations(picture, names)
    assert list(found) == names
    for name, activation in found.items():
        quantizer = tiny_net.graph.quantizer(name)
        expected = oracle.value(name)
        assert activation.quantizer == quantizer
        assert activation.data.dtype == expected.dtype == (np.float32 if quantizer is None else np.int16)
        assert activation.data.shape == tiny_net.graph.shape(name)
        assert np.array_equal(activation.data, expected), name
        assert activation.values.dtype == np.float32
        assert np.array_equal(activation.values, oracle.real(name, 1.0)), name


def test_codes_come_from_the_engine(tiny_net, picture, monkeypatch):
    """The oracle fills the gaps alone: it convolves nothing where codes are asked for that the engine has."""
    monkeypatch.setattr(Oracle, "accumulator", lambda *_: pytest.fail("convolved"))
    found = tiny_net.activations(picture, ["conv4_3/codes", "cff421/codes"])
    assert len(np.unique(found["cff421/codes"].data)) > 3


def test_all_quantized_tensors(tiny_net, picture, oracle):
    found = tiny_net.activations(picture)
    names = [op.name for op in tiny_net.graph if tiny_net.graph.quantizer(op.name) is not None]
    assert list(found) == names
    assert {op.name for op in tiny_net.graph if isinstance(op, Quantize)} <= set(found)
    assert all(np.array_equal(found[name].data, oracle.codes(name)) for name in names)


def test_any_image(tiny_net, tmp_path):
    from PIL import Image

    pixels = random_picture(50, 70)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    one, other = (
        tiny_net.activations(source, ["conv1_2/codes"])["conv1_2/codes"] for source in (pixels, path)
    )
    assert np.array_equal(one.data, other.data)
    assert not np.array_equal(
        one.data, tiny_net.activations(pixels[::-1], ["conv1_2/codes"])["conv1_2/codes"].data
    )


def test_unknown_names(tiny_net, picture):
    with pytest.raises(
        ValueError, match=r"'conv4_3/code' is no tensor of this network, did you mean conv4_3/codes"
    ):
        tiny_net.activations(picture, ["conv1_2", "conv4_3/code"])
    with pytest.raises(ValueError, match=r"'zzz' is no tensor of this network$"):
        tiny_net.activations(picture, ["zzz"])
    with pytest.raises(TypeError, match="list of tensor names"):
        tiny_net.activations(picture, "conv1_2")


def test_short_repr(tiny_net, picture):
    found = tiny_net.activations(picture, ["conv1_2/codes", "conv1_2"])
    assert repr(found["conv1_2/codes"]).startswith("Activation('conv1_2/codes', 32x48x48 codes, scale ")
    assert "float32" in repr(found["conv1_2"])


def test_from_several_threads(tiny_file):
    net = sparse_icnet.load(tiny_file, threads=1)
    pictures = [random_picture(*SIZE, seed=seed) for seed in range(4)]
    expected = [net.activations(one, ["cff421/codes"])["cff421/codes"].data for one in pictures]
    failures = []

    def work(i):
        for _ in range(4):
            found = net.activations(pictures[i], ["cff421/codes"])["cff421/codes"].data
            if not np.array_equal(found, expected[i]):
                failures.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
