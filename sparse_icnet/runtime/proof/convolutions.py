"""What the kernels of `kernels/convolution.py` and `kernels/winograd.py` touch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import Kind
from sparse_icnet.kernels.sizes import SCRATCH_BYTES, WINOGRAD_WORK_BYTES
from sparse_icnet.runtime.proof.access import HERE, Access, Span, proves, steps, values
from sparse_icnet.runtime.proof.maps import VECTOR, output_groups, padding, planes_at, ranged
from sparse_icnet.sparse.winograd import ELEMENTS, OUTPUTS
from sparse_icnet.target import TARGET, MicroKernel

PLACES = OUTPUTS * OUTPUTS  # outputs of a tile


@proves(Kind.CONVOLUTION)
def convolution(a: Access) -> None:
    """Task: tiles of a stretch of vectors of one phase, for a range of groups of four output channels.

    The last tile of a stretch may be of the narrower kernel: it reads whole tiles, but stores only its own vectors.
    """
    phases, vectors, groups = (
        a.count(f.PHASES, "phases"),
        a.count(f.VECTORS, "vectors"),
        a.count(f.GROUPS, "groups"),
    )
    a.count(f.GROUPS_PER_TASK, "groups of a task")
    kernel, tail = _kernel(a, f.KERNEL), _kernel(a, f.TAIL_KERNEL)
    tile = a.count(f.TILE_VECTORS, "vectors of a tile")
    a.require(
        tile == kernel.vectors and tail.rows == kernel.rows,
        f"expected tiles of its kernels {kernel.name} and {tail.name}, found {tile} vectors",
    )
    reach = _reach(a, vectors, tile, tail.vectors)
    _products(a, kernel, groups, phases, reach)
    if a[f.RESIDUAL_KIND] == f.FUSED:
        inner = a.row_at(a[f.RESIDUAL])
        a.require(
            not (inner[f.DIRECT] or inner[f.RESIDUAL_KIND]),
            "its fused convolution must leave real values, with nothing added",
        )
        _products(inner, kernel, groups, phases, reach)
        _constants(inner, groups)
    else:
        _residual(a, groups, phases, reach)
    _constants(a, groups)
    a.scratch("tiles", HERE, SCRATCH_BYTES)
    _stores(a, groups, vectors)


def _kernel(a: Access, index: int) -> MicroKernel:
    number = a[index]
    a.require(
        0 <= number < len(TARGET.kernels),
        f"expected one of {len(TARGET.kernels)} micro-kernels, found {number}",
    )
    return TARGET.kernels[number]


def _reach(a: Access, vectors: int, tile: int, tail: int) -> int:
    """One more than the last vector that any tile of any stretch reads."""
    stretches, length = a.count(f.STRETCHES, "stretches"), a.count(f.TASK_VECTORS, "vectors of a task")
    a.require((stretches - 1) * length < vectors, "expected every stretch to begin within the plane")
    reach = 0
    for stretch in {max(0, stretches - 2), stretches - 1}:  # all but the last are equally long
        begin = stretch * length
        own = min(length, vectors - begin)
        rest = own % tile
        a.require(rest <= tail, f"expected a tail of at most {tail} vectors, found {rest}")
        reach = max(reach, begin + own - rest + (tail if rest else 0))
    return reach


def _products(a: Access, kernel: MicroKernel, groups: int, phases: int, reach: int) -> None:
    """The sums of a tile: entries, their offsets and words, and the activations that they name."""
    entries = a.table("entries", a[f.INDPTR], np.int32, (2 * groups * 4 // kernel.rows + 1,)).astype(np.int64)
    ascending = entries[0] >= 0 and (np.diff(entries) >= 0).all()
    a.require(bool(ascending), "its entries: expected ascending ranges")
    first, end = int(entries[0]), int(entries[-1])
    a.constant("first sums", a[f.INITIAL], 16 * groups)
    if first == end:
        return
    a.constant("weights", a[f.WEIGHTS], 4 * kernel.rows * TARGET.words_per_row * end)
    shape, strides = (phases, end * TARGET.blocks_per_entry), (a[f.OFFSETS_PHASE], 4)
    offsets = a.table("offsets", a[f.OFFSETS], np.int32, shape, strides)[:, first * TARGET.blocks_per_entry :]
    a.reads("activations", a[f.IN], values(offsets) + steps(reach, VECTOR), VECTOR)


def _constants(a: Access, groups: int) -> None:
    a.constant("multipliers", a[f.MULTIPLIER], 16 * groups)
    a.constant("biases", a[f.BIAS], 16 * groups)


def _residual(a: Access, groups: int, phases: int, reach: int) -> None:
    """What `rescale` adds to whole tiles, of vectors up to `reach`."""
    kind = a[f.RESIDUAL_KIND]
    if kind == f.NONE:
        return
    a.require(kind in (f.CODES, f.REAL), f"its residual: expected codes or real values, found kind {kind}")
    channels = steps(groups * (4 if kind == f.REAL else 1), a[f.RESIDUAL_GROUP])
    planes = values(planes_at(a, "residual", a[f.RESIDUAL_PLANES], phases))
    a.reads("residual", a[f.RESIDUAL], planes + channels + steps(reach, VECTOR), VECTOR)


def _stores(a: Access, groups: int, vectors: int) -> None:
    """Vectors 0 to `vectors` - 1 of all phases of the result, its padding and its shifted copies."""
    phases = a.count(f.PHASES, "phases")
    planes = planes_at(a, "result", a[f.OUT_PLANES], phases)
    line = steps(vectors, VECTOR)
    a.require(not (a[f.DIRECT] and a[f.OUT_REAL]), "its result cannot be direct codes and real values")
    channels = output_groups(a, groups)
    a.writes("result", a[f.OUT], values(planes) + channels + line, VECTOR)
    padding(a, a[f.OUT], planes, channels)
    if a[f.COPIES] and not a[f.OUT_REAL]:
        _copies(a, planes, channels + line, vectors)


def _copies(a: Access, planes: NDArray[np.int64], places: Span, vectors: int) -> None:
    """`finish_codes`: every vector again, masked, in each shifted copy of its plane."""
    owner, entries = ranged(a, "copies", a[f.COPIES], len(planes))
    if not len(entries):
        return
    for masks in set(entries[:, 1].tolist()):
        a.constant("masks", masks, 2 * VECTOR * vectors)
    a.modest("copies", entries[:, 0])
    a.modest("planes of the result", planes)
    a.writes("copies", a[f.OUT], values(planes[owner] + entries[:, 0]) + places, VECTOR)


@proves(Kind.WINOGRAD_INPUT)
def winograd_input(a: Access) -> None:
    """Task: the elements of one group of input channels, for the vectors of one block of tiles."""
    groups, vectors = a.count(f.IN_GROUPS, "groups"), a.count(f.TASK_VECTORS, "vectors of a task")
    blocks = (a.tasks - 1) // groups + 1
    _transforms(a, blocks)
    place = steps(blocks * ELEMENTS, a[f.WORDS_ELEMENT]) + steps(2 * groups * vectors, VECTOR)
    a.writes("elements", a[f.WORDS], place, VECTOR)


def _transforms(a: Access, blocks: int) -> int:
    """`_transform` of all groups, for `blocks` blocks of all phases of tiles; returns the number of these phases."""
    groups, vectors = a.count(f.IN_GROUPS, "groups"), a.count(f.TASK_VECTORS, "vectors of a task")
    of_phase = a.count(f.STRETCHES, "blocks of a phase")
    phases = (blocks - 1) // of_phase + 1
    lanes, line = 16 * of_phase * vectors, steps(of_phase * vectors, VECTOR)
    channels = steps(groups, a[f.IN_GROUP])
    if a[f.GATHER]:
        shape, strides = (phases, ELEMENTS, lanes), (a[f.OFFSETS_PHASE], a[f.GATHER], 4)
        pixels = a.table("pixels", a[f.OFFSETS], np.int32, shape, strides)
        a.reads("activations", a[f.IN], values(pixels) + channels, 4)
        codes = values(a.table("codes", a[f.TABLE], np.int32, (ELEMENTS,)))
        # Vectors of codes that were gathered: behind the tiles, before the first transform.
        a.require(
            codes.low >= 0 and codes.high <= VECTOR * (ELEMENTS - 1),
            "its codes: expected those that it gathers",
        )
    else:
        pixels = a.table("pixels", a[f.OFFSETS], np.int32, (phases, ELEMENTS), (a[f.OFFSETS_PHASE], 4))
        a.reads("activations", a[f.IN], values(pixels) + channels + line, VECTOR)
    a.scratch("transforms", HERE, SCRATCH_BYTES + WINOGRAD_WORK_BYTES)
    return phases


@proves(Kind.WINOGRAD)
def winograd(a: Access) -> None:
    """Task: one block of tiles, for a range of groups of output channels."""
    vectors, groups = a.count(f.TASK_VECTORS, "vectors of a task"), a.count(f.GROUPS, "groups")
    in_groups, of_phase = a.count(f.IN_GROUPS, "groups"), a.count(f.STRETCHES, "blocks of a phase")
    at_once = a.count(f.GROUPS_PER_TASK, "groups at once")
    # The products go through a row of vectors in whole register tiles.
    few, many = TARGET.filtering.vectors
    width = few if few == many or vectors % many else many
    whole = -(-vectors // width) * width
    words = (
        steps(ELEMENTS, a[f.WORDS_ELEMENT]) + steps(2 * in_groups, VECTOR * vectors) + steps(whole, VECTOR)
    )
    if a[f.WORDS]:
        blocks = (a.tasks - 1) // -(-groups // at_once) + 1
        phases = (blocks - 1) // of_phase + 1
        a.reads("elements", a[f.WORDS], words + steps(blocks, ELEMENTS * a[f.WORDS_ELEMENT]), VECTOR)
        end = SCRATCH_BYTES + WINOGRAD_WORK_BYTES
    else:
        phases = _transforms(a, a.tasks)
        words += SCRATCH_BYTES + WINOGRAD_WORK_BYTES
        a.scratch("elements", words, VECTOR)
        end = words.high + VECTOR
    a.require(
        a[f.SUMS] >= end, f"its sums must lie behind what they are made from, found {a[f.SUMS]} < {end}"
    )
    kept = min(at_once, groups)
    rows = steps(4 * kept, VECTOR * vectors)
    a.scratch("sums", steps(ELEMENTS, a[f.SUMS_ELEMENT]) + rows + steps(whole, VECTOR) + a[f.SUMS], VECTOR)
    a.constant("weights", a[f.WEIGHTS], 32 * in_groups * ELEMENTS * groups)
    a.constant("first sums", a[f.INITIAL], 16 * groups)
    _constants(a, groups)
    a.scratch("transforms", HERE, SCRATCH_BYTES + WINOGRAD_WORK_BYTES)
    _outputs(a, groups, phases, min(a.count(f.VECTORS, "vectors"), of_phase * vectors))


def _outputs(a: Access, groups: int, tile_phases: int, vectors: int) -> None:
    """The epilogue of the places of tiles: neighbours in planes of the result, or scattered by a table."""
    if a[f.SCATTER]:
        a.require(a[f.RESIDUAL_KIND] == f.NONE, "expected nothing to be added to scattered outputs")
        shape, strides = (PLACES, 16 * vectors), (a[f.GATHER], 4)
        places = a.table("places", a[f.SCATTER], np.int32, shape, strides)
        a.writes("result", a[f.OUT], Span(0, max(0, int(places.max()))) + output_groups(a, groups), 4)
        return
    columns, phases = a.count(f.EXTRA, "phases side by side"), a.count(f.PHASES, "phases")
    tiles = columns // OUTPUTS
    # Tile phase (i, j) holds the planes 4 i .. 4 i + 3 x 4 j .. 4 j + 3.
    a.require(tiles >= 1, f"expected at least {OUTPUTS} phases side by side, found {columns}")
    last = ((tile_phases - 1) // tiles * OUTPUTS + OUTPUTS - 1) * columns + tiles * OUTPUTS - 1
    a.require(last < phases, f"expected tiles of its {phases} phases, found {last + 1}")
    _residual(a, groups, phases, vectors)
    _stores(a, groups, vectors)
