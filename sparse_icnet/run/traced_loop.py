# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-warn-return-any
"""Run a whole plan as `sparse_icnet.run.loop` does, and write down when each thread did what.

A loop of its own, compiled by itself: the usual one knows nothing of it and stays as it is.  It gives out tasks by the same
counters, but has each of them run by the usual `run`, called as a helper of a small inference of this thread alone (its
desk): the machine code of the kernels is the very same.
"""

from __future__ import annotations

from sparse_icnet.operators.params import LINE
from sparse_icnet.operators.record import member
from sparse_icnet.operators.step import StepRow
from sparse_icnet.run import control as c
from sparse_icnet.run.control import BUSY, DONE, SYNC_BYTES
from sparse_icnet.run.loop import ROW_BYTES, SPINS, _enter_as_caller, _enter_as_helper, _leave_as_caller
from sparse_icnet.run.trace_record import DESK_BYTES, EVENT_BYTES, ROW, VISIT_BYTES, TraceParams
from sparse_icnet.simd.calls import call_as_helper
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.record import at
from sparse_icnet.simd.scalars import (
    atomic_add,
    atomic_claim,
    atomic_load,
    get_i64,
    put_i64,
    yield_processor,
)
from sparse_icnet.simd.tracing import clock

_STATE, _TURN, _STEPS, _FIRST, _LAST, _THREADS, _SYNC = (
    8 * word for word in (c.STATE, c.TURN, c.STEPS, c.FIRST, c.LAST, c.THREADS, c.SYNC)
)
_SLOTS = 8 * c.SLOTS
_KERNEL, _PARAMS, _TASKS, _GRAIN = (
    member(StepRow, name)[0] for name in ("kernel", "params", "tasks", "grain")
)
_as_row, _as_trace = at(StepRow), at(TraceParams)


@jit
def _run_tasks(trace, desk, begin, end):
    """Run the tasks begin..end of the step whose kernel and record lie on the desk."""
    put_i64(desk + ROW + _TASKS, end)
    put_i64(desk + ROW + _GRAIN, end - begin)
    put_i64(desk + _SLOTS, 1)
    put_i64(desk + _SYNC, begin)
    put_i64(desk + _SYNC + LINE, begin)
    call_as_helper(trace.run, desk)


@jit
def _run_step(trace, desk, step, counter, index, events):
    """Take tasks of a step and run them until none is left; how many."""
    row = _as_row(step)
    put_i64(desk + ROW + _KERNEL, row.kernel)
    put_i64(desk + ROW + _PARAMS, row.params)
    tasks, grain, mine = row.tasks, row.grain, 0
    while atomic_load(counter) < tasks:
        begin = atomic_add(counter, grain)
        end = min(begin + grain, tasks)
        if begin >= end:
            break
        if trace.each_task:
            for task in range(begin, end):
                before = clock()
                _run_tasks(trace, desk, task, task + 1)
                place = events + 8 + EVENT_BYTES * get_i64(events)
                put_i64(place, index)
                put_i64(place + 8, task)
                put_i64(place + 16, before)
                put_i64(place + 24, clock())
                put_i64(events, get_i64(events) + 1)
        else:
            _run_tasks(trace, desk, begin, end)
        mine += end - begin
    return mine


@jit
def _run_steps(control, slot):
    """Run the steps of the open inference as thread number `slot`."""
    trace = _as_trace(get_i64(control + _STEPS))
    threads = get_i64(control + _THREADS)
    desk, events = trace.desks + DESK_BYTES * slot, trace.events + trace.event_bytes * slot
    for index in range(get_i64(control + _FIRST), get_i64(control + _LAST)):
        step, counter = trace.rows + ROW_BYTES * index, control + _SYNC + SYNC_BYTES * index
        visit = trace.visits + VISIT_BYTES * (threads * index + slot)
        put_i64(visit, clock())
        mine = _run_step(trace, desk, step, counter, index, events)
        put_i64(visit + 8, clock())
        complete, tasks = counter + LINE, _as_row(step).tasks
        if mine:
            atomic_add(complete, mine)
        spins = 0
        while atomic_load(complete) < tasks:
            spins += 1
            if spins > SPINS:
                yield_processor()
        put_i64(visit + 16, clock())
        put_i64(visit + 24, mine)


@jit
def run_traced(control, ticket, steps, first, last):
    """As `sparse_icnet.run.loop.run`, with the address of a `TraceParams` for that of the rows.

    control  of the traced inferences of a session, not the session's own, whose turn the caller takes as well: no other
             inference uses the memory of the plan meanwhile
    """
    slot = 0
    if not steps:
        slot = _enter_as_helper(control)
    elif not atomic_claim(_as_trace(steps).turn):
        slot = -1
    elif not _enter_as_caller(control, ticket, steps, first, last):
        atomic_add(_as_trace(steps).turn, -1)
        slot = -1
    if slot >= 0:
        _run_steps(control, slot)
        if slot:
            atomic_add(control + _STATE, -2)
        else:
            _leave_as_caller(control)
            atomic_add(_as_trace(steps).turn, -1)
    return BUSY if steps and slot < 0 else DONE
