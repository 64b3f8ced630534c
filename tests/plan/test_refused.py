"""What the engine cannot run is refused when a model is made, by every way to make one, before any kernel exists."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from engine import Net
from networks import random_blob

import sparse_icnet
import sparse_icnet.plan.stages as planner
from sparse_icnet import formats
from sparse_icnet.cli import main
from sparse_icnet.formats.errors import FormatError
from sparse_icnet.model import Model
from sparse_icnet.network.graph import Argmax, Graph, MaxPool, Quantize, Quantizer, Resize, Softmax
from sparse_icnet.plan import PlanError
from sparse_icnet.reference.oracle import Oracle

SIZE = (48, 96)


def _net() -> tuple[Net, str]:
    net = Net(SIZE)
    codes = net.codes(net.relu(net.convolution(net.image, 8, 3, 2)))
    return net, net.convolution(codes, 12)


def _with(net: Net, *ops) -> Graph:
    for op in ops:
        net.add(op)
    return Graph(tuple(net.ops), ops[-1].name if ops else net.ops[-1].name)


def quantizer_behind_softmax() -> Graph:
    net, logits = _net()
    return _with(net, Softmax("soft", logits), Quantize("last", "soft", Quantizer(1 / 255)))


def quantizer_behind_resize() -> Graph:
    net, logits = _net()
    return _with(net, Resize("up", logits, SIZE), Quantize("last", "up", Quantizer(1 / 8, 128)))


def logits_alone() -> Graph:
    net, logits = _net()
    return _with(net, Resize("last", logits, SIZE))


def argmax_of_softmax() -> Graph:
    net, logits = _net()
    return _with(net, Softmax("soft", logits), Argmax("last", "soft"))


def softmax_of_softmax() -> Graph:
    net, logits = _net()
    return _with(net, Softmax("soft", logits), Softmax("last", "soft"))


def max_pool_of_signed_codes() -> Graph:
    net = Net(SIZE)
    signed = net.codes(net.convolution(net.image, 8, 3, 1), Quantizer(1 / 32, 0, -128, 127))
    net.add(MaxPool("last", signed, (3, 3), (2, 2), (1, 1, 1, 1)))
    return net.classify("last", classes=12)


REFUSED = [
    quantizer_behind_softmax,
    argmax_of_softmax,
    softmax_of_softmax,
    max_pool_of_signed_codes,
]
PLACES = {"quantizer_behind_softmax": "soft", "argmax_of_softmax": "soft", "softmax_of_softmax": "soft"}


@pytest.fixture(params=REFUSED, ids=lambda make: make.__name__)
def case(request):
    return request.param(), PLACES.get(request.param.__name__, "last")


def test_a_model_that_cannot_run_is_refused_when_it_is_made(case):
    graph, place = case
    with pytest.raises(PlanError, match=f"{place!r}"):
        Model(graph, threads=1)


def test_load_refuses_it_and_names_file_and_operation(case, tmp_path):
    graph, place = case
    path = tmp_path / "m.npz"
    formats.save(graph, path)
    with pytest.raises(FormatError, match=rf"^{path}: .*{place!r}"):
        sparse_icnet.load(path, size=None)


@pytest.mark.parametrize("make", [logits_alone, quantizer_behind_resize])
def test_networks_that_end_in_logits_run(make):
    graph = make()
    blob = random_blob(graph)
    np.testing.assert_array_equal(Model(graph, threads=1)(blob[None])[0], Oracle(graph, blob).output())


@pytest.mark.parametrize("command", ["info", "convert", "segment"])
def test_commands_refuse_it_alike(command, tmp_path, capsys):
    path = tmp_path / "m.npz"
    formats.save(max_pool_of_signed_codes(), path)
    arguments = {
        "info": ["info", str(path)],
        "convert": ["convert", str(path), str(tmp_path / "out.npz")],
        "segment": ["segment", "--model", str(path), "--sample", "-o", str(tmp_path / "out")],
    }[command]
    assert main(arguments + (["--size", "48x96"] if command != "convert" else [])) == 2
    assert "max pool 'last': with padding its input must have the zero point" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_a_model_is_planned_once(tiny_graph, monkeypatch):
    plans = []
    build = planner.prove
    monkeypatch.setattr(planner, "prove", lambda *arguments: plans.append(arguments) or build(*arguments))
    model = Model(tiny_graph, threads=2)
    assert len(plans) == 1
    assert model.session.plan is model.plan
    assert model.session.threads == model.plan.threads == 2
    assert len(plans) == 1


def test_planning_and_info_compile_nothing(tiny_file, tmp_path):
    """With an empty cache, that is: an inference would have to."""
    script = f"""
import sys
from sparse_icnet.cli import main
assert main(["info", {str(tiny_file)!r}, "--size", "192x192"]) == 0
assert "numba" not in sys.modules
"""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".o"]


def test_sizes_that_do_are_named():
    net = Net((52, 96))
    codes = net.codes(net.relu(net.convolution(net.image, 8, 3, 2)))  # 26 rows
    low = net.codes(
        net.relu(net.convolution(net.codes(net.relu(net.convolution(codes, 8, 3, 2))), 8, 3, 2))
    )  # 13, 7
    graph = net.classify(low, classes=12)
    with pytest.raises(
        PlanError, match=r"an input of 52x96 .* do not divide each other; export it for 48x96 or 56x96$"
    ):
        Model(graph, threads=1)
    with pytest.raises(ValueError, match="such as 704x960 or 736x960"):
        sparse_icnet.load(size=(720, 960))
