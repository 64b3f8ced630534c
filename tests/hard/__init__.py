"""Hard use: the engine and its commands where time is long, signals come at random, disks are full and files are damaged.

    python -m tests.hard --record bench/results/reliability   every campaign at full length, an hour and a half
    python -m tests.hard endurance --seconds 600              one of them, as long as is said
    python -m tests.hard --quick                              all, a minute altogether; what the tests run

    endurance   inference without end: the same bits, flat memory, no thread or descriptor lost (`endurance`)
    signals     Ctrl-C and SIGTERM at random moments of commands, pools and of inferences in a loop (`signals`)
    disks       full disks at every size, closed and full streams, read-only and missing folders (`disks`)
    caches      damaged, foreign and contested files of machine code (`caches`)
    limits      little address space, small stacks, few threads, descriptors and processes (`limits`)

Each campaign counts what it tried and lists what it found (`record`): a fault is whatever a user would call one, and the
exit code is then 1.  Everything random comes from the seed.  Needs a POSIX system; what the system cannot do is
counted as left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
if str(HELPERS) not in sys.path:  # for `networks`, as pytest does
    sys.path.insert(0, str(HELPERS))
