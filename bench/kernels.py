"""Every micro-kernel on every layer shape of ICNet, against the peak of the dot-product instruction.

    python bench/kernels.py                     half a minute
    python bench/kernels.py --isa avx2 --json FILE

Prints the whole network against the peak, which is measured between the other measurements; for each
micro-kernel and share of blocks kept, on one thread, executed GMAC/s on each layer shape and, in brackets,
what a dense kernel would have to reach to take the same time; Winograd's filtering of each 3x3 layer against the
fastest of them; and the constants of the cost models in `sparse_icnet/target.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    ISA_ENVIRONMENT,
    cpus,
    describe,
    exit_code,
    machine,
    now,
    say,
    size_argument,
    summary,
    table,
    write_json,
)

from sparse_icnet import bundled, formats
from sparse_icnet.network.graph import Convolution, Graph, Quantizer, Size, resized
from sparse_icnet.network.icnet import LayerWeights, activation_names, icnet, layer_specs
from sparse_icnet.plan import plan_for


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, metavar="FILE", help="for the whole network; default: the bundled one")
    add("--size", type=size_argument, default=(768, 960), metavar="HxW", help="default: 768x960")
    add(
        "--threads", type=int, nargs="+", metavar="N", help="of the whole network; default: 1 and 2, if there"
    )
    add(
        "--density", type=float, nargs="+", default=[1.0, 0.5, 0.25], metavar="D", help="share of blocks kept"
    )
    add("--repeats", type=int, default=7, metavar="N", help="rounds (default: 7)")
    add("--isa", choices=tuple(ISA_ENVIRONMENT), default="native", help="the CPU to compile for")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser


# Largest weights of the random networks.  Without VNNI heavy blocks are multiplied one by one, light ones in couples.
HEAVY, LIGHT = 127, 16


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One convolution step.

    shape     (outputs, inputs, kernel, stride, dilation, height, width of the output)
    seconds   of the fastest round
    macs      executed, those of the blocks stored; dense_macs as if all were
    computed  as `macs`, with the pixels of whole tiles: what the cost model counts
    costs     what the cost model of Winograd's filtering counts; nothing for other kernels
    outputs   values written, those of whole tiles
    """

    shape: tuple[int, ...]
    seconds: float
    macs: int
    dense_macs: int
    computed: float
    outputs: float
    costs: tuple[int, ...] = ()


def random_network(size: Size) -> Graph:
    """ICNet with dense random weights: only shapes matter here."""
    rng = np.random.default_rng(0)
    weights = {}
    for layer in layer_specs():
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        codes = rng.integers(1, 128, shape).astype(np.int8)
        weights[layer.name] = LayerWeights(
            codes, np.full(layer.outputs, 1e-4, np.float32), np.zeros(layer.outputs, np.float32)
        )
    return icnet(weights, {name: Quantizer(0.05) for name in activation_names()}, size)


