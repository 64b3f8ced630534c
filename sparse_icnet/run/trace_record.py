"""The memory through which a traced inference is asked for and told.  Does not import Numba.

desk     of each thread: the control words of `sparse_icnet.run.control` for one step, and behind them its row
visit    of each step and thread, int64: arrived, finished its last task, left for the next step (ticks), tasks run
events   of each thread, int64: how many, then of each task: number of the step, of the task, begin, end (ticks)
"""

from __future__ import annotations

from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import Table, dtype_of, record
from sparse_icnet.operators.step import StepRow
from sparse_icnet.run.control import control_words

VISIT_BYTES, EVENT_BYTES = 32, 32
ROW = 8 * control_words(1)
DESK_BYTES = -(-(ROW + dtype_of(StepRow).itemsize) // LINE) * LINE


@record
class TraceParams:
    """What `sparse_icnet.run.traced_loop.run_traced` reads.

    rows       of the steps
    run        address of the compiled `sparse_icnet.run.loop.run`
    turn       address of the word TURN of the session's own control words
    desks      of all threads; events: of all threads, event_bytes from one to the next; visits
    each_task  whether events are wanted
    """

    rows: Table
    run: int
    turn: int
    desks: Table
    visits: Table
    events: Table
    event_bytes: int
    each_task: int
