"""Records: one frozen dataclass is what a plan writes for a kernel and whose attributes the kernel reads.

A field is an `int` (int64: a count, a flag, an address, a stride in bytes), a `float` (float32), a `Table`, or another
record, which lies inside.  `sparse_icnet.simd.record` makes the same class a type of Numba: a kernel reads
``step.offsets`` at the place where `written` has put it.  Does not import Numba.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Record = TypeVar("Record")

# What a record points to: an array, another record, several of one kind behind each other, or nothing.  The kernel reads
# its address, an int64; that of nothing is 0.
Table: TypeAlias = Annotated[Any, "address"]

_DTYPES: dict[type, np.dtype[np.void]] = {}


def record(cls: type[Record]) -> type[Record]:
    """Let the frozen dataclass `cls` be a record; its fields are laid out as C does.

    Raises TypeError for a field of another kind, or a second record of one name.
    """
    fields: list[tuple[str, Any]] = []
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if kind is int or kind == Table:
            fields.append((name, np.int64))
        elif kind is float:
            fields.append((name, np.float32))
        elif kind in _DTYPES:
            fields.append((name, _DTYPES[kind]))
        else:
            raise TypeError(f"{cls.__name__}.{name}: expected int, float, Table or a record, found {kind}")
    if cls.__name__ in (other.__name__ for other in _DTYPES):
        raise TypeError(f"a record {cls.__name__} exists already")
    _DTYPES[cls] = np.dtype(fields, align=True)
    return cls


def dtype_of(cls: type) -> np.dtype[np.void]:
    """How a record lies in memory."""
    return _DTYPES[cls]


@cache
def member(cls: type, name: str) -> tuple[int, type]:
    """(byte offset, kind) of a field; the kind is int, float or a record."""
    kind = typing.get_type_hints(cls, include_extras=True)[name]
    fields = _DTYPES[cls].fields
    assert fields is not None
    return int(fields[name][1]), int if kind == Table else kind


def written(value: Any, put: Callable[[NDArray[Any]], int]) -> NDArray[np.void]:
    """The record as an array of shape (1,), whose address a kernel takes.

    put  keeps an array that a kernel reads and gives its address
    """
    rows = np.zeros(1, dtype_of(type(value)))
    _write(rows[0], value, put)
    return rows


@cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _write(row: np.void, value: Any, put: Callable[[NDArray[Any]], int]) -> None:
    kind: type = type(value)
    for name in _names(kind):
        part = getattr(value, name)
        if type(part) is int:
            row[name] = part
        elif isinstance(part, np.ndarray):
            row[name] = put(part)
        elif type(part) in _DTYPES:
            if row[name].dtype == np.int64:
                row[name] = put(written(part, put))
            else:
                _write(row[name], part, put)
        elif isinstance(part, Sequence):
            rows = np.zeros(len(part), dtype_of(type(part[0])))  # gaps between fields are zeros
            for one, of_one in zip(part, rows, strict=True):
                _write(of_one, one, put)
            row[name] = put(rows)
        else:
            row[name] = 0 if part is None else part


def tables(value: Any) -> dict[str, NDArray[Any]]:
    """The arrays that a record points to, those of records inside and behind it included, by dotted name."""
    found: dict[str, NDArray[Any]] = {}
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if isinstance(part, np.ndarray):
            found[field.name] = part
        elif isinstance(part, Sequence):
            for i, one in enumerate(part):
                found |= {f"{field.name}[{i}].{name}": array for name, array in tables(one).items()}
        elif type(part) in _DTYPES:
            found |= {f"{field.name}.{name}": array for name, array in tables(part).items()}
    return found
