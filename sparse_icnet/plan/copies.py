"""Which steps make the shifted copies and the padding of the maps whose readers demand them."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_icnet.operators.convolution.plan import ConvolutionStep
from sparse_icnet.operators.elementwise.plan import ShiftStep
from sparse_icnet.operators.operator import Operator
from sparse_icnet.operators.storage import AnyMap, Block, CodesMap
from sparse_icnet.operators.winograd.plan import WinogradStep
from sparse_icnet.plan.layout import folded


def with_copies(operators: Sequence[Operator]) -> list[Operator]:
    """`operators`, and behind each that fills a map of which copies or padding are read a step that makes them.

    Convolutions of int8 weights make those of codes themselves, unless they scatter their output.
    """
    wanted = folded(operators)
    result: list[Operator] = []
    for operator in operators:
        result.append(operator)
        targets = (target for target in operator.writes if not isinstance(target, Block))
        for map in targets:
            if map in wanted and wanted[map].edges and not _makes_them(operator, map):
                result.append(ShiftStep(map))
    return result


def _makes_them(operator: Operator, map: AnyMap) -> bool:
    fuses = isinstance(operator, ConvolutionStep) or (
        isinstance(operator, WinogradStep) and not operator.scattered
    )
    return fuses and isinstance(map, CodesMap)
