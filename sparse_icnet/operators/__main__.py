"""`python -m sparse_icnet.operators`: the registry of kernels; with --json those of convolutions alone."""

from __future__ import annotations

import argparse
import json

from sparse_icnet.operators.registry import entries, lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sparse_icnet.operators", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the kernels of convolutions as JSON")
    if parser.parse_args().json:
        print(json.dumps([entry.to_dict() for entry in entries()], indent=2))
    else:
        print("\n".join(lines()))


if __name__ == "__main__":
    main()
