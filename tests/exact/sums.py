"""(Q3) at the bound that the graph proves: 255 * sum of |w| just below 2**31, constant extreme codes, every kernel."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from engine import WINOGRAD, Net, forced

from sparse_icnet.network.graph import Convolution, Quantizer
from sparse_icnet.network.limits import MAX_CHANNELS
from sparse_icnet.plan import plan_for
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.run.session import Session
from sparse_icnet.target import TARGET

BOUND = ((1 << 31) - 1) // 255  # of the sum of |w|


def run(quick: bool, counts: Counter[str], faults: list[str]) -> None:
    """`counts` of sums compared, `faults` in words."""
    for kernel in [*TARGET.kernels, WINOGRAD]:
        for weight in (127, -128):
            for zero in (0,) if quick else (0, 128, 255):
                for code in (0, 255):
                    _largest(
                        kernel,
                        weight,
                        code,
                        zero,
                        512 if quick or kernel == WINOGRAD else None,
                        counts,
                        faults,
                    )


def _largest(
    kernel: Any,
    weight: int,
    code: int,
    zero: int,
    channels: int | None,
    counts: Counter[str],
    faults: list[str],
) -> None:
    """A convolution whose every weight and code is the same.

    channels  of a window of 3x3; None: as many as there may be, of a window of 1x5, weights to the bound
    """
    inputs, window = (MAX_CHANNELS, (1, 5)) if channels is None else (channels, (3, 3))
    weights = np.zeros((5, inputs * window[0] * window[1]), np.int8)
    taps = min(BOUND // abs(weight), weights.shape[1])
    weights[:4, :taps] = weight
    weights[4, -taps:] = weight  # in other blocks
    if channels is None:
        assert 255 * int(np.abs(weights[0].astype(np.int64)).sum()) > 0.9999 * 2**31
    quantizer = Quantizer(0.02, zero)
    net = Net((3, 17), quantizer)
    stem = net.convolution(net.image, inputs)
    op = net.ops.pop()
    one = np.ones(inputs, np.float32)
    net.ops.append(
        Convolution(
            stem, op.inputs[0], np.zeros((inputs, 3, 1, 1), np.int8), one, (one if code else -one) * 1e6
        )
    )
    source = net.codes(stem, quantizer)
    name = net.convolution(source, 5, window, weight=weights.reshape(5, inputs, *window))
    op = net.ops[-1]
    assert isinstance(op, Convolution)
    unit = taps * abs(weight) * float(np.abs(op.weight_scale).max()) * quantizer.scale
    graph = net.classify(net.codes(name, Quantizer(unit, 128)))
    session = Session(plan_for(graph, 1, keep_tensors=True, policy=forced(kernel)))
    blob = np.zeros(graph.input.shape, np.float32)
    session.class_map(blob)
    oracle = Oracle(session.graph, blob)
    counts["sums"] += oracle.accumulator(name).size
    counts["largest"] = max(counts["largest"], int(np.abs(oracle.accumulator(name)).max()))
    for tensor in session.tensors():
        if not np.array_equal(session.tensor(tensor), oracle.codes(tensor)):
            faults.append(f"{kernel}, weights {weight}, codes {code}, zero point {zero}: {tensor} differs")
