"""Codes where the graph needs them: quantizers move above max pooling and nearest resizing.

Exporters may put a quantizer behind a max pool or resize whose input is real.  Quantizing is monotone and
acts on each value alone, so it commutes with taking a maximum and with repeating or skipping pixels:
    Q(max(x, y)) = max(Q(x), Q(y)),   Q(resize(x)) = resize(Q(x)),
bit for bit.  ReLU of codes is again exact as codes: relu(s * (q - z)) = s * (max(q, z) - z).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from sparse_icnet.formats.errors import FormatError
from sparse_icnet.formats.exchange.nodes import Model
from sparse_icnet.network.graph import (
    AveragePool,
    Convolution,
    MaxPool,
    Op,
    Quantize,
    Quantizer,
    Relu,
    Resize,
    rename_inputs,
)


def quantize_before_codes(ops: Iterable[Op], model: Model, unique: Callable[[str], str]) -> list[Op]:
    """`ops`, topological, so that every Convolution, MaxPool and AveragePool reads codes.

    Raises FormatError, naming the layer, where the file has no quantizer that could move there.
    """
    repair = _Repair(list(ops), model, unique)
    for name in list(repair.ops):
        op = repair.ops[name]
        if isinstance(op, Convolution | AveragePool | MaxPool):
            source = repair.codes(op.input)
            if source is not None:
                repair.ops[name] = rename_inputs(op, {op.input: source})
            elif isinstance(op, MaxPool):
                repair.lift_quantizers(op)
            else:
                raise repair.error(op)
    return list(repair.ops.values())


class _Repair:
    def __init__(self, ops: list[Op], model: Model, unique: Callable[[str], str]) -> None:
        self.ops = {op.name: op for op in ops}
        self.model, self.unique = model, unique

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
        do.

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
                    raise self.error(pool)
        if not found:
            raise self.error(pool)
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

    def error(self, op: Op) -> FormatError:
        where = next(
            (node.where for node in self.model.nodes if node.name == op.name),
            f"{self.model.label}: {op.name!r}",
        )
        return FormatError(
            f"{where}: expected a quantized input for {type(op).__name__}, found the real tensor "
            f"{op.inputs[0]!r}: "
            "the file has no quantizer between"
        )
