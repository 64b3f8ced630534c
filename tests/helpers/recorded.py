"""Recorded results of long runs, `bench/results/reliability/*.json`: where, when and of which source they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "bench") not in sys.path:
    sys.path.insert(0, str(ROOT / "bench"))

from _common import machine, now, write_json  # noqa: E402  (found behind the line above)

__all__ = ["ROOT", "commit", "header", "now", "write_json"]


def commit() -> str:
    """The commit of this checkout; "+" behind it where tracked files differ from it; "unknown" without git."""
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + "+" * bool(changes)


def header(command: str) -> dict[str, Any]:
    """What begins every result file: the command that makes it, date, commit, machine and versions."""
    return {"command": command, "date": now(), "commit": commit(), "machine": machine()}
