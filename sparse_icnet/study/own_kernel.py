# mypy: allow-untyped-defs, allow-untyped-decorators, no-warn-return-any
"""A kernel of your own: a sparse convolution from bytes to bytes in a few lines over the vectors of `sparse_icnet.simd`.

    python -m sparse_icnet.study.own_kernel [LAYER]

runs it on a layer of stride 1 of both bundled models, says how long it takes and compares every code with the oracle's.
To try something, change `own_kernel`: the packing and the comparison below stay as they are.  What the engine's kernel has
beside it: maps as phases (any stride, no padded columns), tiles of other shapes, couples, residuals, threads.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Convolution, Graph, Quantize, Quantizer
from sparse_icnet.operators.convolution.pack import blocks_of, pack_weights
from sparse_icnet.reference.oracle import Oracle
from sparse_icnet.simd.scalars import get_i32
from sparse_icnet.simd.tiles import tile_dot, tile_pairs, tile_scale, tile_start, tile_store_codes
from sparse_icnet.sparse.couples import block_order
from sparse_icnet.study.arithmetic import end_of
from sparse_icnet.target import TARGET

if TYPE_CHECKING:
    from sparse_icnet.model import Model

VECTORS = next(
    kernel.vectors for kernel in TARGET.kernels if kernel.rows == 4
)  # of 16 pixels, that fill the registers
BLOCK_BYTES = 4 * 4 * TARGET.lanes_per_row  # of the weights of a block of 4 output x 4 input channels


@njit(nogil=True, error_model="numpy")
def own_kernel(codes, offsets, indptr, weights, initial, multiplier, bias, groups, vectors, out, stride):
    """out = clip(rint(f32(sums) * multiplier + bias), 0, 255): (Q3), (Q4), (Q5) and (Q1), four output channels at a time.

    codes    uint8 [I/4][pixels][4], padded map; out: the same of the output, `stride` bytes from group to group
    offsets  int32: byte of `codes` that each stored block reads for pixel 0; weights: of the blocks, packed
    indptr   int32: first block of each group of four output channels; initial: int32, where the sums begin
    """
    for group in range(groups):
        first, last = get_i32(indptr + 4 * group), get_i32(indptr + 4 * group + 4)
        for vector in range(0, vectors, VECTORS):
            pixels = codes + 64 * vector
            tile = tile_start(4, VECTORS, initial + 16 * group)
            for j in range(first, last):  # stored blocks only: zeros cost nothing
                tile = tile_dot(tile, pixels + get_i32(offsets + 4 * j), weights + BLOCK_BYTES * j)
            real = tile_scale(tile, multiplier + 16 * group, bias + 16 * group)
            tile_store_codes(out + stride * group + 64 * vector, tile_pairs(real))


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of running `own_kernel` on a layer.

    blocks  of 4 x 4 weights, stored: those that hold a non-zero; seconds: of the fastest of some runs, on one thread
    macs    products executed; codes: of the output, different: from the oracle's
    """

    layer: str
    blocks: int
    stored: int
    seconds: float
    macs: int
    codes: int
    different: int


