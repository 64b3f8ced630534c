"""Quantizers without the codes that nothing can take."""

from __future__ import annotations

from dataclasses import replace

from sparse_icnet.network.graph import Graph, Quantize, Relu, Resize
from sparse_icnet.network.rewrite._edit import Ops, rebuilt


def narrow_quantizers(graph: Graph) -> Graph:
    """Quantizers of a ReLU, directly or behind resizes, with the zero point as their lowest code.

    By (Q5) [relu(x)]_s >= 0, so rint([relu(x)]_s) + z >= z: (Q1) gives no code below z, and clipping to z..high in place
    of low..high changes none.  Resizes copy values.  Codes, scale and zero point stay as they are, and (Q2) to (Q6) use
    nothing else of a quantizer; a max pool's padding loses against every code in either range.

    A range of one code is no quantizer, so z = high stays.
    """
    ops: Ops = {}
    changed = False
    for op in graph.ops:
        if isinstance(op, Quantize) and op.quantizer.low < op.quantizer.zero_point < op.quantizer.high:
            source = graph[op.input]
            while isinstance(source, Resize):
                source = graph[source.input]
            if isinstance(source, Relu):
                op = replace(op, quantizer=replace(op.quantizer, low=op.quantizer.zero_point))
                changed = True
        ops[op.name] = op
    return rebuilt(graph, ops, graph.output) if changed else graph
