"""The command line of the campaigns; `python -m tests.hard --help`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from . import __doc__ as description

CAMPAIGNS = ("endurance", "signals", "disks", "caches", "limits")
# Arguments of `run` beside the seed: at full length, and so that all take a minute.
FULL = {
    "endurance": {"seconds": 1800.0},
    "signals": {"interrupts": 500, "terminations": 100},
    "disks": {"count": 40},
    "caches": {"count": 3000, "at_once": 4},
    "limits": {"count": 20},
}
QUICK = {
    "endurance": {"seconds": 3.0, "size": (192, 192), "every": 0.5},
    "signals": {"interrupts": 20, "terminations": 5, "scheduler": False},
    "disks": {"count": 2, "commands": 1},
    "caches": {"count": 300, "at_once": 0},
    "limits": {"count": 2},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.hard", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("campaigns", nargs="*", choices=[*CAMPAIGNS, []], metavar="CAMPAIGN", help="default: all")
    add("--seed", type=int, default=0, metavar="S", help="default 0")
    add("--quick", action="store_true", help="a minute altogether")
    add("--seconds", type=float, metavar="T", help="of endurance, instead of 1800")
    add("--record", type=Path, metavar="FOLDER", help="write FOLDER/CAMPAIGN.json")
    options = parser.parse_args()
    faults = 0
    for name in options.campaigns or CAMPAIGNS:
        settings = dict((QUICK if options.quick else FULL)[name])
        if name == "endurance" and options.seconds:
            settings["seconds"] = options.seconds
        record = importlib.import_module(f"tests.hard.{name}").run(seed=options.seed, **settings)
        print(record.text(), flush=True)
        if options.record:
            print(f"  -> {record.write(options.record)}", flush=True)
        faults += len(record.faults)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
