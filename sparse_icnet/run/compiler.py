"""Numba as a compiler of object files: an `Entry` -> the object code of its function and of all that it calls.

Imports Numba when the first one is compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from sparse_icnet.operators import KERNELS
from sparse_icnet.run.code_files import Entry

_ARGUMENTS = 5  # of a function that is no kernel


def compiled(entry: Entry, tell: Callable[[str], object] | None = None) -> bytes:
    """Object code behind the name of its entry point and a zero byte, new; `tell` gets its assembly."""
    from numba.core import compiler, config
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    flags = compiler.Flags()
    # No entry for the interpreter and no reference counting: the object then needs nothing of Python or Numba.
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.nrt = False
    # The division of an integer by 0 gives 0, as with `jit`: a kernel that raised would leave an inference open.
    flags.error_model = "numpy"
    codegen = cpu_target.target_context.codegen()
    # The settings below are those of all Numba: no other thread compiles meanwhile.
    with global_compiler_lock, _linking_only(codegen), _numbered():
        # NUMBA_DISABLE_JIT asks for Python in place of compiled functions, which kernels over vectors cannot be.
        disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
        try:
            function, arguments, result = _signature(entry)
            made = compiler.compile_extra(
                cpu_target.typing_context,
                cpu_target.target_context,
                function.py_func,
                arguments,
                result,
                flags,
                {},
            )
            code: bytes = made.library.machine_code(tell)
        finally:
            config.DISABLE_JIT = disabled
    name: str = made.fndesc.llvm_func_name
    return name.encode() + b"\0" + code


def _signature(entry: Entry) -> tuple[Any, tuple[Any, ...], Any]:
    """(the function, the types of its arguments, that of its result)."""
    from numba import types

    function = getattr(import_module(f"sparse_icnet.{entry.module}"), entry.function)
    if not entry.record:
        return function, (types.int64,) * _ARGUMENTS, types.int64
    from sparse_icnet.simd.record import RecordType

    (record,) = (kind for kind in KERNELS if kind.__name__ == entry.record)
    return function, (RecordType(record), types.int64, types.int64), types.none


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
            for variable in self._final_module.global_variables:
                if variable.name.startswith(
                    "_ZN08NumbaEnv"
                ):  # of functions called from Python: nobody reads it
                    variable.linkage = "internal"
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


@contextlib.contextmanager
def _numbered() -> Iterator[None]:
    """Numba numbers the functions that it compiles, and their symbols have the number: it would depend on what was before.

    Meanwhile a function has its number among those of its name, so that an object is the same whatever was compiled before.
    """
    from numba.core.bytecode import FunctionIdentity

    usual = FunctionIdentity.__dict__["from_function"]

    def from_function(cls: Any, function: Any) -> Any:
        identity = usual.__func__(cls, function)
        same = _compiled.setdefault((identity.modname, identity.func_qualname), [])
        if not any(one is identity.func for one in same):
            same.append(identity.func)
        identity.unique_id = next(i for i, one in enumerate(same, 1) if one is identity.func)
        identity.unique_name = f"{identity.func_qualname}${identity.unique_id}"
        return identity

    FunctionIdentity.from_function = classmethod(from_function)
    try:
        yield
    finally:
        FunctionIdentity.from_function = usual


_compiled: dict[
    tuple[str, str], list[Any]
] = {}  # functions by module and name, in the order of their compilation
