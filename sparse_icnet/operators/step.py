"""What the compiled code reads of a step before it calls its kernel."""

from __future__ import annotations

from sparse_icnet.operators.record import record


@record
class StepRow:
    """One row of the table of an inference.

    kernel  address of the machine code of its kernel; params: of the record that this reads
    tasks   pieces of work; grain: of them that a thread takes at once
    """

    kernel: int
    params: int
    tasks: int
    grain: int
