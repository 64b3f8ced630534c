"""From probabilities to a class map."""

from __future__ import annotations

from sparse_icnet.network.graph import Argmax, Graph, Resize, Softmax
from sparse_icnet.network.rewrite._edit import Ops, fresh, rebuilt


def to_class_map(graph: Graph) -> Graph:
    """The graph of the class map, uint8 (1, H, W): argmax of what goes into the softmax, and no softmax.

    The class is also one of largest probability.  With m = max_c [x_c]_1, (Q8) gives e_c = exp(x_c - m): 1
    for a largest x_c, and at most 1 for any other c, as the polynomial exp never exceeds 1 for arguments up
    to 0; the common factor keeps the order.  Two classes may share the largest probability after rounding
    where their logits differ: then the larger logit decides, and the lowest index among equal logits; behind
    a bilinear upsampling the class of (Q11), which has a largest x_c as well.

    The output's resizes stay behind the argmax, so they copy bytes: argmax is per pixel, as softmax is.
    New names are `classes` and `classes/resized`.  A graph whose output is a class map already comes back
    as it is.
    """
    resizes: list[Resize] = []
    op = graph[graph.output]
    while isinstance(op, Resize):
        resizes.append(op)
        op = graph[op.input]
    if isinstance(op, Argmax):
        return graph
    ops: Ops = {o.name: o for o in graph.ops}
    taken = set(ops)
    output = fresh("classes", taken)
    ops[output] = Argmax(output, op.input if isinstance(op, Softmax) else op.name)
    for resize in reversed(resizes):
        name = fresh("classes/resized", taken)
        ops[name] = Resize(name, output, resize.size)
        output = name
    return rebuilt(graph, ops, output)
