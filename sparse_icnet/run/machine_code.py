"""The machine code of `sparse_icnet.run.loop.run`, and of a few functions for those who study it: compiled by Numba once,
then loaded from a file without Numba.

Importing Numba costs half a second and 60 MiB, its own cache needs it, and the kernels need neither: they take
addresses and call nothing of Python.  So the object code that Numba produced is kept, and `run/linking.py` puts it into
the memory of the process; what that does not know, LLVM's loader does (llvmlite, which Numba brings along).  Each
`Entry` is an object of its own: what is made of one does not depend on the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite

from sparse_icnet import private_files
from sparse_icnet.host import host
from sparse_icnet.private_files import cache_folders
from sparse_icnet.run.linking import UnknownObjectError, link, link_by_llvm
from sparse_icnet.target import TARGET, target_cpu

_MAGIC = b"sparse-icnet machine code 1\n"
# Within the package.  Not found by imports: those of Numba would take longer than all else.
_SOURCES = (
    *(f"run/{name}.py" for name in ("control", "dispatch", "loop", "machine_code")),
    "operators/__init__.py",
    *(f"operators/{name}.py" for name in ("epilogue", "params", "record", "step")),
    *(f"operators/*/{name}.py" for name in ("params", "*kernel", "transforms")),
    "simd/*.py",
    "floats.py",
    "target.py",
    "network/arithmetic.py",
    "sparse/winograd.py",
)
_MAX_BYTES = 1 << 24  # of a file
_ARGUMENTS = 5
_log = logging.getLogger("sparse_icnet")
_log.addHandler(logging.NullHandler())  # no handler: Python would print warnings on stderr
# A fork waits until the compiler is done: in the middle of its work neither Numba nor LLVM can be used by a child.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_loaded: dict[Entry, Callable[..., int]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A function of five int64 that returns one, to be compiled.

    module    of this package, such as "run.loop"; function: its name there
    sources   that decide its machine code beside those of the kernels, within the package
    """

    module: str
    function: str
    sources: tuple[str, ...] = ()


RUN = Entry("run.loop", "run")
RARE = Entry("run.rare_loop", "run_rare", ("run/rare_loop.py",))


def is_cached() -> bool:
    """Whether the first inference needs no compiler: a cache folder has the machine code for this CPU and these settings.

    Reads the file (some 100 kB) and does not import Numba.  Raises ImportError if Numba is not installed.
    """
    return _find(RUN, tell=False) is not None


def warm_up() -> Path | None:
    """Load the machine code, compiling it (15 to 60 s) if no cache folder has it: inferences that follow need not.

    Returns the file that keeps it for other processes, None if no cache folder can.
    """
    run_function()
    found = _find(RUN, tell=False)
    return found[0] if found else None


def run_function() -> Callable[..., int]:
    """`run` as a Python callable of five integers; it holds no interpreter lock while it runs.

    The first call in a process loads the machine code, or compiles it where no cache folder has it.
    """
    return function_of(RUN)


def function_of(entry: Entry) -> Callable[..., int]:
    """As `run_function`, of any entry; `address`, an attribute: where the compiled function begins, `code`: the object."""
    if entry not in _loaded:
        try:
            _lock.acquire()
            if entry not in _loaded:
                _loaded[entry] = _callable(_machine_code(entry))
        finally:
            # Behind an interrupted `acquire` only the lock knows whether it was taken.
            try:  # noqa: SIM105  (one instruction, so that no interruption comes before it)
                _lock.release()
            except RuntimeError:  # it was not
                pass
    return _loaded[entry]


def recompiled(entry: Entry) -> tuple[bytes, str]:
    """(object code, its assembly), compiled anew; in a process that has compiled nothing else always the same."""
    texts: list[str] = []
    return _compile(entry, texts.append).partition(b"\0")[2], texts[0]


def _machine_code(entry: Entry = RUN) -> bytes:
    """Object code behind the name of its entry point and a zero byte: from a cache folder, or new and then kept."""
    found = _find(entry, tell=True)
    if found:
        return found[1]
    start = time.perf_counter()
    what = "the kernels" if entry == RUN else entry.function
    _log.info("compiling %s for %s (%s)", what, target_cpu(), TARGET.name)
    code = _compile(entry)
    _log.info("compiled in %.1f s", time.perf_counter() - start)
    _keep(entry, code)
    return code


def _find(entry: Entry, tell: bool) -> tuple[Path, bytes] | None:
    """The first whole file of machine code in the cache folders, and what it holds.

    tell  the log which one, and what is wrong with others
    """
    name = _file_name(entry)
    for folder in cache_folders():
        code = _read(folder / name, _log.info if tell else _silent)
        if code is not None:
            return folder / name, code
    return None


def _silent(*_: object) -> None:
    """For what was told already, or will be."""


def _keep(entry: Entry, code: bytes) -> None:
    """Write the machine code into the first cache folder that takes it; none is no error, but slow from then on."""
    name = _file_name(entry)
    for folder in cache_folders():
        if _write(folder / name, code):
            return
    _log.warning("no folder can keep the compiled kernels: they will be compiled anew each time")


def _file_name(entry: Entry) -> str:
    return f"{entry.function}-{_key(entry)}.o"


