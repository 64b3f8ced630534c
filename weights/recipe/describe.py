"""A finished file that says what it is: the same network with name, classes, accuracy, licence and notes.

sparse-icnet eval icnet.npz --data camvid --json eval.json
python -m weights.recipe.describe --model icnet.npz --eval eval.json --name sparse-60 --notes "..." --out weights/icnet.npz
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparse_icnet.formats import native
from sparse_icnet.network.icnet import CLASSES
from sparse_icnet.network.meta import Meta

LICENCE = "Apache-2.0"


def accuracy(figures: dict[str, Any], data: str) -> dict[str, float]:
    """The means of `sparse-icnet eval --json`, by kind of class map, in shares of 1, to four digits."""
    return {f"mIoU, {data}, {kind}": round(figures[kind]["mean_iou"], 4) for kind in ("smooth", "blocks")}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="native file")
    parser.add_argument(
        "--eval", type=Path, required=True, help="what `sparse-icnet eval --json` wrote for it"
    )
    parser.add_argument("--data", default="CamVid val", help="what it was measured on")
    parser.add_argument("--name", required=True)
    parser.add_argument("--notes", default="")
    parser.add_argument("--out", type=Path, required=True, help="native file to write")
    options = parser.parse_args(arguments)
    figures = accuracy(json.loads(options.eval.read_text()), options.data)
    meta = Meta(options.name, CLASSES, figures, LICENCE, options.notes)
    native.save(replace(native.load(options.model), meta=meta), options.out)
    print(f"{options.out}: {figures}")


if __name__ == "__main__":
    main()
