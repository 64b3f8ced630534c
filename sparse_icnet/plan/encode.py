"""Program, Placement -> Plan: one record a step, its tables among the constants of the arena."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators import kernel_number
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.record import dtype_of, written
from sparse_icnet.operators.step import StepRow
from sparse_icnet.plan.program import Placement, Plan, Program, Step

# How often each thread goes back to the counter of a step for tasks, at least: each time costs the threads some 0.1 us,
# and at the end of the step all wait for the last tasks taken.
TURNS = 64


def encode(program: Program, placement: Placement) -> Plan:
    """The plan of `program` in the memory of `placement`."""

    def step(operator: Operator) -> Step:
        params = operator.params(placement.memory)
        return Step(
            operator.name,
            type(params),
            written(params, placement.arena.put),
            operator.tasks,
            tuple(operator.reads),
            tuple(operator.writes),
            tuple(operator.reports()),
        )

    return Plan(
        program.graph,
        program.grid,
        placement,
        {start: [step(operator) for operator in first] for start, first in program.input_steps.items()},
        [step(operator) for operator in program.body],
        {end: [step(operator) for operator in last] for end, last in program.output_steps.items()},
        program.views,
        program.logits_shape,
        program.upsampling,
        program.output_shape,
        max(operator.scratch for operator in program.operators()),
        program.threads,
    )


def step_rows(steps: Sequence[Step], threads: int) -> NDArray[np.void]:
    """The rows (n,) of `StepRow` that the compiled code goes through; they name the records of `steps`."""
    rows = np.zeros(len(steps), dtype_of(StepRow))
    for row, step in zip(rows, steps, strict=True):
        row["kernel"], row["tasks"] = kernel_number(step.kind), step.tasks
        row["grain"] = max(1, step.tasks // (TURNS * threads))
        row["params"] = step.record.ctypes.data
    return rows
