"""What a plan may cost, checked before anything is planned: a small file can ask for more than any machine has.

The bounds are far above the largest use that is known, ICNet at 1536x1920: 220 operations, at most 18 in a row without a
convolution, 7 million weights, at most 50 MB packed, tensors of 50 MB.  Sizes of a single operation have bounds of their
own in `sparse_icnet.network.limits`.
"""

from __future__ import annotations

import math

import numpy as np

from sparse_icnet.network.graph import (
    AnyConvolution,
    AveragePool,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
)
from sparse_icnet.operators.storage import Grid, PlanError
from sparse_icnet.sparse.winograd import ELEMENTS, TAPS

MAX_OPERATIONS = 1 << 12
# Operations in a row without a convolution or a pooling of codes: what rewrites and planner look at together.
MAX_DEPTH = 100
MAX_WEIGHTS = 1 << 27  # of all convolutions, zeros included
MAX_PHASES = 1 << 16  # planes of a map: pixels of it to one of the smallest convolution output
MAX_TAPS = 1 << 22  # kernel positions of an operation, in all phases of its output
MAX_PACKED = 1 << 30  # bytes of all weights as kernels read them, and of the tables beside them
MAX_COPY_TABLES = 1 << 28  # bytes of the masks by which shifted copies are stored, of all maps
MAX_WORK = 1 << 41  # products of an inference; a comparison of a max pool counts as COMPARISON of them
COMPARISON = 16  # products that take the time of one comparison, measured
MAX_MEMORY = 1 << 31  # bytes of the tensors of a plan, which share them
MAX_KEPT = 1 << 32  # the same where each tensor is kept
MAX_SCRATCH = 1 << 30  # bytes of scratch memory of all threads together


def check_graph(graph: Graph) -> None:
    """Raise PlanError for more operations, weights, or operations in a row than rewrites and planner are made for."""
    if len(graph.ops) > MAX_OPERATIONS:
        raise PlanError(f"the network has {len(graph.ops)} operations, expected at most {MAX_OPERATIONS}")
    weights = sum(op.weight.size for op in graph.layers)
    if weights > MAX_WEIGHTS:
        raise PlanError(f"the network has {weights} weights, expected at most {MAX_WEIGHTS}")
    depth: dict[str, int] = {}
    for op in graph:
        pools_codes = isinstance(op, MaxPool | AveragePool) and graph.quantizer(op.input) is not None
        begins = pools_codes or isinstance(op, Input | AnyConvolution)
        depth[op.name] = 0 if begins else 1 + max(depth[source] for source in op.inputs)
        if depth[op.name] > MAX_DEPTH:
            raise PlanError(
                f"operation {op.name!r}: expected at most {MAX_DEPTH} operations in a row without a convolution or a "
                f"pooling, found more"
            )


def check_work(graph: Graph, grid: Grid) -> None:
    """Raise PlanError for an optimized graph whose maps, taps, products or packed weights are more than a plan may have."""
    packed = work = 0
    for op in graph:
        channels, *size = graph.shape(op.name)
        phases = grid.phases(*size)
        if phases is None:
            continue
        planes = math.prod(phases)
        if planes > MAX_PHASES:
            raise PlanError(
                f"operation {op.name!r}: expected a map of at most {MAX_PHASES} times the smallest convolution output, "
                f"{grid.rows}x{grid.columns}, found {size[0]}x{size[1]}"
            )
        if isinstance(op, Quantize | MaxPool):
            check_memory(-(-channels // 4) * planes * grid.rows * grid.pitch, f"operation {op.name!r}")
        if isinstance(op, AnyConvolution | MaxPool):
            taps = math.prod(op.kernel if isinstance(op, MaxPool) else op.weight.shape[2:]) * planes
            if taps > MAX_TAPS:
                raise PlanError(
                    f"operation {op.name!r}: expected at most {MAX_TAPS} taps (kernel positions in {planes} planes), "
                    f"found {taps}"
                )
        work += _products(op, channels * math.prod(size))
        if work > MAX_WORK:
            raise PlanError(
                f"operation {op.name!r}: expected at most {MAX_WORK} products in an inference (a comparison of a max pool "
                f"counts as {COMPARISON}), found {work} up to here"
            )
        packed += _packed_bytes(op, planes)
        if packed > MAX_PACKED:
            raise PlanError(
                f"operation {op.name!r}: expected at most {MAX_PACKED} bytes of packed weights and their tables in the "
                f"network, found {packed} up to here"
            )


def check_copy_tables(size: int, what: str) -> None:
    """Raise PlanError for `size` bytes of masks for shifted copies, up to those of `what`."""
    if size > MAX_COPY_TABLES:
        raise PlanError(
            f"{what}: expected at most {MAX_COPY_TABLES} bytes of tables for the shifted copies that windows read, found "
            f"{size} up to here"
        )


def check_memory(size: int, what: str, keep_tensors: bool = False) -> None:
    """Raise PlanError for `size` bytes of tensors that are too many for `what`."""
    limit = MAX_KEPT if keep_tensors else MAX_MEMORY
    if size > limit:
        raise PlanError(f"{what}: expected at most {limit} bytes of memory for tensors, found {size}")


def check_scratch(size: int, threads: int, what: str) -> None:
    """Raise PlanError where `size` bytes of scratch memory for each thread are too many for `what`."""
    if size * threads > MAX_SCRATCH:
        raise PlanError(
            f"{what}: expected at most {MAX_SCRATCH} bytes of scratch memory on {threads} threads, found {size * threads}"
        )


def _products(op: Op, values: int) -> int:
    """Products of an operation with so many output values, zeros included, or what its comparisons count as."""
    if isinstance(op, AnyConvolution):
        return values * int(op.weight[0].size)
    return COMPARISON * values * math.prod(op.kernel) if isinstance(op, MaxPool) else 0


def _packed_bytes(op: Op, planes: int) -> int:
    """At most so many bytes of packed weights and offsets of a convolution, whatever kernel computes it."""
    if isinstance(op, FloatConvolution):
        return int(np.count_nonzero(op.weight)) * (16 + 4 * planes)
    if not isinstance(op, Convolution):
        return 0
    outputs, inputs = (n + -n % 4 for n in op.weight.shape[:2])
    window = op.weight.shape[2:]
    # Of blocks of two or four outputs, of two lanes or one for each output, and of two offsets for each block and plane.
    blocks: int = min(int(np.count_nonzero(op.weight)), outputs * inputs * math.prod(window) // 8)
    direct = blocks * (32 + 8 * planes)
    filtered: int = 2 * ELEMENTS * outputs * inputs if window == (TAPS, TAPS) and op.stride == (1, 1) else 0
    return max(direct, filtered)
