"""What the kernels of `operators/convolution` and `operators/winograd` touch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.params import AHEAD, FUSED, NONE, RUN_VECTORS, SCRATCH_BYTES
from sparse_icnet.operators.winograd.params import WORK_BYTES, Elements, WinogradParams
from sparse_icnet.plan.proof.access import HERE, Access, Span, proves, steps, values
from sparse_icnet.plan.proof.maps import VECTOR, operand, output_groups, padding, planes_at, ranged
from sparse_icnet.sparse.winograd import ELEMENTS, OUTPUTS
from sparse_icnet.target import TARGET, MicroKernel

PLACES = OUTPUTS * OUTPUTS  # outputs of a tile


@proves(ConvolutionParams)
def convolution(a: Access) -> None:
    """Task: tiles of a chunk of vectors of one phase, for a range of groups of four output channels.

    The last tile of a chunk may be of the narrower kernel: it reads whole tiles, but stores only its own vectors.
    """
    phases, vectors = a.count("phases", "phases"), a.count("vectors", "vectors")
    groups = a.count("groups", "groups")
    a.count("groups_per_task", "groups of a task")
    kernel, remainder = _kernel(a, "kernel"), _kernel(a, "remainder_kernel")
    tile = a.count("tile_vectors", "vectors of a tile")
    a.require(
        tile == kernel.vectors and remainder.rows == kernel.rows,
        f"expected tiles of its kernels {kernel.name} and {remainder.name}, found {tile} vectors",
    )
    reach = _reach(a, vectors, tile, remainder.vectors)
    _products(a, kernel, groups, phases, reach)
    epilogue = a.inside("epilogue")
    addend = epilogue.inside("addend")
    if addend["kind"] == FUSED:
        fused = a.record_at("fused step", epilogue["fused"], ConvolutionParams)
        inner = fused.inside("epilogue")
        a.require(
            not (inner.inside("output")["saturates"] or inner.inside("addend")["kind"]),
            "its fused convolution must leave real values, with nothing added",
        )
        _products(fused, kernel, groups, phases, reach)
        _constants(inner, groups)
    else:
        operand(addend, "residual", groups, phases, steps(reach, VECTOR))
    _constants(epilogue, groups)
    a.scratch("tiles", HERE, SCRATCH_BYTES)
    _stores(epilogue.inside("output"), groups, phases, vectors)


def _kernel(a: Access, field: str) -> MicroKernel:
    number = a[field]
    a.require(
        0 <= number < len(TARGET.kernels),
        f"expected one of {len(TARGET.kernels)} micro-kernels, found {number}",
    )
    return TARGET.kernels[number]


def _reach(a: Access, vectors: int, tile: int, remainder: int) -> int:
    """One more than the last vector that any tile of any chunk reads."""
    chunks, length = a.count("chunks", "chunks"), a.count("vectors_per_task", "vectors of a task")
    a.require((chunks - 1) * length < vectors, "expected every chunk to begin within the plane")
    a.require(length <= RUN_VECTORS, f"expected at most {RUN_VECTORS} vectors of a task, found {length}")
    reach = 0
    for chunk in {max(0, chunks - 2), chunks - 1}:  # all but the last are equally long
        begin = chunk * length
        own = min(length, vectors - begin)
        rest = own % tile
        a.require(rest <= remainder, f"expected at most {remainder} vectors to be left over, found {rest}")
        reach = max(reach, begin + own - rest + (remainder if rest else 0))
    return reach


def _products(a: Access, kernel: MicroKernel, groups: int, phases: int, reach: int) -> None:
    """The sums of a tile: entries, their offsets and weights, and the activations that they name."""
    entries = a.table("entries", a["indptr"], np.int32, (2 * groups * 4 // kernel.rows + 1,)).astype(np.int64)
    ascending = entries[0] >= 0 and (np.diff(entries) >= 0).all()
    a.require(bool(ascending), "its entries: expected ascending ranges")
    first, end = int(entries[0]), int(entries[-1])
    a.constant("first sums", a.inside("epilogue")["initial"], 16 * groups)
    if first == end:
        return
    a.constant("weights", a["weights"], 4 * kernel.rows * TARGET.lanes_per_row * end)
    shape, strides = (phases, (end + AHEAD) * TARGET.blocks_per_entry), (a["offsets_phase"], 4)
    offsets = a.table("offsets", a["offsets"], np.int32, shape, strides)[:, first * TARGET.blocks_per_entry :]
    a.reads("activations", a["source"], values(offsets) + steps(reach, VECTOR), VECTOR)


def _constants(epilogue: Access, groups: int) -> None:
    epilogue.constant("multipliers", epilogue["multiplier"], 16 * groups)
    epilogue.constant("biases", epilogue["bias"], 16 * groups)


def _stores(output: Access, groups: int, phases: int, vectors: int) -> None:
    """Vectors 0 to `vectors` - 1 of all phases of the result, its padding and its shifted copies."""
    map = output.inside("map")
    planes = planes_at(map, "result", map["planes"], phases)
    line = steps(vectors, VECTOR)
    output.require(
        not (output["saturates"] and output["real"]),
        "its result cannot be codes that saturate and real values",
    )
    channels = output_groups(output, groups)
    output.writes("result", map["address"], values(planes) + channels + line, VECTOR)
    padding(output.inside("padding"), map["address"], planes, channels)
    copies = output.inside("copies")
    if copies["entries"] and not output["real"]:
        _copies(copies, map["address"], planes, channels + line, vectors)


def _copies(copies: Access, address: int, planes: NDArray[np.int64], places: Span, vectors: int) -> None:
    """`finish_codes`: every vector again, masked, in each shifted copy of its plane."""
    parts = copies.count("planes", "planes")
    copies.require(parts == len(planes), f"its copies: expected {len(planes)} planes, found {parts}")
    owner, entries = ranged(copies, "copies", copies["entries"], parts)
    if not len(entries):
        return
    for offset in set(entries[:, 1].tolist()):
        copies.constant("masks", copies["masks"], 2 * VECTOR * vectors, offset)
    copies.modest("copies", entries[:, 0])
    copies.modest("planes of the result", planes)
    copies.writes("copies", address, values(planes[owner] + entries[:, 0]) + places, VECTOR)


@proves(Elements)
def winograd_input(a: Access) -> None:
    """Task: the elements of one group of input channels, for the vectors of one chunk of tiles."""
    groups, vectors = a.count("groups", "groups"), a.count("vectors_per_task", "vectors of a task")
    chunks = (a.tasks - 1) // groups + 1
    _transforms(a, chunks)
    place = steps(chunks * ELEMENTS, a["element_bytes"]) + steps(2 * groups * vectors, VECTOR)
    a.writes("elements", a["address"], place, VECTOR)


def _transforms(a: Access, chunks: int) -> int:
    """`_transform` of all groups, for `chunks` chunks of all phases of tiles; returns the number of these phases."""
    groups, vectors = a.count("groups", "groups"), a.count("vectors_per_task", "vectors of a task")
    of_phase = a.count("chunks", "chunks of a phase")
    phases = (chunks - 1) // of_phase + 1
    lanes, line = 16 * of_phase * vectors, steps(of_phase * vectors, VECTOR)
    channels = steps(groups, a["source_stride"])
    if a["gathered"]:
        shape, strides = (phases, ELEMENTS, lanes), (a["offsets_phase"], a["gathered"], 4)
        pixels = a.table("pixels", a["offsets"], np.int32, shape, strides)
        a.reads("activations", a["source"], values(pixels) + channels, 4)
        codes = values(a.table("codes", a["in_order"], np.int32, (ELEMENTS,)))
        # Vectors of codes that were gathered: behind the tiles, before the first transform.
        a.require(
            codes.low >= 0 and codes.high <= VECTOR * (ELEMENTS - 1),
            "its codes: expected those that it gathers",
        )
    else:
        pixels = a.table("pixels", a["offsets"], np.int32, (phases, ELEMENTS), (a["offsets_phase"], 4))
        a.reads("activations", a["source"], values(pixels) + channels + line, VECTOR)
    a.scratch("transforms", HERE, SCRATCH_BYTES + WORK_BYTES)
    return phases


@proves(WinogradParams)
def winograd(a: Access) -> None:
    """Task: one chunk of tiles, for a range of groups of output channels."""
    inputs, epilogue = a.inside("inputs"), a.inside("epilogue")
    vectors, groups = inputs.count("vectors_per_task", "vectors of a task"), a.count("groups", "groups")
    in_groups, of_phase = inputs.count("groups", "groups"), inputs.count("chunks", "chunks of a phase")
    at_once = a.count("groups_at_once", "groups at once")
    # The products go through a row of vectors in whole register tiles.
    few, many = TARGET.filtering.vectors
    width = few if few == many or vectors % many else many
    whole = -(-vectors // width) * width
    stride = inputs["element_bytes"]
    elements = steps(ELEMENTS, stride) + steps(2 * in_groups, VECTOR * vectors) + steps(whole, VECTOR)
    if inputs["address"]:
        chunks = (a.tasks - 1) // -(-groups // at_once) + 1
        phases = (chunks - 1) // of_phase + 1
        a.reads("elements", inputs["address"], elements + steps(chunks, ELEMENTS * stride), VECTOR)
        end = SCRATCH_BYTES + WORK_BYTES
    else:
        phases = _transforms(inputs, a.tasks)
        elements += SCRATCH_BYTES + WORK_BYTES
        a.scratch("elements", elements, VECTOR)
        end = elements.high + VECTOR
    sums = a["sums"]
    a.require(sums >= end, f"its sums must lie behind what they are made from, found {sums} < {end}")
    kept = min(at_once, groups)
    rows = steps(4 * kept, VECTOR * vectors)
    a.scratch("sums", steps(ELEMENTS, a["sums_element_bytes"]) + rows + steps(whole, VECTOR) + sums, VECTOR)
    a.constant("weights", a["weights"], 32 * in_groups * ELEMENTS * groups)
    epilogue.constant("first sums", epilogue["initial"], 16 * groups)
    _constants(epilogue, groups)
    a.scratch("transforms", HERE, SCRATCH_BYTES + WORK_BYTES)
    _outputs(a, groups, phases, min(a.count("vectors", "vectors"), of_phase * vectors))


def _outputs(a: Access, groups: int, tile_phases: int, vectors: int) -> None:
    """The epilogue of the places of tiles: neighbours in planes of the result, or scattered by a table."""
    epilogue = a.inside("epilogue")
    output = epilogue.inside("output")
    if a["scattered"]:
        a.require(
            epilogue.inside("addend")["kind"] == NONE, "expected nothing to be added to scattered outputs"
        )
        shape, strides = (PLACES, 16 * vectors), (a["scattered_bytes"], 4)
        places = a.table("places", a["scattered"], np.int32, shape, strides)
        span = Span(0, max(0, int(places.max()))) + output_groups(output, groups)
        a.writes("result", output.inside("map")["address"], span, 4)
        return
    columns = a.count("columns", "phases side by side")
    tiles = columns // OUTPUTS
    # Tile phase (i, j) holds the planes 4 i .. 4 i + 3 x 4 j .. 4 j + 3.
    a.require(tiles >= 1, f"expected at least {OUTPUTS} phases side by side, found {columns}")
    last = ((tile_phases - 1) // tiles * OUTPUTS + OUTPUTS - 1) * columns + tiles * OUTPUTS - 1
    operand(epilogue.inside("addend"), "residual", groups, last + 1, steps(vectors, VECTOR))
    _stores(output, groups, last + 1, vectors)
