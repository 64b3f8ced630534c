"""Proof that a finished plan stays inside its memory: every read and write of every step, before any of them runs.

The kernels work on addresses and check nothing.  So from the records and tables that they will read, exactly as they lie in
memory, this package derives which bytes each kernel touches, for all tasks, phases, taps, whole vectors and remainders, and
compares them with the memory that was taken.  No address is computed as the planner computes it: what this package knows
is the loop structure of each kernel, written down again in `maps`, `convolutions`, `pools`, `floats` and `ends`, and, from
`schedule`, when a storage is alive.  Everything is summed in Python's integers, which cannot wrap; the kernels' own sums
wrap modulo 2**64 and therefore meet the same addresses.

What is proven of each step
* its tables and packed weights are constants of the plan, complete, and no step writes them;
* an operand is a storage that the step names in `reads`, its result one in `writes`, and every access to one lies
  inside its memory, padding and slack included;
* what it writes to scratch fits the scratch memory of a thread;
* what it reads of the caller's input and writes of the caller's result fits the sizes that a session checks;
and of all together: storages that are alive at the same time lie apart.

A new operator states its ranges in a function registered with `proves`; a record without one is an error.
"""

from __future__ import annotations

import math

import numpy as np

from sparse_icnet.operators import kernel_name
from sparse_icnet.operators.input.params import BlobParams, ImageParams, RealBlobParams, RealImageParams
from sparse_icnet.operators.interpolation.params import BilinearSoftmaxParams, SmoothClassesParams
from sparse_icnet.operators.output.params import ArgmaxParams, LogitsParams, UpsampleParams
from sparse_icnet.plan.program import End, Plan
from sparse_icnet.plan.proof import convolutions, ends, floats, maps, pools
from sparse_icnet.plan.proof.access import PROOFS, Access, Memory, ProofError
from sparse_icnet.plan.schedule import lifetimes

__all__ = ["ProofError", "convolutions", "ends", "floats", "maps", "pools", "prove"]

# Bytes of an element of the caller's input.
_INPUTS: dict[type, int] = {ImageParams: 1, BlobParams: 4, RealImageParams: 1, RealBlobParams: 4}
# What may write the caller's result.
_ENDS = (ArgmaxParams, UpsampleParams, SmoothClassesParams, BilinearSoftmaxParams, LogitsParams)


def prove(plan: Plan) -> None:
    """Raise ProofError, naming the operation, if any step of `plan` could touch a byte that is not its own."""
    memory = Memory(plan)
    _prove_apart(plan)
    source = math.prod(plan.graph.input.shape)
    sizes = {
        End.PROBABILITIES: 4 * math.prod(plan.output_shape),
        End.CLASSES: math.prod(plan.class_map_size),
        End.SMOOTH_CLASSES: None,  # its size comes with a call
        End.LOGITS: 4 * math.prod(plan.logits_shape),
    }
    results = {id(steps[-1]): sizes[end] for end, steps in plan.output_steps.items()}
    first = [id(step) for steps in plan.input_steps.values() for step in steps]
    for step in plan.steps():
        ranges = PROOFS.get(step.kind)
        if ranges is None:
            raise ProofError(
                f"operation {step.name!r} ({step.kind.__name__}): nothing says what its kernel touches"
            )
        if (step.kind in _INPUTS) != (id(step) in first) or (id(step) in results and step.kind not in _ENDS):
            raise ProofError(
                f"operation {step.name!r} ({kernel_name(step.kind)}): not where such a step may stand"
            )
        input_bytes, result_bytes = source * _INPUTS.get(step.kind, 0), results.get(id(step), 0)
        ranges(Access(step, step.record[0], memory, plan.scratch_bytes, input_bytes, result_bytes))


def _prove_apart(plan: Plan) -> None:
    """No byte belongs to two storages between the first step that writes and the last that reads them."""
    alive, pieces = lifetimes(list(plan.steps())), plan.placement.pieces
    storages = list(alive)
    life = np.array([alive[storage] for storage in storages], np.int64).reshape(-1, 2)
    place = np.array([(pieces[s].address, pieces[s].end) for s in storages], np.int64).reshape(-1, 2)
    order = np.argsort(place[:, 0], kind="stable")
    life, place = life[order], place[order]
    behind = np.searchsorted(place[:, 0], place[:, 1])  # of each, the first that begins behind its end
    for first, last in enumerate(behind.tolist()):
        rivals = life[first + 1 : last]
        together = (rivals[:, 0] <= life[first, 1]) & (life[first, 0] <= rivals[:, 1])
        if together.any():
            one, two = storages[order[first]], storages[order[first + 1 + int(together.argmax())]]
            raise ProofError(f"tensors {one.name!r} and {two.name!r} are alive at a time and share memory")