def sources(entry: Entry = RUN) -> list[Path]:
    """The files of this package that decide the machine code: the kernels and all that they import."""
    package = Path(__file__).parent.parent
    return [path for pattern in (*_SOURCES, *entry.sources) for path in sorted(package.glob(pattern))]


def _key(entry: Entry = RUN) -> str:
    """Digest of all that decides the machine code: the sources, the compiler, its settings, the CPU."""
    digest = hashlib.sha256()
    for path in sources(entry):
        digest.update(path.read_bytes())
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:  # Numba then takes those of the host, whatever CPU is named
        features = host().flattened()
    settings = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name not in ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT")
    )
    facts = (
        _numba_version(),
        llvmlite.__version__,
        platform.machine(),
        sys.platform,
        TARGET.name,
        target_cpu(),
        features,
        settings,
    )
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:24]


def _numba_version() -> str:
    """What the installed Numba calls itself, without importing it, nor a parser of metadata (30 ms)."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        raise ImportError("numba is missing: pip install numba")
    return (Path(spec.origin).parent / "_version.py").read_text(encoding="utf-8")


def _read(path: Path, tell: Callable[..., None]) -> bytes | None:
    """The machine code in a file, None if there is no whole one or somebody else may have written it."""
    try:
        content = private_files.read(path, _MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        tell("compiled kernels not loaded: %s", error)
        return None
    body = private_files.unsealed(_MAGIC, content)
    if body is None:
        tell("compiled kernels not loaded: %s: damaged", path)
    else:
        tell("compiled kernels loaded from %s", path)
    return body


def _write(path: Path, code: bytes) -> bool:
    """Whether the machine code could be kept there; a read-only folder is no error."""
    try:
        private_files.write(path, private_files.sealed(_MAGIC, code))
    except OSError as error:
        _log.info("compiled kernels not kept: %s", error)
        return False
    _log.info("compiled kernels kept in %s", path)
    return True


def _compile(entry: Entry = RUN, tell: Callable[[str], object] | None = None) -> bytes:
    """The machine code, new; `tell` gets its assembly."""
    from numba import types
    from numba.core import compiler, config
    from numba.core.registry import cpu_target

    flags = compiler.Flags()
    # No entry for the interpreter and no reference counting: the object then needs nothing of Python or Numba.
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.nrt = False
    # The division of an integer by 0 gives 0, as with `jit`: a kernel that raised would leave an inference open.
    flags.error_model = "numpy"
    codegen = cpu_target.target_context.codegen()
    # NUMBA_DISABLE_JIT asks for Python in place of compiled functions, which kernels over vectors cannot be.
    disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        function = getattr(import_module(f"sparse_icnet.{entry.module}"), entry.function)
        with _linking_only(codegen):
            result = compiler.compile_extra(
                cpu_target.typing_context,
                cpu_target.target_context,
                function.py_func,
                (types.int64,) * _ARGUMENTS,
                types.int64,
                flags,
                {},
            )
    finally:
        config.DISABLE_JIT = disabled
    code: bytes = result.fndesc.llvm_func_name.encode() + b"\0" + result.library.machine_code(tell)
    return code


@contextlib.contextmanager
def _linking_only(codegen: Any) -> Iterator[None]:
    """Numba optimizes and assembles every function that another calls, though all are linked into that other in the end.

    Meanwhile they are linked as they are: a third less time for the whole.
    """
    from numba.core.codegen import JITCodeLibrary

    class Library(JITCodeLibrary):  # type: ignore[misc]  # of a package without types
        def finalize(self) -> None:
            for library in dict.fromkeys(self._linking_libraries):
                self._final_module.link_in(library._get_module_for_linking(), preserve=True)
            self._finalized = True

        def get_pointer_to_function(self, name: str) -> int:
            self._ensure_finalized()
            return 0  # nobody calls it from Python

        def machine_code(self, tell: Callable[[str], object] | None) -> bytes:
            self._ensure_finalized()
            self._optimize_final_module()
            self._final_module.verify()
            if tell:  # of a copy: emitting changes a module
                tell(self._codegen._tm.emit_assembly(self._final_module.clone()))
            code: bytes = self._codegen._tm.emit_object(self._final_module)
            return code

    usual, codegen._library_class = codegen._library_class, Library
    codegen.set_env = lambda *_: None  # of functions called from Python, in the code that is not made
    try:
        yield
    finally:
        codegen._library_class = usual
        del codegen.set_env


def _callable(machine_code: bytes) -> Callable[..., int]:
    name, _, code = machine_code.partition(b"\0")
    try:
        engine, address = None, link(code, name.decode())
    except (UnknownObjectError, OSError) as error:
        _log.info("compiled kernels are linked by LLVM: %s", error)
        engine, address = link_by_llvm(code, name.decode())
    # Numba's calling convention: status = f(&result, &exception, arguments...).
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int64,) * _ARGUMENTS
    )
    entry = prototype(address)

    def call(control: int, ticket: int, steps: int, first: int, last: int) -> int:
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        status = entry(
            ctypes.addressof(result), ctypes.addressof(exception), control, ticket, steps, first, last
        )
        if status:
            raise RuntimeError(f"a kernel failed with status {status}")
        return result.value

    call.code = code  # type: ignore[attr-defined]
    call.engine = engine  # type: ignore[attr-defined]  # the code lives as long as the function
    call.address = address  # type: ignore[attr-defined]
    return call
