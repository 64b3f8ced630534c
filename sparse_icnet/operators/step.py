"""What the compiled code reads of a step before it calls its kernel."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_icnet.operators.record import record


@record
@dataclass(frozen=True, slots=True)
class StepRow:
    """One row of the table of an inference.

    kernel  number of the kernel in `sparse_icnet.operators.KERNELS`; params: address of the record that it reads
    tasks   pieces of work; grain: of them that a thread takes at once
    """

    kernel: int
    params: int
    tasks: int
    grain: int
