"""What a network says about one picture: classes, shares, confidence, and pictures of them."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_icnet import render
from sparse_icnet.files import replacing
from sparse_icnet.image import nearest_points
from sparse_icnet.network.arithmetic import interpolation
from sparse_icnet.network.graph import Size
from sparse_icnet.png import save_png
from sparse_icnet.render import ALPHA, PaletteLike

Float = TypeVar("Float", np.float32, np.float16)

KINDS = ("classes", "overlay", "side-by-side", "confidence", "probabilities")

_PICTURES = {
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
_LOSSLESS = (".bmp", ".png", ".tif", ".tiff")
_CHUNK = 1 << 18  # values interpolated at a time: 1 MB of float32
_LEAST_ROWS = 32
_NOTEBOOK = (1280, 960)  # largest picture shown in a notebook, pixels


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The result for one picture, as `Model.predict` returns it.

    image        the picture: upright, RGB
    classes      uint8 (H, W), the class of each pixel
    class_names  names of the classes, in order
    logits       float32 (C, h, w), what the network says at the points of its grid; their softmax is probability
    smooth       whether the logits are interpolated between the points of the grid, or each point fills its block
    network      (height, width) of the network's output
    name         path of the picture or what else it is called
    align_corners   how smooth logits are interpolated, equation (Q11): as the network itself does

    >>> import sparse_icnet
    >>> from sparse_icnet.bundled import SAMPLE_IMAGE
    >>> result = sparse_icnet.load(size=(192, 256), threads=1).predict(SAMPLE_IMAGE)
    >>> result.size
    (427, 640)
    >>> list(result.shares)[:3]
    ['sky', 'building', 'pole']
    >>> round(sum(result.shares.values()), 6)
    1.0
    >>> result.confidence.shape, result.probabilities().shape
    ((427, 640), (12, 427, 640))
    >>> result.overlay(alpha=0.5, legend=False, palette="colour-blind").size
    (640, 427)
    >>> result.save("street.png")                        # doctest: +SKIP
    >>> result.save("street.classes.npy", "classes")     # doctest: +SKIP
    """

    image: Image.Image
    classes: NDArray[np.uint8]
    class_names: tuple[str, ...]
    logits: NDArray[np.float32] = field(repr=False)
    smooth: bool
    network: Size
    name: str
    align_corners: bool = False

    def __repr__(self) -> str:
        height, width = self.size
        return f"Result({self.name!r}, {height}x{width}, {self.summary()})"

    @property
    def size(self) -> Size:
        """(height, width) of the picture."""
        height, width = self.classes.shape
        return height, width

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels for each class name, 0 to 1, in the order of the classes."""
        return dict(zip(self.class_names, self._shares, strict=True))

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        return render.class_shares(self.classes, len(self.class_names))

    def summary(self, most: int = 4) -> str:
        """'road 31 %, sky 20 %, ...': the largest classes."""
        largest = sorted(self.shares.items(), key=lambda item: -item[1])[:most]
        return ", ".join(f"{name} {render.share_text(share)}" for name, share in largest if share)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """float32 (H, W): the highest probability of each pixel, which is that of its class."""
        out = np.empty(self.size, np.float32)
        for rows, scores in self._bands():
            scores -= scores.max(0)
            np.exp(scores, out=scores)
            np.divide(np.float32(1), scores.sum(0), out=out[rows])
        return out

    @property
    def mean_confidence(self) -> float:
        """Mean of `confidence` over the picture."""
        return float(self.confidence.mean(dtype=np.float64))

    @overload
    def probabilities(self) -> NDArray[np.float32]: ...
    @overload
    def probabilities(self, dtype: type[Float]) -> NDArray[Float]: ...
    def probabilities(self, dtype: type[np.floating] = np.float32) -> NDArray[np.floating]:
        """Probabilities (C, H, W) at the picture's own size: 4 or 2 bytes * C * H * W.

        dtype  np.float32 or np.float16
        """
        if dtype not in (np.float32, np.float16):
            raise ValueError(f"probabilities: expected np.float32 or np.float16, found {dtype!r}")
        out = np.empty((len(self.class_names), *self.size), dtype)
        for rows, scores in self._bands():
            scores -= scores.max(0)
            np.exp(scores, out=scores)
            scores /= scores.sum(0)
            out[:, rows] = scores
        return out

    def _bands(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """(rows, logits float32 (C, rows, W) of their pixels), a band after the other, so that memory stays bounded."""
        for rows in _row_bands(len(self.logits), self.size):
            yield rows, (self._interpolated(rows) if self.smooth else self._repeated(rows))

    def _interpolated(self, rows: slice) -> NDArray[np.float32]:
        """Equation (Q11), along the columns of the grid, then along its rows: (C, rows, W), in memory (C, W, rows).

        So each pixel along a row is a run of memory that is copied whole, four times as fast as single values.
        """
        (height, width), (points_y, points_x) = self.size, self.logits.shape[1:]
        upper, near, far = interpolation(
            points_y, height, np.arange(rows.start, rows.stop), self.align_corners
        )
        lower = np.minimum(upper + 1, points_y - 1)
        lines = near[:, None] * self.logits[:, upper] + far[:, None] * self.logits[:, lower]
        lines = np.ascontiguousarray(lines.transpose(0, 2, 1))
        left, near, far = interpolation(points_x, width, np.arange(width), self.align_corners)
        values = lines.take(left, 1)
        values *= near[:, None]
        others = lines.take(np.minimum(left + 1, points_x - 1), 1)
        others *= far[:, None]
        values += others
        return values.transpose(0, 2, 1)

    def _repeated(self, rows: slice) -> NDArray[np.float32]:
        """The grid points that `enlarge` takes for the pixels."""
        above, beside = (
            nearest_points(points, full, length)
            for points, full, length in zip(self.logits.shape[1:], self.network, self.size, strict=True)
        )
        return self.logits[:, above[rows, None], beside]

    def overlay(
        self, alpha: float = ALPHA, legend: bool = True, palette: PaletteLike = "camvid"
    ) -> Image.Image:
        """The picture with the colours of the classes laid over it.

        alpha    share of the colour, 0 to 1
        legend   beside the picture: colour, name and share of each class that occurs
        palette  "camvid", "colour-blind", a palette file or the colours, as `sparse_icnet.render.palette` takes them
        """
        colours = self._colours(palette)
        return self._with_legend(render.overlay(self.image, self.classes, colours, alpha), legend, colours)

    def side_by_side(
        self, alpha: float = ALPHA, legend: bool = True, palette: PaletteLike = "camvid"
    ) -> Image.Image:
        """The picture and, at its right, `overlay` with the same arguments."""
        colours = self._colours(palette)
        right = render.overlay(self.image, self.classes, colours, alpha)
        return self._with_legend(render.side_by_side(self.image, right), legend, colours)

    def class_image(self, palette: PaletteLike = "camvid") -> Image.Image:
        """Indexed image (mode P): pixel = class index, with the colours of `palette`."""
        return render.class_image(self.classes, self._colours(palette))

    def confidence_image(self) -> Image.Image:
        """Grey image (mode L) of `confidence`: black 0, white 1."""
        return render.confidence_image(self.confidence)

    def save(
        self,
        path: str | os.PathLike[str],
        kind: str = "overlay",
        *,
        alpha: float = ALPHA,
        legend: bool = True,
        palette: PaletteLike = "camvid",
    ) -> None:
        """Write one of KINDS to `path`, whole or not at all; the suffix says in which format.

        classes        indexed picture in a lossless format (.png .tif .bmp), or .npy: uint8 (H, W)
        overlay, side-by-side   picture (.png .jpg .webp .tif .bmp)
        confidence     grey picture in a lossless format, or .npy: float32 (H, W)
        probabilities  .npy: float32 (C, H, W)

        Raises ValueError for another kind or suffix, OSError where the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        allowed = {
            "classes": (*_LOSSLESS, ".npy"),
            "confidence": (*_LOSSLESS, ".npy"),
            "probabilities": (".npy",),
        }.get(kind, tuple(_PICTURES))
        if kind not in KINDS:
            raise ValueError(f"save: expected one of {', '.join(KINDS)}, found {kind!r}")
        if suffix not in allowed:
            raise ValueError(
                f"{path}: expected a name that ends in {', '.join(allowed)} for {kind}, found {suffix or 'none'!r}"
            )
        if suffix == ".npy":
            array = self._array(kind)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, array, allow_pickle=False)
            return
        if kind == "classes":
            picture = self.class_image(palette)
        elif kind == "confidence":
            picture = self.confidence_image()
        else:
            render_kind = self.overlay if kind == "overlay" else self.side_by_side
            picture = render_kind(alpha, legend, palette)
        if suffix == ".png":
            save_png(picture, path)
        else:
            with replacing(path) as temporary:
                picture.save(temporary, format=_PICTURES[suffix])

    def _array(self, kind: str) -> NDArray[np.uint8] | NDArray[np.floating]:
        if kind == "classes":
            return self.classes
        return self.confidence if kind == "confidence" else self.probabilities()

    def _colours(self, palette: PaletteLike) -> NDArray[np.uint8]:
        return render.palette(palette, len(self.class_names))

    def _with_legend(self, picture: Image.Image, legend: bool, colours: NDArray[np.uint8]) -> Image.Image:
        if not legend:
            return picture
        return render.with_legend(picture, self.class_names, self._shares, colours)

    def _repr_png_(self) -> bytes:
        """The overlay with its legend, at most as large as a notebook shows it."""
        picture = self.overlay()
        picture.thumbnail(_NOTEBOOK)
        file = io.BytesIO()
        picture.save(file, format="PNG")
        return file.getvalue()

    def _repr_html_(self) -> str:
        height, width = self.size
        png = base64.b64encode(self._repr_png_()).decode("ascii")
        name, summary = html.escape(self.name), html.escape(self.summary())
        return (
            f'<figure style="margin:0"><img src="data:image/png;base64,{png}" alt="{name}: {summary}">'
            f"<figcaption>{name}, {height} x {width}: {summary}</figcaption></figure>"
        )


def _row_bands(channels: int, size: Size) -> Iterator[slice]:
    rows = max(_LEAST_ROWS, _CHUNK // (channels * size[1]))
    for first in range(0, size[0], rows):
        yield slice(first, min(first + rows, size[0]))
