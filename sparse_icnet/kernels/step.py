"""How kernels read the fields of a step (`sparse_icnet.kernels.fields`).

Intrinsics and not functions inlined by Numba: they are read some 250 times, and each copy would cost compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _load(builder: ir.IRBuilder, step: ir.Value, index: ir.Value) -> ir.Value:
    base = builder.inttoptr(step, ir.PointerType(_I64))
    return builder.load(builder.gep(base, [index]), align=1)


def _reader(kind: types.Type, convert: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Any:
    @intrinsic
    def field(typing, step, index):
        def emit(context, builder, signature, arguments):
            return convert(builder, _load(builder, *arguments))

        return kind(types.intp, types.intp), emit

    return field


# field(step, index): int64 field of the step at address `step`
field = _reader(types.int64, lambda builder, value: value)
# field_f32(step, index): the same, its low 32 bits taken as a float32
field_f32 = _reader(
    types.float32, lambda builder, value: builder.bitcast(builder.trunc(value, _I32), ir.FloatType())
)
