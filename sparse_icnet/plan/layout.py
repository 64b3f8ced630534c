"""Program -> Placement: what operators demand of each map is folded into its layout, then every storage gets its place."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.storage import AnyMap, Block, Demand, MapLayout, Storage
from sparse_icnet.plan.arena import Arena, Piece
from sparse_icnet.plan.budget import check_copy_tables, check_memory, check_scratch
from sparse_icnet.plan.program import Placement, Program
from sparse_icnet.plan.schedule import lifetimes, offsets


def folded(operators: Iterable[Operator]) -> dict[AnyMap, MapLayout]:
    """The layout of every map that an operator demands anything of; PlanError where one is too large."""
    demands: dict[AnyMap, list[Demand]] = {}
    for operator in operators:
        for demand in operator.demands():
            demands.setdefault(demand.map, []).append(demand)
    layouts: dict[AnyMap, MapLayout] = {}
    tables = 0
    for map, wanted in demands.items():
        layouts[map] = _layout(map, wanted)
        # Of each distance a mask of lanes to keep and one of padding, for each vector of a plane.
        distances = len({columns for _, columns in layouts[map].shifts})
        tables += distances * map.grid.vectors * 2 * LINE
        check_copy_tables(tables, f"operation {wanted[0].reader!r}, its input")
    return layouts


def _layout(map: AnyMap, demands: list[Demand]) -> MapLayout:
    edges: dict[tuple[int, int], tuple[int, int]] = {}
    for demand in demands:
        for key, (above, below) in demand.edges.items():
            known = edges.get(key, (0, 0))
            edges[key] = max(known[0], above), max(known[1], below)
    shifted = [key for key in edges if key[1]]
    shifts = {key: number for number, key in enumerate(shifted)}
    rows = max(demand.rows for demand in demands)
    layout = MapLayout(map, rows, MappingProxyType(shifts), MappingProxyType(edges))
    reader = max(demands, key=lambda demand: len(demand.edges)).reader
    check_memory(layout.bytes, f"operation {reader!r}, its input with shifted copies")
    return layout


def lay_out(program: Program, keep_tensors: bool) -> Placement:
    """Memory for every storage of `program`.

    keep_tensors  each has memory of its own; else those that are not alive at the same time share it

    Raises PlanError for more memory than a plan may have.
    """
    operators = program.operators()
    for operator in operators:
        check_scratch(operator.scratch, program.threads, f"operation {operator.name!r}")
    wanted, alive = folded(operators), lifetimes(operators)
    layouts: dict[AnyMap, MapLayout] = {}
    for storage in alive:
        if not isinstance(storage, Block):
            layouts[storage] = wanted.get(storage) or MapLayout(storage)
    sizes = {
        storage: storage.size if isinstance(storage, Block) else layouts[storage].bytes for storage in alive
    }
    shared: list[Storage] = [] if keep_tensors else list(alive)
    places, size = offsets([-(-sizes[s] // LINE) * LINE for s in shared], [alive[s] for s in shared])
    largest = max(sizes, key=lambda storage: sizes[storage]).name
    check_memory(sum(sizes.values()) if keep_tensors else size, f"operation {largest!r}", keep_tensors)
    arena = Arena()
    pieces: dict[Storage, Piece] = {}
    memory = arena.take(size)
    for storage, start in zip(shared, places, strict=True):
        pieces[storage] = Piece(memory[start : start + sizes[storage]], False)
    if keep_tensors:
        for storage, wanted_bytes in sizes.items():
            pieces[storage] = Piece(arena.take(wanted_bytes), False)
    addresses = {
        storage: piece.address + (0 if isinstance(storage, Block) else layouts[storage].slack)
        for storage, piece in pieces.items()
    }
    return Placement(Memory(layouts, addresses), arena, pieces, memory, keep_tensors)
