"""What the kernels that take the network input read."""

from __future__ import annotations

from sparse_icnet.operators.params import Map, Rounding
from sparse_icnet.operators.record import Table, record


@record
class ImageParams:
    """A task is one row of phases of an RGB image u8 (height, width, 3).

    source              address of the image, set for each inference
    phases_y, phases_x  of the output; pitch: bytes of a row of its planes
    codes               u8 (3, 256): the stored code of each value of each channel
    factors             u16 (6, 2): `pack.factors_of(codes)`; None if there are none, or byte tables are faster
    """

    source: int
    height: int
    width: int
    phases_y: int
    phases_x: int
    pitch: int
    codes: Table
    factors: Table
    output: Map


@record
class BlobParams:
    """A task is one row of phases of a float32 blob (channels, height, width): (Q10) or (Q9), then (Q1).

    source              address of the blob, set for each inference
    phases_y, phases_x  of the output; pitch: bytes of a row of its planes
    affine              whether (Q9) applies, with constants: float32 (2, 4), multiplier and offset; else x / scale
    """

    source: int
    channels: int
    height: int
    width: int
    phases_y: int
    phases_x: int
    pitch: int
    affine: int
    constants: Table
    scale: float
    output: Map
    rounding: Rounding


@record
class RealImageParams:
    """A task is one row of phases of an RGB image u8 (height, width, 3), to a real map.

    source              address of the image, set for each inference
    phases_y, phases_x  of the output; pitch: bytes of a row of its planes
    table               float32 (3, 256): the real value of each value of each channel
    """

    source: int
    height: int
    width: int
    phases_y: int
    phases_x: int
    pitch: int
    table: Table
    output: Map


@record
class RealBlobParams:
    """A task is one row of phases of a float32 blob (channels, height, width), to a real map: (Q10) or (Q9).

    source              address of the blob, set for each inference
    phases_y, phases_x  of the output; pitch: bytes of a row of its planes
    affine              whether (Q9) applies, with constants: float32 (2, 4), multiplier and offset; else x / unit
    """

    source: int
    channels: int
    height: int
    width: int
    phases_y: int
    phases_x: int
    pitch: int
    affine: int
    constants: Table
    unit: float
    output: Map
