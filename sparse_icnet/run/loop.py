"""Run a whole plan: every thread calls one compiled function, which goes through the steps without Python.

`sparse_icnet.run.machine_code` compiles it once and keeps the result, as it does with each kernel: this loop knows none of
them and calls what the row of a step names.
The caller of an inference opens it and closes it, helpers join it (`run`).  Within a step the threads take tasks from
an atomic counter.  The next step begins when all tasks are complete, whether every thread took part or not; until
then a thread spins briefly and then yields the processor, so that busy cores cost microseconds and not time slices.
"""

from __future__ import annotations

from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import dtype_of
from sparse_icnet.operators.step import StepRow
from sparse_icnet.run import control as c
from sparse_icnet.run.control import BUSY, DONE, SYNC_BYTES
from sparse_icnet.simd.calls import call_kernel
from sparse_icnet.simd.environment import restore_environment, standard_environment
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.record import at
from sparse_icnet.simd.scalars import (
    atomic_add,
    atomic_claim,
    atomic_load,
    atomic_store,
    get_i64,
    put_i64,
    yield_processor,
)

ROW_BYTES = dtype_of(StepRow).itemsize
SPINS = 2000  # looks of a waiting thread before it yields the processor at each

# Byte offsets of the words of a control block
_STATE, _TURN, _SLOTS, _ANNOUNCED, _OPENED, _STEPS, _FIRST, _LAST = (
    8 * word for word in (c.STATE, c.TURN, c.SLOTS, c.ANNOUNCED, c.OPENED, c.STEPS, c.FIRST, c.LAST)
)
_THREADS, _SCRATCH, _SCRATCH_BYTES, _PATIENCE, _SYNC = (
    8 * word for word in (c.THREADS, c.SCRATCH, c.SCRATCH_BYTES, c.PATIENCE, c.SYNC)
)

_as_row = at(StepRow)


@jit
def _take(step, counter, scratch):
    """Take some of the tasks that are left of a step and run them; how many: 0 when there were none."""
    row = _as_row(step)
    kernel, params, tasks, grain = row.kernel, row.params, row.tasks, row.grain
    if atomic_load(counter) >= tasks:
        return 0
    begin = atomic_add(counter, grain)
    end = min(begin + grain, tasks)
    for task in range(begin, end):
        call_kernel(kernel, params, task, scratch)
    return max(end - begin, 0)


@jit
def _enter_as_caller(control, ticket, steps, first, last):
    """Take the turn and open an inference; whether that was possible."""
    if not atomic_claim(control + _TURN):
        return False
    for place in range(control + _SYNC + SYNC_BYTES * first, control + _SYNC + SYNC_BYTES * last, LINE):
        put_i64(place, 0)
    put_i64(control + _STEPS, steps)
    put_i64(control + _FIRST, first)
    put_i64(control + _LAST, last)
    put_i64(control + _SLOTS, 1)
    atomic_store(control + _OPENED, max(ticket, atomic_load(control + _OPENED)))
    atomic_add(control + _STATE, 1)  # what was written above is seen by whoever sees this
    return True


@jit
def _leave_as_caller(control):
    """Close the inference, see the last helper out and give the turn back."""
    atomic_add(control + _STATE, -1)
    spins = 0
    while atomic_load(control + _STATE):
        spins += 1
        if spins > SPINS:
            yield_processor()
    atomic_add(control + _TURN, -1)


@jit
def _enter_as_helper(control):
    """The number of this thread in the open inference; -1 where none is open or it has its threads."""
    looks = 0
    while True:
        if atomic_load(control + _STATE) & 1:
            if atomic_add(control + _STATE, 2) & 1:
                break
            atomic_add(control + _STATE, -2)  # closed meanwhile
        # None is open: the one that this thread was woken for is over, or it is yet to begin.
        late = atomic_load(control + _OPENED) >= atomic_load(control + _ANNOUNCED)
        if late or looks >= get_i64(control + _PATIENCE):
            return -1
        looks += 1
        yield_processor()
    slot = atomic_add(control + _SLOTS, 1)
    if slot >= get_i64(control + _THREADS):
        atomic_add(control + _STATE, -2)
        return -1
    return slot


@jit
def _run_steps(control, slot):
    """Run the steps of the open inference as thread number `slot`."""
    steps = get_i64(control + _STEPS)
    threads = get_i64(control + _THREADS)
    scratch = get_i64(control + _SCRATCH) + get_i64(control + _SCRATCH_BYTES) * slot
    for index in range(get_i64(control + _FIRST), get_i64(control + _LAST)):
        step, counter = steps + ROW_BYTES * index, control + _SYNC + SYNC_BYTES * index
        mine = 0
        while True:
            done = _take(step, counter, scratch)
            if not done:
                break
            mine += done
        if threads > 1:
            complete, tasks = counter + LINE, _as_row(step).tasks
            if mine:
                atomic_add(complete, mine)
            spins = 0
            while atomic_load(complete) < tasks:
                spins += 1
                if spins > SPINS:
                    yield_processor()


@jit
def run(control, ticket, steps, first, last):
    """Take part in an inference; returns DONE, or BUSY where another caller is inside.

    control  address of the words of `sparse_icnet.run.control`
    ticket   of a caller: a number larger than those drawn before; of a helper: anything
    steps    of a caller: address of rows of `StepRow`, of which it runs first..last; 0: a helper, which joins
             the inference that is open, if one is

    All of an inference lies between the entry and the exit of its caller: it is opened here, and at the return it is
    closed and no helper is inside.  A caller that never comes leaves nothing open, helpers that never come are
    not missed, and a helper that comes late finds nothing to do.
    """
    before = standard_environment()
    slot = 0
    if not steps:
        slot = _enter_as_helper(control)
    elif not _enter_as_caller(control, ticket, steps, first, last):
        slot = -1
    if slot >= 0:
        _run_steps(control, slot)
        if slot:
            atomic_add(control + _STATE, -2)
        else:
            _leave_as_caller(control)
    restore_environment(before)
    return BUSY if steps and slot < 0 else DONE
