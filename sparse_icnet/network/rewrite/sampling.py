"""Nearest downsampling and stride move towards the input: only pixels that someone reads are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sparse_icnet.network.graph import (
    Add,
    Affine,
    AnyConvolution,
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
    Relu,
    Resize,
    Size,
    Softmax,
    assert_never,
    rename_inputs,
)
from sparse_icnet.network.rewrite._edit import Ops, factor, fresh, held_quantizer, rebuilt, size_of


def pull_sampling(graph: Graph) -> Graph:
    """Operations of which every reader takes only each g-th row or column compute only those.

    Let D(x)[i] = x[g * i] along one axis, for a map of H = g * h pixels: a nearest resize to h pixels, for
    i * H // h = g * i.  The axes are independent.

    Readers.  A resize from H to r = H / (g*m) pixels takes pixels g*m*i of x, pixels m*i of D(x).  A
    convolution or max pool window reads x[s*i + d*j - p], j = 0 .. K-1.  If g divides s, p and (for K > 1)
    d, then every index is a multiple of g, and the window is D(x)[(s/g)*i + (d/g)*j - p/g]; for whole t,
    g*t lies outside 0 .. H-1 exactly when t lies outside 0 .. h-1.  The number of windows stays if the far
    padding p' becomes ceil(p'/g), for with A = h + p/g - (d/g)*(K-1) it is

        floor((g*A + p' - 1) / s) + 1 = floor(floor((g*A + p' - 1) / g) / (s/g)) + 1
                                      = floor((A + ceil(p'/g) - 1) / (s/g)) + 1.

    Producers.  For Quantize, ReLU, Add, Softmax and Argmax, pixel g*i of the result depends on pixel g*i of
    the inputs alone: D(f(x, ..)) = f(D(x), ..).  Pixel g*i of a convolution or max pool of stride s is
    window s*g*i, pixel i of the same one with stride s*g, which has ceil(H / g) = h outputs.  Pixel g*i of
    a resize from a to H pixels is g*i * a // H = i * a // h, pixel i of a resize to h.

    D(x) of codes is an explicit resize `x/sampled`, free for an engine that reads with a step.  To keep
    real tensors inside one expression, a real input is sampled only where that ends inside the expression
    itself: see `_can_sample`.  A quantizer of the network input stays at full resolution: its codes are a
    table look-up.
    """
    ops: Ops = {op.name: op for op in graph.ops}
    sizes = {op.name: size_of(graph, op.name) for op in graph.ops}
    readers = {name: [op.name for op in ops] for name, ops in graph.consumers().items()}
    taken = set(ops)
    changed = False
    for name in reversed([op.name for op in graph.ops]):
        op = ops[name]
        if name == graph.output or not readers[name] or not _can_pull(op, ops, readers):
            continue
        step = _common_step([ops[reader] for reader in readers[name]], sizes, sizes[name])
        if step == (1, 1):
            continue
        changed = True
        for reader in readers[name]:
            ops[reader] = _over_sampled(ops[reader], step)
        sizes[name] = size = (sizes[name][0] // step[0], sizes[name][1] // step[1])
        if isinstance(op, AnyConvolution | MaxPool):
            ops[name] = replace(op, stride=(op.stride[0] * step[0], op.stride[1] * step[1]))
        elif isinstance(op, Resize):
            ops[name] = replace(op, size=size)
        else:
            new_names = {}
            for source in dict.fromkeys(op.inputs):
                readers[source] = [r for r in readers[source] if r != name]
                twins = (r for r in readers[source] if isinstance(ops[r], Resize) and sizes[r] == size)
                resize = next(twins, None)
                if resize is None:
                    resize = fresh(f"{source}/sampled", taken)
                    ops[resize], sizes[resize], readers[resize] = Resize(resize, source, size), size, []
                    readers[source].append(resize)
                readers[resize] += [name] * op.inputs.count(source)
                new_names[source] = resize
            ops[name] = rename_inputs(op, new_names)
    return rebuilt(graph, ops, graph.output) if changed else graph


def _can_pull(op: Op, ops: Mapping[str, Op], readers: Mapping[str, list[str]]) -> bool:
    """Whether `op` may be computed at fewer positions."""
    match op:
        case Convolution() | FloatConvolution() | MaxPool() | Resize():
            return True
        case Quantize() | Relu() | Softmax() | Argmax() | Add():
            return _can_sample(op.inputs, ops, readers)
        case Input() | Affine() | AveragePool() | Bilinear():
            return False
        case _:
            assert_never(op)


def _can_sample(names: Iterable[str], ops: Mapping[str, Op], readers: Mapping[str, list[str]]) -> bool:
    """Whether reading all `names` at fewer positions leaves no new resize of a real tensor behind.

    Real values that one operation alone reads go on to what they are computed from, each of which is looked at once.
    """
    waiting = list(names)
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        op = ops[name]
        if held_quantizer(ops, name) is not None or isinstance(op, Resize):
            continue
        if len(set(readers[name])) != 1:
            return False
        if isinstance(op, AnyConvolution | MaxPool):
            continue
        if not isinstance(op, Relu | Softmax | Argmax | Add):
            return False
        waiting += [source for source in op.inputs if source not in seen]
        seen.update(op.inputs)
    return True


def _common_step(readers: list[Op], sizes: Mapping[str, Size], size: Size) -> Size:
    """The largest (g_y, g_x) such that all `readers` take only rows g_y*i and columns g_x*i."""
    steps = [_steps(reader, sizes[reader.name], size) for reader in readers]
    return math.gcd(size[0], *(s[0] for s in steps)), math.gcd(size[1], *(s[1] for s in steps))


def _steps(reader: Op, result: Size, size: Size) -> Size:
    match reader:
        case Resize():
            return factor(result, size) or (1, 1)
        case Convolution() | FloatConvolution():
            return _window_steps(reader.weight.shape[2:], reader.stride, reader.dilation, reader.padding)
        case MaxPool():
            return _window_steps(reader.kernel, reader.stride, (1, 1), reader.padding)
        case (
            Input()
            | Affine()
            | Quantize()
            | Add()
            | Relu()
            | AveragePool()
            | Bilinear()
            | Softmax()
            | Argmax()
        ):
            return 1, 1
        case _:
            assert_never(reader)


def _window_steps(kernel: tuple[int, ...], stride: Size, dilation: Size, padding: tuple[int, ...]) -> Size:
    """gcd of stride, leading padding and, if there is more than one tap, dilation; per axis."""
    y, x = (
        math.gcd(stride[axis], padding[axis], dilation[axis] if kernel[axis] > 1 else 0) for axis in (0, 1)
    )
    return y, x


def _over_sampled(reader: Op, step: Size) -> Op:
    """`reader` as it acts on the map of which only rows and columns in `step` remain."""
    if not isinstance(reader, AnyConvolution | MaxPool):
        return reader
    (top, left, bottom, right), (y, x) = reader.padding, step
    padding = (top // y, left // x, -(-bottom // y), -(-right // x))
    stride = (reader.stride[0] // y, reader.stride[1] // x)
    if isinstance(reader, MaxPool):
        return replace(reader, stride=stride, padding=padding)
    down, across = (
        d // g if kernel > 1 else d
        for d, g, kernel in zip(reader.dilation, step, reader.weight.shape[2:], strict=True)
    )
    return replace(reader, stride=stride, padding=padding, dilation=(down, across))


def quantize_before_sampling(graph: Graph) -> Graph:
    """A quantizer behind a resize of a real tensor moves before it, if the resize can go no further up.

    Quantize is per pixel, and a nearest resize copies pixels:  Q(R(x))[i] = Q(x[r(i)]) = R(Q(x))[i].  After
    it the resize is of codes, free for an engine that reads with a step; the image is quantized once for
    both the high and the medium resolution branch.  The resize takes over the name of the quantizer, which
    goes to a quantizer of x that is there already or to a new one, `x/codes`.
    """
    ops: Ops = {op.name: op for op in graph.ops}
    readers = {name: [op.name for op in ops] for name, ops in graph.consumers().items()}
    existing = {(op.input, op.quantizer): op.name for op in graph.ops if isinstance(op, Quantize)}
    taken = set(ops)
    changed = False
    for op in graph.ops:
        if not isinstance(op, Quantize) or not isinstance(resize := graph[op.input], Resize):
            continue
        source = resize.input
        if graph.quantizer(source) is not None:
            continue
        before = size_of(graph, source)
        if factor(before, resize.size) is not None:
            continue  # push_upsampling moves it
        if factor(resize.size, before) is not None and _can_sample([source], ops, readers):
            continue  # pull_sampling moves it
        key = source, op.quantizer
        if key not in existing:
            existing[key] = fresh(f"{source}/codes", taken)
            ops[existing[key]] = Quantize(existing[key], *key)
        ops[op.name] = Resize(op.name, existing[key], resize.size)
        changed = True
    return rebuilt(graph, ops, graph.output) if changed else graph
