"""Which equations an operation computes, and what they say: read from where they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from sparse_icnet.network.graph import (
    Add,
    Affine,
    Argmax,
    AveragePool,
    Bilinear,
    Convolution,
    FloatConvolution,
    Graph,
    Input,
    MaxPool,
    Op,
    Quantize,
    Relu,
    Resize,
    Softmax,
    assert_never,
)
from sparse_icnet.operators.source import PACKAGE
from sparse_icnet.study.arithmetic import end_of

FILES = ("network/*.py", "sparse/winograd.py")


@cache
def equations() -> Mapping[str, str]:
    """'Q3' -> 'convolution: a = sum over ...', on one line: (Q1) to (Q14) of the graph, (W1) and (W2) of filtering."""
    found: dict[str, str] = {}
    for pattern in FILES:
        for path in sorted(PACKAGE.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            for number, line, more in re.findall(r"^\((Q\d+)\) (.+)((?:\n {16,}.+)*)", text, re.MULTILINE):
                name, *parts = re.split(r" {2,}", " ".join([line, *more.split()]))
                found[number] = f"{name}: {'  '.join(parts)}"
            for formula, number in re.findall(r"^ {4}(\S.*?) +\((W\d)\)$", text, re.MULTILINE):
                found[number] = " ".join(formula.split())
    return found


def equations_of(op: Op) -> tuple[str, ...]:
    """The numbers of the equations that define an operation of codes; none of an Argmax, which compares."""
    match op:
        case Convolution():
            return ("Q3", "Q4")
        case FloatConvolution():
            return ("Q12",)
        case Quantize():
            return ("Q1",)
        case Add() | Relu():
            return ("Q5",)
        case AveragePool():
            return ("Q6",)
        case Resize():
            return ("Q7",)
        case Softmax():
            return ("Q8",)
        case Affine():
            return ("Q9",)
        case Input():
            return ("Q10",)
        case Bilinear():
            return ("Q11",)
        case MaxPool():
            return ("Q14",)
        case Argmax():
            return ()
        case _:
            assert_never(op)


def _equations_in(graph: Graph, op: Op) -> tuple[str, ...]:
    """`equations_of` where the operation stands: the mean of real values has an equation of its own."""
    if isinstance(op, AveragePool) and graph.quantizer(op.input) is None:
        return ("Q13",)
    return equations_of(op)


def expression(graph: Graph, name: str) -> list[Op]:
    """The operations of the expression that `name` belongs to, from what reads codes to what makes them."""
    waiting, found = [end_of(graph, name)], {}
    while waiting:
        op = graph[waiting.pop()]
        found[op.name] = op
        if isinstance(op, Quantize | Add | Relu | Resize):
            waiting += [source for source in op.inputs if graph.quantizer(source) is None]
    return [op for op in graph if op.name in found]


def equations_of_expression(graph: Graph, name: str) -> tuple[str, ...]:
    """The numbers of the equations of `expression`, in order; (Q2) where codes are added."""
    ops = expression(graph, name)
    numbers = [number for op in ops for number in _equations_in(graph, op)]
    if any(isinstance(op, Add | Relu) and graph.quantizer(source) for op in ops for source in op.inputs):
        numbers.append("Q2")
    return tuple(sorted(set(numbers), key=lambda number: int(number[1:])))
