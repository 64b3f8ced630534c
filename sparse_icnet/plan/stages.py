"""From a graph to a plan: each stage a module, with its input and its output.

formats.load      file -> Graph                          called by `sparse_icnet.load`
rewrite.optimize  Graph -> Graph
select            Graph, Policy, threads -> Program      operators and storages, no address yet
layout.lay_out    Program -> Placement                   demands folded, lifetimes, addresses
encode            Program, Placement -> Plan             one record a step
proof.prove       Plan                                   no step leaves its memory
run.Session       Plan -> arrays                         made by `sparse_icnet.Model`

`keep` makes of a plan what later processes take instead (`kept`), which then do without all of the above.
"""

from __future__ import annotations

import math

from sparse_icnet.floats import standard_floats
from sparse_icnet.network.graph import Convolution, FloatConvolution, Graph, near_sizes
from sparse_icnet.network.rewrite import optimize
from sparse_icnet.operators.storage import PlanError, SizeError
from sparse_icnet.plan.budget import check_graph
from sparse_icnet.plan.encode import encode
from sparse_icnet.plan.layout import lay_out
from sparse_icnet.plan.policy import LeastTime, Policy
from sparse_icnet.plan.program import Placement, Plan, Program
from sparse_icnet.plan.proof import prove
from sparse_icnet.plan.select import select

__all__ = ["LEAST_TIME", "PlanError", "plan_for"]

LEAST_TIME = LeastTime()


@standard_floats()
def plan_for(graph: Graph, threads: int = 1, keep_tensors: bool = False, policy: Policy = LEAST_TIME) -> Plan:
    """Plan of any graph that ends in logits, a softmax or an argmax, or their upsampling.

    threads       of an inference, which its tasks are divided for
    keep_tensors  every tensor has memory of its own and can be read after an inference
    policy        chooses the kernel of every convolution

    Raises PlanError for what this engine cannot run, ValueError for fewer threads than one; a plan that is returned is
    proven to stay inside its memory.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    check_graph(graph)
    rewritten: Graph = optimize(graph)
    try:
        program: Program = select(rewritten, policy, threads)
    except SizeError as error:
        raise PlanError(f"{error}{_other_sizes(graph)}") from None
    placement: Placement = lay_out(program, keep_tensors)
    plan: Plan = encode(program, placement)
    prove(plan)
    return plan


def _other_sizes(graph: Graph) -> str:
    """Sizes of the input that do, where convolutions and pools divide by powers of two; '' where that says nothing."""
    size = graph.input.shape[1:]
    maps = [graph.shape(op.name) for op in graph if isinstance(op, Convolution | FloatConvolution)]
    smallest = [min(shape[axis] for shape in maps) for axis in (1, 2)]
    rows, columns = (1 << round(math.log2(max(n / m, 1))) for n, m in zip(size, smallest, strict=True))
    if not (size[0] % rows or size[1] % columns):
        return ""
    return (
        f": with an input of {size[0]}x{size[1]} the network's maps do not divide each other; "
        f"export it for {near_sizes(size, (rows, columns))}"
    )
