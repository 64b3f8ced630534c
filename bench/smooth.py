"""What smooth class maps cost beside blocks, on the same pictures, in turns.

    python bench/smooth.py                          the bundled photo, both bundled models, one and all threads
    python bench/smooth.py --data CamVid            frames of CamVid/val in its place, evenly spread
    python bench/smooth.py --json results.json

Times are of one picture of the network's size to its class map of that size, decoding and fitting aside:

    grid     the class of each grid point alone, of which both maps are made
    blocks   the grid's classes as blocks of pixels, `segment(smooth=False)`
    smooth   logits interpolated to every pixel (Q11), `segment()`

The cost is what smooth takes more than grid, as a share of smooth: the median over rounds of one call each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import cpus, describe, exit_code, machine, now, say, size_argument, summary, table, write_json
from numpy.typing import NDArray

import sparse_icnet
from sparse_icnet import bundled
from sparse_icnet.image import fitted
from sparse_icnet.network.graph import Size

KINDS = ("grid", "blocks", "smooth")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--model", action="append", metavar="MODEL", help="default: the bundled ones; may be repeated")
    add("--threads", action="append", type=int, metavar="N", help="default: 1 and all; may be repeated")
    add("--size", type=size_argument, default=(768, 960), metavar="HxW", help="default: 768x960")
    add("--data", type=Path, metavar="DIR", help="folder with val/NAME.png; default: the bundled photo")
    add("--pictures", type=int, default=12, metavar="N", help="of --data (default: 12)")
    add("--rounds", type=int, default=20, metavar="N", help="of every picture (default: 20)")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return result


def pictures(data: Path | None, count: int, size: Size) -> tuple[str, list[NDArray[np.uint8]]]:
    """(what they are, RGB uint8 (H, W, 3) of `size`)."""
    if data is None:
        return "the bundled photo", [fitted(bundled.SAMPLE_IMAGE, size)[0]]
    found = sorted((data / "val").glob("*.png"))
    if not found:
        raise ValueError(f"{data / 'val'}: expected frames NAME.png, found none")
    chosen = found[:: max(1, len(found) // count)][:count]
    return f"{len(chosen)} frames of {data.name}/val", [fitted(path, size)[0] for path in chosen]


def measure(net: sparse_icnet.Model, images: Sequence[NDArray[np.uint8]], rounds: int) -> dict[str, Any]:
    """Milliseconds of each kind of class map, and what smooth ones cost; the kinds take turns."""
    calls: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        "grid": net.session.class_map_of_image,
        "blocks": lambda image: net.segment(image, smooth=False),
        "smooth": net.segment,
    }
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    changed = []
    for image in images:
        maps = {kind: call(image) for kind, call in calls.items()}  # untimed: memory, tables, caches
        changed.append((maps["smooth"] != maps["blocks"]).mean())
        for turn in range(rounds):
            for i in range(len(KINDS)):
                kind = KINDS[(turn + i) % len(KINDS)]
                begin = time.perf_counter()
                calls[kind](image)
                times[kind].append(1e3 * (time.perf_counter() - begin))
    grid, blocks, smooth = (np.array(times[kind]) for kind in KINDS)
    return {
        "ms": {kind: summary(times[kind]) for kind in KINDS},
        "cost_ms": summary(smooth - grid),
        "cost_share": summary((smooth - grid) / smooth),
        "smooth_to_blocks": summary(smooth / blocks),
        "changed_pixels": round(float(np.mean(changed)), 4),
    }


def main() -> int:
    """Run what the command line asks for."""
    arguments = parser().parse_args()
    what, images = pictures(arguments.data, arguments.pictures, arguments.size)
    rows = []
    for model in arguments.model or bundled.names():
        for threads in arguments.threads or sorted({1, cpus()}):
            say(f"{model}, {threads} thread{'s' * (threads > 1)}")
            net = sparse_icnet.load(model, size=arguments.size, threads=threads)
            figures = measure(net, images, arguments.rounds)
            rows.append({"model": str(model), "threads": threads, **figures})
    facts = machine()
    results = {
        "date": now(),
        "machine": facts,
        "size": list(arguments.size),
        "pictures": what,
        "rounds": arguments.rounds,
        "results": rows,
    }
    print(describe(facts))
    print(f"\n{arguments.size[0]}x{arguments.size[1]}, {what}, {arguments.rounds} rounds; medians, ms\n")
    header = ("model", "threads", *KINDS, "cost", "cost %", "smooth/blocks", "pixels changed %")
    print(table(header, [_row(row) for row in rows]))
    if arguments.json:
        write_json(arguments.json, results)
    return 0


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    ms = [f"{row['ms'][kind]['median']:.2f}" for kind in KINDS]
    return (
        Path(row["model"]).stem,
        row["threads"],
        *ms,
        f"{row['cost_ms']['median']:.2f}",
        f"{100 * row['cost_share']['median']:.1f}",
        f"{row['smooth_to_blocks']['median']:.3f}",
        f"{100 * row['changed_pixels']:.1f}",
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
