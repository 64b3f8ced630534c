"""Operations that change nothing, or that are there twice."""

from __future__ import annotations

from collections.abc import Hashable

from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    Softmax,
    assert_never,
    rename_inputs,
)
from sparse_icnet.network.rewrite._edit import Ops, held_quantizer, rebuilt


def drop_idle_quantizers(graph: Graph) -> Graph:
    """Without quantizers of a tensor that already holds such codes, directly or behind a resize or max pool.

    Let T hold codes q of (s, z, low, high) and be read by a quantizer (s, z, low', high') with
    low' <= low and high <= high'.  It reads T in its own unit s, where by (Q2)

        [q]_s = f32(q - z) * f32(s / s) = q - z,

    exactly: |q - z| <= 255 is a float32 integer, and s / s = 1.  By (Q1) it then gives
    clip(rint(q - z) + z, low', high') = clip(q, low', high') = q.  Its readers therefore see the same
    codes with the same scale and zero point when they read T, and (Q2) to (Q6) use nothing else of a
    quantizer.  Resize and MaxPool only copy codes, so T may stand behind them.
    """
    ops: Ops = {}
    renamed: dict[str, str] = {}
    for op in graph.ops:
        op = rename_inputs(op, renamed)
        if isinstance(op, Quantize) and _covers(op.quantizer, held_quantizer(ops, op.input)):
            renamed[op.name] = op.input
        else:
            ops[op.name] = op
    return rebuilt(graph, ops, renamed.get(graph.output, graph.output)) if renamed else graph


def _covers(outer: Quantizer, inner: Quantizer | None) -> bool:
    return (
        inner is not None
        and (outer.scale, outer.zero_point) == (inner.scale, inner.zero_point)
        and outer.low <= inner.low
        and inner.high <= outer.high
    )


def drop_idle_relus(graph: Graph) -> Graph:
    """Without ReLUs of codes whose lowest code is the zero point.

    There [q]_u = f32(q - z) * f32(s / u) >= 0 in any unit u, being a product of numbers that are not
    negative; so max([q]_u, 0) = [q]_u.  A ReLU that the network output shows (through resizes) stays:
    without it the output would be codes in place of real values.  So does one that an average pool reads, directly or
    through resizes and max pools: it would read codes, and (Q6) rounds otherwise than (Q13).  Everything else takes codes
    and real values alike, a max pool (Q14) because (Q2) is monotone.
    """
    kept = _shown(graph) | _averaged(graph)
    ops: Ops = {}
    renamed: dict[str, str] = {}
    for op in graph.ops:
        op = rename_inputs(op, renamed)
        quantizer = held_quantizer(ops, op.input) if isinstance(op, Relu) else None
        if quantizer is not None and quantizer.low == quantizer.zero_point and op.name not in kept:
            renamed[op.name] = op.inputs[0]
        else:
            ops[op.name] = op
    return rebuilt(graph, ops, graph.output) if renamed else graph


def _shown(graph: Graph) -> set[str]:
    """The output, and what it is a resize of."""
    op = graph[graph.output]
    names = {op.name}
    while isinstance(op, Resize):
        op = graph[op.input]
        names.add(op.name)
    return names


def _averaged(graph: Graph) -> set[str]:
    """What average pools read, and what that is a resize or a max pool of."""
    names: set[str] = set()
    for op in graph:
        if isinstance(op, AveragePool):
            source = graph[op.input]
            names.add(source.name)
            while isinstance(source, Resize | MaxPool):
                source = graph[source.input]
                names.add(source.name)
    return names


def merge_duplicates(graph: Graph) -> Graph:
    """One operation in place of several of one kind, with the same inputs and the same parameters.

    An operation is a function of its inputs and parameters (and of its reader's unit), so both give the
    same tensor; (Q5) rounds once, hence left + right = right + left.  The earliest name stays.
    Convolutions are left alone: exporters do not write them twice, and comparing weights would cost more
    than it finds.
    """
    ops: Ops = {}
    renamed: dict[str, str] = {}
    first: dict[Hashable, str] = {}
    for op in graph.ops:
        op = rename_inputs(op, renamed)
        key = _key(op)
        if key is not None and key in first:
            renamed[op.name] = first[key]
            continue
        if key is not None:
            first[key] = op.name
        ops[op.name] = op
    return rebuilt(graph, ops, renamed.get(graph.output, graph.output)) if renamed else graph


def _key(op: Op) -> Hashable | None:
    """Equal for operations that compute the same; None where that is not examined."""
    match op:
        case Quantize():
            return Quantize, op.input, op.quantizer
        case Resize():
            return Resize, op.input, op.size
        case Bilinear():
            return Bilinear, op.input, op.size, op.align_corners
        case Relu():
            return Relu, op.input
        case Add():
            return Add, *sorted((op.left, op.right))
        case MaxPool():
            return MaxPool, op.input, op.kernel, op.stride, op.padding
        case AveragePool():
            return AveragePool, op.input, op.bins
        case Input() | Affine() | Convolution() | FloatConvolution() | Softmax() | Argmax():
            return None
        case _:
            assert_never(op)
