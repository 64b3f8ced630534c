"""Records: one frozen class is what a plan writes for a kernel and whose attributes the kernel reads.

A field is an `int` (int64: a count, a flag, an address, a stride in bytes), a `float` (float32), a `Table`, or another
record, which lies inside.  `sparse_icnet.simd.record` makes the same class a type of Numba: a kernel reads
``step.offsets`` at the place where `written` has put it.  Does not import Numba.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


Record = TypeVar("Record")

# What a record points to: an array, another record, several of one kind behind each other, or nothing.  The kernel reads
# its address, an int64; that of nothing is 0.
Table: TypeAlias = Annotated[Any, "address"]

_DTYPES: dict[type, np.dtype[np.void]] = {}
_KINDS: dict[type, dict[str, Any]] = {}


@dataclass_transform(frozen_default=True)
def record(cls: type[Record]) -> type[Record]:
    """A record of the annotated fields of `cls`, which are laid out as C does; values of all of them make one.

    It is what `dataclasses.dataclass(frozen=True, slots=True)` makes, without compiling functions for each class: every
    process that runs a plan makes all of the thirty records.

    Raises TypeError for a field of another kind, or a second record of one name.
    """
    kinds = {name: _kind(cls, name, kind) for name, kind in cls.__annotations__.items()}
    if cls.__name__ in (other.__name__ for other in _DTYPES):
        raise TypeError(f"a record {cls.__name__} exists already")
    names = tuple(kinds)
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    body |= {"__slots__": names, "__match_args__": names, "__qualname__": cls.__qualname__}
    made: type[Record] = type(cls.__name__, (_Record,), body)
    _KINDS[made] = kinds
    formats = {int: np.int64, Table: np.int64, float: np.float32}
    _DTYPES[made] = np.dtype(
        [(name, formats[kind] if kind in formats else _DTYPES[kind]) for name, kind in kinds.items()],
        align=True,
    )
    return made


def _kind(cls: type, name: str, kind: Any) -> Any:
    """int, float, Table, or a record: what the annotation of a field means."""
    if isinstance(kind, str):
        kind = vars(sys.modules[cls.__module__]).get(kind, getattr(builtins, kind, kind))
    if kind not in (int, float, Table) and not (isinstance(kind, type) and kind in _DTYPES):
        raise TypeError(f"{cls.__name__}.{name}: expected int, float, Table or a record, found {kind}")
    return kind


class _Record:
    """What all records have in common."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        if named or len(values) != len(names):
            values = _all_values(type(self).__name__, names, values, named)
        for name, value in zip(names, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__match_args__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__match_args__))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__qualname__}({fields})"


def _all_values(
    what: str, names: Sequence[str], values: Sequence[Any], named: dict[str, Any]
) -> tuple[Any, ...]:
    """The values of all fields in their order; TypeError unless each is given once."""
    given = dict(zip(names, values, strict=False))
    if len(values) > len(names) or named.keys() & given.keys() or (given | named).keys() != set(names):
        found = [*(f"{len(values)} in order" for _ in values[:1]), *named]
        raise TypeError(
            f"{what}: expected each of {', '.join(names)} once, found {', '.join(found) or 'none'}"
        )
    given |= named
    return tuple(given[name] for name in names)


def dtype_of(cls: type) -> np.dtype[np.void]:
    """How a record lies in memory."""
    return _DTYPES[cls]


def kinds_of(cls: type) -> Mapping[str, Any]:
    """The fields of a record: each int, float, Table or a record."""
    return _KINDS[cls]


def dtype_named(name: str) -> np.dtype[np.void]:
    """How the record of this name lies in memory; KeyError for a name that none has."""
    return {cls.__name__: dtype for cls, dtype in _DTYPES.items()}[name]


def name_of(dtype: np.dtype[Any]) -> str:
    """The name of a record that lies in memory so; KeyError if none does."""
    return {known: cls.__name__ for cls, known in _DTYPES.items()}[dtype]


@cache
def member(cls: type, name: str) -> tuple[int, type]:
    """(byte offset, kind) of a field; the kind is int, float or a record."""
    kind = _KINDS[cls][name]
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


def _write(row: np.void, value: Any, put: Callable[[NDArray[Any]], int]) -> None:
    kind: type = type(value)
    for name in _KINDS[kind]:
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
    for field in _KINDS[type(value)]:
        part = getattr(value, field)
        if isinstance(part, np.ndarray):
            found[field] = part
        elif isinstance(part, Sequence):
            for i, one in enumerate(part):
                found |= {f"{field}[{i}].{name}": array for name, array in tables(one).items()}
        elif type(part) in _DTYPES:
            found |= {f"{field}.{name}": array for name, array in tables(part).items()}
    return found
