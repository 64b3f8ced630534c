"""One page that shows a network whole: every layer, its zeros before and behind gathering, where its time goes.

`report` gives a self-contained HTML document that works from disk; `sparse-icnet report` writes it.

collect   Model -> Report (`data.py`), with `measure.py`, `histograms.py`, `pictures.py`
page      Report -> HTML (`page.py`): `sections.py`, `layer_section.py`, `network_svg.py`, `charts.py`
"""

from __future__ import annotations

from pathlib import Path

from sparse_icnet import bundled
from sparse_icnet.files import replacing
from sparse_icnet.image import ImageLike
from sparse_icnet.model import Model
from sparse_icnet.study.report.collect import report_of
from sparse_icnet.study.report.page import html_of

__all__ = ["html_of", "report", "report_of", "write_report"]


def report(model: Model, image: ImageLike = bundled.SAMPLE_IMAGE, timing: bool = True) -> str:
    """The page of `model` as one HTML document.

    image   of the frame that it shows and of the histograms of activations
    timing  measure, for half a minute; else the page says that it holds no times
    """
    return html_of(report_of(model, image, timing))


def write_report(
    model: Model, path: Path, image: ImageLike = bundled.SAMPLE_IMAGE, timing: bool = True
) -> None:
    """Write `report` to `path`, whole or not at all."""
    text = report(model, image, timing)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
