"""Which steps make the shifted copies and the padding of the maps whose readers demand them."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_icnet.operators.convolution.plan import ConvolutionStep
from sparse_icnet.operators.elementwise.plan import ShiftStep
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.storage import CodesMap
from sparse_icnet.operators.winograd.plan import WinogradStep
from sparse_icnet.plan.layout import folded


def with_copies(operators: Sequence[Operator]) -> list[Operator]:
    """`operators`, and behind each that fills a map of which copies or padding are read a step that makes them.

    Convolutions make them themselves, unless they scatter their output.
    """
    wanted = folded(operators)
    result: list[Operator] = []
    for operator in operators:
        result.append(operator)
        if not _makes_them(operator):
            targets = (target for target in operator.writes if isinstance(target, CodesMap))
            result += [ShiftStep(map) for map in targets if map in wanted and wanted[map].edges]
    return result


def _makes_them(operator: Operator) -> bool:
    return isinstance(operator, ConvolutionStep) or (
        isinstance(operator, WinogradStep) and not operator.scattered
    )
