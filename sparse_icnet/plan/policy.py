"""Which kernel computes a convolution: a policy that the planner is given, by default the least estimated time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sparse_icnet.network.graph import Convolution
from sparse_icnet.operators.convolution.plan import direct_costs
from sparse_icnet.operators.operator import Candidate
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
    """A kernel (filtering only where there is a tiling) and, for reports, why that one and what it was compared with."""

    kernel: MicroKernel | Filtering
    reason: str
    candidates: tuple[Candidate, ...] = ()


class Policy(Protocol):
    """Chooses the kernel of every convolution."""

    def convolution(self, op: Convolution, geometry: Geometry) -> Choice:
        """The kernel of `op`, one of `TARGET.kernels`, or `TARGET.filtering` where `geometry` has a tiling."""
        ...


class LeastTime:
    """The kernel with the least estimated time, by the speeds and costs of `sparse_icnet.target`."""

    def convolution(self, op: Convolution, geometry: Geometry) -> Choice:
        costs: dict[MicroKernel | Filtering, float] = {
            kernel: geometry.planes * cost for kernel, cost in direct_costs(op, geometry.vectors).items()
        }
        if geometry.tiling is not None:
            costs[TARGET.filtering] = estimated_cost(op, geometry.tiling)
        best, *others = sorted(costs, key=costs.__getitem__)
        return Choice(
            best,
            "least estimated time; "
            + ", ".join(f"{kernel.name} {costs[kernel] / max(costs[best], 1):.2f}x" for kernel in others),
            tuple(Candidate(kernel.name, costs[kernel]) for kernel in (best, *others)),
        )
