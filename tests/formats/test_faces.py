"""Types and axes that files declare for their own input and output, resizes of pictures inside them, BGR."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

openvino = pytest.importorskip("openvino", reason="needs openvino (extra reference)")

from any_graphs import small_classifier  # noqa: E402

import sparse_icnet  # noqa: E402
from sparse_icnet import formats  # noqa: E402
