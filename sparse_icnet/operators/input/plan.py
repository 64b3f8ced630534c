"""The two ways in: an image or a blob to the codes of the network input, or to its real values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Affine, Normalization, Quantizer, Shape
from sparse_icnet.operators.input.pack import factors_of
from sparse_icnet.operators.input.params import BlobParams, ImageParams, RealBlobParams, RealImageParams
from sparse_icnet.operators.memory import Memory
from sparse_icnet.operators.operator import Plain
from sparse_icnet.operators.outputs import rounding
from sparse_icnet.operators.storage import PlanError, Storage, View
from sparse_icnet.target import HAS_BYTE_TABLES


@dataclass(frozen=True, eq=False)
class InputStep(Plain):
    """The network input of `shape`, through `affine` if the graph has one, to `target` in the unit of its readers.

    unit  of the real values; the scale of the quantizer where `target` holds codes

    Raises PlanError for an input that has not 3 channels or is narrower than 16 pixels.
    """

    shape: Shape
    affine: Affine | None
    normalization: Normalization
    target: View
    unit: float

    def __post_init__(self) -> None:
        channels, _, width = self.shape
        if channels != 3:
            raise PlanError(f"the network input must have 3 channels, found {channels}")
        if width < 16:
            raise PlanError(f"the network input must be at least 16 pixels wide, found {width}")

    @property
    def tasks(self) -> int:
        return self.target.phases[0]

    @property
    def scratch(self) -> int:
        """For a row of pixels of four bytes, at least 16 columns of each phase, and a vector behind it."""
        return 4 * max(self.shape[2], 16 * self.target.phases[1]) + 64

    @property
    def reads(self) -> Sequence[Storage]:
        return ()

    @property
    def writes(self) -> Sequence[Storage]:
        return (self.target.map,)

    @property
    def _quantizer(self) -> Quantizer:
        return self.target.codes.quantizer

    def _constants(self) -> NDArray[np.float32]:
        """float32 (2, 4): multiplier and offset of each channel in `unit` (Q9); zeros without an affine."""
        constants = np.zeros((2, 4), np.float32)
        if self.affine is not None:
            for row, values in zip(constants, (self.affine.scale, self.affine.shift), strict=True):
                row[: len(values)] = arithmetic.f32(values.astype(np.float64) / self.unit)
        return constants

    def _pixels(self) -> NDArray[np.float32]:
        """float32 (3, 256): the real value of each uint8 of each channel, in `unit` (Q9), (Q10)."""
        x, affine = self.normalization.table(), self._constants()
        return (
            x / np.float32(self.unit)
            if self.affine is None
            else x * affine[0, :3, None] + affine[1, :3, None]
        )


@dataclass(frozen=True, eq=False)
class ImageStep(InputStep):
    """From RGB pixels, by a table of codes for each channel."""

    name: str = "quantize image"

    def params(self, memory: Memory) -> ImageParams:
        _, height, width = self.shape
        ky, kx = self.target.phases
        codes = self._codes()
        return ImageParams(
            source=0,
            height=height,
            width=width,
            phases_y=ky,
            phases_x=kx,
            pitch=self.target.map.grid.pitch,
            codes=codes,
            factors=None if HAS_BYTE_TABLES else factors_of(codes),
            output=memory.map(self.target),
        )

    def _codes(self) -> NDArray[np.uint8]:
        """u8 (3, 256): the stored code of each uint8 of each channel."""
        q = self._quantizer
        clipped = np.clip(self._pixels(), np.float32(q.low - q.zero_point), np.float32(q.high - q.zero_point))
        codes: NDArray[np.uint8] = (np.rint(clipped).astype(np.int64) + (q.zero_point - q.low)).astype(
            np.uint8
        )
        return codes


@dataclass(frozen=True, eq=False)
class BlobStep(InputStep):
    """From float32 values."""

    name: str = "quantize blob"

    def params(self, memory: Memory) -> BlobParams:
        channels, height, width = self.shape
        ky, kx = self.target.phases
        return BlobParams(
            source=0,
            channels=channels,
            height=height,
            width=width,
            phases_y=ky,
            phases_x=kx,
            pitch=self.target.map.grid.pitch,
            affine=int(self.affine is not None),
            constants=self._constants(),
            scale=self.unit,
            output=memory.map(self.target),
            rounding=rounding(self._quantizer),
        )


@dataclass(frozen=True, eq=False)
class RealImageStep(InputStep):
    """From RGB pixels to real values, by a table for each channel."""

    name: str = "image in float32"

    def params(self, memory: Memory) -> RealImageParams:
        _, height, width = self.shape
        ky, kx = self.target.phases
        pitch = self.target.map.grid.pitch
        return RealImageParams(0, height, width, ky, kx, pitch, self._pixels(), memory.map(self.target))


@dataclass(frozen=True, eq=False)
class RealBlobStep(InputStep):
    """From float32 values to the same in `unit`."""

    name: str = "blob in float32"

    def params(self, memory: Memory) -> RealBlobParams:
        (ky, kx), pitch = self.target.phases, self.target.map.grid.pitch
        affine, constants = int(self.affine is not None), self._constants()
        output = memory.map(self.target)
        return RealBlobParams(0, *self.shape, ky, kx, pitch, affine, constants, self.unit, output)
