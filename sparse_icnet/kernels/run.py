"""Run a whole plan: every thread calls one compiled function, which goes through the steps without Python.

`sparse_icnet.kernels.machine_code` compiles it once and keeps the result; nothing else imports this module.
Within a step the threads take tasks from an atomic counter.  The next step begins when all tasks are complete, whether
every thread took part or not; until then a thread spins briefly and then yields the processor, so that busy cores
cost microseconds and not time slices.
"""

from __future__ import annotations

from sparse_icnet.kernels import (
    bilinear,
    convolution,
    elementwise,
    pooling,
    quantize,
    smooth,
    softmax,
    winograd,
)
from sparse_icnet.kernels import fields as f
from sparse_icnet.kernels.fields import ROW_FIELDS, Kind
from sparse_icnet.kernels.jit import jit
from sparse_icnet.kernels.sizes import LINE, SYNC_BYTES
from sparse_icnet.kernels.step import field
from sparse_icnet.simd.scalars import atomic_add, atomic_load, yield_processor

ROW_BYTES = 8 * ROW_FIELDS
SPINS = 2000

_CONVOLUTION, _SHIFT, _MAX_POOL, _PYRAMID = (
    int(Kind.CONVOLUTION),
    int(Kind.SHIFT),
    int(Kind.MAX_POOL),
    int(Kind.PYRAMID),
)
_COMBINE, _IMAGE, _BLOB = int(Kind.COMBINE), int(Kind.QUANTIZE_IMAGE), int(Kind.QUANTIZE_BLOB)
_SOFTMAX, _ARGMAX, _UPSAMPLE = int(Kind.SOFTMAX), int(Kind.ARGMAX), int(Kind.UPSAMPLE)
_AVERAGE, _EXPAND = int(Kind.AVERAGE_POOL), int(Kind.EXPAND)
_WINOGRAD, _WINOGRAD_INPUT = int(Kind.WINOGRAD), int(Kind.WINOGRAD_INPUT)
_SMOOTH, _LOGITS = int(Kind.SMOOTH_CLASSES), int(Kind.LOGITS)
_BILINEAR = int(Kind.BILINEAR_SOFTMAX)


@jit
def _task(kind, step, task, scratch):
    if kind == _CONVOLUTION:
        convolution.convolution(step, task, scratch)
    elif kind == _WINOGRAD:
        winograd.winograd(step, task, scratch)
    elif kind == _WINOGRAD_INPUT:
        winograd.winograd_input(step, task, scratch)
    elif kind == _SHIFT:
        elementwise.shift(step, task, scratch)
    elif kind == _MAX_POOL:
        pooling.max_pool(step, task, scratch)
    elif kind == _PYRAMID:
        pooling.pyramid(step, task, scratch)
    elif kind == _COMBINE:
        elementwise.combine(step, task, scratch)
    elif kind == _IMAGE:
        quantize.quantize_image(step, task, scratch)
    elif kind == _BLOB:
        quantize.quantize_blob(step, task, scratch)
    elif kind == _SOFTMAX:
        softmax.softmax(step, task, scratch)
    elif kind == _ARGMAX:
        softmax.argmax(step, task, scratch)
    elif kind == _UPSAMPLE:
        softmax.upsample(step, task, scratch)
    elif kind == _AVERAGE:
        pooling.average_pool(step, task, scratch)
    elif kind == _EXPAND:
        elementwise.expand(step, task, scratch)
    elif kind == _SMOOTH:
        smooth.smooth_classes(step, task, scratch)
    elif kind == _LOGITS:
        smooth.logits(step, task, scratch)
    elif kind == _BILINEAR:
        bilinear.softmax(step, task, scratch)


@jit
def _take(step, counter, scratch):
    """Take some of the tasks that are left of a step and run them; how many: 0 when there were none."""
    kind, tasks, grain = field(step, f.KIND), field(step, f.TASKS), field(step, f.GRAIN)
    if atomic_load(counter) >= tasks:
        return 0
    begin = atomic_add(counter, grain)
    end = min(begin + grain, tasks)
    for task in range(begin, end):
        _task(kind, step, task, scratch)
    return max(end - begin, 0)


@jit
def run(steps, first, last, sync, threads, scratch):
    """Run steps first..last of the table at address `steps` as one of `threads` threads; returns 0.

    steps    address of int64 rows (n, ROW_FIELDS)
    sync     address of zeros, SYNC_BYTES for each step: int64 tasks taken and, a cache line later, tasks complete
    scratch  address of memory of this thread
    """
    for index in range(first, last):
        step, counter = steps + ROW_BYTES * index, sync + SYNC_BYTES * index
        mine = 0
        while True:
            done = _take(step, counter, scratch)
            if not done:
                break
            mine += done
        if threads > 1:
            complete, tasks = counter + LINE, field(step, f.TASKS)
            if mine:
                atomic_add(complete, mine)
            spins = 0
            while atomic_load(complete) < tasks:
                spins += 1
                if spins > SPINS:
                    yield_processor()
    return 0
