"""Structure-aware fuzzing of the three readers: native .npz, OpenVINO IR, ONNX.

    python -m tests.fuzz --count 20000 --seed 7            all readers, 20,000 files each
    python -m tests.fuzz --readers ir --count 500          one reader
    python -m tests.fuzz --record FILE --count 70000       the same, kept in a file every minute, on two code paths
    python -m tests.fuzz --replay failures/onnx-7-123.onnx what becomes of a kept file
    python -m tests.fuzz --readers npz --seed 7 --only 123 one file of a campaign again

Each file is a small valid model with one to four changes: attributes, ranges, integers, sizes, names, edges, array values,
headers, members of the archive, plain bytes (`mutate_npz`, `mutate_ir`, `mutate_onnx`).  File number i of a seed is always
the same.  What may become of it (`check`):

    refused   load() raises FormatError, one line that names the file, without a warning
    equal     the engine's output and every tensor equal the oracle's; every eighth file on two threads
    large     it loads and runs, but its maps are too large for the oracle to follow (counted, not compared)

Anything else is a fault: another exception, a warning at load, other bits, a crash, more memory or time than what a file
holds explains (`check`).
Files are checked in processes of their own, each with a limit on its address space and watched by a clock
(`campaign`); a file that kills or hangs its process is known by its number.  Files with faults are kept in a folder.

A campaign needs the package onnx for the reader of ONNX, and a POSIX system for the limit on memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HELPERS = str(Path(__file__).resolve().parents[1] / "helpers")
if _HELPERS not in sys.path:  # for make_ir, as pytest does
    sys.path.insert(0, _HELPERS)
