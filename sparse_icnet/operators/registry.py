"""Every kernel that a planner may choose, with its tile, its cost and its source: `python -m sparse_icnet.operators`.

The names, tiles and constants are those of `sparse_icnet.target`, the formulas those of `convolution/plan.py`,
`float_convolution/plan.py` and `winograd/tiling.py`.  Sources are read, not imported: nothing here needs Numba.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparse_icnet.operators import KERNELS
from sparse_icnet.operators.convolution import plan as direct
from sparse_icnet.operators.convolution.params import ConvolutionParams
from sparse_icnet.operators.float_convolution import plan as floats
from sparse_icnet.operators.float_convolution.params import FloatConvolutionParams
from sparse_icnet.operators.source import place_in
from sparse_icnet.operators.winograd import tiling
from sparse_icnet.operators.winograd.params import WinogradParams
from sparse_icnet.target import TARGET, TARGETS, Dot, Filtering, MicroKernel, Target

# Where a kernel spends its time: the function around its innermost loop, outermost first; else the kernel itself.
_LOOPS: Mapping[type, tuple[str, ...]] = {
    ConvolutionParams: ("_micro_kernel", "accumulate"),
    WinogradParams: ("_product", "product"),
    FloatConvolutionParams: ("float_convolution",),
}
# What the loop calls for its products, and what that emits.
_PRODUCTS: Mapping[Dot, tuple[str, str]] = {
    Dot.BYTES: ("tile_dot", "dot4"),
    Dot.COUPLES: ("tile_dot_couple", "multiply_add_bytes"),
    Dot.PAIRS: ("tile_dot", "multiply_add_pairs"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a kernel is, each as file:line.

    kernel   the function that a thread calls for a task; loop: its innermost loop
    product  the operation on tiles that the loop repeats; instruction: what emits its products ("" of other kernels)
    """

    kernel: str
    loop: str
    product: str = ""
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A kernel of convolutions on one class of CPUs.

    kernel     as `sparse-icnet info` prints it; cpu: class
    tile       that stays in registers: output channels x pixels or, filtering, tiles of 4 x 4 pixels (few/many)
    formula    of its estimated time in dot products of the first micro-kernel of the class, of one plane or, filtering, of
               all; of float32 its multiplications of a vector, which nothing is compared with; words: what its names mean;
               constants: of the kernel, of `sparse_icnet.target`
    measured   whether the constants are measured, else estimated from those of other classes
    """

    kernel: str
    cpu: str
    tile: str
    formula: str
    words: str
    constants: Mapping[str, float]
    measured: bool
    source: Source

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, as JSON takes them."""
        return asdict(self)


def entries(targets: tuple[Target, ...] = TARGETS) -> Iterator[Entry]:
    """The kernels of convolutions on each of `targets`."""
    for target in targets:
        for kernel in target.kernels:
            yield _direct(target, kernel)
        yield _float(target, target.float_kernel)
        yield _filtering(target, target.filtering)


def entry_of(kernel: str) -> Entry:
    """That of the kernel which is called so on this CPU; KeyError where there is none."""
    found = next((entry for entry in entries((TARGET,)) if entry.kernel == kernel), None)
    if found is None:
        raise KeyError(kernel)
    return found


def kernel_source(record: type, target: Target = TARGET) -> Source:
    """Where the kernel is that reads `record`."""
    module, _, name = KERNELS[record].partition(":")
    file = f"operators/{module.replace('.', '/')}.py"
    loop = _LOOPS.get(record)
    if loop is None:
        return Source(place_in(file, name), place_in(file, name))
    if record is FloatConvolutionParams:
        names = ("simd/real_tiles.py", "real_add_products")
        return Source(place_in(file, name), place_in(file, *loop), place_in(*names), place_in(*names, "emit"))
    product, instruction = _PRODUCTS[target.dot]
    if record is WinogradParams:
        product, instruction = "tile_dot_pairs", "multiply_add_pairs"
    return Source(
        place_in(file, name),
        place_in(file, *loop),
        place_in("simd/tiles.py", product),
        place_in("simd/dot.py", instruction),
    )


def _direct(target: Target, kernel: MicroKernel) -> Entry:
    constants = {"rows": float(kernel.rows), "speed": kernel.speed}
    if target.couples:
        constants["couple_speed"] = kernel.couple_speed
    return Entry(
        kernel.name,
        target.name,
        f"{kernel.rows} x {16 * kernel.vectors}",
        direct.COST_COUPLES if target.couples else direct.COST,
        direct.COST_WORDS,
        constants,
        target.measured,
        kernel_source(ConvolutionParams, target),
    )


def _float(target: Target, kernel: MicroKernel) -> Entry:
    return Entry(
        kernel.name,
        target.name,
        f"{kernel.rows} x {16 * kernel.vectors}",
        floats.COST,
        floats.COST_WORDS,
        {},
        target.measured,
        kernel_source(FloatConvolutionParams, target),
    )


def _filtering(target: Target, filtering: Filtering) -> Entry:
    return Entry(
        filtering.name,
        target.name,
        "4 x " + "/".join(str(16 * vectors) for vectors in dict.fromkeys(filtering.vectors)),
        tiling.COST,
        tiling.COST_WORDS,
        {"product": filtering.product, "inputs": filtering.inputs, "outputs": filtering.outputs},
        target.measured,
        kernel_source(WinogradParams, target),
    )


def lines() -> Iterator[str]:
    """The registry as text, no line longer than 100 columns."""
    yield "Kernels of convolutions, output channels x pixels or tiles of 4 x 4 pixels in registers"
    yield "*: of this CPU; ~: constants estimated from those of other CPUs"
    for filtering, title in ((False, "pixels"), (True, "tiles")):
        chosen = [entry for entry in entries() if entry.kernel.startswith("winograd") == filtering]
        yield ""
        yield from _table([("   kernel", title, "constants", "loop"), *map(_row, chosen)])
        yield "   estimated time in dot products of the first kernel of the CPU:"
        for formula, words in {entry.formula: entry.words for entry in chosen}.items():
            cpus = dict.fromkeys(entry.cpu for entry in chosen if entry.formula == formula)
            yield f"     {formula}{'' if filtering else ' for each plane of the output'}"
            yield from (f"       {part}" for part in (words, ", ".join(cpus)))
    yield ""
    yield "The kernel of the least estimated time computes a layer (plan/policy.py).  Its products:"
    products: dict[Source, list[str]] = {}
    for entry in entries():
        products.setdefault(entry.source, []).append(entry.kernel)
    yield from _table(
        [
            ("   in the loop", "emitted by", "of"),
            *(
                (f"   {_short(source.product)}", _short(source.instruction), f"{kernels[0]} and others alike")
                for source, kernels in products.items()
            ),
        ]
    )
    yield ""
    yield "All kernels: function, record, source"
    yield from _table(
        [
            (f"   {place.partition(':')[2]}", record.__name__, _short(kernel_source(record).kernel))
            for record, place in KERNELS.items()
        ]
    )


def _row(entry: Entry) -> tuple[str, str, str, str]:
    mark = ("*" if entry.cpu == TARGET.name else " ") + (" " if entry.measured else "~")
    constants = ", ".join(f"{name} {value:g}" for name, value in entry.constants.items() if name != "rows")
    return f"{mark} {entry.kernel}", entry.tile, constants, _short(entry.source.loop)


def _short(place: str) -> str:
    return place.removeprefix("sparse_icnet/").removeprefix("operators/")


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
