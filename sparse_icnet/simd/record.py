"""The records of a plan (`sparse_icnet.operators.record`) as types of Numba: a kernel reads ``step.offsets``.

A record is its address; a record inside another is the address of its first byte, so functions that take one are compiled
once, whatever holds it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model

from sparse_icnet.operators.record import dtype_of, member
from sparse_icnet.simd import llvm


class RecordType(types.Type):
    """The address of a record."""

    def __init__(self, record: type) -> None:
        self.record = record
        super().__init__(record.__name__)

    def attribute(self, name: str) -> types.Type:
        """The type of a field to a kernel: int64 (of a Table its address), float32, or the type of a record inside."""
        _, kind = member(self.record, name)
        return types.int64 if kind is int else types.float32 if kind is float else RecordType(kind)


@register_model(RecordType)
class _RecordModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: RecordType) -> None:
        super().__init__(manager, fe_type, llvm.I64)


@infer_getattr
class _Attributes(AttributeTemplate):
    key = RecordType

    def generic_resolve(self, record: RecordType, name: str) -> types.Type | None:
        return record.attribute(name) if name in (dtype_of(record.record).names or ()) else None


@lower_getattr_generic(RecordType)
def _read(context: Any, builder: ir.IRBuilder, record: RecordType, value: ir.Value, name: str) -> ir.Value:
    offset, kind = member(record.record, name)
    if kind not in (int, float):
        return builder.add(value, ir.Constant(llvm.I64, offset))
    return builder.load(llvm.pointer(builder, value, llvm.F32 if kind is float else llvm.I64, offset))


def at(record: type) -> Any:
    """at(Record)(address): the record at an address."""
    kind = RecordType(record)

    @intrinsic
    def cast(typing, address):
        def emit(context, builder, signature, arguments):
            return arguments[0]

        return kind(types.intp), emit

    return cast
