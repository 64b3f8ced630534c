"""Codes where the graph takes them: quantizers move before max pooling and nearest resizing.

Exporters may put a quantizer behind a max pool or resize whose input is real.  Quantizing is monotone and
acts on each value alone, so it commutes with taking a maximum and with repeating or skipping pixels:
    Q(max(x, y)) = max(Q(x), Q(y)),   Q(resize(x)) = resize(Q(x)),
bit for bit.  ReLU of codes is again exact as codes: relu(s * (q - z)) = s * (max(q, z) - z).

Where no quantizer can move there, pools take real values, and a convolution becomes one of float32, whose weights are the
real values of its codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from sparse_icnet.network.graph import (
    AveragePool,
    Convolution,
    FloatConvolution,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    rename_inputs,
)


def quantize_before_codes(ops: Iterable[Op], unique: Callable[[str], str]) -> tuple[list[Op], list[str]]:
    """(`ops`, which are in topological order, in any order and so that every Convolution reads codes, and pools where there
    are any; a sentence on each convolution that has none and becomes one of float32)."""
    repair = _Repair(list(ops), unique)
    notes: list[str] = []
    for name in list(repair.ops):
        op = repair.ops[name]
        if isinstance(op, Convolution | AveragePool | MaxPool):
            source = repair.codes(op.input)
            if source is not None:
                repair.ops[name] = rename_inputs(op, {op.input: source})
            elif isinstance(op, MaxPool):
                repair.lift_quantizers(op)
            elif isinstance(op, Convolution):
                repair.ops[name] = _in_float32(op)
                notes.append(f"{name!r}, which reads values without a quantizer, is computed in float32")
    return list(repair.ops.values()), notes


def _in_float32(op: Convolution) -> FloatConvolution:
    """`op` of real values: its weights times their scales, rounded to float32."""
    weight = op.weight * op.weight_scale[:, None, None, None]
    return FloatConvolution(op.name, op.input, weight, op.bias, op.stride, op.dilation, op.padding)


class _Repair:
    def __init__(self, ops: list[Op], unique: Callable[[str], str]) -> None:
        self.ops = {op.name: op for op in ops}
        self.unique = unique

    def quantizer(self, name: str) -> Quantizer | None:
        """The quantizer whose codes `name` holds, None if it is real."""
        op = self.ops[name]
        while isinstance(op, Resize | MaxPool):
            op = self.ops[op.input]
        return op.quantizer if isinstance(op, Quantize) else None

    def readers(self, name: str) -> list[Op]:
        return [op for op in self.ops.values() if name in op.inputs]

    def lift_quantizers(self, pool: MaxPool) -> None:
        """Quantize the input of the real `pool` as the quantizers that read it, directly or behind resizes,
        do; nothing where anything else reads it.

        Those stay: they read equal codes now and change nothing.  With several different quantizers the
        pool, and the resizes on the way, are computed once for each.
        """
        found: dict[Quantizer, list[tuple[Quantize, tuple[Resize, ...]]]] = {}
        pending: list[tuple[str, tuple[Resize, ...]]] = [(pool.name, ())]
        while pending:
            name, path = pending.pop()
            for reader in self.readers(name):
                if isinstance(reader, Resize):
                    pending.append((reader.name, (*path, reader)))
                elif isinstance(reader, Quantize):
                    found.setdefault(reader.quantizer, []).append((reader, path))
                else:
                    return
        if not found:
            return
        first, *others = found
        self.ops[pool.name] = replace(pool, input=self._quantized(pool, first))
        for quantizer in others:
            copy = replace(pool, name=self.unique(pool.name), input=self._quantized(pool, quantizer))
            self.ops[copy.name] = copy
            for reader, path in found[quantizer]:
                source = copy.name
                for step in path:
                    step = replace(step, name=self.unique(step.name), input=source)
                    self.ops[step.name] = step
                    source = step.name
                self.ops[reader.name] = replace(reader, input=source)

    def _quantized(self, pool: MaxPool, quantizer: Quantizer) -> str:
        op = Quantize(self.unique(f"{pool.name}/codes"), pool.input, quantizer)
        self.ops[op.name] = op
        return op.name

    def codes(self, name: str) -> str | None:
        """A tensor of codes with the value of `name`, made if need be; None if there is no exact one."""
        if self.quantizer(name) is not None:
            return name
        op = self.ops[name]
        path: list[Resize] = []
        while isinstance(op, Resize):
            path.append(op)
            op = self.ops[op.input]
        if not isinstance(op, Relu):
            return None
        quantizer = self.quantizer(op.input)
        if quantizer is None or quantizer.zero_point == quantizer.high:
            return None
        clipped = replace(quantizer, low=quantizer.zero_point)
        codes = Quantize(self.unique(f"{op.name}/codes"), op.input, clipped)
        self.ops[codes.name] = codes
        source = codes.name
        for step in reversed(path):
            copy = replace(step, name=self.unique(f"{step.name}/codes"), input=source)
            self.ops[copy.name] = copy
            source = copy.name
        return source
