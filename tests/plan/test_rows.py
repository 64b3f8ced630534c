"""The order in which the tasks of a step are taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from sparse_icnet.plan.steps import MANY, step_rows


def orders(threads: int, *tasks: int) -> list[list[int]]:
    """The numbers of the tasks of each step, as they are taken."""
    record = np.zeros(1, np.int64)
    steps: list[Any] = [SimpleNamespace(kind=int, tasks=count, record=record) for count in tasks]
    rows = step_rows(steps, threads, {int: 1})
    return [
        (row["first"] + row["way"] * np.arange(count)).tolist()
        for row, count in zip(rows, tasks, strict=True)
    ]


def test_each_task_has_its_turn():
    for threads in (1, 2, 5):
        tasks = 1, 2, 16, MANY * threads, MANY * threads + 1, 3, 40 * threads, 500, 500
        for order, count in zip(orders(threads, *tasks), tasks, strict=True):
            assert sorted(order) == list(range(count))


def test_few_tasks_are_taken_from_the_last_and_many_by_turns_from_the_first():
    few, many, more, least, most = orders(2, 2 * MANY, 2 * MANY + 1, 200, 1, 200)
    assert few[0] == 2 * MANY - 1
    assert many[0] == 0
    assert more[0] == 199  # with what the step before has written last
    assert least == [0]
    assert most[0] == 0
