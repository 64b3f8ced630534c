"""Nearest upsampling moves towards the output, and what it passes is computed at fewer positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparse_icnet.network.graph import (
    Add,
    AnyConvolution,
    Argmax,
    Graph,
    Op,
    Quantize,
    Relu,
    Resize,
    Size,
    Softmax,
    rename_inputs,
)
from sparse_icnet.network.rewrite._edit import Ops, factor, fresh, rebuilt, size_of
from sparse_icnet.network.rewrite.resizes import composed


def push_upsampling(graph: Graph) -> Graph:
    """Operations before an upsampling by whole factors instead of after it.

    Let u(x)[y] = x[y // k] along one axis (Q7 for k times as many pixels); the axes are independent.

    Per pixel.  Quantize, ReLU, Softmax and Argmax compute pixel y of their result from pixel y of their
    input alone, the same way for every y:  f(u(x))[y] = f(x[y // k]) = u(f(x))[y].  So does Add, if both
    inputs are upsampled from one size:  u(a)[y] + u(b)[y] = (a + b)[y // k].

    Convolution of stride 1, where k divides the padding at both ends (top p, bottom p') and, if there is
    more than one tap, the dilation d:

        sum_i w[i] * u(x)[y + d*i - p] = sum_i w[i] * x[(y + d*i - p) // k]
                                       = sum_i w[i] * x[y // k + (d/k)*i - p/k],

    because (y + k*m) // k = y // k + m.  So it equals u(convolution of x with dilation d/k, padding p/k and
    p'/k) at y.  Borders agree: for a map of H pixels, y + d*i - p lies outside 0 .. k*H - 1 exactly when
    its quotient by k lies outside 0 .. H - 1, and both paddings hold the zero point.  Sizes agree: k*H + p
    + p' - d*(K - 1) is k times H + p/k + p'/k - (d/k)*(K - 1).  Sums are exact integers (Q3), or of the same
    products in the same order (Q12), and (Q4) is per pixel, so the bits agree.  A 1x1 convolution without
    padding is the case K = 1, p = p' = 0; the cascade fusion's 3x3 with d = p = p' = 2 over a map enlarged
    twice becomes a plain 3x3 on a quarter of the pixels.

    An operation keeps its name at its new, smaller size; the upsampling that follows is called `name/up`.
    """
    ops: Ops = {}
    sizes: dict[str, Size] = {}
    renamed: dict[str, str] = {}
    taken = {op.name for op in graph.ops}
    for op in graph.ops:
        name, size = op.name, size_of(graph, op.name)
        op = rename_inputs(op, renamed)
        if isinstance(op, Resize):
            op = composed(op, ops, sizes)
        elif (small := _before_upsampling(op, ops, sizes)) is not None:
            resize = ops[op.inputs[0]]
            assert isinstance(resize, Resize)
            scale = factor(sizes[resize.input], resize.size)
            assert scale is not None
            ops[name], sizes[name] = small, (size[0] // scale[0], size[1] // scale[1])
            up = Resize(fresh(f"{name}/up", taken), name, size)
            ops[up.name], sizes[up.name] = up, size
            renamed[name] = up.name
            continue
        ops[name], sizes[name] = op, size
    return rebuilt(graph, ops, renamed.get(graph.output, graph.output)) if renamed else graph


def _before_upsampling(op: Op, ops: Mapping[str, Op], sizes: Mapping[str, Size]) -> Op | None:
    """`op` as it acts on the source of its upsampled inputs, or None if it must stay behind them."""
    if not isinstance(op, Quantize | Relu | Softmax | Argmax | Add | AnyConvolution):
        return None
    sources = {}
    for name in op.inputs:
        resize = ops[name]
        if not isinstance(resize, Resize):
            return None
        sources[name] = resize.input
    small_sizes = {sizes[source] for source in sources.values()}
    scale = factor(next(iter(small_sizes)), sizes[op.inputs[0]])
    if len(small_sizes) != 1 or scale is None or scale == (1, 1):
        return None
    if isinstance(op, AnyConvolution):
        smaller = _shrunk(op, scale)
        return None if smaller is None else rename_inputs(smaller, sources)
    return rename_inputs(op, sources)


def _shrunk(op: AnyConvolution, scale: Size) -> AnyConvolution | None:
    """The convolution with dilation and padding divided by `scale`, None if that is not whole."""
    if op.stride != (1, 1):
        return None
    dilation = list(op.dilation)
    for axis, k in enumerate(scale):
        if op.padding[axis] % k or op.padding[axis + 2] % k:
            return None
        if op.weight.shape[2 + axis] > 1:
            dilation[axis], rest = divmod(dilation[axis], k)
            if rest:
                return None
    top, left, bottom, right = op.padding
    padding = (top // scale[0], left // scale[1], bottom // scale[0], right // scale[1])
    return replace(op, dilation=(dilation[0], dilation[1]), padding=padding)
