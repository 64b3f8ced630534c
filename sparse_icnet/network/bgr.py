"""Networks that expect channels blue, green, red: the same network for red, green, blue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from sparse_icnet.network.faces import Faces
from sparse_icnet.network.graph import Affine, Graph, GraphError, Input, Op, Quantize, Resize


def for_rgb(graph: Graph) -> Graph:
    """`graph`, which expects pictures as blue, green, red, for red, green, blue; its face keeps the order of the file.

    Every operation between the input and its first convolutions acts on each channel by itself, so the reversal moves
    through all of them; a sum of integers over the channels (Q3) does not depend on their order.  The sums of float32 (Q12)
    are those of the network that is returned.

    Raises GraphError for another number of input channels than 3, and for another operation before the convolutions.
    """
    if graph.input.shape[0] != 3:
        raise GraphError(
            f"bgr: expected a network with 3 input channels, found {graph.input.shape[0]} of {graph.input.name!r}"
        )
    reversed_: set[str] = set()
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Input) or reversed_.intersection(op.inputs):
            op = _turned(op)
            if isinstance(op, Input | Affine | Quantize | Resize):
                reversed_.add(op.name)
        ops.append(op)
    if graph.output in reversed_:
        raise GraphError("bgr: expected a convolution between input and output, found none")
    face = replace(graph.faces.input, bgr=not graph.faces.input.bgr)
    return replace(graph, ops=tuple(ops), faces=Faces(face, graph.faces.output))


def _turned(op: Op) -> Op:
    """`op` reading its channels in reverse order."""
    if isinstance(op, Input | Quantize | Resize):
        return op
    if isinstance(op, Affine):
        return replace(op, scale=op.scale[::-1].copy(), shift=op.shift[::-1].copy())
    weight = getattr(op, "weight", None)
    if weight is None:
        raise GraphError(
            f"bgr: expected quantizers, scales, resizes and convolutions behind the input, found "
            f"{type(op).__name__} {op.name!r}"
        )
    turned: Op = replace(cast(Any, op), weight=np.ascontiguousarray(weight[:, ::-1]))
    return turned
