"""The pictures of a page as data URIs: zeros of weights as PNG, a frame with its class map and confidence as JPEG."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_icnet.result import Result
from sparse_icnet.sparse.block_csr import LANE_CHANNELS
from sparse_icnet.sparse.gather import ROWS
from sparse_icnet.study.report.data import Frame, Picture

MOST_WEIGHTS = 1 << 17  # of a layer whose picture has a pixel for each; of a larger one for each 4 x 4 block
MOST_PIXELS = 1 << 22  # of a picture of blocks: above, blocks are left out
COLOUR = (20, 120, 140)  # of what is not zero, readable on light and dark pages
FRAME_WIDTH, QUALITY = 720, 78


def zeros_picture(weight: NDArray[np.int8] | NDArray[np.float32]) -> Picture:
    """The zeros of (O, I, kh, kw) as the engine's blocks lie: output channels down, input channels by fours across.

    Column ((g * kh + y) * kw + x) * 4 + i is input channel 4 g + i at tap (y, x).  A wide layer is shown as it is, a tall
    one on its side.
    """
    marked, blocks = _matrix(weight != 0), weight.size > MOST_WEIGHTS
    if blocks:
        rows, columns = marked.shape
        per_block = marked.reshape(rows // ROWS, ROWS, columns // LANE_CHANNELS, LANE_CHANNELS).sum((1, 3))
        levels = ((per_block + 4) // 5).astype(np.uint8)  # 0; 1..5, 6..10, 11..16 non-zeros
        levels = np.minimum(levels, 3)
        step = int(-(-levels.size // MOST_PIXELS))
        levels = levels[:, ::step]
    else:
        outputs, inputs, height, width = weight.shape
        levels = marked[:outputs, : max(inputs * height * width, 1)].astype(np.uint8)
        if inputs % LANE_CHANNELS:
            levels = marked[:outputs].astype(np.uint8)
    sideways = levels.shape[0] > levels.shape[1]
    if sideways:
        levels = np.ascontiguousarray(levels.T)
    height, width = levels.shape
    return Picture(_png(levels, 2 if blocks else 1), width, height, blocks, sideways)


def _matrix(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(O, I, kh, kw) -> (O, I * kh * kw), both channels filled up to fours, columns as `BlockCSR` has them."""
    outputs, inputs, height, width = marked.shape
    padded = np.pad(marked, ((0, -outputs % ROWS), (0, -inputs % LANE_CHANNELS), (0, 0), (0, 0)))
    outputs, inputs = padded.shape[:2]
    lanes = padded.reshape(outputs, inputs // LANE_CHANNELS, LANE_CHANNELS, height, width)
    return lanes.transpose(0, 1, 3, 4, 2).reshape(outputs, -1)


def _png(levels: NDArray[np.uint8], bits: int) -> str:
    """uint8 levels of so many bits -> PNG in which 0 is transparent and the highest level opaque."""
    highest = (1 << bits) - 1
    picture = Image.fromarray(levels, "P")
    picture.putpalette(COLOUR * (highest + 1))
    file = io.BytesIO()
    alphas = bytes(255 * level // highest for level in range(highest + 1))
    picture.save(file, format="PNG", bits=bits, transparency=alphas, optimize=True)
    return _uri("png", file)


def frame_of(result: Result, colours: NDArray[np.uint8]) -> Frame:
    """A picture, its class map laid over it, and its confidence, as a page shows them.

    colours  uint8 (classes, 3), RGB
    """
    shares = sorted(
        (
            (name, share, "#{:02x}{:02x}{:02x}".format(*colour))
            for (name, share), colour in zip(result.shares.items(), colours.tolist(), strict=True)
            if share
        ),
        key=lambda entry: -entry[1],
    )
    confidence = result.confidence_image()
    return Frame(
        name=Path(result.name).name,
        size=result.size,
        picture=_jpeg(result.image),
        overlay=_jpeg(result.overlay(legend=False)),
        confidence=_jpeg(confidence),
        mean_confidence=result.mean_confidence,
        shares=tuple(shares),
    )


def _jpeg(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((FRAME_WIDTH, FRAME_WIDTH))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=QUALITY, optimize=True)
    return _uri("jpeg", file)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
