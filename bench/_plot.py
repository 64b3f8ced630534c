"""The picture for the README: one bar an engine, shorter is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparse_icnet.files import replacing

COLOURS = {"sparse-icnet": "#1b7f5c", "openvino": "#4a78b5", "onnxruntime": "#b0b6bd"}
LABELS = {"sparse-icnet": "sparse-icnet", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
CASES = {
    "probabilities": "blob → probabilities",
    "classes": "image → class map",
    "smooth": "image → smooth map",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of the medians, with their quartiles, of the first size measured, on the most threads.

    Raises ImportError that names the extra to install.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError("--png needs matplotlib: pip install 'sparse-icnet[plot]'") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    rows = _rows(results)
    if not rows:
        raise ValueError(f"{path}: expected latencies to draw, found none")
    engines = list(dict.fromkeys(engine for row in rows for engine in row["ms"]))
    step = len(engines) + 0.9
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.27 * step * len(rows)), layout="constrained")
    longest = max(sample["q3"] for row in rows for sample in row["ms"].values())
    for group, row in enumerate(rows):
        for place, engine in enumerate(engines):
            if engine not in row["ms"]:
                continue
            sample, y = row["ms"][engine], group * step + place
            spread = [[sample["median"] - sample["q1"]], [sample["q3"] - sample["median"]]]
            axes.barh(
                y,
                sample["median"],
                0.86,
                color=COLOURS[engine],
                label=LABELS[engine] if group == 0 else None,
                xerr=spread,
                error_kw={"elinewidth": 1, "ecolor": "#333333"},
            )
            ratio = f"   {row['ratio'][engine]:.1f}x" if engine in row["ratio"] else ""
            axes.text(
                sample["q3"] + 0.012 * longest,
                y,
                f"{sample['median']:.0f} ms{ratio}",
                va="center",
                fontsize=9,
            )
    middle = (len(engines) - 1) / 2
    axes.set_yticks(
        [group * step + middle for group in range(len(rows))],
        [f"{CASES[row['case']]}\n{_short(row['model'])}" for row in rows],
        fontsize=9,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * longest)
    axes.set_xlabel("milliseconds, median and quartiles; shorter is better")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right", frameon=False)
    size, threads = "x".join(map(str, rows[0]["size"])), rows[0]["threads"]
    machine, date = results["machine"], results["date"][:10]
    axes.set_title(
        f"ICNet INT8, {size}, {threads} thread{'s' * (threads > 1)}, {machine['cpu']}, {date}",
        fontsize=10,
        loc="left",
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def _rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    latency = [row for row in results["latency"] if not row.get("busy")]
    if not latency:
        return []
    threads = max(row["threads"] for row in latency)
    return [row for row in latency if row["threads"] == threads and row["size"] == latency[0]["size"]]


def _short(model: str) -> str:
    return model.removeprefix("icnet-camvid-").replace("-nncf", ", as NNCF quantizes it")
