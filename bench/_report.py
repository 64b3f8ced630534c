"""The figures of a comparison as text."""

from __future__ import annotations

from typing import Any

from _common import describe, table

OURS = "sparse-icnet"
CASES = {
    "probabilities": "blob -> probabilities",
    "classes": "image -> class map",
    "smooth": "image -> smooth map",
}


def report(results: dict[str, Any]) -> str:
    """The figures as text."""
    parts = [f"{results['date']}  isa: {results['isa']}", describe(results["machine"])]
    for model in results["models"]:
        parts.append(
            f"{model['name']}: {model['zeros']:.1%} of the weights are zero, work in blocks that are not: "
            + ", ".join(f"{model[f'work_blocks_{rows}x4']:.0%} ({rows}x4)" for rows in (1, 2, 4))
        )
    if results["latency"]:
        engines = list(dict.fromkeys(engine for row in results["latency"] for engine in row["ms"]))
        peers = [engine for engine in engines if engine != OURS]
        header = ["milliseconds: median (quartiles, fastest)", "size", "threads", *engines]
        header += [f"{peer} / {OURS}" for peer in peers] + ["ms/megapixel"]
        rows, model = [], None
        for row in results["latency"]:
            if row["model"] != model:
                model = row["model"]
                rows.append([model])
            ours = row["ms"].get(OURS)
            megapixels = row["size"][0] * row["size"][1] / 1e6
            rows.append(
                [f"  {CASES[row['case']]}", "x".join(map(str, row["size"])), row["threads"]]
                + [_times(row["ms"].get(engine)) for engine in engines]
                + [f"{row['ratio'][peer]:.2f}" if peer in row["ratio"] else "" for peer in peers]
                + [f"{ours['median'] / megapixels:.1f}" if ours else ""]
            )
        rows = [line + [""] * (len(header) - len(line)) for line in rows]
        parts.append("\n" + table(header, rows))
        agreement = [share for row in results["latency"] for share in row["agreement"].values()]
        if agreement:
            parts.append(f"pixels of the same class as {OURS}: at least {min(agreement):.2%}")
    if results["start"]:
        rows = [
            (
                row["engine"],
                _times(row["seconds_to_first_class_map"], 2),
                f"{row['peak_mib']['median']:.0f}",
            )
            for row in results["start"]
        ]
        parts.append("\n" + table(("fresh process", "seconds to the first class map", "peak MiB"), rows))
    if results["folder"]:
        rows = [(row["engine"], _times(row["pictures_per_second"], 1)) for row in results["folder"]]
        pictures = results["folder"][0]["pictures"]
        parts.append("\n" + table((f"{pictures} JPEG files -> class map files", "pictures a second"), rows))
    parts += [f"note: {note}" for note in results["notes"]]
    parts += [f"PROBLEM: {problem}" for problem in results["problems"]]
    return "\n".join(parts)


def _times(sample: dict[str, float] | None, digits: int = 1) -> str:
    if sample is None:
        return ""
    median, low, high, least = (f"{sample[key]:.{digits}f}" for key in ("median", "q1", "q3", "min"))
    return f"{median} ({low}-{high}, {least})"
