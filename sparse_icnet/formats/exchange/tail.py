"""The end of a file's network as the graph has it: logits, [bilinear resize], [softmax or argmax], [nearest resizes].

Exporters write more behind the logits.  What is left out here, and what that changes:

* A softmax before an argmax.  The softmax (Q8) keeps the order of the logits, so the class is the same, except where
  rounding makes two probabilities equal: there the larger logit decides.
* A quantizer behind the softmax or behind a bilinear resize.  It rounds the result to the nearest of at most 256 values, by
  half a step at most; without it the result is what the file's network rounds.  Behind a bilinear resize that changes
  the class of 0.1 to 0.3 % of the pixels of the bundled `sparse-60` at 768x960.

Quantizers on the logits themselves stay, as they are computed.
"""

from __future__ import annotations

from dataclasses import replace

from sparse_icnet.network.graph import Argmax, Bilinear, GraphError, Op, Quantize, Resize, Softmax

Tail = Quantize | Resize | Bilinear | Softmax | Argmax


def normalized(ops: dict[str, Op], output: str) -> tuple[dict[str, Op], str, list[str]]:
    """(`ops` with the end written anew, name of the output, a sentence on each operation that was left out).

    Raises GraphError for a bilinear resize behind a softmax.
    """
    chain: list[Tail] = []
    name = output
    while isinstance(op := ops[name], Quantize | Resize | Bilinear | Softmax | Argmax):
        chain.insert(0, op)
        name = op.input
    kept: list[Tail] = []
    notes: list[str] = []
    for op in chain:
        if isinstance(op, Bilinear) and any(isinstance(o, Softmax) for o in kept):
            raise GraphError(
                f"operation {op.name!r}: expected a bilinear resize before the softmax, found it behind: "
                "interpolate the logits"
            )
        before = next((o for o in reversed(kept) if isinstance(o, Bilinear | Softmax | Argmax)), None)
        if isinstance(op, Quantize) and before is not None:
            what = "bilinear resize" if isinstance(before, Bilinear) else type(before).__name__.lower()
            notes.append(f"{op.name!r}, a quantizer behind the {what}, is left out")
            continue
        if isinstance(op, Argmax) and isinstance(before, Softmax):
            kept.remove(before)
            notes.append(f"{before.name!r}, a softmax before an argmax, is left out")
        kept.append(op)
    if not notes:
        return ops, output, []
    changed = dict(ops)
    for op in kept:
        changed[op.name] = op if op.input == name else replace(op, input=name)
        name = op.name
    return changed, name, notes
