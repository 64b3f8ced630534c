"""Reports that several test files share: one takes some seconds."""

from __future__ import annotations

import pytest
from hostile import hostile_network

from sparse_icnet.model import Model
from sparse_icnet.study.report import report_of
from sparse_icnet.study.report.data import Report


@pytest.fixture(scope="session")
def icnet_report(tiny_net) -> Report:
    """ICNet, nothing measured."""
    return report_of(tiny_net, timing=False)


@pytest.fixture(scope="session")
def hostile() -> Model:
    """A network that is no ICNet, with hostile names."""
    return Model(hostile_network(), threads=1)


@pytest.fixture(scope="session")
def hostile_report(hostile) -> Report:
    """Of that one, nothing measured."""
    return report_of(hostile, timing=False)
