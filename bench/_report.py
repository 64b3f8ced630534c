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
    mark = f"[{results['date'][:10]}, {results['machine']['cpu']}, isa {results['isa']}]"
    quiet = [row for row in results["latency"] if not row.get("busy")]
    loaded = [row for row in results["latency"] if row.get("busy")]
    for rows in filter(None, (quiet, loaded)):
        parts.append("\n" + _latency(rows, mark))
    agreement = [share for row in results["latency"] for share in row["agreement"].values()]
    if agreement:
        parts.append(f"pixels of the same class as {OURS}: at least {min(agreement):.2%}")
    if results["start"]:
        lines = [
            (
                row["model"],
                row["engine"],
                _times(row["seconds_to_first_class_map"], 2),
                f"{row['peak_mib']['median']:.0f}",
            )
            for row in results["start"]
        ]
        header = (f"fresh process {mark}", "", "seconds to the first class map", "peak MiB")
        parts.append("\n" + table(header, lines))
    if results["folder"]:
        lines = [
            (
                row["model"],
                f"{row['save']} {row['drawn']}",
                row["engine"],
                _times(row["pictures_per_second"], 1),
                "" if row["behind_the_start"] is None else f"{row['behind_the_start']:.1f}",
                _bound(row),
            )
            for row in results["folder"]
        ]
        pictures = results["folder"][0]["pictures"]
        header = (
            f"{pictures} JPEG files -> files {mark}",
            "",
            "",
            "pictures a second, start included",
            "behind the start",
            "if no core ever waited",
        )
        parts.append("\n" + table(header, lines))
    parts += [f"note: {note}" for note in results["notes"]]
    parts += [f"PROBLEM: {problem}" for problem in results["problems"]]
    return "\n".join(parts)


def _latency(latency: list[dict[str, Any]], mark: str) -> str:
    """A table of times; where processes are busy beside them, with their number."""
    engines = list(dict.fromkeys(engine for row in latency for engine in row["ms"]))
    peers = [engine for engine in engines if engine != OURS]
    busy = any(row.get("busy") for row in latency)
    header = [f"milliseconds: median (quartiles, fastest) {mark}", "size", "threads"]
    header += ["busy beside"] * busy + engines
    header += [f"{peer} / {OURS}" for peer in peers] + ["ms/megapixel"]
    rows, model = [], None
    for row in latency:
        if row["model"] != model:
            model = row["model"]
            rows.append([model])
        ours = row["ms"].get(OURS)
        megapixels = row["size"][0] * row["size"][1] / 1e6
        rows.append(
            [f"  {CASES[row['case']]}", "x".join(map(str, row["size"])), row["threads"]]
            + [row.get("busy", 0)] * busy
            + [_times(row["ms"].get(engine)) for engine in engines]
            + [f"{row['ratio'][peer]:.2f}" if peer in row["ratio"] else "" for peer in peers]
            + [f"{ours['median'] / megapixels:.1f}" if ours else ""]
        )
    return table(header, [line + [""] * (len(header) - len(line)) for line in rows])


def _bound(row: dict[str, Any]) -> str:
    bound = row.get("bound")
    if not bound:
        return ""
    most = bound["pictures_per_second"]
    share = row["share_of_bound"]
    return f"{most:.1f}" + ("" if share is None else f", of which {share:.0%}")


def _times(sample: dict[str, float] | None, digits: int = 1) -> str:
    if sample is None:
        return ""
    median, low, high, least = (f"{sample[key]:.{digits}f}" for key in ("median", "q1", "q3", "min"))
    return f"{median} ({low}-{high}, {least})"
