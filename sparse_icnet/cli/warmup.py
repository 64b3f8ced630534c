"""`sparse-icnet warmup`: compile the kernels ahead, for images of containers and first commands that must not wait."""

from __future__ import annotations

import argparse
import time

from sparse_icnet.bundled import resolve, short_name
from sparse_icnet.cli.terminal import say
from sparse_icnet.loading import keep_plan
from sparse_icnet.operators import KERNELS
from sparse_icnet.private_files import cache_folders, keeper
from sparse_icnet.run import machine_code
from sparse_icnet.run.tracing import RUN_TRACED

DONE = 0


def _nowhere() -> OSError:
    folders = ", ".join(map(str, cache_folders())) or "none"
    return OSError(
        "expected a folder that can keep the machine code for other processes, found none: it must belong to you, and "
        f"others must not be able to write into it ({folders}); NUMBA_CACHE_DIR names another"
    )


def run(arguments: argparse.Namespace) -> int:
    # All there are: also what models with rare operations, `profile` and --trace need.
    entries = [machine_code.RUN, machine_code.PACK, *map(machine_code.entry_of, KERNELS), RUN_TRACED]
    cached = machine_code.is_cached(entries)
    if not cached and keeper() is None:
        raise _nowhere()
    if not (cached or arguments.quiet):
        say("compiling the kernels for this CPU: 5 to 60 s ...")
    start = time.perf_counter()
    machine_code.load(entries)
    seconds = time.perf_counter() - start
    kept = machine_code.folder_of(entries)
    if kept is None:  # not any more: a disk that became full
        raise _nowhere()
    if not arguments.quiet:
        say(f"the kernels for this CPU {'are there' if cached else f'took {seconds:.0f} s'}: {kept}")
    if arguments.model is not None:
        plan = keep_plan(
            arguments.model, arguments.size, arguments.threads, arguments.model_output, arguments.bgr
        )
        if not arguments.quiet:
            say(f"the plan of {short_name(resolve(arguments.model))}: {plan}")
    return DONE
