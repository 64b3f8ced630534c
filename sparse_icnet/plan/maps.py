"""The maps of a program: their phases on the common grid, and new ones."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_icnet.network.graph import AnyConvolution, Graph, Quantizer, Size
from sparse_icnet.operators.storage import CodesMap, Grid, RealMap, SizeError, View


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """The maps of the tensors of `graph` on `grid`."""

    graph: Graph
    grid: Grid

    def size(self, name: str) -> str:
        """Height and width of a tensor, for messages."""
        return "x".join(map(str, self.graph.shape(name)[1:]))

    def phases(self, name: str) -> Size:
        """Phases (down, across) of a tensor; SizeError unless it is a whole multiple of the grid."""
        phases = self.grid.phases(*self.graph.shape(name)[1:])
        if phases is None:
            raise SizeError(
                f"operation {name!r}: its size {self.size(name)} must be a whole multiple of the smallest convolution "
                f"output, {self.grid.rows}x{self.grid.columns}"
            )
        return phases

    def check_stride(self, op: AnyConvolution, source: View) -> Size:
        """The phases of the output of `op`, which reads `source`; SizeError unless they are those of the stride."""
        phases = self.phases(op.name)
        if source.phases != (phases[0] * op.stride[0], phases[1] * op.stride[1]):
            raise SizeError(
                f"convolution {op.name!r}: input {self.size(op.input)} must be stride {op.stride} times the output "
                f"{self.size(op.name)}"
            )
        return phases

    def new(self, name: str, channels: int, phases: Size, quantizer: Quantizer | None) -> View:
        """A new map, as it is filled: of codes, or of real values without a quantizer."""
        if quantizer is None:
            return View.of(RealMap(name, channels, phases, self.grid))
        return View.of(CodesMap(name, channels, phases, self.grid, quantizer))
