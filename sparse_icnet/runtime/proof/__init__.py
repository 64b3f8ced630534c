"""Proof that a finished plan stays inside its memory: every read and write of every step, before any of them runs.

The kernels work on addresses and check nothing.  So from the rows and tables that they will read, exactly as they lie in
memory, this package derives which bytes each kernel touches, for all tasks, phases, taps, whole vectors and tails, and
compares them with the memory that was taken.  It shares no computation with the planner: what it knows is the loop
structure of each kernel, written down again in `maps`, `convolutions`, `pools` and `ends`.  Everything is summed in
Python's integers, which cannot wrap; the kernels' own sums wrap modulo 2**64 and therefore meet the same addresses.

What is proven of each step
* its tables and packed weights are constants of the plan, complete, and no step writes them;
* an operand is a tensor that the step names in `reads`, its result the one in `output`, and every access to one lies
  inside the memory of that tensor, padding and slack included;
* what it writes to scratch fits the scratch memory of a thread;
* what it reads of the caller's input and writes of the caller's result fits the sizes that a session checks;
and of all together: tensors that are alive at a time lie apart.

A new operator states its ranges in a function registered with `proves`; a step of a kind without one is an error.
"""

from __future__ import annotations

import math

import numpy as np

from sparse_icnet.kernels.fields import Kind
from sparse_icnet.runtime.layout import Buffer
from sparse_icnet.runtime.proof import convolutions, ends, maps, pools
from sparse_icnet.runtime.proof.access import PROOFS, Access, Memory, ProofError
from sparse_icnet.runtime.schedule import lifetimes
from sparse_icnet.runtime.steps import Plan, Step, step_rows

__all__ = ["ProofError", "convolutions", "ends", "maps", "pools", "prove"]

_HEADS = {Kind.QUANTIZE_IMAGE: 1, Kind.QUANTIZE_BLOB: 4}  # bytes of an element of the caller's input
# What may write the caller's result.
_ENDS = (Kind.ARGMAX, Kind.UPSAMPLE, Kind.SMOOTH_CLASSES, Kind.BILINEAR_SOFTMAX, Kind.LOGITS)


def prove(plan: Plan) -> None:
    """Raise ProofError, naming the operation, if any step of `plan` could touch a byte that is not its own."""
    tails = [plan.probabilities_tail, plan.classes_tail, plan.smooth_tail, plan.logits_tail]
    heads = [plan.image_head, plan.blob_head]
    steps = [*heads, *plan.body, *(step for tail in tails for step in tail)]
    buffers = _buffers(steps)
    memory = Memory(plan.arena, buffers)
    _prove_apart(steps, buffers)
    source = math.prod(plan.graph.input.shape)
    probabilities, logits = 4 * math.prod(plan.output_shape), 4 * math.prod(plan.logits_shape)
    sizes = (
        probabilities,
        math.prod(plan.classes_size),
        None,
        logits,
    )  # None: that of a smooth map comes with a call
    results = {id(tail[-1]): size for tail, size in zip(tails, sizes, strict=True)}
    for step, row in zip(steps, step_rows(steps), strict=True):
        ranges = PROOFS.get(step.kind)
        if ranges is None:
            raise ProofError(f"operation {step.name!r} ({step.kind!r}): nothing says what its kernel touches")
        if (step.kind in _HEADS) != (step in heads) or (id(step) in results and step.kind not in _ENDS):
            raise ProofError(f"operation {step.name!r} ({step.kind.name}): not where such a step may stand")
        input_bytes = source * _HEADS.get(step.kind, 0)
        ranges(Access(step, row, memory, plan.scratch_bytes, input_bytes, results.get(id(step), 0)))


def _buffers(steps: list[Step]) -> list[Buffer]:
    found = [source for step in steps for source in step.reads if isinstance(source, Buffer)]
    found += [step.output.buffer for step in steps if step.output is not None]
    return list({id(buffer): buffer for buffer in found}.values())


def _prove_apart(steps: list[Step], buffers: list[Buffer]) -> None:
    """No byte belongs to two tensors between the first step that writes and the last that reads them."""
    alive = lifetimes(steps)
    life = np.array([alive[id(buffer)] for buffer in buffers], np.int64).reshape(-1, 2)
    place = np.array([(b.memory.address, b.memory.end) for b in buffers], np.int64).reshape(-1, 2)
    order = np.argsort(place[:, 0], kind="stable")
    life, place = life[order], place[order]
    behind = np.searchsorted(place[:, 0], place[:, 1])  # of each, the first that begins behind its end
    for first, last in enumerate(behind.tolist()):
        rivals = life[first + 1 : last]
        together = (rivals[:, 0] <= life[first, 1]) & (life[first, 0] <= rivals[:, 1])
        if together.any():
            one, two = buffers[order[first]], buffers[order[first + 1 + int(together.argmax())]]
            raise ProofError(f"tensors {one.name!r} and {two.name!r} are alive at a time and share memory")
