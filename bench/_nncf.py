"""The same network as NNCF quantizes it for OpenVINO: quantizers where OpenVINO's own tool wants them."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

import numpy as np

from sparse_icnet import bundled
from sparse_icnet.formats.openvino import write as openvino_write
from sparse_icnet.image import fit, to_rgb
from sparse_icnet.network.graph import Graph


def quantize(graph: Graph, path: Path, narrow_weights: bool = False) -> None:
    """Write `graph` as NNCF quantizes it (.xml and .bin): weights made real again, quantizers dropped.

    NNCF's defaults, calibrated on the bundled photo, its mirror image and two of its quarters.
    narrow_weights  NNCF's fix against overflow: weights take half the range of int8, because OpenVINO's
                    kernels for CPUs without VNNI add pairs of products in 16 bits, which saturate
    Raises ImportError that names the extra to install.
    """
    try:
        import nncf
        import openvino
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    except ImportError as error:
        raise ImportError(f"--nncf needs {error.name}: pip install 'sparse-icnet[peers]'") from error
    advanced = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE) if narrow_weights else None
    nncf.set_log_level(logging.ERROR)
    xml, constants = openvino_write.serialize(graph, weights="fake_quantize")
    model = openvino.Core().read_model(xml, constants)
    for op in model.get_ordered_ops():
        if op.get_type_name() == "FakeQuantize":
            op.output(0).replace(op.input_value(0))
    model.validate_nodes_and_infer_types()
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        quantized = nncf.quantize(
            model, nncf.Dataset(_blobs(graph)), subset_size=4, advanced_parameters=advanced
        )
    openvino.save_model(quantized, str(path), compress_to_fp16=False)


def _blobs(graph: Graph) -> list[np.ndarray]:
    photo = to_rgb(bundled.SAMPLE_IMAGE)
    width, height = photo.size
    whole = fit(photo, graph.input.shape[1:])
    corners = ((0, 0), (width // 2, height // 2))
    quarters = [
        fit(photo.crop((x, y, x + width // 2, y + height // 2)), graph.input.shape[1:]) for x, y in corners
    ]
    levels = graph.normalization.table()
    return [
        np.stack([levels[c][pixels[..., c]] for c in range(3)])[None].astype(np.float32)
        for pixels in (whole, whole[:, ::-1], *quarters)
    ]
