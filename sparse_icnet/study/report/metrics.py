"""What the boxes of the drawing can be coloured by: for each layer a level of colour, a text, and the length of a bar."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sparse_icnet.study.report.charts import count, percent
from sparse_icnet.study.report.data import Layer, Report
from sparse_icnet.study.report.network_svg import PATTERNS

ZEROS = (0.2, 0.4, 0.6, 0.8, 0.95)
SHARES = (0.005, 0.01, 0.02, 0.04, 0.08)
WEIGHTS = (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20)
SHORT = 12  # letters of a kernel's name in a box


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to colour the drawing; of each layer in order:

    levels  0 to 5, of colour; texts; bars: 0 to 1
    legend  what each level means
    kinds   the levels are kinds, not amounts: told apart by hatching
    """

    name: str
    title: str
    levels: tuple[int, ...]
    texts: tuple[str, ...]
    bars: tuple[float, ...]
    legend: tuple[tuple[int, str], ...]
    kinds: bool = False

    def for_script(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "name": self.name,
            "kinds": self.kinds,
            "levels": self.levels,
            "texts": self.texts,
            "bars": [round(bar, 3) for bar in self.bars],
        }


def metrics(report: Report) -> tuple[Metric, ...]:
    """Those that the page offers; the time only where it was measured."""
    layers = report.layers
    found = [
        _amounts("zeros", "zero weights", [layer.zeros for layer in layers], ZEROS),
        _amounts("empty", "empty blocks", [layer.empty for layer in layers], ZEROS),
    ]
    if any(layer.time for layer in layers):
        found.append(
            _amounts(
                "time", "share of time", [layer.time.share if layer.time else 0.0 for layer in layers], SHARES
            )
        )
    executed = sum(layer.macs for layer in layers) or 1
    found.append(
        _amounts("products", "products executed", [layer.macs / executed for layer in layers], SHARES)
    )
    return (*found, _kernels(layers), _shapes(layers))


def _amounts(name: str, title: str, shares: list[float], steps: tuple[float, ...]) -> Metric:
    largest = max(1.0 if steps is ZEROS else 0.0, *shares, 1e-9) if shares else 1.0
    bounds = [f"{100 * step:g}" for step in steps]
    texts = [f"< {bounds[0]} %", *(f"{a} to {b} %" for a, b in pairwise(bounds))]
    return Metric(
        name,
        title,
        tuple(bisect_right(steps, share) for share in shares),
        tuple(percent(share) for share in shares),
        tuple(share / largest for share in shares),
        tuple(enumerate((*texts, f"≥ {bounds[-1]} %"))),
    )


def _kernels(layers: tuple[Layer, ...]) -> Metric:
    names = list(dict.fromkeys(layer.kernel for layer in sorted(layers, key=lambda layer: -layer.macs)))
    numbers = {name: min(number, PATTERNS - 1) for number, name in enumerate(names)}
    legend = [(numbers[name], name) for name in names[: PATTERNS - 1]]
    if len(names) >= PATTERNS:
        legend.append((PATTERNS - 1, ", ".join(names[PATTERNS - 1 :])))
    return Metric(
        "kernel",
        "kernel",
        tuple(numbers[layer.kernel] for layer in layers),
        tuple(layer.kernel.partition("_")[0][:SHORT] for layer in layers),
        (0.0,) * len(layers),
        tuple(legend),
        kinds=True,
    )


def _shapes(layers: tuple[Layer, ...]) -> Metric:
    most = max((layer.weights for layer in layers), default=1)
    bounds = [count(step) for step in WEIGHTS]
    texts = [
        f"< {bounds[0]}",
        *(f"{a} to {b}" for a, b in pairwise(bounds)),
        f"≥ {bounds[-1]}",
    ]
    return Metric(
        "shape",
        "shape (weights)",
        tuple(bisect_right(WEIGHTS, layer.weights) for layer in layers),
        tuple(_shape(layer) for layer in layers),
        tuple(layer.weights / most for layer in layers),
        tuple(enumerate(texts)),
    )


def _shape(layer: Layer) -> str:
    outputs, inputs, height, width = layer.weight_shape
    window = "" if height == width == 1 else f" {height}x{width}"
    return f"{inputs}→{outputs}{window}"
