"""Records: the same fields for the plan that writes and the kernel that reads, and none forgotten."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from numba import TypingError, njit

from sparse_icnet.operators import KERNELS
from sparse_icnet.operators.record import Table, dtype_of, member, record, tables, written
from sparse_icnet.simd.record import at
from sparse_icnet.simd.scalars import get_i32


@record
class Inner:
    low: float
    count: int
    entries: Table


@record
class Outer:
    first: float
    inner: Inner
    behind: Table
    last: int


_as_outer, _as_inner = at(Outer), at(Inner)


@njit
def _read(address):
    outer = _as_outer(address)
    inner, behind = outer.inner, _as_inner(outer.behind)
    return (
        outer.first,
        inner.low,
        inner.count,
        get_i32(inner.entries + 4),
        outer.last,
        behind.count,
        behind.low,
    )


def keeper() -> tuple[list[np.ndarray], object]:
    kept: list[np.ndarray] = []

    def put(array: np.ndarray) -> int:
        kept.append(array.copy())
        return kept[-1].ctypes.data

    return kept, put


def test_a_kernel_reads_what_was_written():
    kept, put = keeper()
    outer = Outer(0.1, Inner(-2.5, 1 << 40, np.int32([7, 8])), Inner(3.0, -9, None), -1)
    row = written(outer, put)
    assert _read(row.ctypes.data) == (np.float32(0.1), -2.5, 1 << 40, 8, -1, -9, 3.0)
    assert row[0]["behind"] == kept[-1].ctypes.data
    assert kept[-1].dtype == dtype_of(Inner)


def test_several_records_lie_behind_each_other():
    kept, put = keeper()
    row = written(Outer(0.0, Inner(0.0, 0, None), [Inner(1.0, 10, None), Inner(2.0, 20, None)], 0), put)
    assert kept[-1]["count"].tolist() == [10, 20]
    assert row[0]["inner"]["entries"] == 0


def test_a_missing_or_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="last"):
        Outer(first=0.0, inner=Inner(0.0, 0, None), behind=None)
    with pytest.raises(TypeError, match="more"):
        Inner(low=0.0, count=1, entries=None, more=2)


@njit
def _read_missing(address):
    return _as_outer(address).missing


def test_a_kernel_cannot_read_what_is_no_field():
    with pytest.raises(TypingError, match="Unknown attribute 'missing'"):
        _read_missing(0)


def test_a_field_of_another_kind_is_no_record():
    with pytest.raises(
        TypeError, match=r"Wrong\.name: expected int, float, Table or a record, found <class 'str'>"
    ):

        @record
        class Wrong:
            name: str


def test_a_record_takes_each_field_once():
    one, other = Inner(1.0, 2, None), Inner(entries=None, low=1.0, count=2)
    assert one == other == Inner(1.0, 2, entries=None)
    assert hash(one) == hash(other)
    assert one != Inner(1.0, 3, None)
    assert one != (1.0, 2, None)
    assert repr(one) == "Inner(low=1.0, count=2, entries=None)"
    match one:
        case Inner(low, count, entries):
            assert (low, count, entries) == (1.0, 2, None)
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize(
    ("values", "named", "found"),
    [
        ((), {}, "none"),
        ((1.0, 2), {}, "2 in order"),
        ((1.0, 2, None, 4), {}, "4 in order"),
        ((1.0, 2), {"count": 2}, "2 in order, count"),
        ((1.0, 2, None), {"entries": None}, "3 in order, entries"),
        ((1.0, 2), {"entry": None}, "2 in order, entry"),
    ],
)
def test_a_record_without_a_field_or_with_another_is_an_error(values, named, found):
    with pytest.raises(
        TypeError, match=rf"^Inner: expected each of low, count, entries once, found {found}$"
    ):
        Inner(*values, **named)


def test_a_record_does_not_change():
    one = Inner(1.0, 2, None)
    for change in (
        lambda: setattr(one, "low", 2.0),
        lambda: setattr(one, "other", 2.0),
        lambda: delattr(one, "low"),
    ):
        with pytest.raises(FrozenInstanceError):
            change()
    assert not hasattr(one, "__dict__")


def test_a_name_is_that_of_one_record():
    with pytest.raises(TypeError, match="a record Inner exists already"):
        record(type("Inner", (), {"__annotations__": {"x": int}}))


def test_tables_by_name():
    outer = Outer(0.0, Inner(0.0, 0, np.arange(3)), [Inner(0.0, 0, np.arange(4)), Inner(0.0, 0, None)], 0)
    assert {name: array.size for name, array in tables(outer).items()} == {
        "inner.entries": 3,
        "behind[0].entries": 4,
    }


@pytest.mark.parametrize("kind", KERNELS, ids=lambda kind: kind.__name__)
def test_records_of_kernels_are_laid_out_as_c_does(kind):
    """Every number at a multiple of its size, so that a load never crosses a cache line of the record."""
    for name in dtype_of(kind).names:
        offset, part = member(kind, name)
        assert offset % (4 if part is float else 8 if part is int else dtype_of(part).alignment) == 0
