"""What a campaign counts and finds, and the file that keeps it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from sparse_icnet.files import replacing
from sparse_icnet.target import TARGET

from . import ROOT

_PACKAGES = ("sparse-icnet", "numpy", "numba", "llvmlite", "pillow", "av", "distributed")


@dataclass
class Record:
    """Of one campaign.

    counts   what was tried and what came of it -> how often
    figures  measured
    faults   one line each
    """

    campaign: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    def fault(self, text: str) -> None:
        """Something a user would call a fault."""
        self.faults.append(" ".join(text.split())[:600])
        print(f"{self.campaign}: FAULT: {self.faults[-1]}", flush=True)

    def check(self, good: bool, what: str, text: str) -> None:
        """Count `what`; a fault with `text` if it is not `good`."""
        self.counts[what] += 1
        if not good:
            self.fault(f"{what}: {text}")

    def values(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "campaign": self.campaign,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "seed": self.seed,
            "seconds": round(time.monotonic() - self._start, 1),
            "machine": machine(),
            "counts": dict(sorted(self.counts.items())),
            "figures": self.figures,
            "left_out": self.left_out,
            "faults": self.faults,
        }

    def write(self, folder: Path) -> Path:
        """Into FOLDER/CAMPAIGN.json, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.campaign}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.values(), indent=1) + "\n", "utf-8")
        return path

    def text(self) -> str:
        """A few lines for people."""
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        left_out = f"\n  left out: {'; '.join(self.left_out)}" if self.left_out else ""
        return f"{self.campaign}: {len(self.faults)} faults in {time.monotonic() - self._start:.0f} s: {counts}{left_out}"


def machine() -> dict[str, Any]:
    """CPU, the code path that runs on it, system, versions, commit."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
        cpu = names[0].strip() if names else cpu
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "target": TARGET.name,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
