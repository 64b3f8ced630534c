"""The machine code of the kernels and of the loop that calls them: compiled by Numba once, then loaded from files without
Numba.

Importing Numba costs half a second and 60 MiB, its own cache needs it, and the kernels need neither: they take
addresses and call nothing of Python.  So the object code that Numba produced is kept, and `run/linking.py` puts it into
the memory of the process; what that does not know, LLVM's loader does (llvmlite, which Numba brings along).  Each
`Entry` is an object of its own, found, compiled and kept by itself: a program waits for the kernels of its own steps and
for no others, and what is made of one does not depend on the others.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_icnet.operators import KERNELS, USUAL_KERNELS
from sparse_icnet.run import code_files
from sparse_icnet.run.code_files import Entry
from sparse_icnet.run.linking import UnknownObjectError, link, link_by_llvm
from sparse_icnet.target import TARGET, target_cpu

_log = logging.getLogger("sparse_icnet")
# A fork waits until the compiler is done: in the middle of its work neither Numba nor LLVM can be used by a child.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)

RUN = Entry("run.loop", "run")
PACK = Entry("deflate_kernel", "pack", sources=("deflate_kernel.py", "deflate_symbols.py"))


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """The machine code of an entry in memory.

    address  where its function begins; content: the object file it is of
    engine   what keeps it in memory, None: it stays there by itself
    """

    address: int
    content: bytes
    engine: Any = None


_loaded: dict[Entry, Code] = {}
_functions: dict[Entry, Callable[..., int]] = {}


def entry_of(record: type) -> Entry:
    """That of the kernel which reads `record`."""
    module, _, function = KERNELS[record].partition(":")
    return Entry(f"operators.{module}", function, record.__name__)


def usual() -> list[Entry]:
    """The loop and the kernels that the bundled models and the usual options need, and what PNG files are packed by."""
    return [RUN, PACK, *(entry_of(record) for record in KERNELS if record in USUAL_KERNELS)]


def is_cached(entries: Iterable[Entry] | None = None) -> bool:
    """Whether no inference needs the compiler: the cache folders have the machine code for this CPU and these settings.

    entries  that are asked about; None: `usual`

    Reads the files (some 100 kB) and does not import Numba.  Raises ImportError if Numba is not installed.
    """
    return folder_of(entries) is not None


def folder_of(entries: Iterable[Entry] | None = None) -> Path | None:
    """The folder that has the machine code of the entries for other processes, the first of several; None: not all is kept.

    entries  as for `is_cached`
    """
    wanted = list(usual() if entries is None else entries)
    found = code_files.find(wanted, tell=False)
    return found[wanted[0]][0].parent if len(found) == len(set(wanted)) else None


def warm_up() -> Path | None:
    """Load the machine code of `usual`, compiling (5 to 60 s) what no cache folder has: inferences need not.

    Returns the folder that keeps it for other processes, None if none can.
    """
    load(usual())
    return folder_of()


def load(entries: Sequence[Entry], compiling: Callable[[], object] | None = None) -> list[Code]:
    """The machine code of the entries in the memory of this process, from cache folders or compiled and then kept.

    compiling  is called before, if any must be compiled
    """
    if any(entry not in _loaded for entry in entries):
        try:
            _lock.acquire()
            missing = [entry for entry in dict.fromkeys(entries) if entry not in _loaded]
            if missing:
                _loaded.update(_linked(_machine_codes(missing, compiling)))
        finally:
            # Behind an interrupted `acquire` only the lock knows whether it was taken.
            try:  # noqa: SIM105  (one instruction, so that no interruption comes before it)
                _lock.release()
            except RuntimeError:  # it was not
                pass
    return [_loaded[entry] for entry in entries]


def run_function() -> Callable[..., int]:
    """`run` as a Python callable of five integers; it holds no interpreter lock while it runs.

    The first call in a process loads the machine code, or compiles it where no cache folder has it.
    """
    return function_of(RUN)


def function_of(entry: Entry) -> Callable[..., int]:
    """As `run_function`, of any entry of no kernel; `address`, an attribute: where the compiled function begins."""
    if entry not in _functions:
        (code,) = load([entry])
        _functions.setdefault(entry, _callable(code))
    return _functions[entry]


def recompiled(entry: Entry) -> tuple[bytes, str]:
    """(object code, its assembly), compiled anew; in a process that has compiled nothing else always the same."""
    from sparse_icnet.run import compiler

    texts: list[str] = []
    return compiler.compiled(entry, texts.append).partition(b"\0")[2], texts[0]


def _machine_codes(
    entries: Sequence[Entry], compiling: Callable[[], object] | None = None
) -> dict[Entry, bytes]:
    """Of each entry the object code behind the name of its entry point and a zero byte.

    From a cache folder, or new and then kept there.
    """
    codes = {entry: code for entry, (_, code) in code_files.find(entries, tell=True).items()}
    order = {entry_of(record): number for number, record in enumerate(KERNELS)}
    missing = sorted(
        (entry for entry in entries if entry not in codes), key=lambda entry: order.get(entry, len(order))
    )
    if missing:
        # Imported where it is needed: processes and threads take 10 ms to import.
        from sparse_icnet.run.compiling import compile_all

        if compiling is not None:
            compiling()
        start = time.perf_counter()
        _log.info("compiling %s for %s (%s)", ", ".join(map(str, missing)), target_cpu(), TARGET.name)

        kept: dict[Entry, Path | None] = {}

        def take(entry: Entry, code: bytes) -> None:
            codes[entry] = code
            kept[entry] = code_files.keep(entry, code)

        compile_all(missing, take)
        _log.info("compiled in %.1f s", time.perf_counter() - start)
        for folder in set(filter(None, kept.values())):
            _log.info("compiled kernels kept in %s", folder)
        if not all(kept.values()):
            _log.warning("no folder can keep the compiled kernels: they will be compiled anew each time")
    return codes


def _linked(codes: Mapping[Entry, bytes]) -> dict[Entry, Code]:
    parts = {entry: code.partition(b"\0") for entry, code in codes.items()}
    objects = [(content, name.decode()) for name, _, content in parts.values()]
    try:
        places = [(address, None) for address in link(objects)]
    except (UnknownObjectError, OSError) as error:
        _log.info("compiled kernels are linked by LLVM: %s", error)
        places = [(address, engine) for engine, address in (link_by_llvm(*one) for one in objects)]
    return {
        entry: Code(address, content, engine)
        for (entry, (_, _, content)), (address, engine) in zip(parts.items(), places, strict=True)
    }


def _callable(code: Code) -> Callable[..., int]:
    # Numba's calling convention: status = f(&result, &exception, arguments...).
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int64,) * 5)
    entry = prototype(code.address)

    def call(control: int, ticket: int, steps: int, first: int, last: int) -> int:
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        status = entry(
            ctypes.addressof(result), ctypes.addressof(exception), control, ticket, steps, first, last
        )
        if status:
            raise RuntimeError(f"a kernel failed with status {status}")
        return result.value

    call.address = code.address  # type: ignore[attr-defined]
    call.code = code  # type: ignore[attr-defined]  # lives as long as the function
    return call
