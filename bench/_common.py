"""What the benchmarks share: the machine, the spread of a sample, tables and result files."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sparse_icnet.files import replacing
from sparse_icnet.network.graph import Size
from sparse_icnet.study.isa import ISA_ENVIRONMENT as NUMBA_ENVIRONMENT

# The features that decide which dot product an engine uses, as /proc/cpuinfo spells them.
FEATURES = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)
PACKAGES = ("sparse-icnet", "numpy", "numba", "llvmlite", "openvino", "onnxruntime", "nncf")
# What makes the engines take the CPU for one of another class: Numba's variables and oneDNN's, for OpenVINO.
_ONEDNN = {"avx512bw": "AVX512_CORE", "avx2": "AVX2", "generic": "SSE41"}
ISA_ENVIRONMENT = {
    isa: {**numba, **({"ONEDNN_MAX_CPU_ISA": _ONEDNN[isa]} if isa in _ONEDNN else {})}
    for isa, numba in NUMBA_ENVIRONMENT.items()
}


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """CPU model and features, CPUs, memory in bytes, operating system, versions of Python and packages."""
    info: dict[str, str] = {}
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip(), value.strip())
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "features": [name for name in FEATURES if name in flags],
        "cpus": cpus(),
        "memory_bytes": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    if package == "sparse-icnet":
        import sparse_icnet

        return sparse_icnet.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(machine: dict[str, Any]) -> str:
    """Two lines that name the machine and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']} ({machine['cpus']} CPUs; {' '.join(machine['features'])}), {machine['system']}\n"
        f"Python {machine['python']}, {versions}"
    )


def size_argument(text: str) -> Size:
    """'768x960' -> (768, 960), for argparse."""
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 768x960, found {text!r}")
    return int(height), int(width)


def now() -> str:
    """Date and time, UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def summary(values: Iterable[float]) -> dict[str, float]:
    """Median, quartiles, minimum and number of a sample."""
    sample = np.array(list(values), float)
    low, median, high = np.percentile(sample, (25, 50, 75))
    rounded = {"median": median, "q1": low, "q3": high, "min": sample.min()}
    return {key: round(float(value), 4) for key, value in rounded.items()} | {"runs": sample.size}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    lines = [tuple(map(str, line)) for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write `results`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")


def exit_code(main: Callable[[], int]) -> int:
    """What `main` returns; 2 and one line on stderr where a file or a package is missing or wrong."""
    try:
        return main()
    except (OSError, ValueError, ImportError) as error:
        say(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}")
        return 2


def say(text: str) -> None:
    """A line on what is being done, for whoever waits: on stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)
