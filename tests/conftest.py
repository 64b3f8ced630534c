"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from networks import random_icnet, random_picture
from PIL import Image

import sparse_icnet
from sparse_icnet import cli, kept_plans
from sparse_icnet.formats import native
from sparse_icnet.network.graph import Graph
from sparse_icnet.run import machine_code

SIZE = (192, 192)

# Tests of planning plan; those of kept plans switch them on.
os.environ[kept_plans.SWITCH] = "0"
# A shell that starts the tests in the background has Ctrl-C ignored, which every process inherits that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# No test has a time limit of its own: a machine that is busy is no failure.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tiny_graph() -> Graph:
    """ICNet with random weights at 192x192."""
    return random_icnet(SIZE, seed=1)


@pytest.fixture(scope="session")
def tiny_file(tiny_graph, tmp_path_factory) -> Path:
    """The native file of `tiny_graph`."""
    path = tmp_path_factory.mktemp("models") / "tiny.npz"
    native.save(tiny_graph, path)
    return path


@pytest.fixture(scope="session")
def tiny_net(tiny_file) -> sparse_icnet.Model:
    """The loaded `tiny_file`, one thread."""
    return sparse_icnet.load(tiny_file, size=SIZE, threads=1)


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid's frames: SPARSE_ICNET_CAMVID, else ../shared/camvid beside the repository, else skip."""
    default = Path(__file__).resolve().parents[2] / "shared" / "camvid"
    folder = Path(os.environ.get("SPARSE_ICNET_CAMVID", default))
    if not (folder / "val").is_dir():
        pytest.skip("CamVid frames are not here: set SPARSE_ICNET_CAMVID to a folder with val/ and valannot/")
    return folder


@pytest.fixture(scope="session")
def compiled_kernels() -> None:
    """The kernels are there: else the first command says on stderr that it compiles them."""
    machine_code.warm_up()


@pytest.fixture
def run(capsys, compiled_kernels):
    """Run a command line here: (exit code, stdout, stderr)."""

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def photo(tmp_path) -> Path:
    """A picture of 140 x 100 pixels, alone in its folder but for what the test puts there."""
    path = tmp_path / "photo.png"
    Image.fromarray(random_picture(100, 140, seed=4)).save(path)
    return path
