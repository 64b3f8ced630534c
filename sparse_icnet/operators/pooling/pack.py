"""The tables of average pooling and of the pyramid, and the scratch memory that their kernels need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_icnet.network import arithmetic
from sparse_icnet.network.graph import Quantizer, Size
from sparse_icnet.network.shapes import pool_windows
from sparse_icnet.operators.outputs import requantize
from sparse_icnet.operators.pooling.params import CELL, MAX_BINS, Bins, PyramidStage, line_bytes
from sparse_icnet.operators.pooling.stages import Stage
from sparse_icnet.operators.storage import PlanError
from sparse_icnet.operators.taps import int32_table

MAX_WINDOW = (2**31 - 1) // 255  # pixels of an average: their sum is an int32


def average_pool_scratch_bytes(pitch: int, rows: int, columns: int) -> int:
    """Scratch of one thread for the sums of rows x columns bins; pitch in bytes."""
    return line_bytes(4 * pitch) * rows + CELL * rows * columns


def pyramid_scratch_bytes(pitch: int, bin_rows: int) -> int:
    """Scratch of one thread for a pyramid with `bin_rows` rows of bins in all stages together; pitch in bytes."""
    return average_pool_scratch_bytes(pitch, MAX_BINS, 2 * MAX_BINS) + 4 * bin_rows * line_bytes(pitch)


def pyramid_line_offsets(pitch: int, height: int, bin_rows: list[int]) -> NDArray[np.int32]:
    """The lines of a pyramid whose stages have `bin_rows` rows of bins: int32 (height, stages)."""
    y, lines = np.arange(height)[:, None], np.array([0, *bin_rows])
    above = np.cumsum(lines)[:-1]  # rows of bins of the stages before
    return int32_table(4 * line_bytes(pitch) * (above + y * lines[1:] // height), "pyramid")


def bins_of(quantizer: Quantizer, size: Size, bins: Size, unit: float, phases: Size = (1, 1)) -> Bins:
    """The windows of the average pooling of a map of `size` in `phases`, codes of `quantizer`, to values in `unit`.

    Raises PlanError for a window whose sum of codes an int32 may not hold.
    """
    windows = [np.array(pool_windows(n, b)) for n, b in zip(size, bins, strict=True)]
    counts = np.outer(*(ends - starts for starts, ends in (w.T for w in windows))).reshape(-1)
    if counts.max() > MAX_WINDOW:
        raise PlanError(f"an average of {counts.max()} pixels: expected at most {MAX_WINDOW}")
    multipliers = [arithmetic.mean_multiplier(quantizer, int(count), unit) for count in counts]
    # Pixel k * Y + i of a map is pixel Y of phase i.
    in_planes = [
        -(-(w - np.arange(k)[:, None, None]) // k).reshape(-1) for w, k in zip(windows, phases, strict=True)
    ]
    return Bins(
        rows=bins[0],
        columns=bins[1],
        multipliers=np.array(multipliers, np.float32),
        counts=int32_table(counts, "average pool"),
        windows=int32_table(np.concatenate(in_planes), "average pool"),
    )


def pyramid_stages(
    quantizer: Quantizer, size: Size, stages: list[Stage], result: Quantizer
) -> tuple[list[PyramidStage], int, float]:
    """(the stages as the kernel reads them, the one with the finest bins, the unit of the first running sum).

    The second is -1 if the finest bins do not divide the map evenly.
    quantizer  of the map of `size` that is pooled; result: of the sum
    """
    running_units: list[Any] = [running.scale if running else None for _, _, running in stages]
    # The running sum is in the unit of the next quantizer that it meets.
    unit, units = result.scale, [0.0] * len(stages)
    for i in reversed(range(len(stages))):
        unit = units[i] = running_units[i] or unit
    bins = [pool.bins for pool, _, _ in stages]
    finest = bins.index(max(bins, key=math.prod))
    made = []
    for i, (pool, pooled, running) in enumerate(stages):
        next_unit = units[i + 1] if i + 1 < len(stages) else result.scale
        # A column x shows the bin x * columns // width (Q7).
        spread = [-(-j * size[1] // pool.bins[1]) for j in range(pool.bins[1] + 1)]
        of_finest = all(
            n % fine == 0 and fine % b == 0 for n, fine, b in zip(size, bins[finest], pool.bins, strict=True)
        )
        made.append(
            PyramidStage(
                bins_of(quantizer, size, pool.bins, pooled.scale if pooled else units[i]),
                int32_table(np.array(spread, np.int64), "pyramid"),
                *requantize(pooled, units[i]),
                *requantize(running, next_unit),
                int(of_finest),
            )
        )
    return made, finest if made[finest].of_finest else -1, units[0]