def with_blocks(graph: Graph, rows: int, density: float, largest: int = HEAVY) -> Graph:
    """`graph` with random weights up to `largest` in `density` of the (rows x 4) blocks of each convolution, no others."""
    rng = np.random.default_rng(1)
    ops = []
    for op in graph.ops:
        if isinstance(op, Convolution):
            outputs, inputs, *kernel = op.weight.shape
            grid = (-(-outputs // rows), -(-inputs // 4), *kernel)
            keep = np.zeros(int(np.prod(grid)), bool)
            keep[: max(1, round(density * keep.size))] = True
            keep = rng.permutation(keep).reshape(grid).repeat(rows, 0)[:outputs].repeat(4, 1)[:, :inputs]
            weight = rng.integers(1, largest + 1, op.weight.shape) * keep
            op = replace(op, weight=weight.astype(np.int8))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


@dataclass(frozen=True)
class Only:
    """The policy that gives every convolution the same micro-kernel."""

    kernel: Any

    def convolution(self, op: Convolution, geometry: Any) -> Any:
        from sparse_icnet.plan.policy import Choice

        return Choice(self.kernel, "chosen by the benchmark")


def layer_times(
    base: Graph, kernels: Sequence[Any], density: float, rounds: int, largest: int = HEAVY
) -> dict[Any, list[LayerTime]]:
    """Every convolution step of `base` with each kernel in place of the planner's choice.

    The kernels take turns, so that noise hits all alike; of each step the fastest round counts.
    """
    from sparse_icnet.operators.convolution.plan import remainder_kernel
    from sparse_icnet.run.session import Session

    sessions = {
        kernel: Session(plan_for(with_blocks(base, kernel.rows, density, largest), 1, policy=Only(kernel)))
        for kernel in kernels
    }
    profiles: dict[Any, list[Any]] = {kernel: [] for kernel in kernels}
    for _ in range(rounds):
        for kernel, session in sessions.items():
            profiles[kernel].append([step for step in session.profile(3) if step.macs])
    times: dict[Any, list[LayerTime]] = {}
    for kernel, session in sessions.items():
        grid = session.plan.grid
        whole, rest = divmod(grid.vectors, kernel.vectors)
        computed = whole * kernel.vectors + (remainder_kernel(kernel, grid.vectors).vectors if rest else 0)
        padding = computed * 16 / (grid.rows * grid.columns)
        times[kernel] = []
        for same in zip(*profiles[kernel], strict=True):
            op = session.graph[same[0].name]
            outputs, inputs, side, _ = op.weight.shape
            shape = (outputs, inputs, side, op.stride[0], op.dilation[0], *session.graph.shape(op.name)[1:])
            seconds, macs = min(step.seconds for step in same), same[0].macs
            values = outputs * shape[-2] * shape[-1] * padding
            times[kernel].append(LayerTime(shape, seconds, macs, same[0].dense_macs, macs * padding, values))
    return times


def filtered_times(base: Graph, rounds: int) -> list[LayerTime]:
    """Every layer of `base` that Winograd's filtering can compute, by it; of each the fastest round counts."""
    from sparse_icnet.operators.winograd.tiling import costs
    from sparse_icnet.plan import LEAST_TIME
    from sparse_icnet.plan.policy import Choice, Geometry
    from sparse_icnet.run.session import Session
    from sparse_icnet.target import TARGET

    counts: dict[str, tuple[int, ...]] = {}

    class Filtered:
        """Filtering wherever it is possible."""

        def convolution(self, op: Convolution, geometry: Geometry) -> Choice:
            if geometry.tiling is None:
                return LEAST_TIME.convolution(op, geometry)
            counts[op.name] = costs(op, geometry.tiling)
            return Choice(TARGET.filtering, "chosen by the benchmark")

    # Heavy sums would not be filtered.
    session = Session(plan_for(with_blocks(base, 4, 1.0, LIGHT), 1, policy=Filtered()))
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for step in (profile := session.profile(3)):
            seconds.setdefault(step.name, []).append(step.seconds)
    times = []
    for step in profile:
        if step.name in counts:
            op = session.graph[step.name]
            outputs, inputs, side, _ = op.weight.shape
            size = session.graph.shape(op.name)[1:]
            elements = seconds.get(f"{step.name}/elements", [0.0])
            times.append(
                LayerTime(
                    (outputs, inputs, side, 1, op.dilation[0], *size),
                    min(seconds[step.name]) + min(elements),
                    step.macs,
                    step.dense_macs,
                    step.macs,
                    outputs * size[0] * size[1],
                    counts[step.name],
                )
            )
    return times


def fitted_costs(times: list[LayerTime], unit: float) -> dict[str, Any]:
    """The costs of `sparse_icnet.target.Filtering`, by least relative squares.

    unit  seconds of a single block row x a vector
    """
    seconds = np.array([time.seconds for time in times])
    terms = np.array([time.costs for time in times]) / seconds[:, None]
    constants, *_ = np.linalg.lstsq(terms, np.ones(len(times)), rcond=None)
    errors = np.abs(terms @ constants - 1)
    return {
        "costs": [round(float(c / unit), 3) for c in constants],
        "median_error": round(float(np.median(errors)), 3),
    }


def whole_network(graph: Graph, threads: int, repeats: int) -> dict[str, Any]:
    """Image -> class map and blob -> probabilities as the planner plans them, against the peak."""
    from sparse_icnet.run.session import Session
    from sparse_icnet.study.peak import Peak

    peak, pairs = Peak(threads), Peak(threads, pairs=True)
    session = Session(plan_for(graph, threads))
    rng = np.random.default_rng(0)
    channels, height, width = session.input_shape
    image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    blob = rng.standard_normal((channels, height, width)).astype(np.float32)
    out = np.empty(session.plan.output_shape, np.float32)
    calls: dict[str, Callable[[], Any]] = {
        "image -> class map": lambda: session.class_map_of_image(image),
        "blob -> probabilities": lambda: session.probabilities(blob, out),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        peak.measure()
        pairs.measure()
        for name, call in calls.items():
            call()
            for _ in range(5):
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    steps = session.profile(repeats)
    times["convolutions alone"] = [1e3 * sum(step.seconds for step in steps if step.macs)]
    macs, dense = sum(step.macs for step in steps), sum(step.dense_macs for step in steps)
    filtered = sum(step.macs for step in steps if step.kind == "winograd")
    # Milliseconds that the products would take, each kind at its own peak.
    at_peak = ((macs - filtered) / max(peak.rates) + filtered / max(pairs.rates)) * 1e3
    cases = []
    for name, values in times.items():
        ms = summary(values)
        gmacs = macs / ms["median"] / 1e6
        cases.append(
            {
                "case": name,
                "ms": ms,
                "gmacs": round(gmacs, 1),
                "share_of_peak": round(at_peak / ms["median"], 3),
                "dense_gmacs": round(dense / ms["median"] / 1e6, 1),
            }
        )
    return {
        "threads": threads,
        "peak_gmacs": _gmacs(peak.rates),
        "peak_of_pairs_gmacs": _gmacs(pairs.rates),
        "gmac_of_pairs": round(filtered / 1e9, 3),
        "ms_at_peaks": round(at_peak, 2),
        "gmac": round(macs / 1e9, 3),
        "dense_gmac": round(dense / 1e9, 3),
        "cases": cases,
    }


def _gmacs(rates: list[float]) -> dict[str, float]:
    """The spread of products a second."""
    values = [rate / 1e9 for rate in rates]
    return summary(values) | {"max": round(max(values), 2)}


def shape_name(shape: tuple[int, ...]) -> str:
    """(outputs, inputs, kernel, stride, dilation, height, width) -> '256<-512 1x1 24x30'."""
    outputs, inputs, side, stride, dilation, height, width = shape
    extras = (f" s{stride}" if stride > 1 else "") + (f" d{dilation}" if dilation > 1 else "")
    return f"{outputs}<-{inputs} {side}x{side}{extras} at {height}x{width}"


def relative_speeds(
    times: dict[tuple[str, float], list[LayerTime]], base: dict[tuple[str, float], list[LayerTime]]
) -> dict[str, dict[str, float]]:
    """Kernel -> density -> products computed a second, over those of the first kernel in `base`."""
    first = next(iter(base))[0]
    result: dict[str, dict[str, float]] = {}
    for (kernel, density), rows in times.items():
        speed = _speed(rows) / _speed(base[first, density])
        result.setdefault(kernel, {})[str(density)] = round(speed, 3)
    return result


def _speed(rows: list[LayerTime]) -> float:
    return sum(t.computed for t in rows) / sum(t.seconds for t in rows)


def fitted(times: dict[tuple[str, float], list[LayerTime]]) -> dict[str, dict[str, float]]:
    """Kernel -> rate and cost in seconds = products / rate + outputs * cost, by least relative squares."""
    result = {}
    for kernel in dict.fromkeys(kernel for kernel, _ in times):
        rows = [row for (name, _), rows in times.items() if name == kernel for row in rows]
        seconds = np.array([row.seconds for row in rows])
        terms = np.array([[row.computed, row.outputs] for row in rows]) / seconds[:, None]
        (product, output), *_ = np.linalg.lstsq(terms, np.ones(len(rows)), rcond=None)
        errors = np.abs(terms @ (product, output) - 1)
        result[kernel] = {
            "loop_gmacs": round(1e-9 / product, 1),
            "picoseconds_an_output": round(1e12 * output, 1),
            "median_error": round(float(np.median(errors)), 3),
        }
    return result


def report(results: dict[str, Any]) -> str:
    """The figures as text."""
    parts = [
        f"{results['date']}  isa: {results['isa']}, dot product: {results['dot_product']}",
        describe(results["machine"]),
        f"\n{results['model']}: {results['network'][0]['gmac']:.2f} GMAC executed of "
        f"{results['network'][0]['dense_gmac']:.2f}, of these {results['network'][0]['gmac_of_pairs']:.2f} of int16 "
        "pairs (Winograd's filtering); the peaks are the best of what either dot product reached in registers "
        "between the other measurements, the share is that of the time that all products would take at their peaks\n",
    ]
    rows = [
        (
            case["case"],
            network["threads"],
            f"{case['ms']['median']:.2f}",
            f"{case['gmacs']:.0f}",
            f"{network['peak_gmacs']['max']:.0f}",
            f"{network['peak_of_pairs_gmacs']['max']:.0f}",
            f"{network['ms_at_peaks']:.2f}",
            f"{case['share_of_peak']:.0%}",
            f"{case['dense_gmacs']:.0f}",
        )
        for network in results["network"]
        for case in network["cases"]
    ]
    header = (
        "whole network as planned",
        "threads",
        "ms",
        "GMAC/s executed",
        "peak",
        "of pairs",
        "ms at the peaks",
        "share",
        "as if dense",
    )
    parts.append(table(header, rows))
    kernels = list(dict.fromkeys(row["kernel"] for row in results["layers"]))
    densities = list(dict.fromkeys(row["density"] for row in results["layers"]))
    cells = {(row["shape"], row["kernel"], row["density"]): row for row in results["layers"]}
    shapes = list(dict.fromkeys(row["shape"] for row in results["layers"]))
    for density in densities:
        rows = []
        for shape in shapes:
            found = [cells[shape, kernel, density] for kernel in kernels]
            rows.append(
                [shape, found[0]["layers"]]
                + [f"{row['gmacs']:.0f} ({row['dense_gmacs']:.0f})" for row in found]
            )
        title = f"GMAC/s, {density:.0%} of blocks kept"
        parts.append("\n" + table((title, "layers", *kernels), rows))
    rows = [
        (row["shape"], row["layers"], f"{row['ms']:.3f}", f"{row['direct_ms']:.3f}", f"{row['gain']:.2f}x")
        for row in results["filtered"]
    ]
    header = ("Winograd's filtering, dense", "layers", "ms", "direct, light weights", "gain")
    parts.append("\n" + table(header, rows))
    rows = [
        [name, *values]
        for name, values in (
            ("measured", results["filtering"]["costs"]),
            ("in target.py", results["known_filtering"]),
        )
    ]
    header = ("costs in single block rows x vector", "a product", "4 inputs", "an output")
    parts.append("\n" + table(header, rows))
    rows = [
        [kernel, *(f"{speeds[str(density)]:.2f}" for density in densities), known]
        for (kernel, speeds), known in zip(
            results["relative_speed"].items(), results["known_speed"], strict=True
        )
    ]
    header = ["relative speed", *(f"{density:.0%}" for density in densities), "in target.py"]
    parts.append("\n" + table(header, rows))
    if results["couple_speed"]:
        rows = [
            [kernel, *(f"{speeds[str(density)]:.2f}" for density in densities), known]
            for (kernel, speeds), known in zip(
                results["couple_speed"].items(), results["known_couple_speed"], strict=True
            )
        ]
        parts.append("\n" + table(["of couples", *header[1:]], rows))
    rows = [
        (kernel, fit["loop_gmacs"], fit["picoseconds_an_output"], f"{fit['median_error']:.0%}")
        for kernel, fit in results["fitted"].items()
    ]
    header = ["fitted: seconds = products / rate + outputs * cost", "GMAC/s", "ps an output", "error"]
    parts.append("\n" + table(header, rows))
    return "\n".join(parts)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the environment is set already."""
    from sparse_icnet.target import TARGET

    model = arguments.model or bundled.DEFAULT_WEIGHTS
    graph = resized(formats.load(model), arguments.size)
    network = []
    for threads in arguments.threads or [n for n in (1, 2) if n <= cpus()]:
        say(f"{model.stem}: the whole network, {threads} thread{'s' * (threads > 1)}")
        network.append(whole_network(graph, threads, arguments.repeats))
    base = random_network(arguments.size)
    times: dict[tuple[str, float], list[LayerTime]] = {}
    light: dict[tuple[str, float], list[LayerTime]] = {}
    for density in arguments.density:
        say(f"every micro-kernel on every layer, {density:.0%} of blocks")
        for kernel, rows in layer_times(base, TARGET.kernels, density, arguments.repeats).items():
            times[kernel.name, density] = rows
        if TARGET.couples:
            for kernel, rows in layer_times(base, TARGET.kernels, density, arguments.repeats, LIGHT).items():
                light[kernel.name, density] = rows
    say("Winograd's filtering of every layer that it can compute")
    filtering = filtered_times(base, arguments.repeats)
    dense = {
        name: rows for (name, density), rows in (light or times).items() if density == max(arguments.density)
    }
    filtered = []
    for shape in dict.fromkeys(row.shape for row in filtering):
        same = [row.seconds for row in filtering if row.shape == shape]
        direct = min(sum(row.seconds for row in rows if row.shape == shape) for rows in dense.values())
        filtered.append(
            {
                "shape": shape_name(shape),
                "layers": len(same),
                "ms": round(1e3 * sum(same) / len(same), 4),
                "direct_ms": round(1e3 * direct / len(same), 4),
                "gain": round(direct / sum(same), 3),
            }
        )
    singles = times[TARGET.kernels[0].name, max(arguments.density)]
    unit, known = 64 / _speed(singles), TARGET.filtering
    layers = []
    for (name, density), rows in times.items():
        for shape in dict.fromkeys(row.shape for row in rows):
            same = [row for row in rows if row.shape == shape]
            seconds = sum(row.seconds for row in same)
            layers.append(
                {
                    "shape": shape_name(shape),
                    "layers": len(same),
                    "kernel": name,
                    "density": density,
                    "ms": round(1e3 * seconds / len(same), 4),
                    "gmacs": round(sum(row.macs for row in same) / seconds / 1e9, 1),
                    "dense_gmacs": round(sum(row.dense_macs for row in same) / seconds / 1e9, 1),
                }
            )
    return {
        "date": now(),
        "machine": machine(),
        "isa": arguments.isa,
        "dot_product": TARGET.name,
        "size": list(arguments.size),
        "model": model.stem,
        "network": network,
        "layers": layers,
        "relative_speed": relative_speeds(times, times),
        "couple_speed": relative_speeds(light, times),
        "fitted": fitted(times),
        "filtered": filtered,
        "filtering": fitted_costs(filtering, unit),
        "known_filtering": [known.product, known.inputs, known.outputs],
        "known_speed": [kernel.speed for kernel in TARGET.kernels],
        "known_couple_speed": [kernel.couple_speed for kernel in TARGET.kernels if TARGET.couples],
    }


def main() -> int:
    """Run what the command line asks for."""
    arguments = parser().parse_args()
    wanted = ISA_ENVIRONMENT[arguments.isa]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # The package chooses its code when it is imported, Numba likewise: both are by now.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    results = run(arguments)
    print(report(results))
    if arguments.json:
        write_json(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
