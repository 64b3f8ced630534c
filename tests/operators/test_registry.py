"""The registry of kernels: what it prints are the constants, the formulas and the places that the planner uses."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from sparse_icnet.network.graph import Convolution
from sparse_icnet.operators import KERNELS, registry
from sparse_icnet.operators.convolution.pack import estimated_entries
from sparse_icnet.operators.convolution.plan import direct_costs, remainder_kernel
from sparse_icnet.operators.source import PACKAGE
from sparse_icnet.operators.storage import Grid
from sparse_icnet.operators.winograd.tiling import estimated_cost, tiling
from sparse_icnet.sparse.winograd import ELEMENTS
from sparse_icnet.target import TARGET, TARGETS


def layer(zeros: float, seed: int = 0) -> Convolution:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-63, 64, (30, 21, 3, 3)) * (rng.random((30, 21, 3, 3)) >= zeros)
    ones = np.ones(30, np.float32)
    return Convolution("layer", "x", weight.astype(np.int8), ones, ones, padding=(1, 1, 1, 1))


@pytest.mark.parametrize("zeros", [0.2, 0.9])
@pytest.mark.parametrize("vectors", [1, 7, 45])
def test_formula_of_direct_kernels(zeros, vectors):
    op = layer(zeros)
    for kernel, cost in direct_costs(op, vectors).items():
        entry = registry.entry_of(kernel.name)
        rest = vectors % kernel.vectors
        singles, couples = estimated_entries(op, kernel.rows)
        names = {
            **entry.constants,
            "computed": vectors - rest + (remainder_kernel(kernel, vectors).vectors if rest else 0),
            "singles": singles,
            "couples": couples,
        }
        assert eval(entry.formula, {}, names) == pytest.approx(cost)


@pytest.mark.parametrize(("rows", "columns"), [(24, 30), (6, 8)])
def test_formula_of_filtering(rows, columns):
    op, grid = layer(0.5), Grid.for_size(rows, columns)
    tiles = tiling(op, (4 * rows, 4 * columns), (4, 4), grid, True)
    entry = registry.entry_of(TARGET.filtering.name)
    names = {**entry.constants, "vectors": tiles.all_vectors, "groups": 6, "channels": 32}
    assert ELEMENTS * 2 == 72
    assert eval(entry.formula, {}, names) == pytest.approx(estimated_cost(op, tiles))


def test_every_kernel_of_every_cpu_is_there():
    found = list(registry.entries())
    assert len({entry.kernel for entry in found}) == len(found) == sum(len(t.kernels) + 2 for t in TARGETS)
    for entry in found:
        target = next(t for t in TARGETS if t.name == entry.cpu)
        assert entry.measured == target.measured
        assert not math.isnan(sum(entry.constants.values()))
    with pytest.raises(KeyError):
        registry.entry_of("9x9_nothing")


def line_of(place: str) -> str:
    file, _, line = place.rpartition(":")
    return (PACKAGE.parent / file).read_text(encoding="utf-8").splitlines()[int(line) - 1].strip()


def test_sources_are_functions():
    for record, place in KERNELS.items():
        source = registry.kernel_source(record)
        name = place.partition(":")[2]
        # A decorator may stand above the line of `def`.
        assert line_of(source.kernel).startswith(f"def {name}(")
    for entry in registry.entries():
        names = [line_of(place).partition("(")[0] for place in vars_of(entry.source)]
        if entry.kernel.startswith("float"):
            assert names[1:] == ["def float_convolution", "def real_add_products", "def emit"]
            continue
        assert names[1] in ("def accumulate", "def product")
        assert names[2].startswith("def tile_dot")
        assert names[3] in ("def dot4", "def multiply_add_pairs", "def multiply_add_bytes")


def vars_of(source) -> list[str]:
    return [source.kernel, source.loop, source.product, source.instruction]


def test_printed_within_a_hundred_columns():
    lines = list(registry.lines())
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for kernel in TARGET.kernels:
        (line,) = (line for line in lines if f" {kernel.name} " in line and line.startswith("*"))
        assert f"speed {kernel.speed:g}" in line
        assert "convolution/kernel.py:" in line
    assert all(place.partition(":")[2] in text for place in KERNELS.values())


def test_command_needs_no_numba():
    code = (
        "import sys; sys.argv = ['x', '--json']; from sparse_icnet.operators.__main__ import main; main(); "
        "assert 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {entry["kernel"] for entry in json.loads(done.stdout)} >= {
        kernel.name for kernel in TARGET.kernels
    }
