"""Gather zeros into blocks: an exact permutation of channels, chosen so that more weight blocks hold only zeros.

The order of the channels of a hidden tensor means nothing: permuting the rows of the convolutions that write it
and the input channels of those that read it gives the same network, bit for bit, because the integer sums (Q3) do not
depend on the order of their terms and every other operation works channel by channel.  Tensors that are added to each
other share one order; the image and the classes keep theirs, and so does what a convolution of float32 reads, whose sums
(Q12) depend on it, and writes.  (The idea of TETRIS, Ji et al., NeurIPS 2018, without its lossy step.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network.graph import Add, AnyConvolution, Convolution, FloatConvolution, Graph, Op
from sparse_icnet.sparse.block_csr import LANE_CHANNELS, block_density

ROWS = 4  # output channels of the blocks that are gathered


@dataclass(frozen=True, slots=True)
class LayerGain:
    """Of one layer the share of 4x4 blocks that hold a non-zero, before and after; `macs` counts zeros as well."""

    name: str
    before: float
    after: float
    macs: int


def gather_zeros(graph: Graph, rounds: int = 2) -> Graph:
    """The same network with the channels of its hidden tensors permuted to empty as many blocks as possible.

    Greedy: every order is rebuilt group by group, starting from the channel with the fewest occupied blocks and adding
    the three that occupy the fewest new ones, weighted by the work of each layer; `rounds` passes over all orders.
    """
    orders = _orders(graph)
    weights = {op.name: op.weight for op in graph.convolutions}
    permutations = {root: np.arange(channels) for root, channels in orders.sizes.items()}
    for _ in range(rounds):
        for root in orders.free:
            _reorder(
                graph,
                orders,
                weights,
                permutations,
                root,
                _greedy_groups(_patterns(graph, orders, weights, root)),
            )
    gathered = _with_order(graph, orders, weights, permutations)
    # A greedy order may empty fewer blocks than were empty before.
    return gathered if block_work(gathered) <= block_work(graph) else graph


def scatter_zeros(graph: Graph, seed: int = 0) -> Graph:
    """The same network with the channels of its hidden tensors in a random order: what gathering has to start from."""
    orders, rng = _orders(graph), np.random.default_rng(seed)
    weights = {op.name: op.weight for op in graph.convolutions}
    permutations = {root: np.arange(channels) for root, channels in orders.sizes.items()}
    for root in orders.free:
        _reorder(graph, orders, weights, permutations, root, rng.permutation(orders.sizes[root]))
    return _with_order(graph, orders, weights, permutations)


def gains(before: Graph, after: Graph) -> list[LayerGain]:
    """What `gather_zeros` did to each convolution of int8 weights, in order."""
    return [
        LayerGain(
            a.name,
            block_density(a.weight, ROWS),
            block_density(b.weight, ROWS),
            a.macs_per_pixel * math.prod(before.shape(a.name)[1:]),
        )
        for a, b in zip(before.convolutions, after.convolutions, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Orders:
    """of: tensor name -> the tensor that stands for all that share its channel order; free: those that may change."""

    of: dict[str, str]
    sizes: dict[str, int]
    free: list[str]


def _orders(graph: Graph) -> _Orders:
    parent = {op.name: op.name for op in graph.ops}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for op in graph.ops:
        if isinstance(op, Add) or (op.inputs and not isinstance(op, AnyConvolution)):
            for source in op.inputs:
                parent[root(source)] = root(op.name)
    of = {name: root(name) for name in parent}
    fixed = {of[graph.output], of[graph.input.name]}
    for op in graph.ops:
        if isinstance(op, FloatConvolution):
            fixed |= {of[op.input], of[op.name]}
    sizes: dict[str, int] = {}
    for op in graph.ops:  # an argmax has one channel where what it reads has many; those stay in place
        sizes[of[op.name]] = max(sizes.get(of[op.name], 0), graph.shape(op.name)[0])
    return _Orders(of, sizes, [name for name in sizes if name not in fixed])


def _reorder(
    graph: Graph,
    orders: _Orders,
    weights: dict[str, NDArray[np.int8]],
    permutations: dict[str, NDArray[np.intp]],
    root: str,
    order: NDArray[np.intp],
) -> None:
    """Put the channels that `root` stands for into `order`: channel order[i] of before becomes channel i."""
    permutations[root] = permutations[root][order]
    for op in graph.convolutions:
        if orders.of[op.name] == root:
            weights[op.name] = weights[op.name][order]
        if orders.of[op.input] == root:
            weights[op.name] = weights[op.name][:, order]


def _with_order(
    graph: Graph,
    orders: _Orders,
    weights: dict[str, NDArray[np.int8]],
    permutations: dict[str, NDArray[np.intp]],
) -> Graph:
    return replace(
        graph, ops=tuple(_permuted(op, weights, permutations[orders.of[op.name]]) for op in graph.ops)
    )


def _patterns(
    graph: Graph, orders: _Orders, weights: dict[str, NDArray[np.int8]], root: str
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """bool (C, blocks): which blocks channel c would occupy; float32 (blocks,): the work of each block."""
    columns, costs = [], []
    for op in graph.convolutions:
        reads, writes = orders.of[op.input] == root, orders.of[op.name] == root
        if not (reads or writes):
            continue
        occupied = weights[op.name] != 0  # (O, I, kh, kw)
        pixels = math.prod(graph.shape(op.name)[1:])
        if reads:  # channels are input channels: blocks of 4 rows of one tap
            blocks = _any_of_groups(occupied, 0, ROWS)
            columns.append(blocks.transpose(1, 0, 2, 3).reshape(occupied.shape[1], -1))
            costs.append(np.full(columns[-1].shape[1], pixels, np.float32))
        if writes:  # channels are rows: blocks of 4 input channels of one tap
            blocks = _any_of_groups(occupied, 1, LANE_CHANNELS)
            columns.append(blocks.reshape(occupied.shape[0], -1))
            costs.append(np.full(columns[-1].shape[1], pixels, np.float32))
    return np.concatenate(columns, 1), np.concatenate(costs)


def _any_of_groups(occupied: NDArray[np.bool_], axis: int, size: int) -> NDArray[np.bool_]:
    pad = [(0, 0)] * 4
    pad[axis] = (0, -occupied.shape[axis] % size)
    padded = np.pad(occupied, pad)
    return np.logical_or.reduceat(padded, np.arange(0, padded.shape[axis], size), axis)


def _greedy_groups(patterns: tuple[NDArray[np.bool_], NDArray[np.float32]]) -> NDArray[np.intp]:
    """Order of the channels in groups of four that together occupy little work."""
    occupied, cost = patterns
    # The work that a channel adds to a group is what it occupies and the group does not: a matrix-vector product.
    weighted = occupied * cost
    remaining = np.ones(len(occupied), bool)
    alone = weighted.sum(1)
    order: list[int] = []
    while remaining.any():
        first = int(np.argmin(np.where(remaining, alone, np.inf)))
        free = ~occupied[first]
        order.append(first)
        remaining[first] = False
        for _ in range(min(3, int(remaining.sum()))):
            added = np.where(remaining, weighted @ free.astype(np.float32), np.inf)
            # Among equals the channel with the most zeros left to hide: it fits nowhere better.
            best = int(np.lexsort((-alone, added))[0])
            order.append(best)
            remaining[best] = False
            free &= ~occupied[best]
    return np.array(order, np.intp)


def _permuted(op: Op, weights: dict[str, NDArray[np.int8]], permutation: NDArray[np.intp]) -> Op:
    if not isinstance(op, Convolution):
        return op
    return replace(
        op,
        weight=np.ascontiguousarray(weights[op.name]),
        weight_scale=op.weight_scale[permutation],
        bias=op.bias[permutation],
    )


def block_work(graph: Graph) -> float:
    """Multiply-accumulates of one inference with the blocks of ROWS x 4 weights that hold a non-zero."""
    return sum(
        block_density(op.weight, ROWS) * op.macs_per_pixel * math.prod(graph.shape(op.name)[1:])
        for op in graph.convolutions
    )