def trial(graph: Graph, oracle: Oracle, layer: str, runs: int = 5) -> Trial:
    """Run `own_kernel` on convolution `layer` of `graph`, with the codes that `oracle` has before it.

    Raises ValueError for a layer that it cannot compute.
    """
    op, source, target = _suitable(graph, layer)
    blocks = blocks_of(op, 4)
    order = block_order(blocks, couple=False)
    weights = pack_weights(blocks, order)
    codes, pitch = _padded(oracle.codes(op.input), op, source)
    taps = op.weight.shape[2] * op.weight.shape[3]
    group, tap = np.divmod(blocks.indices, taps)
    row, column = np.divmod(tap, op.weight.shape[3])
    offsets = (
        group * codes.strides[0] + 4 * (row * op.dilation[0] * pitch + column * op.dilation[1])
    ).astype(np.int32)
    channels, height, width = graph.shape(layer)
    groups = -(-channels // 4)
    zero = source.zero_point - source.low - TARGET.code_shift
    vectors = -(-height * pitch // (16 * VECTORS)) * VECTORS
    constants = np.zeros((2, 4 * groups), np.float32)
    constants[0, :channels] = arithmetic.convolution_multiplier(op, source, target.scale)
    constants[1, :channels] = arithmetic.convolution_bias(op, target.scale)
    initial = np.zeros(4 * groups, np.int32)
    initial[:channels] = -zero * op.weight.astype(np.int64).sum((1, 2, 3))
    out = np.zeros((groups, 16 * vectors, 4), np.uint8)
    arrays = (codes, offsets, blocks.indptr, weights, initial, constants[0], constants[1])
    addresses = [array.ctypes.data for array in arrays]
    seconds = float("inf")
    for _ in range(runs + 1):  # the first compiles
        begin = time.perf_counter()
        own_kernel(*addresses, groups, vectors, out.ctypes.data, out.strides[0])
        seconds = min(seconds, time.perf_counter() - begin)
    pixels = out[:, : height * pitch].reshape(groups, height, pitch, 4)[:, :, :width]
    found = pixels.transpose(0, 3, 1, 2).reshape(-1, height, width)[:channels]
    different = int(np.count_nonzero(found != oracle.codes(end_of(graph, layer))))
    total = groups * -(-op.weight.shape[1] // 4) * taps
    macs = 16 * blocks.blocks * height * width
    return Trial(layer, total, blocks.blocks, seconds, macs, found.size, different)


def _suitable(graph: Graph, layer: str) -> tuple[Convolution, Quantizer, Quantizer]:
    """The convolution `layer` and the quantizers before and behind it, if `own_kernel` can compute it."""
    op = next((op for op in graph.convolutions if op.name == layer), None)
    if op is not None and op.stride == (1, 1):
        end = graph[end_of(graph, layer)]
        (last,) = end.inputs or ("",)
        # Between both a ReLU at most, which codes from 0 on contain.
        if isinstance(end, Quantize) and (last == layer or graph[last].inputs == (layer,)):
            source, target = graph.quantizer(op.input), end.quantizer
            if source is not None and (target.zero_point, target.low, target.high) == (0, 0, 255):
                return op, source, target
    raise ValueError(
        f"{layer}: expected a convolution of stride 1 whose sums become codes 0..255 of zero point 0, nothing added"
    )


def _padded(codes: NDArray[np.int16], op: Convolution, source: Quantizer) -> tuple[NDArray[np.uint8], int]:
    """(codes - low as uint8 [I/4][pixels][4] with padding around, pixels of a row); behind them room for a whole tile."""
    channels, height, width = codes.shape
    top, left, bottom, right = op.padding
    stored = np.full(
        (channels + -channels % 4, top + height + bottom, left + width + right), source.zero_point, np.int16
    )
    stored[:channels, top : top + height, left : left + width] = codes
    pitch = stored.shape[2]
    lanes = (stored - source.low).astype(np.uint8).reshape(-1, 4, stored.shape[1] * pitch).transpose(0, 2, 1)
    padded = np.zeros((len(lanes), lanes.shape[1] + 16 * VECTORS + 2 * pitch, 4), np.uint8)
    padded[:, : lanes.shape[1]] = lanes
    return padded, pitch


def main() -> None:
    from sparse_icnet import bundled, load

    parser = argparse.ArgumentParser(prog="python -m sparse_icnet.study.own_kernel", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "layer", nargs="?", default="conv3_1/3x3", metavar="LAYER", help="default: conv3_1/3x3"
    )
    layer = parser.parse_args().layer
    try:
        for name in bundled.names():
            print(report(name, load(name, threads=1), layer))
    except ValueError as error:
        parser.error(str(error))


def report(name: str, net: Model, layer: str) -> str:
    """A line for people."""
    from sparse_icnet import bundled

    oracle: Any = Oracle(net.graph, net.blob(bundled.SAMPLE_IMAGE)[0])
    found = trial(net.graph, oracle, layer)
    same = (
        "all equal the oracle's" if not found.different else f"{found.different:,} DIFFER from the oracle's"
    )
    return (
        f"{name} {layer}: {found.stored:,} of {found.blocks:,} blocks, {1e3 * found.seconds:.3f} ms on one thread, "
        f"{found.macs / found.seconds / 1e9:.0f} GMAC/s; {found.codes:,} codes, {same}"
    )


if __name__ == "__main__":
    main()
