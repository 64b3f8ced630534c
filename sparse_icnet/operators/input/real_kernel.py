"""From an image or a float blob to float32, in the interleaved planes that convolutions of float32 read."""

from __future__ import annotations

from sparse_icnet.operators.input.kernel import scatter_row
from sparse_icnet.simd.jit import jit
from sparse_icnet.simd.scalars import get_f32, get_u8, put_f32
from sparse_icnet.simd.vectors import load_f32, splat_f32, store


@jit
def real_image(step, task, scratch):
    """One task: one row of phases of an RGB image u8 (H, W, 3), through a table of values for each channel."""
    width, ky, kx = step.width, step.phases_y, step.phases_x
    planes, stride = step.output.planes + 8 * task * kx, step.output.stride
    out = step.output.address
    for y in range(task, step.height, ky):
        for channel in range(3):
            pixels, table = step.source + 3 * y * width + channel, step.table + 1024 * channel
            for x in range(width):
                put_f32(scratch + 4 * x, get_f32(table + 4 * int(get_u8(pixels + 3 * x))))
            scatter_row(scratch, width, kx, planes, out + channel * stride)
        out += step.pitch


@jit
def real_blob(step, task, scratch):
    """One task: one row of phases of a float32 blob (C, H, W): (Q10) or (Q9)."""
    width, height, ky, kx = step.width, step.height, step.phases_y, step.phases_x
    affine, constants, unit = step.affine, step.constants, splat_f32(step.unit)
    planes, stride = step.output.planes + 8 * task * kx, step.output.stride
    out = step.output.address
    for y in range(task, height, ky):
        for channel in range(step.channels):
            row = step.source + 4 * width * (channel * height + y)
            factor = splat_f32(get_f32(constants + 4 * channel))
            offset = splat_f32(get_f32(constants + 16 + 4 * channel))
            for first in range(0, width, 16):
                x = min(first, width - 16)  # the last vector overlaps the one before
                value = load_f32(row + 4 * x)
                store(scratch + 4 * x, value * factor + offset if affine else value / unit)
            scatter_row(scratch, width, kx, planes, out + channel * stride)
        out += step.pitch
