"""Records that several kernels share, and how the scratch memory of a thread is divided.

Addresses and strides are bytes.  Terms: a *map* is a tensor stored as `sparse_icnet.operators.storage` says, a *phase* its
pixels at every k-th row and column, a *group* four channels, a *plane* the memory of one phase of one group or channel.
"""

from __future__ import annotations

from sparse_icnet.operators.record import Table, record

LINE = 64  # bytes of a cache line

# Kinds of operand.  FUSED is a convolution that is computed tile by tile into the scratch memory of the thread.
NONE, CODES, REAL, FUSED = 0, 1, 2, 3

# Scratch of one thread: four rows of values on their way out, of at most RUN_VECTORS vectors, then those of a fused
# residual convolution; rows of real values or of pairs lie TILE_ROW_BYTES apart.
RUN_VECTORS = 48
TILE_ROW_BYTES = 64 * RUN_VECTORS
TILE_BYTES = 4 * TILE_ROW_BYTES
SCRATCH_BYTES = 2 * TILE_BYTES

# Entries between the one that a wide tile multiplies and the one whose activations it asks for.
AHEAD = 2


@record
class Map:
    """A map, or what of it a kernel sees.

    address  of the first group
    stride   to the next group (codes) or channel (real values)
    planes   int64 (phases,): of the plane of each phase, within a group or channel
    """

    address: int
    stride: int
    planes: Table


@record
class Requantize:
    """A quantizer within an expression, (Q1) then (Q2): clip to low..high, round, times scale."""

    low: float
    high: float
    scale: float


@record
class Rounding:
    """The quantizer of a result, (Q1): bounds of code - zero_point, and the stored code of 0 as two int16."""

    low: float
    high: float
    pack: int


@record
class Operand:
    """What is added, or taken alone: codes, which (Q2) turns into real values of the unit of the result, or real values.

    kind  NONE, CODES, REAL or FUSED; scale and zero are those of codes
    """

    kind: int
    map: Map
    scale: float
    zero: int


@record
class Padding:
    """What lies around the planes of a result but holds no pixel, which other tensors overwrite between two inferences.

    entries  None if nobody reads it; else int64 (parts + 1,): range of the entries of each part, then the entries of two
             int64: byte distance from the start of the part, bytes (whole pixels, so multiples of four)
    parts    planes, or 1 if all planes of a group are one part
    value    a pixel of padding: four stored zeros
    """

    entries: Table
    parts: int
    value: int


@record
class Copies:
    """The shifted copies of a result, which its writer stores beside it.

    entries  None if there are none; else int64 (planes + 1,): range of the entries of each plane, then the entries of two
             int64: byte distance from the plane to the first pixel in the copy, byte offset of its masks
    masks    uint32 (shifts, vectors, 2, 16): lanes to keep, and what the others become
    planes   of the result
    """

    entries: Table
    masks: Table
    planes: int


@record
class Output:
    """Where a result goes and as what.

    real       as real values; else as codes of `rounding`
    relu       of real values: negative ones become 0 (codes are clipped)
    saturates  codes are rint(x) clipped to 0..255 and every |x| is below 2**31: saturating instructions do the clip
    """

    map: Map
    real: int
    relu: int
    saturates: int
    rounding: Rounding
    copies: Copies
    padding: Padding


@record
class Epilogue:
    """What happens to the sums of a convolution, (Q4) and (Q5).

    initial     int32 (channels,): where the sums begin
    multiplier  float32 (channels,); bias: float32 (channels,)
    requantize  whether an inner quantizer follows, before the addend
    fused       the record of the convolution that the addend is, if its kind is FUSED
    """

    initial: Table
    multiplier: Table
    bias: Table
    requantize: int
    inner: Requantize
    addend: Operand
    fused: Table
    output: Output


NO_MAP = Map(0, 0, None)
NOTHING_ADDED = Operand(NONE, NO_MAP, 0.0, 0)
NOT_REQUANTIZED = Requantize(0.0, 0.0, 0.0)
NOT_ROUNDED = Rounding(0.0, 0.0, 0)
NO_COPIES = Copies(None, None, 0)
NO_PADDING = Padding(None, 0, 0)


def pack_constant(stored_zero: int) -> int:
    """The stored code of 0 as a pair of int16, which `epilogue.pack` adds to the rounded values."""
    return stored_zero * 0x00010001
