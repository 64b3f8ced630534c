"""Program, Placement -> Plan: one record a step, its tables among the constants of the arena."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.record import written
from sparse_icnet.plan.arena import memory_at
from sparse_icnet.plan.program import Placement, Plan, Program, Step


def encode(program: Program, placement: Placement) -> Plan:
    """The plan of `program` in the memory of `placement`."""

    def step(operator: Operator) -> Step:
        params = operator.params(placement.memory)
        behind: list[NDArray[np.void]] = []

        def put(array: NDArray[Any]) -> int:
            address = placement.arena.put(array)
            if array.dtype.fields:
                behind.append(memory_at(address, array.nbytes).view(array.dtype))
            return address

        return Step(
            operator.name,
            type(params),
            written(params, put),
            operator.tasks,
            tuple(operator.reads),
            tuple(operator.writes),
            tuple(operator.reports()),
            behind,
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
