"""Which kernel computes a convolution: a policy that the planner is given, by default the least estimated time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sparse_icnet.network.graph import Convolution
from sparse_icnet.operators.convolution.plan import direct_costs
from sparse_icnet.operators.winograd.tiling import Tiling, estimated_cost
from sparse_icnet.target import TARGET, Filtering, MicroKernel


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a choice depends on beside the weights.

    planes   of the output; vectors: of 16 pixels in each
    tiling   how Winograd's filtering would divide the output; None where it cannot compute it exactly
    """

    planes: int
    vectors: int
    tiling: Tiling | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel (filtering only where there is a tiling) and, for reports, why that one."""

    kernel: MicroKernel | Filtering
    reason: str


class Policy(Protocol):
    """Chooses the kernel of every convolution."""

    def convolution(self, op: Convolution, geometry: Geometry) -> Choice: ...


class LeastTime:
    """The kernel with the least estimated time, by the speeds and costs of `sparse_icnet.target`."""

    def convolution(self, op: Convolution, geometry: Geometry) -> Choice:
        costs = direct_costs(op, geometry.vectors)
        best = min(costs, key=costs.__getitem__)
        if geometry.tiling is not None:
            cost = estimated_cost(op, geometry.tiling)
            direct = geometry.planes * costs[best]
            if cost < direct:
                return Choice(TARGET.filtering, f"least estimated time; direct {direct / cost:.2f}x")
        others = ", ".join(
            f"{kernel.name} {cost / max(costs[best], 1):.2f}x"
            for kernel, cost in costs.items()
            if kernel is not best
        )
        return Choice(best, f"least estimated time; {others}")
