"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from networks import random_icnet

import sparse_icnet
from sparse_icnet.formats import native
from sparse_icnet.network.graph import Graph

SIZE = (192, 192)

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
