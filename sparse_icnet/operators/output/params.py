"""What the kernels behind the logits read: softmax, argmax, nearest upsampling, and the logits themselves."""

from __future__ import annotations

from sparse_icnet.operators.params import Map
from sparse_icnet.operators.record import Table, record


@record
class SoftmaxParams:
    """A task is one phase of the logits.

    channels  classes; vectors: of 16 pixels in a plane
    out       address of the probabilities, float32 (channels, phases, plane); out_stride: bytes of a channel of them
    """

    channels: int
    vectors: int
    logits: Map
    out: int
    out_stride: int


@record
class ArgmaxParams:
    """A task is one phase of the logits, to the class of each grid point, u8 (height, width).

    phases_y, phases_x  of the logits; pitch: bytes of a row of their planes
    out                 address of the classes, set for each inference if it is the end of the network
    """

    channels: int
    height: int
    width: int
    phases_y: int
    phases_x: int
    pitch: int
    logits: Map
    out: int


@record
class UpsampleParams:
    """A task is some rows of the small maps, float32 (channels, phases, plane) -> (channels, H, W) in scan order (Q7).

    source, source_stride  address of the small maps, bytes of a channel of them
    height, width          of the small maps; phases: of them, phases_x side by side
    vectors, pitch         vectors in a plane of them, bytes of a row
    enlarged_y, enlarged_x what they are enlarged by
    rows_per_task          rows of a task
    out                    address of the result, set for each inference
    """

    source: int
    source_stride: int
    channels: int
    height: int
    width: int
    phases: int
    phases_x: int
    vectors: int
    pitch: int
    enlarged_y: int
    enlarged_x: int
    rows_per_task: int
    out: int


@record
class GridPoints:
    """The logits as points of their grid, of height x width.

    address  of the first channel; stride: bytes from one channel to the next
    offsets  int32 (height, width): byte offset of each grid point within a channel
    """

    address: int
    stride: int
    offsets: Table
    channels: int
    height: int
    width: int


@record
class LogitsParams:
    """A task is one channel, to float32 (channels, height, width) at `out`, which is set for each inference."""

    points: GridPoints
    out: int
