"""What an operator knows of memory when it makes its record: every layout, every address, nothing that changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparse_icnet.operators.params import Map
from sparse_icnet.operators.storage import AnyMap, Block, MapLayout, Storage, View


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Storages in memory.

    layouts    of all maps
    addresses  of all storages, as kernels know them: of the first group (channel) of a map, of the first byte of a block
    """

    layouts: Mapping[AnyMap, MapLayout]
    addresses: Mapping[Storage, int]

    def layout(self, map: AnyMap) -> MapLayout:
        return self.layouts[map]

    def block(self, block: Block) -> int:
        """The address of a block."""
        return self.addresses[block]

    def start(self, map: AnyMap) -> int:
        """The address of the first group (channel) of a map."""
        return self.addresses[map]

    def map(self, view: View) -> Map:
        """A map as a kernel reads it: its phases are those of `view`."""
        layout = self.layouts[view.map]
        planes = layout.plane_offsets()[view.planes.reshape(-1)]
        return Map(self.start(view.map), layout.stride, planes)
