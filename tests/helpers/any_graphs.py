"""Random graphs that the engine runs, most of them."""

from __future__ import annotations

import graphs
import numpy as np
from hypothesis import strategies as st

from sparse_icnet.network.graph import Affine, Bilinear, Graph, Input, Op, Quantizer, Shape, Softmax


class _Engine(graphs._Drawn):
    """Random graphs that start as the engine demands: three channels, at least 16 columns."""

    def emit(self, op: Op, shape: Shape | None = None, quantizer: Quantizer | None = None) -> str:
        if isinstance(op, Input):
            shape = (3, *self.draw(st.sampled_from([(8, 16), (16, 16), (12, 24), (16, 32), (24, 24)])))
            op = Input(op.name, shape)
        if isinstance(op, Affine):
            shape = self.shapes[op.input]
            op = Affine(op.name, op.input, np.float32([2, 0.5, 1]), np.float32([-0.25, 0, 0.5]))
        return super().emit(op, shape, quantizer)


@st.composite
def any_graphs(draw: st.DrawFn) -> Graph:
    """Every kind of operation in any order, quantizers anywhere, then a convolution, perhaps resized, and a softmax."""
    drawn = _Engine(draw, dyadic=False)
    for _ in range(draw(st.integers(1, 6))):
        drawn.step()
    last = drawn.last if drawn.held[drawn.last] is not None else drawn.quantize(drawn.last)
    logits = drawn.convolution_of(last, draw(st.integers(2, 5)))
    _, height, width = drawn.shapes[logits]
    kind = draw(st.sampled_from(["grid", "nearest", "bilinear"]))
    if kind == "nearest":
        logits = drawn.resize_to(logits, (2 * height, 2 * width))
    if kind == "bilinear":
        size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
        op = Bilinear("interpolated", logits, size, draw(st.booleans()))
        logits = drawn.emit(op, (drawn.shapes[logits][0], *size))
    drawn.emit(Softmax("probabilities", logits))
    return Graph(tuple(drawn.ops), "probabilities")
